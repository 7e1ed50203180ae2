//! From a file that was noticed to a delivery in the queue.
//!
//! ```text
//! Candidate ─▶ quiet? ─▶ read, join ─▶ convert, encode ─▶ the same still? ─▶ queue
//!  │ waits      ▲          │ torn, or inconsistent             │ no
//!  ▼ already    └──────────┴────────────── later ──────────────┘
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::in_flight::{InFlight, Refusals, SelfWriteFilter, StabilityProbe};
use super::locks::{LockRegistry, Ownership};
use super::{Mode, RunContext, StageDied};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::converter::{Converter, state};
use crate::fs::carried;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::{Source, SourceError};
use crate::fs::stamp::{IdOrigin, emission_timestamp};
use crate::fs::task_state;
use crate::plan::{self, Export, Fresh, PlanError, ReadOptions};
use crate::queue::{Destination, Enqueued, NewEntry, Queue};
use crate::receiver::Candidate;
use crate::receiver::stability::{Look, StabilityPolicy};
use crate::writeback;

/// Exports that may wait to become stable at the same time. Each costs a timer and a path.
const MAX_UNSTABLE: usize = 1_024;

/// Plans with more artifacts are dropped on a blocking thread: freeing them takes longer than the hand-off.
const MANY_ARTIFACTS: usize = 500;

#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    receiver: String,
    directories: Vec<PathBuf>,
    settling: StabilityPolicy,
    /// When a file that cannot be read for now is looked at again.
    look_again: Duration,
    read: ReadOptions,
    converter: Converter,
    logs: Option<Converter>,
    queue: Queue,
    locks: LockRegistry,
    destinations: Vec<Destination>,
    observer: Observer,
    mode: Mode,
    write_back: WriteBackMode,
    makes_state_files: bool,
    /// How many exports are in memory at once, at most.
    at_a_time: usize,
    concurrency: Semaphore,
    in_flight: InFlight,
    refusals: Refusals,
    self_writes: SelfWriteFilter,
}

/// The outcome of reading a file.
enum ReadOutcome {
    Ready {
        delivery: Box<NewEntry>,
        warnings: Vec<String>,
        conversion: Duration,
    },
    /// With an id that was written by taskspan, or, if `foreign`, that was not.
    AlreadyEmitted {
        foreign: bool,
    },
    Refused(PlanError),
    Later(Look),
}

impl Intake {
    pub(super) fn new(source: super::Source, common: &RunContext) -> Intake {
        let super::Source { id, config, converter, logs, destinations, .. } = source;
        let RunContext { queue, locks, observer, mode, self_writes, .. } = common.clone();
        let shared = Shared {
            receiver: id,
            directories: config.directories.clone(),
            look_again: config.rescan_interval.0,
            settling: StabilityPolicy { settle: config.settle.0, timeout: config.settle_timeout.0 },
            read: config.read_options(),
            converter,
            logs,
            queue,
            locks,
            destinations,
            observer,
            mode,
            write_back: config.write_back.mode,
            makes_state_files: config.task_state.is_some(),
            at_a_time: config.max_concurrent_exports,
            concurrency: Semaphore::new(config.max_concurrent_exports),
            in_flight: InFlight::default(),
            refusals: Refusals::default(),
            self_writes,
        };
        Intake { shared: Arc::new(shared) }
    }

    /// Processes candidates until there are no more, or until stopped.
    pub(super) async fn run(
        self,
        candidates: mpsc::Receiver<Candidate>,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let prefilter = |candidates| self.shared.skip_queued(candidates, &stop);
        let work = |path| Arc::clone(&self.shared).work(path, stop.clone());
        self.shared.in_flight.process_all(candidates, MAX_UNSTABLE, prefilter, work).await
    }
}

