//! Ingests files: exports and gate results alike.
//!
//! ```text
//! Candidate ─▶ stable? ─▶ read, convert ─▶ enqueue
//!                ▲             │ incomplete, or what it needs is missing
//!                └─── later ───┘
//! ```
//!
//! `exports` and `gate_results` say how one kind of file is read and enqueued. This is all they have in common:
//! when a file is read, how often, how many at a time, and what is reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Observer};
use super::in_flight::{InFlight, Refusals};
use super::{Mode, RunContext, StageDied};
use crate::fs::blocking::BlockingFs;
use crate::queue::{Destination, Enqueued, NewEntry, Queue};
use crate::receiver::Candidate;
use crate::receiver::config::WatchConfig;
use crate::receiver::stability::{IncompleteReason, StabilityPolicy, StabilityProbe};

/// Files that may wait to become stable at the same time. Each costs a timer and a path.
const MAX_UNSTABLE: usize = 1_024;

/// How long to wait before a file is read again that waits for something else; doubles up to `rescan_interval`.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// One kind of file.
pub(super) trait Ingest: Send + Sync + 'static {
    /// What a file becomes.
    type Ready: Send + 'static;

    /// Whether a candidate is queued already, unchanged, and need not be read. Blocks on the disk.
    fn is_queued(&self, path: &Path) -> bool;

    /// Reads a stable file and converts it. Blocks on the disk. `is_last`: the file stayed incomplete for as long
    /// as it may.
    fn read(&self, path: &Path, is_last: bool) -> ReadOutcome<Self::Ready>;

    /// Enqueues what was read. Returns why it is refused, if it is.
    fn enqueue(
        &self,
        path: &Path,
        ready: Self::Ready,
    ) -> impl Future<Output = Option<String>> + Send;

    /// The event that reports a refusal.
    fn refused(path: PathBuf, reason: String) -> Event;
}

/// The outcome of reading a file.
pub(super) enum ReadOutcome<T> {
    Ready(T),
    /// Nothing is left to do, and this is reported.
    Done(Event),
    /// The file was removed before it was read.
    Gone,
    /// A writer may still be at work.
    Incomplete(IncompleteReason),
    /// Complete, but something that it needs is not there yet.
    Waiting(String),
    /// The file cannot be read for now, for example because a file server is away. Its return is no change of
    /// the file.
    Unavailable(String),
    Refused(String),
}

/// The outcome of looking at a file.
enum Look<T> {
    /// It is not stable yet.
    NotBefore(Duration),
    Read(ReadOutcome<T>),
}

/// Ingests files of one kind that one receiver finds.
pub(super) struct Ingester<K> {
    kind: K,
    fs: BlockingFs,
    policy: StabilityPolicy,
    rescan_interval: Duration,
    /// The job is over: a file waits only for what is in the queue.
    finish: CancellationToken,
    queue: Queue,
    observer: Observer,
    mode: Mode,
    /// Files that are read, converted and enqueued at the same time. This bounds memory.
    concurrency: Semaphore,
    in_flight: InFlight,
    refusals: Refusals,
}

impl<K: Ingest> Ingester<K> {
    pub fn new(
        kind: K,
        (config, at_a_time): (&WatchConfig, usize),
        fs: BlockingFs,
        common: &RunContext,
        finish: CancellationToken,
    ) -> Ingester<K> {
        let RunContext { queue, observer, mode, .. } = common.clone();
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
            in_flight: InFlight::default(),
            refusals: Refusals::default(),
        }
    }

    /// Ingests candidates until there are no more, or until stopped.
    pub async fn run(
        self,
        candidates: mpsc::Receiver<Candidate>,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let this = Arc::new(self);
        let prefilter = |candidates| Arc::clone(&this).skip_queued(candidates, stop.clone());
        let ingest = |path| Arc::clone(&this).ingest(path, stop.clone());
        this.in_flight.process_all(candidates, MAX_UNSTABLE, prefilter, ingest).await
    }

    /// Skips candidates that are queued. After a restart nearly all candidates are of this kind.
    async fn skip_queued(
        self: Arc<Self>,
        candidates: Vec<Candidate>,
        stop: CancellationToken,
    ) -> Vec<Candidate> {
        let may_be_queued = |it: &Candidate| self.queue.waiting_from(&it.path).is_some();
        // The other modes read every file once, and report what became of it.
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
            // A file system that does not answer is found out about file by file.
            left = left => left.unwrap_or(candidates),
        }
    }

    async fn ingest(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            // An interrupted file stays without an id: the next scan finds it.
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
        let mut looks = 0;
        loop {
            let Ok(permit) = self.concurrency.acquire().await else { return };
            let outcome = match self.look(&mut probe, path, false).await {
                Look::NotBefore(wait) => {
                    drop(permit);
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Look::Read(outcome) => outcome,
            };
            looks += 1;
            let outcome = match outcome {
                ReadOutcome::Incomplete(reason) => {
                    let wait = self.policy.before_next_look(reason, looks, probe.quiet());
                    if let Some(wait) = wait {
                        drop(permit);
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    match self.look(&mut probe, path, true).await {
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
                ReadOutcome::Unavailable(reason) => {
                    drop(permit);
                    self.refuse(path, &probe, reason);
                    if self.mode != Mode::Watch {
                        return;
                    }
                    tokio::time::sleep(self.rescan_interval).await;
                }
                ReadOutcome::Waiting(reason) => {
                    drop(permit);
                    if self.is_over(&mut waiting) {
                        return self.refuse(path, &probe, reason);
                    }
                    waiting.report(path, reason);
                    self.pause(&mut waiting).await;
                }
                // The last read takes or refuses what is incomplete.
                ReadOutcome::Incomplete(_) => return,
            }
        }
    }

    /// Looks at the file, and reads it if it is stable.
    async fn look(
        self: &Arc<Self>,
        probe: &mut StabilityProbe,
        path: &Path,
        is_last: bool,
    ) -> Look<K::Ready> {
        let (this, own) = (Arc::clone(self), path.to_owned());
        let mut moved = std::mem::replace(probe, StabilityProbe::new(path));
        let looked = self.fs.run(move || {
            let look = match moved.observe(&this.policy) {
                Some(wait) => Look::NotBefore(wait),
                None => Look::Read(this.kind.read(&own, is_last)),
            };
            (moved, look)
        });
        // Boxed, so that a file that waits takes little memory: there may be very many.
        match Box::pin(looked).await {
            Ok((moved, look)) => {
                *probe = moved;
                look
            }
            Err(unresponsive) => Look::Read(unavailable(path, &unresponsive)),
        }
    }

    fn refuse(&self, path: &Path, probe: &StabilityProbe, reason: String) {
        if self.refusals.is_new(path, probe.version(), &reason) {
            (self.observer)(&K::refused(path.to_owned(), reason));
        }
    }

    /// Whether a file has waited for as long as it may. A run that ends waits only for what is in the queue; a
    /// job that still runs may write what is missing.
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

/// How long a file has waited for something else.
struct Waiting {
    since: Instant,
    /// The run is to end, and was at the last look.
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
    /// It was a dead letter, which is tried again.
    Retried,
    Refused(String),
    /// The same trace was delivered a while ago.
    Delivered,
    /// Nothing is left to do: the entry is queued, is a dead letter, or the program is stopping.
    Known,
}

/// Offers an entry to the queue. A run that ends retries a dead letter: an operator who starts `once` again wants
/// that. A sidecar that starts again does not.
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
