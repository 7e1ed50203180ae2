//! What is enqueued, for which exporters, and the result.

use std::collections::HashMap;

use bytes::Bytes;

use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::FileVersion;

/// An export, or an addition to a trace, to be enqueued.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The trace id of the export.
    pub trace_id: TraceId,
    /// The id of an addition. `None` for the export itself.
    pub addition: Option<TraceId>,
    /// The id of the receiver that found the file. Empty for an addition that a command sends.
    pub receiver: String,
    /// The version of the metadata file.
    pub source: FileVersion,
    /// The project of the export.
    pub project_id: String,
    /// Number of spans in all requests.
    pub span_count: usize,
    /// The time that the timestamps of the spans are based on.
    pub made_at: UnixNanos,
    /// Encoded requests of spans, in the order in which they are sent.
    pub requests: Vec<Bytes>,
    /// Encoded requests of log records. Empty without a logs pipeline.
    pub logs: Vec<Bytes>,
    /// Where the trace id is written after delivery.
    pub write_back: WriteBackMode,
    /// The state files to write after delivery, encoded. The queue does not read them.
    pub state_files: Option<Bytes>,
}

impl NewEntry {
    /// Returns the id of the addition, or else the trace id. It identifies an entry, unless an
    /// older entry for exporters that are no longer configured has the same key.
    pub(crate) fn key(&self) -> TraceId {
        self.addition.unwrap_or(self.trace_id)
    }

    /// Returns the size of all requests of one signal, in bytes.
    pub(crate) fn bytes_of(&self, signal: Signal) -> u64 {
        let requests = match signal {
            Signal::Traces => &self.requests,
            Signal::Logs => &self.logs,
        };
        requests.iter().map(|request| request.len() as u64).sum()
    }
}

/// An exporter that must deliver an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The id of the exporter.
    pub exporter: String,
    /// What the requests are of.
    pub signal: Signal,
    /// Whether the write-back waits for this exporter.
    pub required: bool,
}

/// The exporters that deliver, by id, each with the number of bytes that may be queued for it.
pub type Exporters = HashMap<String, u64>;

/// The result of enqueuing an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The export was not in the queue.
    New,
    /// Duplicate: the trace is queued, or an operator dropped it.
    Known,
    /// Duplicate: the trace was delivered recently.
    Delivered,
    /// The same trace is a dead letter.
    DeadLetter {
        /// The number of the entry.
        id: u64,
        /// Why the endpoint refused the export.
        reason: String,
        /// Whether a retry could succeed.
        may_be_retried: bool,
    },
    /// The queue is closed: the program is stopping.
    Closed,
    /// The entry cannot be encoded, for example because its path is not UTF-8.
    Impossible(String),
}
