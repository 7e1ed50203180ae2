//! Finalizes an export once all required exporters have accepted or rejected it: writes the trace id back,
//! or reports the rejection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::locks::LockRegistry;
use super::memory::MemoryBudget;
use super::{Mode, ReceiverPipeline, RunContext, StageDied};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::config::receivers::{ExistingTraceId, ExportDirConfig};
use crate::fs::blocking::FsByReceiver;
use crate::fs::carried;
use crate::fs::carried::WriteBackMode;
use crate::fs::file;
use crate::fs::root::Roots;
use crate::fs::stamp::emission_timestamp;
use crate::fs::task_state::{self, TaskStateConfig};
use crate::queue::record::Head;
use crate::queue::{Completion, Outcome, Queue, RejectionKind};
use crate::receiver::select::Selection;
use crate::writeback::{self, WriteBackError, write_back, write_beside};

/// Concurrent write-backs per receiver. A write-back mostly waits, for the disk and for late
/// writers.
const AT_A_TIME: usize = 16;

/// Maximum number of exports that are being finalized. A receiver whose file system hangs occupies
/// few of them.
const MAX_FINALIZING: usize = 64;

/// Pause before a failed write-back is retried, if the receiver has no `rescan_interval`.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) struct Finalizer {
    locks: LockRegistry,
    fs: FsByReceiver,
    queue: Queue,
    observer: Observer,
    receivers: Vec<Receiver>,
    mode: Mode,
    memory: MemoryBudget,
    /// Limits the write-backs of entries whose receiver is no longer configured.
    other_concurrency: Semaphore,
    /// Pause before a failed write-back is retried.
    retry_interval: Duration,
}

impl Finalizer {
    pub(super) fn new(common: &RunContext, sources: &[ReceiverPipeline]) -> Finalizer {
        let RunContext { queue, locks, fs, observer, mode, memory, .. } = common.clone();
        let receivers: Vec<Receiver> = sources.iter().map(Receiver::of).collect();
        let retry_interval = receivers.iter().map(|it| it.config.rescan_interval.0).min();
        let retry_interval = retry_interval.unwrap_or(RETRY_INTERVAL);
        let other_concurrency = Semaphore::new(AT_A_TIME);
        Finalizer {
            locks,
            fs,
            queue,
            observer,
            receivers,
            mode,
            memory,
            other_concurrency,
            retry_interval,
        }
    }

