//! Ingests files: exports and gate results alike.
//!
//! ```text
//! Candidate ─▶ stable? ─▶ read, convert ─▶ enqueue
//!                ▲             │ incomplete, or what it needs is missing
//!                └─── later ───┘
//! ```
//!
//! This is the part that both kinds of files share: when and how often a file is read, how many are
//! read concurrently, and what is reported. `exports` and `gate_results` read and enqueue one kind
//! each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::in_flight::{InFlight, Refusals};
use super::memory::{MemoryBudget, Room};
use super::quarantine::{self, Quarantine, Sentence};
use super::{Mode, RunContext, StageDied};
use crate::base::units::HumanDuration;
use crate::fs::blocking::BlockingFs;
use crate::queue::{Destination, Enqueued, NewEntry, Queue};
use crate::receiver::Candidate;
use crate::receiver::config::WatchConfig;
use crate::receiver::stability::{IncompleteReason, StabilityPolicy, StabilityProbe};

/// Maximum number of files that are tracked until they are stable, with some 2.5 KiB of memory each.
/// Large, because a file that never becomes stable keeps its place until `settle_timeout`, and must
/// not keep those that are stable waiting.
const MAX_UNSTABLE: usize = 16_384;

/// Pause before the first retry of a file that waits for something else. Doubles up to
/// `rescan_interval`.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// One kind of file.
pub(super) trait Ingest: Send + Sync + 'static {
    /// The result of converting a file.
    type Ready: Send + 'static;

    /// Whether a candidate is queued and unchanged, so that it need not be read. Blocks on
    /// disk I/O.
    fn is_queued(&self, path: &Path) -> bool;

    /// Reads and converts a stable file. Blocks on disk I/O. `is_last` means that the file has been
    /// incomplete for the maximum time. `max_memory` is the memory it may take, in bytes.
    fn read(&self, path: &Path, is_last: bool, max_memory: u64) -> ReadOutcome<Self::Ready>;

    /// Enqueues a converted file. Returns why it is refused, if it is.
    fn enqueue(
        &self,
        path: &Path,
        ready: Self::Ready,
    ) -> impl Future<Output = Option<String>> + Send;

    /// Makes the event that reports a refusal.
    fn refused(path: PathBuf, reason: String) -> Event;
}

/// The outcome of reading a file.
pub(super) enum ReadOutcome<T> {
    Ready(T),
    /// Nothing is left to do. Report this event.
    Done(Event),
    /// The file was removed before it was read.
    Gone,
    /// A writer may still be writing the file.
    Incomplete(IncompleteReason),
    /// The file is complete, but something that it needs does not exist yet.
    Waiting(String),
    /// The file cannot be read at present, for example because a file server is down. When the
    /// server returns, there is no file event.
    Unavailable(String),
    /// The file may take this many bytes of memory, which is more than it may.
    NoRoom(u64),
    Refused(String),
}

/// The outcome of checking a file.
enum Look<T> {
    /// Not stable yet; check again after this time.
    NotBefore(Duration),
    Read(ReadOutcome<T>),
}

/// Ingests the files of one kind that one receiver finds.
pub(super) struct Ingester<K> {
    kind: K,
    fs: BlockingFs,
    policy: StabilityPolicy,
    rescan_interval: Duration,
    /// Cancelled when the job is over. Then files wait only for entries of the queue.
    finish: CancellationToken,
    queue: Queue,
    observer: Observer,
    mode: Mode,
    /// Limits the files that are read, converted and enqueued concurrently.
    concurrency: Semaphore,
    at_a_time: usize,
    memory: MemoryBudget,
    quarantine: Quarantine,
    in_flight: InFlight,
    refusals: Refusals,
}

impl<K: Ingest> Ingester<K> {
    pub(crate) fn new(
        kind: K,
        (config, at_a_time): (&WatchConfig, usize),
        fs: BlockingFs,
        common: &RunContext,
        finish: CancellationToken,
    ) -> Ingester<K> {
        let RunContext { queue, observer, mode, memory, quarantine, .. } = common.clone();
        Ingester {
            kind,
            fs,
            policy: StabilityPolicy { settle: config.settle.0, timeout: config.settle_timeout.0 },
            rescan_interval: config.rescan_interval.0,
            finish,
            queue,
            observer,
            mode,
            concurrency: Semaphore::new(at_a_time),
            at_a_time,
            memory,
            quarantine,
            in_flight: InFlight::default(),
            refusals: Refusals::default(),
        }
    }

