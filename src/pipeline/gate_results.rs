//! Reads and enqueues gate results: each is added to the trace of its export.
//!
//! ```text
//! parse ─▶ which export? ─▶ spans below its tasks ─▶ NewEntry, one per result ─▶ queue
//!               └ none yet, or without an id: retry later
//! ```

mod traces;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::event::{Event, Observer};
use super::ingest::{Ingest, Offered, ReadOutcome, offer};
use super::{Mode, RunContext};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::converter::Converter;
use crate::converter::additions::NoTask;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::{Loaded, SourceError};
use crate::fs::root::Roots;
use crate::plan::Emitted;
use crate::plan::gate::{GateError, GateFile, GateResult};
use crate::queue::{Destination, NewEntry, Queue};
use crate::receiver::stability::IncompleteReason;
pub(super) use traces::Traces;
use traces::{NotFound, directories_of};

/// Concurrent reads of files with gate results.
pub(super) const AT_A_TIME: usize = 4;

/// The gate results of one receiver.
pub(super) struct GateResults {
    receiver: String,
    roots: Roots,
    traces: Arc<Traces>,
    max_bytes: u64,
    queue: Queue,
    destinations: Vec<Destination>,
    observer: Observer,
    mode: Mode,
}

/// The additions to traces that a file contains.
pub(super) struct Results {
    additions: Vec<Addition>,
    warnings: Vec<String>,
}

/// One result.
struct Addition {
    entry: NewEntry,
    /// The version of the file with the result: an unchanged file does not belong to a newer export
    /// in the same place. `None` for a result that names its trace.
    version: Option<TraceId>,
}

impl GateResults {
    pub(crate) fn new(
        (receiver, roots, max_bytes): (String, Roots, u64),
        traces: Arc<Traces>,
        destinations: Vec<Destination>,
        common: &RunContext,
    ) -> GateResults {
        let RunContext { queue, observer, mode, .. } = common.clone();
        GateResults { receiver, roots, traces, max_bytes, queue, destinations, observer, mode }
    }
}

impl Ingest for GateResults {
    type Ready = Results;

    /// The queue does not record which files its additions came from.
    fn is_queued(&self, _path: &Path) -> bool {
        false
    }

    fn read(&self, path: &Path, is_last: bool, max_memory: u64) -> ReadOutcome<Results> {
        let max_bytes = self.max_bytes.min(max_memory);
        let loaded = self.roots.locate(path).and_then(|file| file.load(max_bytes));
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(SourceError::TooLarge { size, .. }) if size <= self.max_bytes => {
                return ReadOutcome::NoRoom(size);
            }
            Err(SourceError::Missing { .. }) => return ReadOutcome::Gone,
            Err(error) if error.is_transient() => return ReadOutcome::Waiting(error.to_string()),
            Err(error) => return ReadOutcome::Refused(error.over(self.max_bytes).to_string()),
        };
        let own_memory = GateFile::memory(&loaded.bytes);
        if own_memory > max_memory {
            return ReadOutcome::NoRoom(own_memory);
        }
        let max_memory = max_memory - own_memory;
        let written_at = UnixNanos::of_mtime(loaded.source.mtime_ns);
        let file = match GateFile::parse(&loaded.bytes, written_at) {
            Ok(file) => file,
            Err(GateError::Syntax(_)) if !is_last => {
                return ReadOutcome::Incomplete(IncompleteReason::Unfinished);
            }
            Err(error) => return ReadOutcome::Refused(error.to_string()),
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        let GateFile { project_id, output_dir, results, mut warnings } = file;
        let directories = directories_of(directory, output_dir.as_deref());
        let mut by_trace: BTreeMap<Option<TraceId>, Vec<GateResult>> = BTreeMap::new();
        for result in results {
            by_trace.entry(result.trace_id).or_default().push(result);
        }
        let mut all = Vec::new();
        for (trace_id, results) in by_trace {
            match self.traces.find((&directories, max_memory), project_id.as_deref(), trace_id) {
                Ok((emitted, converter)) => {
                    warnings.extend(emitted.doubt.clone());
                    match additions(
                        &self.receiver,
                        &loaded,
                        &emitted,
                        converter,
                        &results,
                        &mut warnings,
                    ) {
                        Ok(additions) => all.extend(additions),
                        Err(error) => return ReadOutcome::Refused(error.to_string()),
                    }
                }
                Err(NotFound::NoRoom(bytes)) => {
                    return ReadOutcome::NoRoom(own_memory + bytes);
                }
                Err(NotFound::Later(reason)) => return ReadOutcome::Waiting(reason),
                Err(NotFound::Never(reason)) => return ReadOutcome::Refused(reason),
            }
        }
        ReadOutcome::Ready(Results { additions: all, warnings })
    }

    async fn enqueue(&self, path: &Path, results: Results) -> Option<String> {
        let Results { additions, warnings } = results;
        let mut is_new = false;
        let mut refused = None;
        for Addition { entry, version } in additions {
            // The same file had this result for an earlier export in the same place.
            let is_known = !self.queue.are_done(version.as_slice()).is_empty();
            if is_known && !self.queue.holds(entry.key()) {
                continue;
            }
            match offer(&self.queue, self.mode, &entry, &self.destinations).await {
                Offered::New => {
                    is_new = true;
                    if let Some(version) = version {
                        self.queue.note_done(version).await;
                    }
                }
                Offered::Refused(reason) => drop(refused.get_or_insert(reason)),
                Offered::Retried | Offered::Delivered | Offered::Known => {}
            }
        }
        for warning in warnings.into_iter().filter(|_| is_new) {
            (self.observer)(&Event::Odd { path: path.to_owned(), warning });
        }
        refused
    }

    fn refused(path: PathBuf, reason: String) -> Event {
        Event::ResultsRefused { path, reason }
    }
}

/// Makes the additions for one export, one per result, so that no result is sent again when the
/// file grows.
fn additions(
    receiver: &str,
    file: &Loaded,
    emitted: &Emitted,
    converter: &Converter,
    results: &[GateResult],
    warnings: &mut Vec<String>,
) -> Result<Vec<Addition>, NoTask> {
    let now = UnixNanos::now();
    let trace = converter.trace(&emitted.plan, emitted.trace_id, now);
    let unknown = trace.unknown_tasks(results).into_iter();
    warnings.extend(
        unknown.map(|id| format!("no task `{id}` in the export; the result goes to the epic")),
    );
    let addition = |(index, result): (usize, &GateResult)| {
        let content = serde_json::Value::Object(result.whole.clone()).to_string();
        let content_of_file = (file.source.canonical(), file.source.mtime_ns, &content);
        let version = format!("{content_of_file:?}");
        // A result that names its trace cannot be mistaken for that of another export.
        let version = result.trace_id.is_none().then(|| TraceId::of_content(version.as_bytes()));
        let entry = NewEntry {
            trace_id: emitted.trace_id,
            addition: Some(emitted.trace_id.addition("gate.result", content.as_bytes())),
            receiver: receiver.to_owned(),
            source: file.source.clone(),
            project_id: emitted.plan.project.id.clone(),
            span_count: 1,
            made_at: now,
            requests: trace.gate_result(index, result)?,
            logs: Vec::new(),
            write_back: WriteBackMode::Off,
            state_files: None,
        };
        Ok(Addition { entry, version })
    };
    results.iter().enumerate().map(addition).collect()
}
