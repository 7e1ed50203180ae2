//! From a file with gate results to what they add to the trace of their export.
//!
//! ```text
//! Candidate ─▶ quiet? ─▶ parse ─▶ which export? ─▶ spans below its tasks ─▶ queue
//!                ▲                    │ none yet, or one without an id
//!                └────────────────────┘ later
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::files::{InWork, Quiet};
use super::{Common, Mode, Source, StageDied};
use crate::clock::UnixNanos;
use crate::converter::{Converter, encoded};
use crate::ids::TraceId;
use crate::plan::gate::{GateError, GateFile, GateResult};
use crate::plan::{Emitted, NotEmitted, ReadOptions, read_emitted};
use crate::queue::{Accepted, Delivery, Destination, Queue};
use crate::receiver::Candidate;
use crate::receiver::config::ExportDirConfig;
use crate::receiver::scan::Scanner;
use crate::receiver::select::Selection;
use crate::receiver::settle::Settling;
use crate::source::{self, Loaded, SourceError};
use crate::writeback::config::WriteBackMode;

/// Files that may wait for their export at the same time.
const MAX_WAITING: usize = 1_024;

/// Files that are read at the same time.
const MAX_READING: usize = 4;

/// How often an export that has no id yet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The exports whose traces can be added to: how they are found, read and converted.
pub struct Traces {
    sources: Vec<Exports>,
}

struct Exports {
    selection: Selection,
    read: ReadOptions,
    converter: Converter,
}

/// The export that some results are of, and how it was converted.
type Found<'a> = (Emitted, &'a Converter);

/// Why there is none.
enum NotFound {
    /// It may come.
    Later(String),
    Never(String),
}

impl Traces {
    pub(super) fn of(sources: &[Source]) -> Arc<Traces> {
        let exports = |Source { config, converter, .. }: &Source| Exports {
            selection: super::selection(config),
            read: config.read_options(),
            converter: converter.clone(),
        };
        Arc::new(Traces { sources: sources.iter().map(exports).collect() })
    }

    /// The export that one result of a file is of. Blocks on the disk.
    fn find(
        &self,
        directory: &Path,
        project_id: Option<&str>,
        trace_id: Option<TraceId>,
    ) -> Result<Found<'_>, NotFound> {
        let beside = self.in_directory(directory);
        match trace_id {
            Some(id) => self
                .named(beside.iter(), id)
                .or_else(|| self.named(self.everywhere().iter(), id))
                .ok_or_else(|| NotFound::Later(format!("no export of trace {id} is there"))),
            None => Self::of_project(&beside, project_id),
        }
    }

    fn named<'a, 'b>(
        &'a self,
        candidates: impl Iterator<Item = &'b (PathBuf, &'a Exports)>,
        trace_id: TraceId,
    ) -> Option<Found<'a>>
    where
        'a: 'b,
    {
        let mut emitted = candidates
            .filter_map(|(path, exports)| Some((read_emitted(path, &exports.read).ok()?, exports)));
        let (emitted, exports) = emitted.find(|(emitted, _)| emitted.trace_id == trace_id)?;
        Some((emitted, &exports.converter))
    }

    fn of_project<'a>(
        candidates: &[(PathBuf, &'a Exports)],
        project_id: Option<&str>,
    ) -> Result<Found<'a>, NotFound> {
        let mut others = Vec::new();
        let mut found = Vec::new();
        let mut later = None;
        for (path, exports) in candidates {
            match read_emitted(path, &exports.read) {
                Ok(emitted) if project_id.is_none_or(|id| id == emitted.plan.project.id) => {
                    found.push((emitted, &exports.converter));
                }
                Ok(emitted) => others.push(emitted.plan.project.id),
                Err(error) => later = Some(error),
            }
        }
        if found.len() > 1 {
            let reason = "several exports are beside it; say which with `trace_id`";
            return Err(NotFound::Never(reason.to_owned()));
        }
        match (found.pop(), later, others.first()) {
            (Some(found), ..) => Ok(found),
            (None, Some(error @ NotEmitted::BadId { .. }), _) => {
                Err(NotFound::Never(error.to_string()))
            }
            (None, Some(error), _) => Err(NotFound::Later(error.to_string())),
            (None, None, Some(other)) => Err(NotFound::Never(format!(
                "it is of project `{}`, and the export beside it of `{other}`",
                project_id.unwrap_or_default()
            ))),
            (None, None, None) => Err(NotFound::Later("no export is beside it".to_owned())),
        }
    }

    fn in_directory(&self, directory: &Path) -> Vec<(PathBuf, &Exports)> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        let of = |exports: &'_ Exports| -> Vec<PathBuf> {
            paths.iter().filter(|path| exports.selection.is_export(path)).cloned().collect()
        };
        let all = self.sources.iter();
        all.flat_map(|exports| of(exports).into_iter().map(move |path| (path, exports))).collect()
    }

    fn everywhere(&self) -> Vec<(PathBuf, &Exports)> {
        let scan = |exports: &Exports| Scanner::new(exports.selection.clone()).scan_all().exports;
        let all = self.sources.iter();
        all.flat_map(|exports| scan(exports).into_keys().map(move |path| (path, exports))).collect()
    }
}

