//! Reads, converts and enqueues exports.
//!
//! ```text
//! read, join ─▶ done already? ─▶ lock ─▶ convert, encode ─▶ NewEntry ─▶ queue
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::event::{Event, Observer};
use super::ingest::{Ingest, Offered, ReadOutcome, offer};
use super::locks::{LockRegistry, Ownership};
use super::{Mode, ReceiverPipeline, RunContext};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::converter::{Converter, state};
use crate::fs::blocking::ReceiverFs;
use crate::fs::carried;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::{FileVersion, SourceError};
use crate::fs::stamp::{IdOrigin, emission_timestamp};
use crate::fs::task_state;
use crate::plan::{self, Export, Fresh, PlanError, ReadOptions};
use crate::queue::{Destination, NewEntry, Queue};
use crate::receiver::stability::IncompleteReason;
use crate::writeback;

/// Plans with more artifacts are dropped on another blocking thread: freeing them takes longer than the hand-off.
const MANY_ARTIFACTS: usize = 500;

/// The exports of one receiver.
pub(super) struct Exports {
    receiver: String,
    read: ReadOptions,
    converter: Converter,
    logs: Option<Converter>,
    fs: ReceiverFs,
    queue: Queue,
    locks: LockRegistry,
    destinations: Vec<Destination>,
    observer: Observer,
    mode: Mode,
    write_back: WriteBackMode,
    makes_state_files: bool,
}

/// An export that was read and converted.
pub(super) struct Converted {
    entry: NewEntry,
    warnings: Vec<String>,
    conversion: Duration,
}

impl Exports {
    pub(crate) fn new(pipeline: ReceiverPipeline, fs: ReceiverFs, common: &RunContext) -> Exports {
        let ReceiverPipeline { id, config, converter, logs, destinations, .. } = pipeline;
        let RunContext { queue, locks, observer, mode, .. } = common.clone();
        Exports {
            receiver: id,
            read: config.read_options(),
            write_back: config.write_back.mode,
            makes_state_files: config.task_state.is_some(),
            converter,
            logs,
            fs,
            queue,
            locks,
            destinations,
            observer,
            mode,
        }
    }

    /// Releases the lock of an export that was not enqueued.
    fn release_unless_held(&self, trace_id: TraceId) {
        if !self.queue.holds(trace_id) {
            self.locks.release_export(trace_id);
        }
    }

    fn is_untouched(&self, source: &FileVersion) -> bool {
        self.fs.roots.locate(&source.path).is_ok_and(|export| export.is_untouched(source))
    }

    /// Whether taskspan wrote the id for this version, into the file or next to it.
    fn is_done_already(&self, path: &Path, fresh: &Fresh) -> Result<bool, SourceError> {
        let carried = fresh.carries.as_ref().and_then(|it| TraceId::from_hex(&it.text));
        if carried.is_some_and(|id| fresh.own_id().is_some() || self.queue.is_to_write(id)) {
            return Ok(true);
        }
        if self.write_back != WriteBackMode::Beside {
            return Ok(false);
        }
        let beside = carried::id_beside(&self.fs.roots.locate(path)?)?;
        Ok(beside.as_deref().and_then(TraceId::from_hex) == Some(fresh.trace_id))
    }

    fn convert(&self, path: &Path, mut fresh: Fresh) -> ReadOutcome<Box<Converted>> {
        let (made_at, started) = (UnixNanos::now(), Instant::now());
        let conversion = self.converter.convert(&fresh.plan, fresh.trace_id, made_at);
        let mut state_files = None;
        if self.makes_state_files {
            match task_state::encode(&state::states(&conversion.traces())) {
                Ok(encoded) => state_files = Some(encoded.into()),
                Err(error) => {
                    let (path, reason) = (path.to_owned(), error.to_string());
                    return ReadOutcome::Refused(PlanError::Unfit { path, reason }.to_string());
                }
            }
        }
        let of_plan = fresh.plan.warnings.iter().map(ToString::to_string);
        let warnings = of_plan.chain(conversion.warnings.iter().map(ToString::to_string)).collect();
        let logs = self.logs.as_ref();
        let logs = logs.map(|logs| logs.logs(&fresh.plan, fresh.trace_id, made_at));
        let entry = NewEntry {
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
            // The plan is freed while the queue takes the requests.
            drop(tokio::task::spawn_blocking(move || drop(plan)));
        }
        let conversion = started.elapsed();
        ReadOutcome::Ready(Box::new(Converted { entry, warnings, conversion }))
    }

