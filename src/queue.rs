//! What was accepted and is not settled yet, on disk.
//!
//! ```text
//! accept ─▶ one item for each exporter ─▶ lease ─▶ acknowledged, … ─▶ delivered │ rejected
//!   │ fsync                        drop = later     │ fsync each      required ones ─▶ settlement
//!   └────────────────────────────── store ──────────┘                 ─▶ written back ─▶ gone
//! ```
//!
//! The queue knows bytes only. Every step is on disk before the next one is taken, so a crash at
//! any point resumes at the last one. `record` is the state, `store` the disk, `journal` the thread
//! between them.

pub mod admin;
pub mod control;
pub mod lease;
pub mod record;
pub mod store;

mod state;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::Source;
pub use lease::{Completion, EntryGone, Lease};
use record::{Blob, Head, Item, Record, Seq};
pub use record::{Outcome, Rejection, RejectionKind};
use state::State;
pub use store::{Location, OpenError, is_there};
use store::{Op, Opened, Store, StoreError};
use writer::{Epoch, StoreWriter};

/// How long to wait before a store that failed is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// One export to be taken in.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub trace_id: TraceId,
    /// Names what is added to the trace of an export later; none for the export itself.
    pub addition: Option<TraceId>,
    /// The id of the receiver that found the file.
    pub receiver: String,
    pub source: Source,
    pub project_id: String,
    pub span_count: usize,
    /// The time that the spans carry.
    pub made_at: UnixNanos,
    /// Encoded requests of spans, in the order in which they are sent.
    pub requests: Vec<Bytes>,
    /// The same for log records, if they are wanted.
    pub logs: Vec<Bytes>,
    /// Where its id is to go in the end.
    pub write_back: WriteBackMode,
    /// The state files to write once it is delivered, encoded; the queue does not read them.
    pub state_files: Option<Bytes>,
}

impl Delivery {
    /// What tells it from everything else.
    pub fn key(&self) -> TraceId {
        self.addition.unwrap_or(self.trace_id)
    }

    /// All its requests of one signal together.
    pub fn bytes_of(&self, signal: Signal) -> u64 {
        let requests = match signal {
            Signal::Traces => &self.requests,
            Signal::Logs => &self.logs,
        };
        requests.iter().map(|request| request.len() as u64).sum()
    }
}

/// The exporters that are there to take a lease, and how many bytes may wait for each.
pub type Exporters = HashMap<String, u64>;

/// An exporter that an export is to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub exporter: String,
    pub signal: Signal,
    /// Write-back waits for it.
    pub required: bool,
}

/// What a person may have to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    /// When the oldest export was taken in that waits for a required exporter.
    pub undelivered: Option<UnixNanos>,
    /// The same for one that is delivered and whose id cannot be written, and why.
    pub unwritten: Option<(UnixNanos, String)>,
    /// Exports that a required exporter refused.
    pub refused: usize,
}

/// What one exporter has before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    pub exporter: String,
    /// Exports that wait for it.
    pub items: usize,
    /// Of requests that wait for it, or that it refused.
    pub bytes: u64,
    pub capacity: u64,
}

/// What became of an export that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// Duplicate: the trace is queued, or an operator dropped it.
    Known,
    /// The same trace was delivered a while ago.
    Delivered,
    /// The same trace is a dead letter.
    DeadLetter {
        id: u64,
        reason: String,
        may_be_retried: bool,
    },
    /// No more is taken: the program is stopping.
    Closed,
    /// The export cannot be encoded.
    Impossible(String),
}

/// Whether exports are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// `queue_size` is reached, and of what. Exports stay in their directories.
    Full(String),
    /// The disk is full, say. The same holds.
    Failing(String),
}

/// A durable queue that several exporters work off independently.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    journal: StoreWriter,
    state: Mutex<State>,
    /// Notified of every change that a caller may wait for.
    changed: Notify,
    health: watch::Sender<Health>,
    /// Counts how often the store had to begin anew.
    restarts: watch::Sender<u64>,
    mending: tokio::sync::Mutex<()>,
    /// Held while an operator command changes the queue.
    admin: tokio::sync::Mutex<()>,
}