#[derive(Clone)]
pub struct GateIntake {
    shared: Arc<Shared>,
}

struct Shared {
    traces: Arc<Traces>,
    settling: Settling,
    max_bytes: u64,
    queue: Queue,
    destinations: Vec<Destination>,
    observer: Observer,
    mode: Mode,
    concurrency: Semaphore,
    in_work: InWork,
}

/// What one look at a file came to.
enum Seen {
    Ready(Vec<Delivery>),
    /// A writer in the middle of its work, it seems.
    Unfinished(String),
    /// Its export is not there, or has no id.
    Waiting(String),
    Refused(String),
    Gone,
}

impl GateIntake {
    pub(super) fn new(
        config: &ExportDirConfig,
        traces: Arc<Traces>,
        destinations: Vec<Destination>,
        common: &Common,
    ) -> GateIntake {
        let Common { queue, observer, mode, .. } = common.clone();
        let shared = Shared {
            traces,
            settling: Settling { settle: config.settle.0, timeout: config.settle_timeout.0 },
            max_bytes: config.max_file_size.0,
            queue,
            destinations,
            observer,
            mode,
            concurrency: Semaphore::new(MAX_READING),
            in_work: InWork::default(),
        };
        GateIntake { shared: Arc::new(shared) }
    }

    /// Works files off until there are no more, or until stopped.
    pub(super) async fn run(
        self,
        mut candidates: mpsc::Receiver<Candidate>,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let mut waiting = JoinSet::new();
        loop {
            let may_take = waiting.len() < MAX_WAITING;
            let path = tokio::select! {
                biased;
                Some(ended) = waiting.join_next() => {
                    ended.map_err(StageDied::from)?;
                    continue;
                }
                candidate = candidates.recv(), if may_take => match candidate {
                    Some(Candidate { path }) => path,
                    None => break,
                },
            };
            if self.shared.in_work.is_new(&path) {
                waiting.spawn(Arc::clone(&self.shared).work(path, stop.clone()));
            }
        }
        while let Some(ended) = waiting.join_next().await {
            ended.map_err(StageDied::from)?;
        }
        Ok(())
    }
}

