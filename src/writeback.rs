//! Write-back: the trace id of a delivered export goes into the export's own file.
//!
//! ```text
//! delivered ─▶ replace ─▶ splice ─▶ temp ─▶ exchange ─▶ Written
//!              the same   bytes to  a whole    │ something else came out
//!              version?   bytes     new file   └─▶ put back ─▶ Superseded
//! ```
//!
//! `splice` is pure; the others are the file system part. What an interrupted run leaves behind is
//! dealt with by `stale`.

mod attributes;
pub mod config;
mod error;
mod replace;
pub mod splice;
mod stale;
mod temp;

pub use error::WriteBackError;
pub use replace::{Outcome, write_back};
pub use stale::remove_stale;
pub use temp::is_temp_name;

/// The key under which an export carries the id of its trace.
pub const TRACE_ID: &str = "task_trace_id";
/// The key under which it says when the last span had been accepted.
pub const EMITTED_AT: &str = "task_emission_timestamp";
