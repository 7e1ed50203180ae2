//! The trace id that an export carries, in its own file or in the one beside it.
//!
//! ```text
//! onboarding-metadata.json        "task_trace_id", "task_emission_timestamp"
//! onboarding-metadata.task.json   the same, and "metadata_sha256" of the export that they belong to
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory::Located;
use super::file::{FileVersion, Loaded};
use super::members::existing;
use crate::base::ids::TraceId;
use crate::base::text::hex;

/// Where the trace id of an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WriteBackMode {
    /// Two keys are added to the export's own file.
    #[default]
    InPlace,
    /// They go into `onboarding-metadata.task.json` next to it; the export is left untouched.
    Beside,
    /// Nothing is written; only the queue remembers that it was sent.
    Off,
}

/// The key under which an export carries the id of its trace.
pub const TRACE_ID: &str = "task_trace_id";
/// The key under which it says when the last span had been accepted.
pub const EMITTED_AT: &str = "task_emission_timestamp";
/// The key of the checksum of the export that the id belongs to.
pub const CHECKSUM: &str = "metadata_sha256";

const ENDING: &str = ".task.json";

/// Limit in bytes for the file beside an export. A larger one was not written by taskspan.
const MAX_BYTES: u64 = 64 * 1024;

/// Whether a file has the name of one that is written beside an export.
pub fn is_beside_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(ENDING.as_bytes())
}

/// The name of the file beside the export with this name.
pub fn beside_name(name: &OsStr) -> PathBuf {
    let mut beside = Path::new(name).with_extension("").into_os_string();
    beside.push(ENDING);
    beside.into()
}

/// The trace id in the file beside an export, of this version or another. Blocks on the disk.
pub fn id_beside(export: &Located) -> Option<String> {
    existing(&load_beside(export)?.bytes, TRACE_ID)
}

fn load_beside(export: &Located) -> Option<Loaded> {
    export.with_name(&beside_name(export.name.as_os_str())).ok()?.load(MAX_BYTES).ok()
}

/// The trace id in the file beside an export, if it belongs to the export with this checksum. Blocks on the disk.
pub fn id_beside_of(export: &Located, sha256: &[u8; 32]) -> Option<String> {
    let loaded = load_beside(export)?;
    let checksum = existing(&loaded.bytes, CHECKSUM)?;
    existing(&loaded.bytes, TRACE_ID).filter(|_| checksum.eq_ignore_ascii_case(&hex(sha256)))
}

/// Whether the export, or the file beside it, has this trace id already. Blocks on the disk.
pub fn carries(
    export: &Located,
    source: &FileVersion,
    trace_id: TraceId,
    mode: WriteBackMode,
) -> bool {
    // A write-back puts another file there. A file that is as it was read carries what it carried.
    let as_read = mode == WriteBackMode::InPlace && export.is_as_read(source);
    !as_read && carries_by_content(export, source, trace_id, mode)
}

/// Like [`carries`], but reads the content instead of trusting size and times. Blocks on the disk.
pub fn carries_by_content(
    export: &Located,
    source: &FileVersion,
    trace_id: TraceId,
    mode: WriteBackMode,
) -> bool {
    let id = match mode {
        // Only the two keys were added to what was read; anything larger is another version.
        WriteBackMode::InPlace => id_within(export, source.size.saturating_add(ROOM_FOR_KEYS)),
        WriteBackMode::Beside => id_beside(export),
        WriteBackMode::Off => None,
    };
    id.as_deref().and_then(TraceId::from_hex) == Some(trace_id)
}

/// Bytes; more than the two keys with their values take, in any style.
const ROOM_FOR_KEYS: u64 = 4_096;

/// The id that an export carries itself.
fn id_within(export: &Located, max_bytes: u64) -> Option<String> {
    existing(&export.load(max_bytes).ok()?.bytes, TRACE_ID)
}

/// The trace id that the file would get as a new export; `None` if it does not carry `task_trace_id`. Blocks on the
/// disk.
pub fn version_with(export: &Located, task_trace_id: &str, max_bytes: u64) -> Option<TraceId> {
    let Loaded { source, bytes } = export.load(max_bytes).ok()?;
    let ours = existing(&bytes, TRACE_ID).as_deref() == Some(task_trace_id);
    ours.then(|| TraceId::of_export(source.canonical(), source.mtime_ns, &bytes))
}

/// Whether the export carries any `task_trace_id`. Blocks on the disk.
pub fn carries_any(export: &Located, max_bytes: u64) -> bool {
    id_within(export, max_bytes).is_some()
}
