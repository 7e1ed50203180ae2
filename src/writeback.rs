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
pub mod config;
mod error;
mod file_metadata;
mod replace;
pub mod splice;
mod stale;
mod temp;

pub use beside::write_beside;
pub use error::WriteBackError;
pub use replace::{Outcome, write_back};
pub use stale::remove_stale;
pub use temp::is_temp_name;
