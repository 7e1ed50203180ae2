//! The metadata of an export at one moment: its identity, and its bytes for later comparison.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::Value;

use super::conventions;

/// The metadata of an export at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub path: PathBuf,
    pub canonical: PathBuf,
    pub bytes: Vec<u8>,
    pub mtime_ns: i128,
}

impl Snapshot {
    /// Reads the metadata.
    pub fn of(metadata: &Path) -> Self {
        let stat = fs::metadata(metadata).unwrap();
        Self {
            path: metadata.to_owned(),
            canonical: metadata.canonicalize().unwrap(),
            bytes: fs::read(metadata).unwrap(),
            mtime_ns: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        }
    }

    /// Returns the trace id that this export must get, in hexadecimal.
    pub fn trace_id(&self) -> String {
        conventions::trace_id_hex(&self.canonical, self.mtime_ns, &self.bytes)
    }

    /// Returns everything that is wrong with the requests for this export.
    pub fn check(&self, requests: &[ExportTraceServiceRequest]) -> Vec<String> {
        let dir = self.canonical.parent().unwrap();
        conventions::check(dir, &self.bytes, self.mtime_ns, &self.canonical, requests)
    }

    /// Returns everything that is wrong with the current file, given that the id was written back.
    pub fn check_written_back(&self) -> Vec<String> {
        let now = fs::read(&self.path).unwrap();
        let mut faults = conventions::check_written_back(&self.bytes, &now);
        if faults.is_empty() && self.written_trace_id().as_ref() != Some(&self.trace_id()) {
            faults.push("task_trace_id is not the trace of this export".to_owned());
        }
        faults
    }

    /// Returns the current `task_trace_id` of the file. `None` if it is missing or the file is
    /// invalid.
    pub fn written_trace_id(&self) -> Option<String> {
        let now = fs::read(&self.path).ok()?;
        let now = now.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&now);
        let value: Value = serde_json::from_slice(now).ok()?;
        value.get("task_trace_id")?.as_str().map(str::to_owned)
    }

    /// Waits until the file has a `task_trace_id`, and returns it. Fails the test after the
    /// deadline.
    pub async fn wait_for_trace_id(&self, deadline: Duration) -> String {
        self.wait_for_id(deadline, |_| true).await
    }

    /// Waits until the file has the trace id of this snapshot. Another id does not count.
    pub async fn wait_for_own_trace_id(&self, deadline: Duration) {
        let own = self.trace_id();
        self.wait_for_id(deadline, |id| id == own).await;
    }

    /// Polls the file every 10 ms, because nothing notifies a test of a write by another process.
    async fn wait_for_id(&self, deadline: Duration, is_wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + deadline;
        loop {
            if let Some(id) = self.written_trace_id().filter(|id| is_wanted(id)) {
                return id;
            }
            assert!(Instant::now() < end, "{} has no id after {deadline:?}", self.path.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the current file has the same bytes.
    pub fn is_untouched(&self) -> bool {
        fs::read(&self.path).is_ok_and(|now| now == self.bytes)
    }
}
