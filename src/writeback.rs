//! Write-back: the trace id of a delivered export goes into the export's own file.
//!
//! ```text
//! delivered ─▶ replace ─▶ splice ─▶ temp ─▶ exchange ─▶ Written
//!              the same   bytes to  a whole    │ something else came out
//!              version?   bytes     new file   └─▶ put back ─▶ Superseded
//! ```
//!
//! `splice` and `stamp` are pure; the others are the file system part. What an interrupted run leaves behind is
//! dealt with by `stale`.

mod attributes;
mod beside;
pub mod config;
mod error;
mod replace;
pub mod splice;
mod stale;
mod stamp;
mod temp;

use std::path::Path;

use crate::ids::TraceId;
use crate::source::{self, Loaded, Source, Stamp};
pub use beside::{id_beside, id_beside_of, is_beside_name, write_beside};
use config::WriteBackMode;
pub use error::WriteBackError;
pub use replace::{Outcome, write_back};
pub use stale::remove_stale;
pub use stamp::{IdOrigin, emission_timestamp, origin, time_of};
pub use temp::is_temp_name;

/// Whether the id of this trace is where it belongs already.
pub fn carries(source: &Source, trace_id: TraceId, mode: WriteBackMode) -> bool {
    // A write-back puts another file there. What is as it was read carries what it carried.
    let as_read = || {
        let stat = rustix::fs::lstat(source.canonical());
        stat.is_ok_and(|stat| Stamp::from(&stat) == source.stamp())
    };
    !(mode == WriteBackMode::InPlace && as_read()) && carries_by_content(source, trace_id, mode)
}

/// The same for whoever knows better than to trust the looks of the file.
pub fn carries_by_content(source: &Source, trace_id: TraceId, mode: WriteBackMode) -> bool {
    let path = source.canonical();
    let id = match mode {
        // Only the two keys were added to what was read; anything larger is another version.
        WriteBackMode::InPlace => id_within(path, source.size.saturating_add(ROOM_FOR_KEYS)),
        WriteBackMode::Beside => id_beside(path),
        WriteBackMode::Off => None,
    };
    id.as_deref().and_then(TraceId::from_hex) == Some(trace_id)
}

/// More than the two keys with their values take up, in any style.
const ROOM_FOR_KEYS: u64 = 4_096;

/// The id that an export carries itself.
fn id_within(path: &Path, max_bytes: u64) -> Option<String> {
    splice::existing(&source::load(path, max_bytes).ok()?.bytes, TRACE_ID)
}

/// The trace that the file would be if it were taken for a new export, while it carries this id.
pub fn version_with(source: &Source, task_trace_id: &str, max_bytes: u64) -> Option<TraceId> {
    let Loaded { source, bytes } = source::load(source.canonical(), max_bytes).ok()?;
    let ours = splice::existing(&bytes, TRACE_ID).as_deref() == Some(task_trace_id);
    ours.then(|| TraceId::of_export(source.canonical(), source.mtime_ns, &bytes))
}

/// Whether the export carries any `task_trace_id`. Blocks on the disk.
pub fn carries_any(path: &Path, max_bytes: u64) -> bool {
    id_within(path, max_bytes).is_some()
}

/// The key under which an export carries the id of its trace.
pub const TRACE_ID: &str = "task_trace_id";
/// The key under which it says when the last span had been accepted.
pub const EMITTED_AT: &str = "task_emission_timestamp";