impl Shared {
    /// Skips candidates that are already queued, without reading them, and locks them again. After a restart
    /// nearly all candidates are of this kind.
    async fn skip_queued(
        self: &Arc<Self>,
        candidates: Vec<Candidate>,
        stop: &CancellationToken,
    ) -> Vec<Candidate> {
        let may_wait = |it: &Candidate| self.queue.waiting_from(&it.path).is_some();
        // The other modes look at everything once, and say what became of it.
        if self.mode != Mode::Watch || !candidates.iter().any(may_wait) {
            return candidates;
        }
        let shared = Arc::clone(self);
        let sifted = on_a_thread(move || {
            candidates.into_iter().filter(|it| !shared.waits_as_it_is(&it.path)).collect()
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => Vec::new(),
            sifted = sifted => sifted.unwrap_or_default(),
        }
    }

    fn waits_as_it_is(&self, path: &Path) -> bool {
        let Some(head) = self.queue.waiting_from(path).filter(|it| it.source.is_untouched()) else {
            return false;
        };
        let turn = self.locks.lock_blocking(&head.source, head.trace_id, head.write_back);
        self.release_unless_held(head.trace_id);
        let waits = turn != Ownership::AlreadyEmitted;
        if waits {
            tracing::debug!(path = %path.display(), "it waits in the queue, as it was read");
        }
        waits
    }

    async fn work(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            // Whatever is interrupted here stays a file without an id: the next scan finds it.
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
        let mut looks = 0;
        loop {
            while let Some(wait) = self.before_reading(&mut quiet) {
                tokio::time::sleep(wait).await;
            }
            // Our own write-back made the last change: the file need not be read.
            if self.self_writes.take(path) {
                (self.observer)(&Event::AlreadyEmitted { path: path.to_owned(), foreign: false });
                return;
            }
            let Ok(permit) = self.concurrency.acquire().await else {
                return;
            };
            let is_speculative = self.is_speculative(&quiet);
            let version = quiet.version();
            let seen = self.look(path).await;
            if is_speculative {
                while let Some(wait) = self.settling.before_reading(quiet.now(), quiet.waited())
                    && quiet.version() == version
                {
                    tokio::time::sleep(wait).await;
                }
                if quiet.version() != version {
                    if let ReadOutcome::Ready { delivery, .. } = &seen {
                        self.release_unless_held(delivery.trace_id);
                    }
                    continue;
                }
            }
            looks += 1;
            let last_look = |look| self.settling.before_next_look(look, looks, quiet.last());
            let wait = match &seen {
                ReadOutcome::Later(look) => last_look(*look),
                ReadOutcome::Ready { .. }
                | ReadOutcome::AlreadyEmitted { .. }
                | ReadOutcome::Refused(_) => None,
            };
            if let Some(wait) = wait {
                drop(permit);
                tokio::time::sleep(wait).await;
                quiet.now();
                continue;
            }
            let seen = match seen {
                ReadOutcome::Later(_) => self.final_read(path).await,
                seen => seen,
            };
            // For example a file server that is away: its return is no change of the file.
            let passes = matches!(&seen, ReadOutcome::Refused(error) if error.is_transient());
            if passes && self.mode == Mode::Watch {
                drop(permit);
                self.conclude(path, seen).await;
                tokio::time::sleep(self.look_again).await;
                continue;
            }
            self.conclude(path, seen).await;
            return;
        }
    }

    /// If no other export is being read, this one is read speculatively before the settle time is over. The
    /// result is discarded if the file changes.
    fn before_reading(&self, quiet: &mut StabilityProbe<'_>) -> Option<Duration> {
        let (quiet, waited) = (quiet.now(), quiet.waited());
        match self.concurrency.available_permits() == self.at_a_time {
            true => self.settling.speculative_read_delay(quiet, waited),
            false => self.settling.before_reading(quiet, waited),
        }
    }

    /// Whether it is read before it was quiet for as long as it has to be.
    fn is_speculative(&self, quiet: &StabilityProbe<'_>) -> bool {
        self.settling.before_reading(quiet.last(), quiet.waited()).is_some()
    }

    fn release_unless_held(&self, trace_id: TraceId) {
        if !self.queue.holds(trace_id) {
            self.locks.release_export(trace_id);
        }
    }

    async fn look(self: &Arc<Self>, path: &Path) -> ReadOutcome {
        self.read(path, false).await
    }

    /// The last look: what is inconsistent is taken as it is, what is torn is refused.
    async fn final_read(self: &Arc<Self>, path: &Path) -> ReadOutcome {
        self.read(path, true).await
    }

    async fn read(self: &Arc<Self>, path: &Path, final_look: bool) -> ReadOutcome {
        let (shared, path) = (Arc::clone(self), path.to_owned());
        let read = on_a_thread(move || shared.read_blocking(&path, final_look)).await;
        read.unwrap_or(ReadOutcome::Later(Look::Unfinished))
    }

    fn read_blocking(&self, path: &Path, final_look: bool) -> ReadOutcome {
        let mut fresh = match plan::read(path, &self.read) {
            Ok(Export::Fresh(fresh)) => fresh,
            Ok(Export::Emitted(carried)) => {
                return ReadOutcome::AlreadyEmitted {
                    foreign: carried.origin == IdOrigin::Foreign,
                };
            }
            Err(error) if error.may_settle() && !final_look => {
                return ReadOutcome::Later(Look::Unfinished);
            }
            Err(error) => return ReadOutcome::Refused(error),
        };
        if self.is_done_already(path, &fresh) {
            return ReadOutcome::AlreadyEmitted { foreign: false };
        }
        if fresh.provisional && !final_look {
            return ReadOutcome::Later(Look::Inconsistent);
        }
        if let Err(error) = self.is_within(&fresh.source) {
            return ReadOutcome::Refused(PlanError::Source(error));
        }
        // Enqueue it even if another process holds the lock, so that it is delivered if that process dies.
        let turn = self.locks.lock_blocking(&fresh.source, fresh.trace_id, self.write_back);
        if turn == Ownership::AlreadyEmitted {
            return ReadOutcome::AlreadyEmitted { foreign: false };
        }
        let (made_at, started) = (UnixNanos::now(), Instant::now());
        let conversion = self.converter.convert(&fresh.plan, fresh.trace_id, made_at);
        let state_files = if self.makes_state_files {
            match task_state::encode(&state::states(&conversion.traces())) {
                Ok(encoded) => Some(encoded.into()),
                Err(error) => {
                    let (path, reason) = (path.to_owned(), error.to_string());
                    return ReadOutcome::Refused(PlanError::Unfit { path, reason });
                }
            }
        } else {
            None
        };
        let warnings = fresh.plan.warnings.iter().map(ToString::to_string);
        let warnings =
            warnings.chain(conversion.warnings.iter().map(ToString::to_string)).collect();
        let logs = self.logs.as_ref();
        let logs = logs.map(|logs| logs.logs(&fresh.plan, fresh.trace_id, made_at));
        let delivery = NewEntry {
            trace_id: fresh.trace_id,
            addition: None,
            receiver: self.receiver.clone(),
            source: fresh.source,
            project_id: std::mem::take(&mut fresh.plan.project.id),
            span_count: conversion.span_count,
            made_at,
            requests: conversion.requests,
            logs: logs.unwrap_or_default(),
            write_back: self.write_back,
            state_files,
        };
        let plan = fresh.plan;
        if plan.artifacts.len() > MANY_ARTIFACTS {
            // Its very many small pieces are let go while the queue takes the requests.
            drop(tokio::task::spawn_blocking(move || drop(plan)));
        }
        ReadOutcome::Ready { delivery: Box::new(delivery), warnings, conversion: started.elapsed() }
    }

    /// A directory on the way may have become a link since the scan.
    fn is_within(&self, source: &Source) -> Result<(), SourceError> {
        let roots = self.directories.iter().filter_map(|root| root.canonicalize().ok());
        if roots.into_iter().any(|root| source.canonical().starts_with(root)) {
            return Ok(());
        }
        let why = "a symbolic link leads out of the watched directory";
        Err(SourceError::Escapes { path: source.path.clone(), why })
    }

    /// An id that we wrote for this very version, into the file or beside it.
    fn is_done_already(&self, path: &Path, fresh: &Fresh) -> bool {
        let carried = fresh.carries.as_ref().and_then(|it| TraceId::from_hex(&it.text));
        carried.is_some_and(|id| fresh.own_id().is_some() || self.queue.is_to_write(id))
            || (self.write_back == WriteBackMode::Beside
                && carried::id_beside(path).as_deref().and_then(TraceId::from_hex)
                    == Some(fresh.trace_id))
    }

    async fn conclude(&self, path: &Path, seen: ReadOutcome) {
        let path = path.to_owned();
        match seen {
            ReadOutcome::AlreadyEmitted { foreign } => {
                (self.observer)(&Event::AlreadyEmitted { path, foreign });
            }
            ReadOutcome::Refused(PlanError::Source(error)) if error.is_missing() => {
                tracing::debug!(path = %path.display(), "gone before it was read");
            }
            ReadOutcome::Refused(error) => {
                let reason = error.to_string();
                if self.refusals.is_new(&path, &reason) {
                    (self.observer)(&Event::Refused { path, reason });
                }
            }
            ReadOutcome::Later(_) => {}
            ReadOutcome::Ready { delivery, warnings, conversion } => {
                let event = Event::Accepted {
                    path: path.clone(),
                    trace_id: delivery.trace_id,
                    spans: delivery.span_count,
                    requests: delivery.requests.len(),
                    conversion,
                };
                let accepted = self.queue.enqueue(&delivery, &self.destinations).await;
                self.release_unless_held(delivery.trace_id);
                match accepted {
                    Enqueued::New => {
                        for warning in warnings {
                            (self.observer)(&Event::Odd { path: path.clone(), warning });
                        }
                        (self.observer)(&event);
                    }
                    Enqueued::Impossible(reason) => {
                        (self.observer)(&Event::Refused { path, reason });
                    }
                    Enqueued::DeadLetter { id, reason, may_be_retried } => {
                        self.meet_dead_letter(path, id, reason, may_be_retried, &event).await;
                    }
                    Enqueued::Delivered => self.write_again(*delivery).await,
                    Enqueued::Known | Enqueued::Closed => {}
                }
            }
        }
    }
}

impl Shared {
    /// The file was replaced by an older copy without the id. The export is the same, so only the write-back
    /// is repeated. (Or the file was read just before the id was written, and has it by now.)
    async fn write_again(&self, delivery: NewEntry) {
        let NewEntry { trace_id, source, write_back, .. } = delivery;
        let (id, at, max_bytes) = (
            trace_id.to_string(),
            emission_timestamp(trace_id, UnixNanos::now()),
            self.read.max_file_size,
        );
        let path = source.path.clone();
        let written = tokio::task::spawn_blocking(move || match write_back {
            WriteBackMode::InPlace => writeback::write_back(&source, &id, &at, max_bytes).map(drop),
            WriteBackMode::Beside => {
                writeback::write_beside(&source, &id, &at, max_bytes).map(drop)
            }
            WriteBackMode::Off => Ok(()),
        });
        if let Ok(Err(error)) = written.await {
            let reason = error.to_string();
            (self.observer)(&Event::NotWritten { path, trace_id, reason });
        }
    }

    /// Who runs `once` again wants it tried again; a sidecar that starts again does not.
    async fn meet_dead_letter(
        &self,
        path: PathBuf,
        id: u64,
        reason: String,
        may_be_retried: bool,
        accepted: &Event,
    ) {
        let retry = may_be_retried && self.mode.ends();
        if retry && self.queue.retry_required(id).await == Ok(true) {
            (self.observer)(accepted);
        } else if self.mode.ends() {
            let reason = format!("{reason} (refused before; `taskspan queue retry {id}`)");
            (self.observer)(&Event::Refused { path, reason });
        }
    }
}

/// Runs what blocks on the disk; none when the runtime is going down.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        // To be seen, not to be swallowed.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
