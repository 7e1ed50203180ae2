//! Appends requests to a file as lines of OTLP/JSON, like the Collector's file exporter.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde::Serialize;

use super::classify::{Delivery, Reply};
use super::config::FileConfig;
use crate::base::signal::Signal;

/// An exporter that appends to a file.
#[derive(Debug)]
pub(crate) struct File {
    signal: Signal,
    path: PathBuf,
}

impl File {
    /// Creates the exporter. The file is opened by each `send`.
    pub(crate) fn new(config: &FileConfig, signal: Signal) -> File {
        File { signal, path: config.path.clone() }
    }

    /// Returns the path of the file.
    pub(crate) fn destination(&self) -> String {
        self.path.display().to_string()
    }

    /// Appends the request as one line, and returns `Accepted` once the line is synced to disk.
    /// `Refused` if the request cannot be decoded, `Retry` if the file cannot be written.
    pub(crate) async fn send(&self, request: &[u8]) -> Reply {
        let line = match self.signal {
            Signal::Traces => json_line::<ExportTraceServiceRequest>(request),
            Signal::Logs => json_line::<ExportLogsServiceRequest>(request),
        };
        let mut line = match line {
            Ok(line) => line,
            Err(reason) => return Reply::Refused { reason },
        };
        line.push('\n');
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || append(&path, line.as_bytes())).await;
        match written {
            Ok(Ok(())) => Reply::Accepted,
            Ok(Err(error)) => Reply::Retry {
                reason: format!("{}: {error}", self.path.display()),
                after: None,
                delivery: Delivery::InDoubt,
            },
            Err(error) => Reply::Refused { reason: error.to_string() },
        }
    }
}

fn json_line<R: Message + Default + Serialize>(request: &[u8]) -> Result<String, String> {
    let request = R::decode(request).map_err(|error| error.to_string())?;
    serde_json::to_string(&request).map_err(|error| error.to_string())
}

/// Appends a line and syncs it. On failure the file is truncated to its old length, if possible,
/// because a partial line would make the file unreadable.
fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    let written = file.write_all(line).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(before);
    }
    written
}
