//! `task_emission_timestamp`: when the last span was accepted, and whether taskspan wrote the id
//! next to it.
//!
//! ```text
//! 2026-11-23T06:15:00.123 456+00:00
//!                     │   └ check of trace id and time
//!                     └ milliseconds
//! ```
//!
//! Other programs write the same two keys. One of them is the export job, and a trace with its id
//! may not exist. The file's modification time proves a write-back only until another program
//! touches the file. Therefore the microseconds are a checksum of the trace id and the time. One in
//! a thousand foreign timestamps passes the check by chance; a timestamp of taskspan always passes.

use rustix::fs::Timespec;
use sha2::{Digest, Sha256};

use super::carried::EMITTED_AT;
use super::file::FileVersion;
use super::members::existing;
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;

/// The origin of the `task_trace_id` in an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOrigin {
    /// taskspan wrote it, and the file has not changed since.
    WriteBack,
    /// taskspan wrote it, and the file was changed or copied since.
    Changed,
    /// Another program wrote it, so nothing is known about the trace.
    Foreign,
}

/// Returns the timestamp for a trace id: UTC with an offset, which every version of Python can
/// parse.
pub(crate) fn emission_timestamp(trace_id: TraceId, at: UnixNanos) -> String {
    let millis = at.0 / 1_000_000;
    UnixNanos(millis * 1_000_000 + check(trace_id, millis) * 1_000).iso()
}

/// Determines who wrote the id into the file with these bytes.
pub(crate) fn origin(source: &FileVersion, bytes: &[u8], task_trace_id: &str) -> IdOrigin {
    let timestamp = existing(bytes, EMITTED_AT).unwrap_or_default();
    let Some(at) = UnixNanos::parse(&timestamp) else { return IdOrigin::Foreign };
    if i128::from(at.0) == source.mtime_ns {
        IdOrigin::WriteBack
    } else if is_ours(&timestamp, at, task_trace_id) {
        IdOrigin::Changed
    } else {
        IdOrigin::Foreign
    }
}

/// Returns the modification time to set on the file that a timestamp is written into. `None` if the
/// timestamp is invalid.
pub(crate) fn time_of(timestamp: &str) -> Option<Timespec> {
    let UnixNanos(nanos) = UnixNanos::parse(timestamp)?;
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (tv_sec, tv_nsec) = (i64::try_from(seconds).ok()?, i64::try_from(rest).ok()?);
    Some(Timespec { tv_sec, tv_nsec })
}

fn is_ours(timestamp: &str, at: UnixNanos, task_trace_id: &str) -> bool {
    TraceId::from_hex(task_trace_id)
        .is_some_and(|trace_id| emission_timestamp(trace_id, at) == timestamp)
}

fn check(trace_id: TraceId, millis: u64) -> u64 {
    let digest = Sha256::new()
        .chain_update(b"taskspan/emission/v1\0")
        .chain_update(trace_id.bytes())
        .chain_update(b"\0")
        .chain_update(millis.to_string())
        .finalize();
    u64::from(u16::from_be_bytes([digest[0], digest[1]])) % 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const AT: UnixNanos = UnixNanos(1_795_414_500_123_456_789);

    fn id() -> TraceId {
        TraceId::from_hex(ID).expect("an id")
    }

    fn origin_of(task_trace_id: &str, timestamp: &str, mtime_ns: i128) -> IdOrigin {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("onboarding-metadata.json");
        let text = format!(r#"{{"task_trace_id": "", "task_emission_timestamp": "{timestamp}"}}"#);
        std::fs::write(&path, &text).expect("written");
        let loaded = crate::fs::root::load(&path, 1 << 20).expect("a file");
        let source = FileVersion { mtime_ns, ..loaded.source };
        origin(&source, &loaded.bytes, task_trace_id)
    }

    #[test]
    fn the_timestamp_is_utc_with_an_offset_and_names_its_trace() {
        let text = emission_timestamp(id(), AT);
        assert!(text.starts_with("2026-11-23T06:15:00.123") && text.ends_with("+00:00"), "{text}");
        assert_eq!(text.len(), "2026-11-23T06:15:00.123456+00:00".len());
        let at = UnixNanos::parse(&text).expect("a time");
        assert_eq!(at.0 / 1_000_000, AT.0 / 1_000_000);
        let time = time_of(&text).expect("a time");
        assert_eq!((time.tv_sec, time.tv_nsec), (1_795_414_500, (at.0 % 1_000_000_000) as i64));
    }

    #[test]
    fn an_id_is_ours_by_the_time_of_the_file_or_by_its_timestamp() {
        let ours = emission_timestamp(id(), AT);
        let at = i128::from(UnixNanos::parse(&ours).expect("a time").0);
        assert_eq!(origin_of(ID, &ours, at), IdOrigin::WriteBack);
        assert_eq!(origin_of(ID, &ours, at + 1), IdOrigin::Changed);
        let other = "1af7651916cd43dd8448eb211c80319c";
        assert_eq!(origin_of(other, &ours, at + 1), IdOrigin::Foreign);
        assert_eq!(origin_of("no id", &ours, at + 1), IdOrigin::Foreign);
        for timestamp in [
            "",
            "yesterday",
            "2026-11-23T06:15:00.123Z",
            "2026-11-26T00:59:08+00:00",
            "2026-11-26T00:59:08.036900+00:00",
        ] {
            assert_eq!(origin_of(ID, timestamp, 5), IdOrigin::Foreign, "{timestamp}");
        }
    }

    proptest! {
        #[test]
        fn every_timestamp_of_ours_is_known_as_ours(bytes in any::<[u8; 16]>(), nanos in any::<u64>()) {
            let hex = crate::base::text::hex(&bytes);
            prop_assume!(bytes != [0; 16]);
            let trace_id = TraceId::from_hex(&hex).expect("an id");
            let text = emission_timestamp(trace_id, UnixNanos(nanos));
            let at = UnixNanos::parse(&text).expect("a time");
            prop_assert!(is_ours(&text, at, &hex));
        }
    }
}