/// A queue that was just opened.
#[derive(Debug)]
pub struct Ready {
    pub queue: Queue,
    /// What waits from an earlier run.
    pub waiting: usize,
    pub dead_letters: usize,
    /// Exports whose exporters are not configured any more; they wait for their return.
    pub orphaned: usize,
    /// Where a corrupt store was put, and what was wrong with it.
    pub quarantined: Option<(PathBuf, String)>,
    /// Ends when everything is on disk, after the last handle is gone.
    pub thread: std::thread::JoinHandle<()>,
}

impl Queue {
    /// Opens the store. With a `scope`, only exports below these directories are worked on; others
    /// keep waiting.
    ///
    /// # Errors
    /// See [`OpenError`]; a corrupt store is none.
    pub fn open(
        location: Location,
        exporters: &Exporters,
        scope: Option<Vec<PathBuf>>,
    ) -> Result<Ready, OpenError> {
        Queue::of(Store::open(location)?, exporters, scope)
    }

    fn of(
        opened: Opened,
        exporters: &Exporters,
        scope: Option<Vec<PathBuf>>,
    ) -> Result<Ready, OpenError> {
        let Opened { mut store, records, tombstones, quarantined } = opened;
        let mut state = State::new(exporters, scope);
        state.tombstones.extend(tombstones);
        let mut over = Vec::new();
        for (seq, mut record) in records {
            if record.is_over() {
                over.push(Op::Remove { seq });
                continue;
            }
            record.items.iter_mut().for_each(Item::recover);
            state.insert(seq, record, Epoch::default());
        }
        // The process ended just before it would have done so. The next one may as well.
        let _ = store.apply(&over);
        let count = |what: &dyn Fn(&Record) -> bool| {
            state.iter().filter(|(_, entry)| what(&entry.record)).count()
        };
        let dead_letters = count(&Record::is_dead_letter);
        let waiting = count(&|record| !record.is_dead_letter());
        let orphaned = count(&|record| {
            let known = |item: &Item| exporters.contains_key(&item.exporter);
            record.items.iter().any(|item| !item.is_finished() && !known(item))
        });
        let (journal, thread) = StoreWriter::start(store)
            .map_err(|source| OpenError::Directory { path: PathBuf::from("(thread)"), source })?;
        Ok(Ready {
            queue: Queue::new(journal, state),
            waiting,
            dead_letters,
            orphaned,
            quarantined,
            thread,
        })
    }

    fn new(journal: StoreWriter, state: State) -> Queue {
        let shared = Shared {
            journal,
            state: Mutex::new(state),
            changed: Notify::new(),
            health: watch::Sender::new(Health::Good),
            restarts: watch::Sender::new(0),
            mending: tokio::sync::Mutex::default(),
            admin: tokio::sync::Mutex::default(),
        };
        Queue { shared: Arc::new(shared) }
    }