    /// The file was replaced by an older copy without the id. The export is the same, so only the write-back is
    /// repeated. (Or the file was read just before the id was written, and has it by now.)
    async fn write_again(&self, entry: NewEntry) {
        let NewEntry { trace_id, source, write_back, .. } = entry;
        let (id, max_bytes) = (trace_id.to_string(), self.read.max_file_size);
        let at = emission_timestamp(trace_id, UnixNanos::now());
        let path = source.path.clone();
        let roots = self.fs.roots.clone();
        let written = self.fs.calls.run(move || match write_back {
            WriteBackMode::InPlace => {
                writeback::write_back(&roots, &source, &id, &at, max_bytes).map(drop)
            }
            WriteBackMode::Beside => {
                writeback::write_beside(&roots, &source, &id, &at, max_bytes).map(drop)
            }
            WriteBackMode::Off => Ok(()),
        });
        let reason = match written.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(unresponsive) => unresponsive.to_string(),
        };
        (self.observer)(&Event::NotWritten { path, trace_id, reason });
    }
}

impl Ingest for Exports {
    type Ready = Box<Converted>;

    /// The lock of a queued export is acquired again here: locks do not outlive a process.
    fn is_queued(&self, path: &Path) -> bool {
        let Some(head) = self.queue.waiting_from(path).filter(|it| self.is_untouched(&it.source))
        else {
            return false;
        };
        let ownership =
            self.locks.lock_blocking(&self.fs.roots, &head.source, head.trace_id, head.write_back);
        self.release_unless_held(head.trace_id);
        let is_queued = ownership != Ownership::AlreadyEmitted;
        if is_queued {
            tracing::debug!(path = %path.display(), "queued already, unchanged");
        }
        is_queued
    }

    fn read(&self, path: &Path, is_last: bool, max_memory: u64) -> ReadOutcome<Box<Converted>> {
        let done = |foreign| {
            let path = path.to_owned();
            ReadOutcome::Done(Event::AlreadyEmitted { path, foreign })
        };
        let options = ReadOptions { max_memory, ..self.read.clone() };
        let fresh = match plan::read(&self.fs.roots, path, &options) {
            Ok(Export::Fresh(fresh)) => fresh,
            Ok(Export::Emitted(carried)) => return done(carried.origin == IdOrigin::Foreign),
            Err(PlanError::NoRoom { needs, .. }) => return ReadOutcome::NoRoom(needs),
            Err(error) if error.may_settle() && !is_last => {
                return ReadOutcome::Incomplete(IncompleteReason::Unfinished);
            }
            Err(PlanError::Source(error)) if error.is_missing() => return ReadOutcome::Gone,
            Err(error) if error.is_transient() => {
                return ReadOutcome::Unavailable(error.to_string());
            }
            Err(error) => return ReadOutcome::Refused(error.to_string()),
        };
        match self.is_done_already(path, &fresh) {
            Ok(true) => return done(false),
            Ok(false) => {}
            Err(error) if error.is_missing() => return ReadOutcome::Gone,
            Err(error) if error.is_transient() => {
                return ReadOutcome::Unavailable(error.to_string());
            }
            Err(error) => return ReadOutcome::Refused(error.to_string()),
        }
        if fresh.provisional && !is_last {
            return ReadOutcome::Incomplete(IncompleteReason::Inconsistent);
        }
        // Enqueue the export even if another process holds the lock, so that it is delivered if
        // that process dies.
        let ownership = self.locks.lock_blocking(
            &self.fs.roots,
            &fresh.source,
            fresh.trace_id,
            self.write_back,
        );
        match ownership {
            Ownership::AlreadyEmitted => done(false),
            Ownership::Acquired | Ownership::HeldElsewhere => self.convert(path, *fresh),
        }
    }

    async fn enqueue(&self, path: &Path, converted: Box<Converted>) -> Option<String> {
        let Converted { entry, warnings, conversion } = *converted;
        let accepted = Event::Accepted {
            path: path.to_owned(),
            trace_id: entry.trace_id,
            spans: entry.span_count,
            requests: entry.requests.len(),
            conversion,
        };
        let offered = offer(&self.queue, self.mode, &entry, &self.destinations).await;
        self.release_unless_held(entry.trace_id);
        match offered {
            Offered::New => {
                for warning in warnings {
                    (self.observer)(&Event::Odd { path: path.to_owned(), warning });
                }
                (self.observer)(&accepted);
            }
            Offered::Retried => (self.observer)(&accepted),
            Offered::Refused(reason) => return Some(reason),
            Offered::Delivered => self.write_again(entry).await,
            Offered::Known => {}
        }
        None
    }

    fn refused(path: PathBuf, reason: String) -> Event {
        Event::Refused { path, reason }
    }
}
