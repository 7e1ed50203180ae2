//! From a file with gate results to what they add to the trace of their export.
//!
//! ```text
//! Candidate ─▶ quiet? ─▶ parse ─▶ which export? ─▶ spans below its tasks ─▶ queue
//!                ▲                    │ none yet, or one without an id
//!                └────────────────────┘ later
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::in_flight::{InFlight, Refusals, StabilityProbe};
use super::{Mode, RunContext, Source, StageDied};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::converter::Converter;
use crate::converter::additions::NoTask;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::{self, Loaded, SourceError};
use crate::plan::gate::{GateError, GateFile, GateResult};
use crate::plan::{Emitted, NotEmitted, Project, ReadOptions, read_emitted};
use crate::queue::{Destination, Enqueued, NewEntry, Queue};
use crate::receiver::Candidate;
use crate::receiver::config::WatchConfig;
use crate::receiver::scan::Scanner;
use crate::receiver::select::Selection;
use crate::receiver::stability::StabilityPolicy;

/// Files that may wait for their export at the same time.
const MAX_WAITING: usize = 1_024;

/// Files that are read at the same time.
const MAX_READING: usize = 4;

/// When an export that has no id yet is looked at again; then ever later, up to `rescan_interval`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The exports whose traces can be added to: how they are found, read and converted.
pub struct Traces {
    sources: Vec<Exports>,
}

struct Exports {
    selection: Selection,
    read: ReadOptions,
    write_back: WriteBackMode,
    converter: Converter,
}

impl Exports {
    fn read(&self, path: &Path) -> Result<Emitted, NotEmitted> {
        read_emitted(path, &self.read, self.write_back)
    }
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
            selection: super::selection(&config.watching()),
            read: config.read_options(),
            write_back: config.write_back.mode,
            converter: converter.clone(),
        };
        Arc::new(Traces { sources: sources.iter().map(exports).collect() })
    }

    /// The export that one result of a file is of, in the first of these directories that has any. Blocks
    /// on the disk.
    fn find(
        &self,
        directories: &[PathBuf],
        project_id: Option<&str>,
        trace_id: Option<TraceId>,
    ) -> Result<Found<'_>, NotFound> {
        let mut beside = directories.iter().map(|directory| self.in_directory(directory));
        let beside = beside.find(|exports| !exports.is_empty()).unwrap_or_default();
        let Some(id) = trace_id else { return Self::of_project(&beside, project_id) };
        let named = self.named(beside.iter(), id);
        let found = named.or_else(|| self.named(self.everywhere().iter(), id));
        let Some(found) = found else {
            return Err(NotFound::Later(format!("no export of trace {id} is there")));
        };
        let own = &found.0.plan.project;
        match project_id.filter(|id| !own.is_named(id)) {
            Some(other) => Err(NotFound::Never(of_another(other, &own.id))),
            None => Ok(found),
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
        let mut emitted =
            candidates.filter_map(|(path, exports)| Some((exports.read(path).ok()?, exports)));
        let (emitted, exports) = emitted.find(|(emitted, _)| emitted.trace_id == trace_id)?;
        Some((emitted, &exports.converter))
    }

    fn of_project<'a>(
        candidates: &[(PathBuf, &'a Exports)],
        project_id: Option<&str>,
    ) -> Result<Found<'a>, NotFound> {
        let is_meant = |own: &Project| project_id.is_none_or(|id| own.is_named(id));
        let (mut found, mut others, mut later) = (Vec::new(), Vec::new(), None);
        for (path, exports) in candidates {
            match exports.read(path) {
                Ok(emitted) if is_meant(&emitted.plan.project) => {
                    found.push((emitted, &exports.converter));
                }
                Ok(emitted) => others.push(emitted.plan.project.id),
                Err(NotEmitted::NoId { project, .. }) if !is_meant(&project) => {
                    others.push(project.id);
                }
                Err(error @ (NotEmitted::Off(_) | NotEmitted::BadId { .. })) => {
                    return Err(NotFound::Never(error.to_string()));
                }
                Err(error) => later = Some(error),
            }
        }
        if let Some(error) = later {
            return Err(NotFound::Later(error.to_string()));
        }
        if found.len() > 1 {
            let reason = "several exports are beside it; say which with `trace_id`";
            return Err(NotFound::Never(reason.to_owned()));
        }
        match (found.pop(), others.first()) {
            (Some(found), _) => Ok(found),
            (None, Some(own)) => {
                Err(NotFound::Never(of_another(project_id.unwrap_or_default(), own)))
            }
            (None, None) => Err(NotFound::Later("no export is beside it".to_owned())),
        }
    }

    fn in_directory(&self, directory: &Path) -> Vec<(PathBuf, &Exports)> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        // A watched directory is selected itself.
        let paths = entries.map(|entry| entry.path()).filter(|path| !path.is_dir());
        let paths: Vec<PathBuf> = paths.collect();
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