    /// Takes an export in, durably. Waits while the queue is full or its disk fails.
    pub async fn accept(&self, delivery: &Delivery, destinations: &[Destination]) -> Accepted {
        let place = match self.reserve(delivery, destinations).await {
            Ok(reserved) => reserved,
            Err(answer) => return answer,
        };
        loop {
            let prepared = Record::of_delivery(place.seq, delivery, destinations);
            let (record, ops) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return Accepted::Impossible(error.to_string()),
            };
            let before = self.epoch();
            match self.shared.journal.take_in(ops).await {
                // Only if the store that has it is still the present one; else once more.
                Ok(epoch) if place.fill(&record, epoch) => {
                    self.set_health(Health::Good);
                    self.shared.changed.notify_waiters();
                    return Accepted::New;
                }
                Ok(_) => {}
                Err(StoreError::Closed) => return Accepted::Closed,
                // Whatever became of the store, the next round tries again, under the same name.
                Err(error) => drop(self.store_failed(error, before).await),
            }
        }
    }

    /// Waits for room, and reserves it.
    async fn reserve<'a>(
        &'a self,
        delivery: &'a Delivery,
        destinations: &'a [Destination],
    ) -> Result<Reservation<'a>, Accepted> {
        let key = delivery.key();
        self.when(|state| {
            if state.closed {
                return Some(Err(Accepted::Closed));
            }
            if let Some(known) = state.known(key) {
                return Some(Err(known));
            }
            // Once full, it has to be emptier by a tenth before it takes more: one line each way.
            let was_full = matches!(*self.shared.health.borrow(), Health::Full(_));
            if let Some(why) = state.is_full_for(delivery, destinations, was_full.then_some(10)) {
                if !was_full {
                    self.set_health(Health::Full(why));
                }
                return None;
            }
            let seq = state.reserve(delivery, destinations);
            Some(Ok(Reservation { queue: self, seq, delivery, destinations }))
        })
        .await
    }

    /// Waits for the first export that this exporter may try; `None` when the queue is closed and nothing
    /// is left for it.
    pub async fn lease(&self, exporter: &str) -> Option<Lease> {
        loop {
            // Registered before looking, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let next_try = {
                let mut state = self.state();
                if let Some(leased) = state.lease(exporter, Instant::now()) {
                    drop(state);
                    return Some(Lease::new(self.clone(), leased));
                }
                if state.closed && state.is_done(exporter) {
                    return None;
                }
                state.next_try(exporter)
            };
            match next_try {
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    /// The next export that every required exporter is done with; none when the queue is closed
    /// and there will be no other.
    pub async fn completion(&self) -> Option<Completion> {
        self.when(|state| {
            if let Some((seq, epoch, head, outcome)) = state.settle() {
                return Some(Some(Completion::new(self.clone(), seq, epoch, head, outcome)));
            }
            (state.closed && state.is_finalized()).then_some(None)
        })
        .await
    }

    /// Takes no more in; what is there is still worked off.
    pub fn close(&self) {
        self.state().closed = true;
        self.shared.changed.notify_waiters();
    }

    /// The files of the exports that wait for their write-back, and all that comes before it.
    pub fn waiting(&self) -> Vec<PathBuf> {
        self.state().waiting(&[]).into_iter().map(|(path, _)| path).collect()
    }

    /// Names the exporters whose backlog counts for health, which are more than those that write-back waits
    /// for: log records do not hold an id back.
    pub fn expect(&self, exporters: &[String]) {
        self.state().expected = exporters.iter().cloned().collect();
    }

    /// What a person may have to look at.
    pub fn health_facts(&self) -> HealthFacts {
        self.state().health_facts()
    }

    /// What each exporter has before it.
    pub fn lanes(&self) -> Vec<LaneFigures> {
        self.state().lanes()
    }

    /// The same and those that wait for one of these exporters, each with what it waits for.
    pub fn waiting_for(&self, exporters: &[String]) -> Vec<(PathBuf, Option<String>)> {
        self.state().waiting(exporters)
    }

    /// Returns whether the id of this trace is about to be written, or was written and is not recorded yet.
    pub fn is_to_write(&self, trace_id: TraceId) -> bool {
        self.state().is_to_write(trace_id)
    }

    /// Which of these traces were delivered, or dropped, and are not held any more.
    pub fn are_done(&self, trace_ids: &[TraceId]) -> Vec<TraceId> {
        let state = self.state();
        trace_ids.iter().copied().filter(|id| state.is_done_with(*id)).collect()
    }

    /// Remembers that this is done with, for good.
    pub async fn note_done(&self, key: TraceId) {
        let epoch = self.epoch();
        self.state().tombstones.insert(key);
        // Should this be lost, it is done once more.
        let _ = self.shared.journal.write(vec![Op::Tombstone { trace_id: key }], epoch).await;
    }

    /// Whether an export of this trace is held, in whatever state.
    pub fn holds(&self, trace_id: TraceId) -> bool {
        self.state().holds(trace_id)
    }

    /// The export that was read from this file and is neither written back nor refused.
    pub fn waiting_from(&self, path: &Path) -> Option<Head> {
        self.state().waiting_from(path).cloned()
    }

    /// Whether exports are taken in, and every change of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Changes whenever the store was lost and began anew: then every export without an id has to
    /// be looked at again.
    pub fn restarts(&self) -> watch::Receiver<u64> {
        self.shared.restarts.subscribe()
    }

    /// The epoch of the current store. Commands carry it; an error from an earlier epoch is ignored.
    fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// Waits before the next try, or begins anew when there is no hope for the file.
    async fn store_failed(&self, error: StoreError, epoch: Epoch) -> Result<(), EntryGone> {
        match error {
            StoreError::Closed | StoreError::Replaced => return Err(EntryGone),
            StoreError::Corrupt(reason) => {
                // Several orders can come upon the same corruption; one of them mends it.
                let _mending = self.shared.mending.lock().await;
                if self.epoch() != epoch {
                    return Err(EntryGone);
                }
                tracing::error!("the queue's store is corrupt ({reason}); setting it aside");
                match self.shared.journal.start_over(epoch).await {
                    Ok((begun, aside)) => {
                        self.begin_anew(begun);
                        let aside = aside.map(|path| path.display().to_string());
                        tracing::error!(
                            aside,
                            "a new store was begun; every export without an id is looked up again"
                        );
                        return Err(EntryGone);
                    }
                    Err(error) => self.set_health(Health::Failing(error.to_string())),
                }
            }
            error => self.set_health(Health::Failing(error.to_string())),
        }
        tokio::time::sleep(STORE_RETRY).await;
        Ok(())
    }

    /// Reads a blob. Retries while the disk fails.
    async fn read(&self, seq: Seq, blob: Blob, epoch: Epoch) -> Result<Bytes, EntryGone> {
        loop {
            match self.shared.journal.read(seq, blob, epoch).await {
                Ok(found) => return Ok(found),
                Err(error) => self.store_failed(error, epoch).await?,
            }
        }
    }

    fn begin_anew(&self, epoch: Epoch) {
        self.state().begin_anew(epoch);
        self.shared.restarts.send_modify(|count| *count += 1);
        self.shared.changed.notify_waiters();
    }

    /// Waits until the state has an answer.
    async fn when<T>(&self, mut answer: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // Registered before looking, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let found = answer(&mut self.state());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole before the lock is let go, so a panic elsewhere tears nothing.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store works. Whether there is room is another matter.
    fn recovered(&self) {
        let failing = matches!(*self.shared.health.borrow(), Health::Failing(_));
        if failing {
            self.set_health(Health::Good);
        }
    }

    fn set_health(&self, health: Health) {
        self.shared.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }

    /// Removes an export when nothing is left to do for it, and its requests when no exporter needs them any
    /// more.
    async fn tidy(&self, seq: Seq) {
        let (op, epoch) = {
            let mut state = self.state();
            let Some(entry) = state.get(seq).filter(|entry| entry.record.is_delivered()) else {
                return;
            };
            let epoch = entry.epoch;
            if entry.record.is_over() {
                if let Some(entry) = state.remove(seq) {
                    state.remember(entry.record.head.key());
                }
                (Op::Remove { seq }, epoch)
            } else {
                (Op::RemoveBlobs { seq }, epoch)
            }
        };
        self.shared.changed.notify_waiters();
        // Should this be lost, the next start sees that it is over and removes it then.
        let _ = self.shared.journal.write(vec![op], epoch).await;
    }
}

/// Room that is kept for an export on its way to the disk; dropped, it is free again.
struct Reservation<'a> {
    queue: &'a Queue,
    seq: Seq,
    delivery: &'a Delivery,
    destinations: &'a [Destination],
}

impl Reservation<'_> {
    /// The export is on disk, in this store. False when that is not the present one any more.
    fn fill(&self, record: &Record, epoch: Epoch) -> bool {
        let mut state = self.queue.state();
        let present = epoch >= state.epoch;
        if present {
            state.insert(self.seq, Box::new(record.clone()), epoch);
        }
        present
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.queue.state().release(self.delivery, self.destinations);
        self.queue.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
