//! taskspan forwards the plan in a ContextCore export to an OTLP endpoint, as a trace.
//!
//! ```text
//! export job ──writes──▶ output/onboarding-metadata.json ◀──task_trace_id── write-back
//!                                │                                              ▲
//!                            receiver ─▶ plan ─▶ converter ─▶ queue ─▶ exporter ┘
//!                            notices     joins    spans       bytes    OTLP, retry
//!                            files       files    (pure)
//! ```
//!
//! Each stage is a module of that name. `pipeline` connects them, and `cli` is the command line.
//! ARCHITECTURE.md is a tour of five minutes.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may block"))]

pub mod base;
pub mod cli;
pub mod config;
pub mod converter;
pub mod exporter;
pub mod fs;
pub mod observe;
pub mod pipeline;
pub mod plan;
pub mod queue;
pub mod receiver;
pub mod writeback;