    /// Runs until the queue is closed and empty, or delivery has ended.
    pub(super) async fn run(self, delivered: CancellationToken) -> Result<(), StageDied> {
        // With state files the order matters: the latest export of a task decides.
        let in_order = self.receivers.iter().any(|it| it.config.task_state.is_some());
        let at_a_time = if in_order { 1 } else { MAX_FINALIZING };
        let this = Arc::new(self);
        let mut finalizing = JoinSet::new();
        loop {
            let may_take = finalizing.len() < at_a_time;
            tokio::select! {
                biased;
                Some(ended) = finalizing.join_next() => ended?,
                completion = this.queue.completion(), if may_take => match completion {
                    Some(completion) => {
                        let this = Arc::clone(&this);
                        finalizing.spawn(async move { this.finalize(completion).await });
                    }
                    None => break,
                },
                // An id that is not written yet stays in the queue on disk; the next run writes it.
                () = delivered.cancelled(), if finalizing.is_empty() => break,
            }
        }
        // The last tasks may have recorded their outcome, but not reported it yet.
        while let Some(ended) = finalizing.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn finalize(&self, completion: Completion) {
        match completion.outcome.clone() {
            Outcome::Delivered { at } => self.write(completion, at).await,
            Outcome::Rejected { exporter, rejection } => {
                (self.observer)(&Event::Rejected {
                    path: completion.head.source.path.clone(),
                    exporter,
                    reason: rejection.reason,
                    permanent: rejection.kind != RejectionKind::GivenUp,
                    required: true,
                });
                self.locks.release(&completion.head);
                completion.reported();
            }
        }
    }

    /// Writes the id back. A failed write-back is retried in `Watch` mode. In the other modes the
    /// next run retries it.
    async fn write(&self, completion: Completion, at: UnixNanos) {
        let head = &completion.head;
        let (path, trace_id) = (head.source.path.clone(), head.trace_id);
        let receiver = self.receiver_of(head);
        let config = receiver.map(|receiver| &receiver.config);
        let states = self.states(&completion, config).await;
        let fs = self.fs.of_file(&head.receiver, &path);
        let write = Write {
            roots: fs.roots,
            mode: head.write_back,
            source: head.source.clone(),
            trace_id,
            key: head.key(),
            states,
            at,
            max_bytes: config.map_or(u64::MAX, |config| config.max_file_size.0),
            emits_existing: config
                .is_some_and(|config| config.on_existing_trace_id == ExistingTraceId::Emit),
        };
        let done = Event::Done {
            path: path.clone(),
            trace_id,
            project_id: head.project_id.clone(),
            spans: head.span_count,
            written: head.write_back != WriteBackMode::Off,
            took: UnixNanos::now().since(head.first_seen),
        };
        let done = match head.addition {
            Some(_) => Event::Added { path: path.clone(), trace_id, spans: head.span_count },
            None => done,
        };
        // The semaphore is never closed.
        let concurrency = receiver.map_or(&self.other_concurrency, |it| &it.concurrency);
        let _permit = concurrency.acquire().await;
        // The whole file is read.
        let _room = self.memory.reserve_at_most(head.source.size).await;
        let failure = match fs.calls.run(move || write.run()).await {
            Ok(Ok((outcome, tombstone))) => {
                let head = completion.head.clone();
                completion.written_back(tombstone).await;
                self.locks.release(&head);
                (self.observer)(&match outcome {
                    writeback::Outcome::Written => done,
                    writeback::Outcome::Superseded => {
                        Event::Superseded { path, trace_id, gone: false }
                    }
                    writeback::Outcome::Gone => Event::Superseded { path, trace_id, gone: true },
                });
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(unresponsive) => unresponsive.to_string(),
        };
        let is_known =
            completion.is_retry && completion.head.not_written.as_deref() == Some(failure.as_str());
        if !is_known {
            (self.observer)(&Event::NotWritten { path, trace_id, reason: failure.clone() });
        }
        let not_before = Instant::now() + self.retry_interval;
        completion.write_back_failed(&failure, not_before, self.mode != Mode::Watch).await;
    }

    /// Returns the state files to write, and their directory.
    async fn states(
        &self,
        completion: &Completion,
        config: Option<&ExportDirConfig>,
    ) -> Option<(TaskStateConfig, Bytes)> {
        let config = config?.task_state.clone()?;
        let head = &completion.head;
        if !head.has_state_files && head.addition.is_none() {
            // The entry was enqueued by version 0.1, or without `task_state`.
            let path = head.source.path.display();
            tracing::warn!(%path, "no state files: the export was enqueued without them");
        }
        Some((config, completion.state_files().await.ok().flatten()?))
    }

    /// Returns the receiver that found the export. An entry of version 0.1 does not name it, and a
    /// receiver may have been renamed since. Then it is the one that would find the file now.
    fn receiver_of(&self, head: &Head) -> Option<&Receiver> {
        let named = self.receivers.iter().find(|it| it.id == head.receiver);
        named.or_else(|| self.receivers.iter().find(|it| it.selection.is_export(&head.source.path)))
    }
}

/// The data of a receiver that finalization needs.
struct Receiver {
    id: String,
    config: ExportDirConfig,
    selection: Selection,
    concurrency: Semaphore,
}

impl Receiver {
    fn of(source: &ReceiverPipeline) -> Receiver {
        let (id, config) = (source.id.clone(), source.config.clone());
        let selection = super::selection(&config.watching());
        Receiver { id, config, selection, concurrency: Semaphore::new(AT_A_TIME) }
    }
}

/// The data for one write-back, which runs on a blocking thread.
struct Write {
    roots: Roots,
    mode: WriteBackMode,
    source: file::FileVersion,
    trace_id: TraceId,
    /// The queue's key of the entry.
    key: TraceId,
    states: Option<(TaskStateConfig, Bytes)>,
    at: UnixNanos,
    max_bytes: u64,
    /// Whether an export with an id is emitted again.
    emits_existing: bool,
}

impl Write {
    /// Writes the id. Returns the outcome, and the version of the file that must not be taken for a
    /// new export.
    fn run(self) -> Result<(writeback::Outcome, Option<TraceId>), WriteBackError> {
        let Write { roots, mode, source, trace_id, key, states, max_bytes, emits_existing, .. } =
            self;
        let (id, at) = (trace_id.to_string(), emission_timestamp(trace_id, self.at));
        // State files are for another program. A failure to write them is only a warning.
        if let Some((config, encoded)) = states
            && let Err(error) = task_state::write(&config, &encoded)
        {
            let path = source.path.display();
            tracing::warn!(%path, "no state files: {error}");
        }
        match mode {
            WriteBackMode::InPlace => {
                let outcome = write_back(&roots, &source, &id, &at, max_bytes)?;
                // If the file cannot be read now, the write-back is repeated, which changes nothing.
                let ours = match roots.locate_version(&source) {
                    Ok(export) if emits_existing => carried::version_with(&export, &id, max_bytes)?,
                    _ => None,
                };
                Ok((outcome, ours))
            }
            WriteBackMode::Beside => {
                write_beside(&roots, &source, &id, &at, max_bytes).map(|outcome| (outcome, None))
            }
            // Only the queue records that the export was sent.
            WriteBackMode::Off => Ok((writeback::Outcome::Written, Some(key))),
        }
    }
}
