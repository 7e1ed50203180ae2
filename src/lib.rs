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

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may block"))]

pub mod base;
pub mod cli;
pub mod converter;
pub mod plan;

mod config;
mod exporter;
mod fs;
mod observe;
mod pipeline;
mod queue;
mod receiver;
mod writeback;

/// What this repository's tests, benches and fuzz targets use of the private modules. It is not
/// part of the interface.
#[doc(hidden)]
pub mod internals {
    pub use crate::base::signal::Signal;
    pub use crate::config::Config;
    pub use crate::config::load::ConfigDocument;
    pub use crate::fs::carried::WriteBackMode;
    pub use crate::fs::members::existing;
    pub use crate::fs::root::{Roots, load};
    pub use crate::plan::gate::GateFile;
    pub use crate::plan::join::{ManifestInput, join};
    pub use crate::plan::manifest::Manifest;
    pub use crate::plan::onboarding::Onboarding;
    pub use crate::plan::project_context::ProjectContext;
    pub use crate::queue::{Destination, Enqueued, Exporters, Location, NewEntry, Queue};
    pub use crate::writeback::splice::splice;
}