    /// Ingests candidates until the channel is closed, or until stopped.
    pub(crate) async fn run(
        self,
        candidates: mpsc::Receiver<Candidate>,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let this = Arc::new(self);
        let prefilter = |candidates| Arc::clone(&this).skip_queued(candidates, stop.clone());
        let ingest = |path| Arc::clone(&this).ingest(path, stop.clone());
        this.in_flight.process_all(candidates, MAX_UNSTABLE, prefilter, ingest).await
    }

    /// Skips candidates that are queued. After a restart nearly all candidates are.
    async fn skip_queued(
        self: Arc<Self>,
        candidates: Vec<Candidate>,
        stop: CancellationToken,
    ) -> Vec<Candidate> {
        let may_be_queued = |it: &Candidate| self.queue.waiting_from(&it.path).is_some();
        // The other modes read every file once, and report its outcome.
        if self.mode != Mode::Watch || !candidates.iter().any(may_be_queued) {
            return candidates;
        }
        let (this, all) = (Arc::clone(&self), candidates.clone());
        let left = self
            .fs
            .run(move || all.into_iter().filter(|it| !this.kind.is_queued(&it.path)).collect());
        tokio::select! {
            biased;
            () = stop.cancelled() => Vec::new(),
            // If the file system does not respond, each file reports that by itself.
            left = left => left.unwrap_or(candidates),
        }
    }

