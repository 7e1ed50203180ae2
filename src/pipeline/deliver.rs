//! Delivers the queued entries of one exporter, in order.
//!
//! ```text
//! lease ─▶ lock ─▶ send ─▶ verify, if configured ─▶ record: delivered │ dead letter
//!           │ held elsewhere │ defer   │ spans are missing
//!           └─ try later     └─ later  └─ resend those
//! ```
//!
//! One entry is sent at a time. Locks, verifications and records of other entries are in progress
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::event::{Event, Observer};
use super::locks::{LockRegistry, Ownership};
use super::reachability::Reachability;
use super::send::{Interruption, Sender};
use super::shutdown::Shutdown;
use super::verify::{Verifier, VerifyOutcome};
use super::{RunContext, StageDied};
use crate::base::clock::UnixNanos;
use crate::exporter::Exporter;
use crate::queue::lease::Ack;
use crate::queue::{EntryGone, Health, Lease, Queue, Rejection, RejectionKind};

/// Pause after the queue lost an entry.
const AFTER_LOSS: Duration = Duration::from_secs(1);

/// Pause before a lock that another process holds is tried again.
const WHILE_BUSY: Duration = Duration::from_millis(100);

/// How long the next entry waits for this entry's lock, to preserve the order. If the file system
/// takes longer, the entry loses its place.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Maximum number of entries whose lock is being tried. Another process holds most of these locks.
const MAX_LOCKING: usize = 256;

/// Maximum number of entries that are being verified.
const MAX_VERIFYING: usize = 64;

pub(crate) struct Deliverer {
    sender: Sender,
    queue: Queue,
    observer: Observer,
    shutdown: Shutdown,
    locks: LockRegistry,
    /// Set if `verify` is configured.
    verifier: Option<Arc<Verifier>>,
    /// Earliest time for the next lease, after an entry was deferred.
    not_before: Option<Instant>,
    locking: JoinSet<Option<Locked>>,
    /// When the newest entry started to wait for its lock.
    locking_since: Option<Instant>,
    verifying: JoinSet<(Lease, Result<VerifyOutcome, Interruption>)>,
    /// Outcomes that are not durable yet. The store writes them in the order of their submission, so an outcome
    /// is durable before the next entry is marked in flight; both usually share one fsync.
    recording: JoinSet<Result<(), EntryGone>>,
}

/// The result of trying a lock. `is_new` means the first attempt for this entry.
struct Locked {
    lease: Lease,
    ownership: Ownership,
    is_new: bool,
}

/// The next event for the loop.
enum Next {
    Leased(Lease),
    Locked(Locked),
    Verified(Lease, Result<VerifyOutcome, Interruption>),
    Recorded(Result<(), EntryGone>),
    /// A condition changed, so check the queue again.
    LookAgain,
    End,
}