/// Where the export of a report may be: in the directory that was checked, or next to the report. The checker is
/// given that directory relative to its own working directory, where the report usually is. Only exports that a
/// receiver watches are found there.
fn directories_of(report: &Path, output_dir: Option<&Path>) -> Vec<PathBuf> {
    let is_plain = |path: &&Path| !path.components().any(|it| it == Component::ParentDir);
    let checked = output_dir.filter(is_plain).map(|checked| report.join(checked));
    checked.into_iter().chain([report.to_owned()]).collect()
}

fn of_another(project: &str, own: &str) -> String {
    format!("the report is of project `{project}`, but the export is of `{own}`")
}

#[derive(Clone)]
pub struct GateIntake {
    shared: Arc<Shared>,
}

struct Shared {
    receiver: String,
    traces: Arc<Traces>,
    settling: StabilityPolicy,
    rescan_interval: Duration,
    max_bytes: u64,
    /// The job is over.
    finish: CancellationToken,
    queue: Queue,
    destinations: Vec<Destination>,
    observer: Observer,
    mode: Mode,
    concurrency: Semaphore,
    in_flight: InFlight,
    refusals: Refusals,
}

/// What one look at a file came to.
enum ReadOutcome {
    Ready {
        additions: Vec<Addition>,
        warnings: Vec<String>,
    },
    /// A writer in the middle of its work, it seems.
    Unfinished(String),
    /// Its export is not there, or has no id.
    Waiting(String),
    Refused(String),
    Gone,
}

impl GateIntake {
    pub(super) fn new(
        (receiver, config): (String, &WatchConfig),
        traces: Arc<Traces>,
        destinations: Vec<Destination>,
        common: &RunContext,
        finish: CancellationToken,
    ) -> GateIntake {
        let RunContext { queue, observer, mode, .. } = common.clone();
        let shared = Shared {
            receiver,
            traces,
            settling: StabilityPolicy { settle: config.settle.0, timeout: config.settle_timeout.0 },
            rescan_interval: config.rescan_interval.0,
            max_bytes: config.max_file_size.0,
            finish,
            queue,
            destinations,
            observer,
            mode,
            concurrency: Semaphore::new(MAX_READING),
            in_flight: InFlight::default(),
            refusals: Refusals::default(),
        };
        GateIntake { shared: Arc::new(shared) }
    }

    /// Works files off until there are no more, or until stopped.
    pub(super) async fn run(
        self,
        candidates: mpsc::Receiver<Candidate>,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let work = |path| Arc::clone(&self.shared).work(path, stop.clone());
        self.shared.in_flight.process_all(candidates, MAX_WAITING, ready, work).await
    }
}