    async fn ingest(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            // An interrupted file stays without an id, so the next scan finds it.
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if self.mode.ends() {
                        (self.observer)(&Event::Undelivered { path, reason: None });
                    }
                    return;
                }
                () = Arc::clone(&self).ingest_version(&path) => {}
            }
            if self.in_flight.is_done(&path) {
                return;
            }
        }
    }

    async fn ingest_version(self: Arc<Self>, path: &Path) {
        let mut probe = StabilityProbe::new(path);
        let mut waiting = Waiting::new();
        let (mut looks, mut needs) = (0, 0);
        let permits = self.permits_after_quarantine(path).await;
        loop {
            // First the memory: a file that waits for it must not hold a permit that others need.
            let room = match self.memory.reserve(needs).await {
                Ok(room) => room,
                Err(error) => {
                    return self.refuse(path, &probe, format!("{}: {error}", path.display()));
                }
            };
            let Ok(permit) = self.concurrency.acquire_many(permits).await else { return };
            let outcome = match self.look(&mut probe, path, (false, &room)).await {
                Look::NotBefore(wait) => {
                    drop((permit, room));
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Look::Read(outcome) => outcome,
            };
            looks += u32::from(!matches!(outcome, ReadOutcome::NoRoom(_)));
            let outcome = match outcome {
                ReadOutcome::Incomplete(reason) => {
                    let wait = self.policy.before_next_look(reason, looks, probe.quiet());
                    if let Some(wait) = wait {
                        drop((permit, room));
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    match self.look(&mut probe, path, (true, &room)).await {
                        Look::Read(outcome) => outcome,
                        // The file changed at the last moment.
                        Look::NotBefore(_) => continue,
                    }
                }
                outcome => outcome,
            };
            match outcome {
                ReadOutcome::Ready(ready) => {
                    if let Some(reason) = Box::pin(self.kind.enqueue(path, ready)).await {
                        self.refuse(path, &probe, reason);
                    }
                    return;
                }
                ReadOutcome::Done(event) => return (self.observer)(&event),
                ReadOutcome::Refused(reason) => return self.refuse(path, &probe, reason),
                ReadOutcome::Gone => {
                    tracing::debug!(path = %path.display(), "gone before it was read");
                    return;
                }
                ReadOutcome::NoRoom(bytes) => needs = self.memory.next_reservation(bytes, &room),
                ReadOutcome::Unavailable(reason) => {
                    drop((permit, room));
                    self.refuse(path, &probe, reason);
                    if self.mode != Mode::Watch {
                        return;
                    }
                    tokio::time::sleep(self.rescan_interval).await;
                }
                ReadOutcome::Waiting(reason) => {
                    drop((permit, room));
                    if self.is_over(&mut waiting) {
                        return self.refuse(path, &probe, reason);
                    }
                    waiting.report(path, reason);
                    self.pause(&mut waiting).await;
                }
                // The last read accepts or refuses an incomplete file.
                ReadOutcome::Incomplete(_) => return,
            }
        }
    }

    /// Checks a file, and reads it if it is stable.
    async fn look(
        self: &Arc<Self>,
        probe: &mut StabilityProbe,
        path: &Path,
        (is_last, room): (bool, &Room),
    ) -> Look<K::Ready> {
        let max_memory = room.bytes;
        let (this, own) = (Arc::clone(self), path.to_owned());
        let mut moved = std::mem::replace(probe, StabilityProbe::new(path));
        let looked = self.fs.run(move || {
            let look = match moved.observe(&this.policy) {
                Some(wait) => Look::NotBefore(wait),
                None => Look::Read(this.read(&own, is_last, max_memory)),
            };
            (moved, look)
        });
        // Boxed, so that a waiting file needs little memory.
        match Box::pin(looked).await {
            Ok((moved, look)) => {
                *probe = moved;
                look
            }
            Err(unresponsive) => Look::Read(unavailable(path, &unresponsive)),
        }
    }

    /// Reads a file, and notes that it does. Blocks on disk I/O.
    fn read(&self, path: &Path, is_last: bool, max_memory: u64) -> ReadOutcome<K::Ready> {
        let note = self.quarantine.begin(path);
        let outcome = self.kind.read(path, is_last, max_memory);
        match outcome {
            ReadOutcome::NoRoom(_) | ReadOutcome::Incomplete(_) | ReadOutcome::Unavailable(_) => {}
            _ => note.complete(),
        }
        outcome
    }

    /// Waits for the delay of a file in quarantine. Returns how many of the permits to read it
    /// needs: all of them, if it must be read alone.
    async fn permits_after_quarantine(&self, path: &Path) -> u32 {
        let Some(Sentence { deaths, delay }) = self.quarantine.sentence(path, self.mode.ends())
        else {
            return 1;
        };
        let (path, wait) = (path.display(), HumanDuration(delay));
        tracing::warn!(%path, "{}: it is read last, alone, after {wait}", quarantine::reason(deaths));
        tokio::time::sleep(delay).await;
        u32::try_from(self.at_a_time).unwrap_or(1)
    }

    fn refuse(&self, path: &Path, probe: &StabilityProbe, reason: String) {
        if self.refusals.is_new(path, probe.version(), &reason) {
            (self.observer)(&K::refused(path.to_owned(), reason));
        }
    }

    /// Whether a file has waited for the maximum time. A run that ends waits only for entries of
    /// the queue. A job that still runs may write what is missing.
    fn is_over(&self, waiting: &mut Waiting) -> bool {
        let ends = match self.mode {
            Mode::Watch => false,
            Mode::Once => true,
            Mode::Job => self.finish.is_cancelled(),
        };
        let begins_to_end = ends && !std::mem::replace(&mut waiting.is_ending, ends);
        if !ends || begins_to_end || !self.queue.waiting().is_empty() {
            waiting.since = Instant::now();
        }
        ends && waiting.since.elapsed() >= self.policy.timeout
    }

    async fn pause(&self, waiting: &mut Waiting) {
        let last = waiting.next;
        waiting.next = (last * 2).min(self.rescan_interval);
        let pause = if self.mode == Mode::Watch { last } else { FIRST_RETRY.min(last) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.finish.cancelled(), if !self.finish.is_cancelled() => {}
        }
    }
}

fn unavailable<T>(path: &Path, error: &dyn std::error::Error) -> ReadOutcome<T> {
    ReadOutcome::Unavailable(format!("{}: {error}", path.display()))
}

/// Tracks how long a file has waited for something else.
struct Waiting {
    since: Instant,
    /// Whether the run was ending at the last check.
    is_ending: bool,
    next: Duration,
    reported: Option<String>,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { since: Instant::now(), is_ending: false, next: FIRST_RETRY, reported: None }
    }

    fn report(&mut self, path: &Path, reason: String) {
        if self.reported.as_ref() != Some(&reason) {
            let path = path.display();
            tracing::info!(%path, "gate results wait for their export: {reason}");
            self.reported = Some(reason);
        }
    }
}

/// The outcome of offering an entry to the queue.
pub(super) enum Offered {
    New,
    /// The entry was a dead letter, which is retried.
    Retried,
    Refused(String),
    /// The same trace was delivered before.
    Delivered,
    /// Nothing to do: the entry is queued or is a dead letter, or the program is stopping.
    Known,
}

/// Offers an entry to the queue. A run that ends retries a dead letter, because an operator who
/// starts `once` again expects that. A restarted sidecar does not.
pub(super) async fn offer(
    queue: &Queue,
    mode: Mode,
    entry: &NewEntry,
    destinations: &[Destination],
) -> Offered {
    match queue.enqueue(entry, destinations).await {
        Enqueued::New => Offered::New,
        Enqueued::Impossible(reason) => Offered::Refused(reason),
        Enqueued::Delivered => Offered::Delivered,
        Enqueued::DeadLetter { id, reason, may_be_retried } if mode.ends() => {
            if may_be_retried && queue.retry_required(id).await == Ok(true) {
                return Offered::Retried;
            }
            Offered::Refused(format!("{reason} (refused before; `taskspan queue retry {id}`)"))
        }
        Enqueued::Known | Enqueued::Closed | Enqueued::DeadLetter { .. } => Offered::Known,
    }
}