impl Deliverer {
    pub(super) fn new(mut exporter: Exporter, common: &RunContext) -> Deliverer {
        let RunContext { queue, locks, observer, shutdown, .. } = common.clone();
        let verifier = exporter.trace_reader.take().map(|trace_reader| {
            let destination = trace_reader.endpoint().to_string();
            let (queue, observer) = (queue.clone(), observer.clone());
            let reach = Reachability::new(&exporter.id, destination, queue, observer);
            Arc::new(Verifier { trace_reader, reach, shutdown: shutdown.clone() })
        });
        Deliverer {
            sender: Sender::new(exporter, common, verifier.is_some()),
            queue,
            observer,
            shutdown,
            locks,
            verifier,
            not_before: None,
            locking: JoinSet::new(),
            locking_since: None,
            verifying: JoinSet::new(),
            recording: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<(), StageDied> {
        loop {
            match self.next().await? {
                Next::Leased(lease) => self.lock(lease),
                Next::Locked(locked) => self.locked(locked).await,
                Next::Verified(lease, Ok(VerifyOutcome::Arrived)) => self.complete(lease).await,
                Next::Verified(lease, Ok(VerifyOutcome::Missing(requests))) => {
                    self.send(lease, requests).await;
                }
                Next::Verified(lease, Err(interruption)) => self.end(lease, interruption).await,
                Next::Recorded(Ok(())) | Next::LookAgain => {}
                Next::Recorded(Err(EntryGone)) => self.entry_gone().await,
                Next::End => break,
            }
        }
        self.drain().await
    }

    /// Waits for the next event.
    async fn next(&mut self) -> Result<Next, JoinError> {
        let now = Instant::now();
        // While the store fails, each caller retries by itself, and so the order is lost.
        let is_failing = matches!(*self.queue.health().borrow(), Health::Failing(_));
        let keeps_order = !is_failing || self.recording.is_empty();
        let patience = self.locking_since.map(|since| since + LOCK_PATIENCE);
        let pause = self.not_before.max(patience).filter(|until| *until > now);
        let may_lease = pause.is_none()
            && keeps_order
            && self.locking.len() < MAX_LOCKING
            && self.verifying.len() < MAX_VERIFYING
            && !self.shutdown.deadline.is_cancelled();
        Ok(tokio::select! {
            biased;
            Some(recorded) = self.recording.join_next() => Next::Recorded(recorded?),
            // Entries that are being verified stay in the queue as acknowledged.
            () = self.shutdown.stop.cancelled() => Next::End,
            () = self.shutdown.deadline.cancelled(), if self.verifying.is_empty() => Next::End,
            Some(verified) = self.verifying.join_next() => {
                let (lease, outcome) = verified?;
                Next::Verified(lease, outcome)
            }
            Some(locked) = self.locking.join_next() => {
                locked?.map_or(Next::LookAgain, Next::Locked)
            }
            () = tokio::time::sleep_until(pause.unwrap_or(now)), if pause.is_some() => Next::LookAgain,
            lease = self.queue.lease(&self.sender.exporter.id), if may_lease => {
                lease.map_or(Next::End, Next::Leased)
            }
        })
    }

    /// Tries the lock of an entry, on a blocking thread.
    fn lock(&mut self, lease: Lease) {
        self.locking_since = Some(Instant::now());
        let locks = self.locks.clone();
        self.locking.spawn(async move {
            let ownership = locks.lock(lease.head()).await;
            Some(Locked { lease, ownership, is_new: true })
        });
    }

    async fn locked(&mut self, Locked { lease, ownership, is_new }: Locked) {
        if is_new {
            self.locking_since = None;
        }
        match ownership {
            Ownership::AlreadyEmitted if lease.ends_with_the_id() => {
                tracing::debug!(trace_id = %lease.head().trace_id, "another process sent it");
                self.complete(lease).await;
            }
            Ownership::Acquired | Ownership::AlreadyEmitted => self.send(lease, Vec::new()).await,
            Ownership::HeldElsewhere => self.lock_later(lease),
        }
    }

    /// Defers instead of waiting: two processes that wait for each other's locks would deadlock.
    fn lock_later(&mut self, lease: Lease) {
        let locks = self.locks.clone();
        self.locking.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(WHILE_BUSY) => {}
                () = lease.revocation() => return None,
            }
            let ownership = locks.lock(lease.head()).await;
            Some(Locked { lease, ownership, is_new: false })
        });
    }

    /// Sends the pending requests of an entry. `missing` are requests for spans that the backend
    /// lost, which are sent even after the deadline.
    async fn send(&mut self, mut lease: Lease, missing: Vec<Bytes>) {
        let Shutdown { abort, deadline, .. } = self.shutdown.clone();
        let is_new = missing.is_empty();
        let send = async {
            if !is_new {
                lease.resend(missing).await?;
            }
            self.sender.send(&mut lease).await
        };
        let sent = tokio::select! {
            biased;
            sent = send => sent,
            () = abort.cancelled() => Err(Interruption::Interrupted),
            () = deadline.cancelled(), if is_new => Err(Interruption::Interrupted),
        };
        match (sent, &self.verifier) {
            (Ok(()), None) => self.complete(lease).await,
            (Ok(()), Some(verifier)) => {
                let verifier = Arc::clone(verifier);
                self.verifying.spawn(async move {
                    let revocation = lease.revocation();
                    let outcome = tokio::select! {
                        outcome = verifier.verify(&mut lease) => outcome,
                        () = revocation => Err(Interruption::Interrupted),
                    };
                    (lease, outcome)
                });
            }
            (Err(interruption), _) => self.end(lease, interruption).await,
        }
    }

    async fn complete(&mut self, lease: Lease) {
        let ack = lease.complete(UnixNanos::now()).await;
        self.record(ack);
    }

    async fn end(&mut self, lease: Lease, interruption: Interruption) {
        match interruption {
            Interruption::Rejected(rejection) => {
                self.report_optional_rejection(&lease, &rejection);
                let ack = lease.dead_letter(rejection).await;
                self.record(ack);
            }
            Interruption::Deferred(deferral) => {
                self.not_before = self.not_before.max(Some(deferral.lane_not_before));
                lease.defer(deferral.entry_not_before, deferral.is_reported);
            }
            // An operator command is about to drop the entry. If it does not, the next lease locks
            // the export again.
            Interruption::Interrupted if lease.is_revoked() => self.locks.release(lease.head()),
            Interruption::Interrupted => {}
            Interruption::EntryGone => {
                self.locks.release(lease.head());
                drop(lease);
                self.entry_gone().await;
            }
        }
    }

    fn record(&mut self, ack: Ack) {
        self.recording.spawn(ack.durable());
    }

    /// Pauses after an entry disappeared, because the store was replaced or is about to be.
    async fn entry_gone(&self) {
        let exporter = &self.sender.exporter.id;
        tracing::warn!(exporter, "the export left the queue while it was sent");
        // If the program is stopping, the loop finds out next.
        let _ = self.shutdown.sleep(AFTER_LOSS).await;
    }

    /// Waits until every outcome is recorded. Shutdown does not wait for a failing store: an export
    /// whose outcome is not recorded stays in flight on disk, and the next run treats its delivery
    /// as uncertain.
    async fn drain(&mut self) -> Result<(), StageDied> {
        loop {
            tokio::select! {
                biased;
                recorded = self.recording.join_next() => match recorded {
                    Some(recorded) => drop(recorded?),
                    None => return Ok(()),
                },
                () = self.shutdown.abort.cancelled() => return Ok(()),
            }
        }
    }

    /// Reports a rejection by an optional exporter. The finalizer reports that of a required exporter.
    fn report_optional_rejection(&self, lease: &Lease, rejection: &Rejection) {
        if !lease.item().required {
            (self.observer)(&Event::Rejected {
                path: lease.head().source.path.clone(),
                exporter: self.sender.exporter.id.clone(),
                reason: rejection.reason.clone(),
                permanent: rejection.kind != RejectionKind::GivenUp,
                required: self.sender.exporter.required,
            });
        }
    }
}
