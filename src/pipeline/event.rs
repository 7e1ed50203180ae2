//! What happens to exports, for the log, the progress line, the metrics and the summary.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::base::text::escape_control;
use crate::queue::Health;

/// Called by every stage, at once and from any thread.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

#[derive(Clone, Debug)]
pub enum Event {
    /// It carries an id already, so it is done. `foreign`: taskspan did not write the id.
    AlreadyEmitted { path: PathBuf, foreign: bool },
    /// It cannot be read as an export.
    Refused { path: PathBuf, reason: String },
    /// It cannot be read as results of gates, or has no export.
    ResultsRefused { path: PathBuf, reason: String },
    /// Something odd that did not stop it.
    Odd { path: PathBuf, warning: String },
    /// It is in the queue.
    Accepted {
        path: PathBuf,
        trace_id: TraceId,
        spans: usize,
        requests: usize,
        /// How long it took to make the requests.
        conversion: Duration,
    },
    /// An exporter's endpoint answered a request, or did not.
    Answered {
        exporter: String,
        signal: Signal,
        /// See [`Answer`](crate::exporter::Answer).
        code: Cow<'static, str>,
        outcome: SendOutcome,
        /// Spans or log records.
        records: u64,
    },
    /// A request of it was acknowledged by an exporter.
    Acknowledged { trace_id: TraceId },
    /// An exporter's endpoint stopped taking requests.
    Down { exporter: String, destination: String, reason: String },
    /// It takes them again.
    Up { exporter: String, destination: String, after: Duration, waiting: usize },
    /// The server took a request but had something to say about it.
    Remark { path: PathBuf, exporter: String, rejected: i64, message: String },
    /// Everything was acknowledged and the file carries the id (or is not to carry one).
    Done {
        path: PathBuf,
        trace_id: TraceId,
        project_id: String,
        spans: usize,
        written: bool,
        /// Since it was taken in.
        took: Duration,
    },
    /// What was added to the trace of an export was acknowledged.
    Added { path: PathBuf, trace_id: TraceId, spans: usize },
    /// Everything was acknowledged, but the file has been replaced or removed since.
    Superseded { path: PathBuf, trace_id: TraceId, gone: bool },
    /// Everything was acknowledged, but the id could not be written.
    NotWritten { path: PathBuf, trace_id: TraceId, reason: String },
    /// It fails while others are delivered, and is tried again after a wait of its own.
    Deferred { path: PathBuf, exporter: String, reason: String },
    /// Exports are, or are no longer, taken in.
    Health { health: Health },
    /// The program ends before it was delivered, for the reason of the last attempt.
    Undelivered { path: PathBuf, reason: Option<String> },
    /// An exporter will not deliver it.
    Rejected {
        path: PathBuf,
        exporter: String,
        reason: String,
        permanent: bool,
        /// Write-back waits for this exporter.
        required: bool,
    },
}

/// What an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    Accepted,
    /// Accepted except for this many records (OTLP partial success).
    Partial(u64),
    /// For now.
    Failed,
    /// For good.
    Rejected,
}

