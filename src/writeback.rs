//! Writes the trace id of a delivered export back into the export's file.
//!
//! ```text
//! delivered ─▶ replace ─▶ splice ─▶ temp ─▶ exchange ─▶ Written
//!              the same   bytes to  a whole    │ something else came out
//!              version?   bytes     new file   └─▶ put back ─▶ Superseded
//! ```
//!
//! `splice` is pure; the other modules work on files. `stale` cleans up after an interrupted run.

mod beside;
pub(crate) mod config;
mod error;
mod file_metadata;
mod replace;
pub(crate) mod splice;
mod stale;
mod temp;

pub(crate) use beside::write_beside;
pub(crate) use error::WriteBackError;
pub(crate) use replace::{Outcome, write_back};
pub(crate) use stale::remove_stale;
pub(crate) use temp::is_temp_name;
