//! Events about exports, for the log, the progress line, the metrics and the summary.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::base::text::escape_control;
use crate::queue::Health;

/// Receives every event. Called from any thread, also concurrently.
pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The export already has an id. `foreign` means that taskspan did not write it.
    AlreadyEmitted { path: PathBuf, foreign: bool },
    /// The file is not a valid export.
    Refused { path: PathBuf, reason: String },
    /// A directory, or an export, cannot be looked at.
    Unreadable { path: PathBuf },
    /// The file has no valid gate results, or there is no export for them.
    ResultsRefused { path: PathBuf, reason: String },
    /// A problem that did not stop the export.
    Odd { path: PathBuf, warning: String },
    /// The export is in the queue.
    Accepted {
        path: PathBuf,
        trace_id: TraceId,
        spans: usize,
        requests: usize,
        /// Time to make the requests.
        conversion: Duration,
    },
    /// The outcome of one request.
    Answered {
        exporter: String,
        signal: Signal,
        /// See [`Answer`](crate::exporter::Answer).
        code: Cow<'static, str>,
        outcome: SendOutcome,
        /// Spans or log records.
        records: u64,
    },
    /// An exporter's endpoint acknowledged a request of this trace.
    Acknowledged { trace_id: TraceId },
    /// An exporter's endpoint stopped accepting requests.
    Down { exporter: String, destination: String, reason: String },
    /// The endpoint accepts requests again.
    Up { exporter: String, destination: String, after: Duration, waiting: usize },
    /// The endpoint accepted a request with a message or with rejected records.
    Remark { path: PathBuf, exporter: String, rejected: i64, message: String },
    /// All requests were acknowledged, and the id is written (unless write-back is off).
    Done {
        path: PathBuf,
        trace_id: TraceId,
        project_id: String,
        spans: usize,
        written: bool,
        /// Time since the export was ingested.
        took: Duration,
    },
    /// An addition to the trace of an export was acknowledged.
    Added { path: PathBuf, trace_id: TraceId, spans: usize },
    /// All requests were acknowledged, but the file has been replaced or removed since.
    Superseded { path: PathBuf, trace_id: TraceId, gone: bool },
    /// All requests were acknowledged, but the id could not be written.
    NotWritten { path: PathBuf, trace_id: TraceId, reason: String },
    /// The export fails while others are delivered. It is retried after a backoff of its own.
    Deferred { path: PathBuf, exporter: String, reason: String },
    /// The queue accepts exports, or stopped accepting them.
    Health { health: Health },
    /// The program ends before the export was delivered. `reason` is that of the last attempt.
    Undelivered { path: PathBuf, reason: Option<String> },
    /// An exporter rejected the export permanently.
    Rejected {
        path: PathBuf,
        exporter: String,
        reason: String,
        permanent: bool,
        /// Write-back waits for this exporter.
        required: bool,
    },
}

/// The outcome of a request, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    Accepted,
    /// Accepted except for this many records (OTLP partial success).
    Partial(u64),
    /// Failed, will be retried.
    Failed,
    /// Rejected permanently.
    Rejected,
}

impl Event {
    /// Logs the event. INFO: one line per export. WARN: nothing was lost. ERROR: a person must act.
    pub(crate) fn log(&self) {
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
            Event::Unreadable { path } => {
                let path = path.display();
                tracing::error!(%path, "it cannot be read, so exports in it may be missing");
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

/// Counts of a run's outcomes, for the exit code and the summary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) already_emitted: usize,
    pub(crate) accepted: usize,
    pub(crate) done: usize,
    /// Additions to the traces of emitted exports.
    pub(crate) added: usize,
    pub(crate) spans: usize,
    /// Invalid, or rejected permanently by a server.
    pub(crate) refused: usize,
    /// Delivered, but the id could not be written.
    pub(crate) not_written: usize,
    /// Neither delivered nor rejected by the end of the run.
    pub(crate) undelivered: usize,
    /// Directories and exports that could not be looked at.
    pub(crate) unreadable: usize,
    /// Not retried any more, after too many attempts.
    pub(crate) given_up: usize,
}

impl Tally {
    pub(crate) fn count(&self, event: &Event) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::AlreadyEmitted { .. } => counts.already_emitted += 1,
            Event::Refused { .. } => counts.refused += 1,
            Event::Unreadable { .. } => counts.unreadable += 1,
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

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