impl Shared {
    async fn work(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            // Whatever is interrupted here stays a file: the next start finds it.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = Arc::clone(&self).take_in(&path) => {}
            }
            if self.in_work.is_done(&path) {
                return;
            }
        }
    }

    async fn take_in(self: Arc<Self>, path: &Path) {
        let mut quiet = Quiet::new(path);
        let mut patience = Instant::now() + self.settling.timeout;
        let mut told = None;
        loop {
            while let Some(wait) = self.settling.before_reading(quiet.now(), quiet.waited()) {
                tokio::time::sleep(wait).await;
            }
            match self.look(path).await {
                Seen::Ready(deliveries) => return self.hand_over(path, deliveries).await,
                Seen::Gone => return,
                Seen::Refused(reason) => return self.refuse(path, reason),
                Seen::Unfinished(reason) if quiet.last() >= self.settling.timeout => {
                    return self.refuse(path, reason);
                }
                Seen::Unfinished(_) => tokio::time::sleep(self.settling.settle).await,
                Seen::Waiting(reason) => {
                    // A run that is to end waits only for what is on its way.
                    if !self.queue.waiting().is_empty() {
                        patience = Instant::now() + self.settling.timeout;
                    }
                    if self.mode.ends() && Instant::now() >= patience {
                        return self.refuse(path, reason);
                    }
                    if told.as_ref() != Some(&reason) {
                        let path = path.display();
                        tracing::info!(%path, "gate results wait for their export: {reason}");
                        told = Some(reason);
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn look(self: &Arc<Self>, path: &Path) -> Seen {
        let Ok(_permit) = self.concurrency.acquire().await else { return Seen::Gone };
        let (shared, path) = (Arc::clone(self), path.to_owned());
        match tokio::task::spawn_blocking(move || shared.look_blocking(&path)).await {
            Ok(seen) => seen,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Seen::Gone,
        }
    }

    fn look_blocking(&self, path: &Path) -> Seen {
        let loaded = match source::load(path, self.max_bytes) {
            Ok(loaded) => loaded,
            Err(SourceError::Missing { .. }) => return Seen::Gone,
            Err(error) if error.is_transient() => return Seen::Unfinished(error.to_string()),
            Err(error) => return Seen::Refused(error.to_string()),
        };
        let GateFile { project_id, results } = match GateFile::parse(&loaded.bytes) {
            Ok(file) => file,
            Err(error @ GateError::Syntax(_)) => return Seen::Unfinished(error.to_string()),
            Err(error) => return Seen::Refused(error.to_string()),
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut by_trace: BTreeMap<Option<TraceId>, Vec<GateResult>> = BTreeMap::new();
        for result in results {
            by_trace.entry(result.trace_id).or_default().push(result);
        }
        let mut deliveries = Vec::new();
        for (trace_id, results) in by_trace {
            match self.traces.find(directory, project_id.as_deref(), trace_id) {
                Ok((emitted, converter)) => {
                    let delivery = addition(&loaded, &emitted, converter, &results);
                    deliveries.push(delivery);
                }
                Err(NotFound::Later(reason)) => return Seen::Waiting(reason),
                Err(NotFound::Never(reason)) => return Seen::Refused(reason),
            }
        }
        Seen::Ready(deliveries)
    }

    async fn hand_over(&self, path: &Path, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            match self.queue.accept(&delivery, &self.destinations).await {
                Accepted::Impossible(reason) => self.refuse(path, reason),
                Accepted::New => {
                    let (path, spans) = (path.display(), delivery.span_count);
                    tracing::debug!(%path, trace_id = %delivery.trace_id, spans, "gates accepted");
                }
                Accepted::Known
                | Accepted::Delivered
                | Accepted::DeadLetter { .. }
                | Accepted::Closed => {}
            }
        }
    }

    fn refuse(&self, path: &Path, reason: String) {
        let reason = format!("{}: {reason}", path.display());
        (self.observer)(&Event::Refused { path: path.to_owned(), reason });
    }
}

/// What a file adds to the trace of one export. The same content is added once.
fn addition(
    file: &Loaded,
    emitted: &Emitted,
    converter: &Converter,
    results: &[GateResult],
) -> Delivery {
    let now = UnixNanos::now();
    let requests = converter.trace(&emitted.plan, emitted.trace_id, now).gate_results(results);
    Delivery {
        trace_id: emitted.trace_id,
        addition: Some(emitted.trace_id.addition("gate.result", &file.bytes)),
        source: file.source.clone(),
        project_id: emitted.plan.project.id.clone(),
        span_count: results.len(),
        made_at: now,
        requests: encoded(&requests),
        logs: Vec::new(),
        write_back: WriteBackMode::Off,
    }
}
