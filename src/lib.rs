//! taskspan: what a ContextCore export says is to be built, as a trace.
//!
//! ```text
//! export job ──writes──▶ output/onboarding-metadata.json ◀──task_trace_id── write-back
//!                                │                                              ▲
//!                            receiver ─▶ plan ─▶ converter ─▶ queue ─▶ exporter ┘
//!                            notices     joins    spans       bytes    OTLP, retry
//!                            files       files    (pure)
//! ```
//!
//! Each stage is a module of that name; `pipeline` is the only one that knows them all, and `cli`
//! what a user types. ARCHITECTURE.md walks through it in five minutes.

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