impl Shared {
    async fn work(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            // Whatever is interrupted here stays a file: the next start finds it.
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if self.mode.ends() {
                        (self.observer)(&Event::Undelivered { path, reason: None });
                    }
                    return;
                }
                () = Arc::clone(&self).take_in(&path) => {}
            }
            if self.in_flight.is_done(&path) {
                return;
            }
        }
    }

    async fn take_in(self: Arc<Self>, path: &Path) {
        let mut quiet = StabilityProbe::new(path);
        let mut wait = Waiting::new();
        loop {
            while let Some(wait) = self.settling.before_reading(quiet.now(), quiet.waited()) {
                tokio::time::sleep(wait).await;
            }
            match self.look(path).await {
                ReadOutcome::Ready { additions, warnings } => {
                    return self.hand_over(path, additions, warnings).await;
                }
                ReadOutcome::Gone => return,
                ReadOutcome::Refused(reason) => return self.refuse(path, reason),
                ReadOutcome::Unfinished(reason) if quiet.last() >= self.settling.timeout => {
                    return self.refuse(path, reason);
                }
                ReadOutcome::Unfinished(_) => tokio::time::sleep(self.settling.settle).await,
                ReadOutcome::Waiting(reason) => {
                    if self.is_over(&mut wait) {
                        return self.refuse(path, reason);
                    }
                    if wait.told.as_ref() != Some(&reason) {
                        let path = path.display();
                        tracing::info!(%path, "gate results wait for their export: {reason}");
                        wait.told = Some(reason);
                    }
                    self.pause(&mut wait).await;
                }
            }
        }
    }

    /// A run that is to end waits only for what is on its way; a job that still runs may export.
    fn is_over(&self, wait: &mut Waiting) -> bool {
        let ends = match self.mode {
            Mode::Watch => false,
            Mode::Once => true,
            Mode::Job => self.finish.is_cancelled(),
        };
        let begins_to_end = ends && !std::mem::replace(&mut wait.is_ending, ends);
        if !ends || begins_to_end || !self.queue.waiting().is_empty() {
            wait.since = Instant::now();
        }
        ends && wait.since.elapsed() >= self.settling.timeout
    }

    async fn pause(&self, wait: &mut Waiting) {
        let last = wait.next;
        wait.next = (last * 2).min(self.rescan_interval);
        let pause = if self.mode == Mode::Watch { last } else { LOOK_AGAIN.min(last) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.finish.cancelled(), if !self.finish.is_cancelled() => {}
        }
    }

    async fn look(self: &Arc<Self>, path: &Path) -> ReadOutcome {
        let Ok(_permit) = self.concurrency.acquire().await else { return ReadOutcome::Gone };
        let (shared, path) = (Arc::clone(self), path.to_owned());
        match tokio::task::spawn_blocking(move || shared.look_blocking(&path)).await {
            Ok(seen) => seen,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => ReadOutcome::Gone,
        }
    }

    fn look_blocking(&self, path: &Path) -> ReadOutcome {
        let loaded = match file::load(path, self.max_bytes) {
            Ok(loaded) => loaded,
            Err(SourceError::Missing { .. }) => return ReadOutcome::Gone,
            Err(error) if error.is_transient() => return ReadOutcome::Waiting(error.to_string()),
            Err(error) => return ReadOutcome::Refused(error.to_string()),
        };
        let written_at = UnixNanos::of_mtime(loaded.source.mtime_ns);
        let file = match GateFile::parse(&loaded.bytes, written_at) {
            Ok(file) => file,
            Err(error @ GateError::Syntax(_)) => return ReadOutcome::Unfinished(error.to_string()),
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
            match self.traces.find(&directories, project_id.as_deref(), trace_id) {
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
                Err(NotFound::Later(reason)) => return ReadOutcome::Waiting(reason),
                Err(NotFound::Never(reason)) => return ReadOutcome::Refused(reason),
            }
        }
        ReadOutcome::Ready { additions: all, warnings }
    }

    async fn hand_over(&self, path: &Path, additions: Vec<Addition>, warnings: Vec<String>) {
        let mut is_new = false;
        for Addition { delivery, version } in additions {
            // This very file has said it already, of an export that was here before.
            if !self.queue.are_done(version.as_slice()).is_empty() && !self.is_held(&delivery) {
                continue;
            }
            match self.queue.enqueue(&delivery, &self.destinations).await {
                Enqueued::Impossible(reason) => self.refuse(path, reason),
                Enqueued::New => {
                    is_new = true;
                    if let Some(version) = version {
                        self.queue.note_done(version).await;
                    }
                }
                // Who runs `once` again wants it tried again; a sidecar that starts again does not.
                Enqueued::DeadLetter { id, reason, may_be_retried } if self.mode.ends() => {
                    let again = may_be_retried && self.queue.retry_required(id).await == Ok(true);
                    if !again {
                        let hint = format!("refused before; `taskspan queue retry {id}`");
                        self.refuse(path, format!("{reason} ({hint})"));
                    }
                }
                Enqueued::Known
                | Enqueued::Delivered
                | Enqueued::DeadLetter { .. }
                | Enqueued::Closed => {}
            }
        }
        for warning in warnings.into_iter().filter(|_| is_new) {
            (self.observer)(&Event::Odd { path: path.to_owned(), warning });
        }
    }

    fn is_held(&self, delivery: &NewEntry) -> bool {
        self.queue.holds(delivery.key())
    }

    fn refuse(&self, path: &Path, reason: String) {
        if self.refusals.is_new(path, &reason) {
            (self.observer)(&Event::ResultsRefused { path: path.to_owned(), reason });
        }
    }
}

/// One result on its way.
struct Addition {
    delivery: NewEntry,
    /// The version of the file with the result: an unchanged file says nothing about a newer export in
    /// the same place.
    version: Option<TraceId>,
}

/// How long a file has waited for its export.
struct Waiting {
    since: Instant,
    /// The run is to end, and was when this was looked at last.
    is_ending: bool,
    next: Duration,
    told: Option<String>,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { since: Instant::now(), is_ending: false, next: LOOK_AGAIN, told: None }
    }
}

/// What a file adds to the trace of one export: each result by itself, so that one that was sent
/// is not sent again when the file grows.
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
        // One that names its trace cannot be taken for another's.
        let version = result.trace_id.is_none().then(|| TraceId::of_content(version.as_bytes()));
        let delivery = NewEntry {
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
        Ok(Addition { delivery, version })
    };
    results.iter().enumerate().map(addition).collect()
}
