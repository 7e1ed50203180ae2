//! Computes the ids of an export by the published formulas.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Returns the trace id of an export. `canonical` is the resolved path of its metadata.
pub fn trace_id(canonical: &Path, mtime_ns: i128, metadata: &[u8]) -> [u8; 16] {
    let mtime = mtime_ns.to_string();
    first(&[b"taskspan/trace/v1", canonical.as_os_str().as_bytes(), mtime.as_bytes(), metadata])
}

/// Returns the span id of an epic, story or task. `task_type` is the value of `task.type`.
pub fn span_id(trace_id: &[u8; 16], task_type: &str, task_id: &str) -> [u8; 8] {
    // The trace id has a fixed length, so it needs no separator.
    let trace_and_type = [trace_id, task_type.as_bytes()].concat();
    first(&[b"taskspan/span/v1", &trace_and_type, task_id.as_bytes()])
}

fn first<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let digest = Sha256::digest(parts.join(&0));
    digest[..N].try_into().unwrap()
}

/// Returns lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