impl Event {
    /// Writes the event to the log: INFO one line an export, WARN nothing lost, ERROR a person is
    /// needed.
    pub fn log(&self) {
        match self {
            Event::AlreadyEmitted { path, foreign: true } => {
                tracing::warn!(
                    path = %path.display(),
                    "export skipped: it carries a task_trace_id that taskspan did not write; set \
                     on_existing_trace_id: emit to replace it"
                );
            }
            Event::AlreadyEmitted { path, foreign: false } => {
                tracing::debug!(path = %path.display(), "emitted before");
            }
            Event::Refused { path, reason } => {
                tracing::error!(path = %path.display(), "export refused: {}", escape_control(reason));
            }
            Event::ResultsRefused { path, reason } => {
                let path = path.display();
                tracing::error!(%path, "gate results refused: {}", escape_control(reason));
            }
            Event::Odd { path, warning } => {
                tracing::warn!(path = %path.display(), "{}", escape_control(warning));
            }
            Event::Accepted { path, trace_id, spans, requests, .. } => {
                tracing::debug!(path = %path.display(), %trace_id, spans, requests, "export accepted");
            }
            Event::Answered { .. } => {}
            Event::Acknowledged { trace_id } => tracing::trace!(%trace_id, "request acknowledged"),
            Event::Down { exporter, destination, reason } => {
                tracing::warn!(
                    exporter,
                    destination,
                    "endpoint is down, trying again: {}",
                    escape_control(reason)
                );
            }
            Event::Up { exporter, destination, after, waiting } => {
                let after = humantime::format_duration(Duration::from_millis(
                    u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                ));
                tracing::info!(exporter, destination, waiting, "endpoint is back after {after}");
            }
            Event::Remark { path, exporter, rejected: 0, message } => {
                tracing::warn!(path = %path.display(), exporter, "the server remarks: {}", escape_control(message));
            }
            Event::Remark { path, exporter, rejected, message } => {
                let path = path.display();
                tracing::error!(%path, exporter, rejected, "the server rejected a part: {}", escape_control(message));
            }
            Event::Done { path, trace_id, project_id, spans, written, .. } => {
                let path = path.display();
                tracing::info!(%path, %trace_id, project_id, spans, written, "export emitted");
            }
            Event::Added { path, trace_id, spans } => {
                tracing::info!(path = %path.display(), %trace_id, spans, "added to the trace");
            }
            Event::Superseded { path, trace_id, gone } => {
                let what = if *gone { "removed" } else { "replaced by a newer one" };
                let path = path.display();
                tracing::info!(%path, %trace_id, "export emitted; meanwhile its file was {what}");
            }
            Event::NotWritten { path, trace_id, reason } => {
                let path = path.display();
                tracing::error!(%path, %trace_id, "export emitted, but not written back: {}", escape_control(reason));
            }
            Event::Deferred { path, exporter, reason } => {
                let path = path.display();
                tracing::warn!(%path, exporter, "export deferred: it fails while others are delivered: {}", escape_control(reason));
            }
            Event::Health { health: Health::Good } => {
                tracing::info!("the queue takes exports again");
            }
            Event::Health { health: Health::Full(why) } => {
                tracing::warn!(
                    "the queue is full (queue_size): {why}; exports stay in their directories \
                     until there is room"
                );
            }
            Event::Health { health: Health::Failing(reason) } => {
                tracing::error!("{reason}; exports stay in their directories until it works again");
            }
            Event::Undelivered { path, reason: Some(reason) } => {
                let path = path.display();
                tracing::warn!(%path, "export still pending ({}); the next run resumes it", escape_control(reason));
            }
            Event::Undelivered { path, reason: None } => {
                let path = path.display();
                tracing::warn!(%path, "export not read in time; `taskspan once` delivers it");
            }
            Event::Rejected { path, exporter, reason, permanent, .. } => {
                let path = path.display();
                let verb = if *permanent { "rejected" } else { "not delivered" };
                tracing::error!(%path, exporter, "export {verb}: {}", escape_control(reason));
            }
        }
    }
}

/// How a run went, for an exit code and a summary.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub already_emitted: usize,
    pub accepted: usize,
    pub done: usize,
    /// Additions to traces that were emitted before.
    pub added: usize,
    pub spans: usize,
    /// Bad input, or refused by a server for good.
    pub refused: usize,
    /// Delivered, but the file does not say so.
    pub not_written: usize,
    /// Neither delivered nor refused by the end.
    pub undelivered: usize,
    /// Given up after too many tries.
    pub given_up: usize,
}

impl Tally {
    pub fn count(&self, event: &Event) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::AlreadyEmitted { .. } => counts.already_emitted += 1,
            Event::Refused { .. } => counts.refused += 1,
            Event::Accepted { .. } => counts.accepted += 1,
            Event::Done { spans, .. } => {
                counts.done += 1;
                counts.spans += spans;
            }
            Event::Superseded { .. } => counts.done += 1,
            Event::Added { .. } => counts.added += 1,
            Event::ResultsRefused { .. } => counts.refused += 1,
            Event::NotWritten { .. } => counts.not_written += 1,
            Event::Rejected { required: true, permanent: true, .. } => {
                counts.refused += 1;
            }
            Event::Rejected { required: true, permanent: false, .. } => counts.given_up += 1,
            Event::Undelivered { .. } => counts.undelivered += 1,
            Event::Health { .. }
            | Event::Deferred { .. }
            | Event::Rejected { required: false, .. }
            | Event::Odd { .. }
            | Event::Answered { .. }
            | Event::Acknowledged { .. }
            | Event::Down { .. }
            | Event::Up { .. }
            | Event::Remark { .. } => {}
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
