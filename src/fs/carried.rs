//! Reads the trace id of an export, from its own file or from the file next to it.
//!
//! ```text
//! onboarding-metadata.json        "task_trace_id", "task_emission_timestamp"
//! onboarding-metadata.task.json   the same keys, and "metadata_sha256" of the export they belong to
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory::Located;
use super::file::{FileVersion, Loaded, SourceError};
use super::members::existing;
use crate::base::ids::TraceId;
use crate::base::text::hex;

/// Where the trace id of an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WriteBackMode {
    /// Into the export's own file, as two additional keys.
    #[default]
    InPlace,
    /// Into `onboarding-metadata.task.json` next to the export, which stays unchanged.
    Beside,
    /// Nowhere; only the queue records that the export was sent.
    Off,
}

/// Key of the trace id.
pub(crate) const TRACE_ID: &str = "task_trace_id";
/// Key of the time when the last span was accepted.
pub(crate) const EMITTED_AT: &str = "task_emission_timestamp";
/// Key of the checksum of the export that the id belongs to.
pub(crate) const CHECKSUM: &str = "metadata_sha256";

const ENDING: &str = ".task.json";

/// Size limit in bytes for the file next to an export. A larger one was not written by taskspan.
const MAX_BYTES: u64 = 64 * 1024;

/// Whether a file name is that of a file next to an export.
pub(crate) fn is_beside_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(ENDING.as_bytes())
}

/// Returns the name of the file next to the export with this name.
pub(crate) fn beside_name(name: &OsStr) -> PathBuf {
    let mut beside = Path::new(name).with_extension("").into_os_string();
    beside.push(ENDING);
    beside.into()
}

/// Returns the trace id in the file next to an export, whatever version it belongs to. Blocks on
/// the disk.
///
/// # Errors
/// Returns an error if the file may be there, but cannot be read.
pub(crate) fn id_beside(export: &Located) -> Result<Option<String>, SourceError> {
    Ok(load_beside(export)?.and_then(|loaded| existing(&loaded.bytes, TRACE_ID)))
}

fn load_beside(export: &Located) -> Result<Option<Loaded>, SourceError> {
    let beside = export.with_name(&beside_name(export.name.as_os_str()));
    let beside = beside.map_err(|errno| SourceError::from_io(export.path(), errno.into()))?;
    present(beside.load(MAX_BYTES))
}

/// Returns `None` for a file that is not there, or that taskspan cannot have written. Any other
/// failure says nothing about the file.
fn present(loaded: Result<Loaded, SourceError>) -> Result<Option<Loaded>, SourceError> {
    match loaded {
        Ok(loaded) => Ok(Some(loaded)),
        Err(error @ (SourceError::Changed { .. } | SourceError::Unreadable { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Returns the trace id in the file next to an export, if it belongs to the version with this
/// checksum. Blocks on disk I/O.
///
/// # Errors
/// Returns an error if the file may be there, but cannot be read.
pub(crate) fn id_beside_of(
    export: &Located,
    sha256: &[u8; 32],
) -> Result<Option<String>, SourceError> {
    let Some(loaded) = load_beside(export)? else { return Ok(None) };
    let checksum = existing(&loaded.bytes, CHECKSUM);
    let belongs = checksum.is_some_and(|it| it.eq_ignore_ascii_case(&hex(sha256)));
    Ok(existing(&loaded.bytes, TRACE_ID).filter(|_| belongs))
}

/// Whether the export, or the file next to it, has this trace id. Blocks on disk I/O.
///
/// # Errors
/// Returns an error if the file may be there, but cannot be read.
pub(crate) fn carries(
    export: &Located,
    source: &FileVersion,
    trace_id: TraceId,
    mode: WriteBackMode,
) -> Result<bool, SourceError> {
    // A write-back replaces the file, so an unchanged file carries what it carried when it was
    // read.
    let as_read = mode == WriteBackMode::InPlace && export.is_as_read(source);
    Ok(!as_read && carries_by_content(export, source, trace_id, mode)?)
}

/// Like [`carries`], but reads the content instead of trusting size and times. Blocks on disk I/O.
///
/// # Errors
/// Returns an error if the file may be there, but cannot be read.
pub(crate) fn carries_by_content(
    export: &Located,
    source: &FileVersion,
    trace_id: TraceId,
    mode: WriteBackMode,
) -> Result<bool, SourceError> {
    let id = match mode {
        // A write-back adds only two keys, so a larger file is another version.
        WriteBackMode::InPlace => id_within(export, source.size.saturating_add(ROOM_FOR_KEYS))?,
        WriteBackMode::Beside => id_beside(export)?,
        WriteBackMode::Off => None,
    };
    Ok(id.as_deref().and_then(TraceId::from_hex) == Some(trace_id))
}

/// Upper bound for the two keys with their values in any style, in bytes.
const ROOM_FOR_KEYS: u64 = 4_096;

/// Returns the id in the export's own file.
fn id_within(export: &Located, max_bytes: u64) -> Result<Option<String>, SourceError> {
    let loaded = present(export.load(max_bytes))?;
    Ok(loaded.and_then(|loaded| existing(&loaded.bytes, TRACE_ID)))
}

/// Returns the trace id that the file would get as a new export. `None` if the file is gone or does
/// not carry this `task_trace_id`. Blocks on disk I/O.
///
/// # Errors
/// Returns an error if the file may be there, but cannot be read.
pub(crate) fn version_with(
    export: &Located,
    task_trace_id: &str,
    max_bytes: u64,
) -> Result<Option<TraceId>, SourceError> {
    let Some(Loaded { source, bytes }) = present(export.load(max_bytes))? else { return Ok(None) };
    let ours = existing(&bytes, TRACE_ID).as_deref() == Some(task_trace_id);
    Ok(ours.then(|| TraceId::of_export(source.canonical(), source.mtime_ns, &bytes)))
}

/// Whether the export carries any `task_trace_id`. Blocks on disk I/O.
pub(crate) fn carries_any(export: &Located, max_bytes: u64) -> bool {
    id_within(export, max_bytes).is_ok_and(|id| id.is_some())
}
