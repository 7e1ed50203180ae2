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
pub mod config;
pub mod lease;
pub mod record;
pub mod store;

mod journal;
mod state;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::clock::UnixNanos;
use crate::ids::TraceId;
use crate::source::Source;
use journal::Journal;
pub use lease::{Lease, Lost, Settlement};
use record::{Item, Record, Seq, State as ItemState};
pub use record::{Outcome, Rejection, RejectionKind};
use state::{Entry, State, prepare};
pub use store::{Location, OpenError};
use store::{Op, Opened, Store, StoreError};

/// How long to wait before a store that failed is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// One export to be taken in.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub trace_id: TraceId,
    pub source: Source,
    pub project_id: String,
    pub span_count: usize,
    /// The time that the spans carry.
    pub made_at: UnixNanos,
    /// Encoded requests, in the order in which they are sent.
    pub requests: Vec<Bytes>,
}

/// An exporter that an export is to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub exporter: String,
    /// Write-back waits for it.
    pub required: bool,
}

/// What became of an export that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The same trace is on its way already, or was delivered just now.
    Known,
    /// The same trace is a dead letter.
    DeadLetter {
        id: u64,
        reason: String,
        may_be_retried: bool,
    },
    /// No more is taken: the program is stopping.
    Closed,
    /// It can never be recorded.
    Impossible(String),
}

/// Whether exports are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// `queue_size` is reached. Exports stay in their directories.
    Full,
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
    /// Exporters that are there to take a lease.
    exporters: HashSet<String>,
    /// Where exports have to lie to be worked on; none: anywhere.
    scope: Option<Vec<PathBuf>>,
    capacity: u64,
    journal: Journal,
    state: Mutex<State>,
    /// Something changed that somebody may wait for.
    changed: Notify,
    health: watch::Sender<Health>,
    /// Counts how often the store had to begin anew.
    restarts: watch::Sender<u64>,
    mending: tokio::sync::Mutex<()>,
}

/// A queue that was just opened.
#[derive(Debug)]
pub struct Ready {
    pub queue: Queue,
    /// What waits from an earlier run.
    pub waiting: usize,
    pub dead_letters: usize,
    /// Exports whose exporters are not configured any more; they wait for their return.
    pub parked: usize,
    /// Where a corrupt store was put, and what was wrong with it.
    pub set_aside: Option<(PathBuf, String)>,
    /// Ends when everything is on disk, after the last handle is gone.
    pub thread: std::thread::JoinHandle<()>,
}

impl Queue {
    /// Opens the store. `capacity` is in bytes of requests; an export is taken while less is held.
    /// With a `scope`, only exports below these directories are worked on; others keep waiting.
    ///
    /// # Errors
    /// See [`OpenError`]; a corrupt store is none.
    pub fn open(
        location: Location,
        exporters: HashSet<String>,
        scope: Option<Vec<PathBuf>>,
        capacity: u64,
    ) -> Result<Ready, OpenError> {
        let Opened { store, records, forgotten, set_aside } = Store::open(location)?;
        let mut state = State { forgotten: forgotten.into_iter().collect(), ..State::default() };
        let mut parked = 0;
        for (seq, mut record) in records {
            record.items.iter_mut().for_each(Item::recover);
            let known = record.items.iter().any(|item| exporters.contains(&item.exporter));
            parked += usize::from(!known);
            state.next_seq = state.next_seq.max(seq.0 + 1);
            state.insert(seq, record, known);
        }
        let waiting = state.entries.values().filter(|it| !it.record.is_dead_letter()).count();
        let dead_letters = state.entries.len() - waiting;
        let (journal, thread) = Journal::start(store)
            .map_err(|source| OpenError::Directory { path: PathBuf::from("(thread)"), source })?;
        let shared = Shared {
            exporters,
            scope,
            capacity,
            journal,
            state: Mutex::new(state),
            changed: Notify::new(),
            health: watch::Sender::new(Health::Good),
            restarts: watch::Sender::new(0),
            mending: tokio::sync::Mutex::default(),
        };
        let queue = Queue { shared: Arc::new(shared) };
        Ok(Ready { queue, waiting, dead_letters, parked, set_aside, thread })
    }

    /// Takes an export in, durably. Waits while the queue is full or its disk fails.
    pub async fn accept(&self, delivery: &Delivery, destinations: &[Destination]) -> Accepted {
        loop {
            let seq = match self.reserve(delivery.trace_id).await {
                Ok(seq) => seq,
                Err(answer) => return answer,
            };
            let (record, ops) = match prepare(seq, delivery, destinations) {
                Ok(prepared) => prepared,
                Err(error) => {
                    self.state().accepting.remove(&delivery.trace_id);
                    return Accepted::Impossible(error.to_string());
                }
            };
            let generation = self.generation();
            let written = self.shared.journal.take_in(ops).await;
            match written {
                Ok(()) => {
                    self.state().accepted(seq, record);
                    self.set_health(Health::Good);
                    self.shared.changed.notify_waiters();
                    return Accepted::New;
                }
                // Should the store begin anew meanwhile, the next round puts it into the new one.
                Err(StoreError::Closed) => return Accepted::Closed,
                Err(error) => {
                    self.state().accepting.remove(&delivery.trace_id);
                    // Whatever became of the store, the next round tries again.
                    let _ = self.store_failed(error, generation).await;
                }
            }
        }
    }

    /// A place in the order, as soon as there is room.
    async fn reserve(&self, trace_id: TraceId) -> Result<Seq, Accepted> {
        self.when(|state| {
            if state.closed {
                return Some(Err(Accepted::Closed));
            }
            if let Some(known) = state.known(trace_id) {
                return Some(Err(known));
            }
            // Once full, it has to be emptier by a tenth before it takes more: one line each way.
            let full = *self.shared.health.borrow() == Health::Full;
            let capacity = self.shared.capacity;
            if state.bytes >= if full { capacity - capacity / 10 } else { capacity } {
                self.set_health(Health::Full);
                return None;
            }
            state.accepting.insert(trace_id);
            let seq = Seq(state.next_seq);
            state.next_seq += 1;
            Some(Ok(seq))
        })
        .await
    }

    /// The oldest export that waits for this exporter; none when the queue is closed and nothing
    /// is left for it.
    pub async fn lease(&self, exporter: &str) -> Option<Lease> {
        self.when(|state| {
            let mut all_done = true;
            for (seq, entry) in &mut state.entries {
                if !self.concerns(&entry.record) {
                    continue;
                }
                let items = entry.record.items.iter().zip(&mut entry.leased).enumerate();
                for (index, (item, leased)) in items.filter(|(_, it)| it.0.exporter == exporter) {
                    all_done &= item.is_finished();
                    if item.state == ItemState::Accepted && !*leased {
                        *leased = true;
                        let (head, item) = (entry.record.head.clone(), item.clone());
                        return Some(Some(Lease::new(self.clone(), *seq, index, head, item)));
                    }
                }
            }
            (state.closed && all_done).then_some(None)
        })
        .await
    }

    /// The next export that every required exporter is done with; none when the queue is closed
    /// and there will be no other.
    pub async fn settlement(&self) -> Option<Settlement> {
        self.when(|state| {
            let mut all_settled = true;
            for (seq, entry) in &mut state.entries {
                if entry.is_settled() || !self.concerns(&entry.record) {
                    continue;
                }
                all_settled = false;
                if let Some(outcome) = entry.record.outcome().filter(|_| !entry.settling) {
                    entry.settling = true;
                    let head = entry.record.head.clone();
                    return Some(Some(Settlement::new(self.clone(), *seq, head, outcome)));
                }
            }
            (state.closed && all_settled && state.accepting.is_empty()).then_some(None)
        })
        .await
    }

    /// Takes no more in; what is there is still worked off.
    pub fn close(&self) {
        self.state().closed = true;
        self.shared.changed.notify_waiters();
    }

    /// The files of the exports that wait for an exporter, or for their write-back.
    pub fn waiting(&self) -> Vec<PathBuf> {
        let state = self.state();
        let waits = |entry: &&Entry| !entry.is_settled() && self.concerns(&entry.record);
        let entries = state.entries.values().filter(waits);
        entries.map(|entry| entry.record.head.source.path.clone()).collect()
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

    /// Whether this process works on the export: it has an exporter for it, and was asked to.
    fn concerns(&self, record: &Record) -> bool {
        let path = &record.head.source.path;
        let within = |scope: &Vec<PathBuf>| scope.iter().any(|it| path.starts_with(it));
        record.items.iter().any(|item| self.shared.exporters.contains(&item.exporter))
            && self.shared.scope.as_ref().is_none_or(within)
    }

    /// How often the store began anew. Whoever gives it an order remembers this, so that a failure
    /// of an earlier store is not held against the present one.
    fn generation(&self) -> u64 {
        *self.shared.restarts.borrow()
    }

    /// Waits before the next try, or begins anew when there is no hope for the file.
    async fn store_failed(&self, error: StoreError, generation: u64) -> Result<(), Lost> {
        match error {
            StoreError::Closed => return Err(Lost),
            StoreError::Corrupt(reason) => {
                // Several orders can come upon the same corruption; one of them mends it.
                let _mending = self.shared.mending.lock().await;
                if self.generation() != generation {
                    return Err(Lost);
                }
                tracing::error!("the queue's store is corrupt ({reason}); setting it aside");
                match self.shared.journal.start_over().await {
                    Ok(aside) => {
                        self.forget_everything();
                        let aside = aside.map(|path| path.display().to_string());
                        tracing::error!(
                            aside,
                            "a new store was begun; every export without an id is looked up again"
                        );
                        return Err(Lost);
                    }
                    Err(error) => self.set_health(Health::Failing(error.to_string())),
                }
            }
            error => self.set_health(Health::Failing(error.to_string())),
        }
        tokio::time::sleep(STORE_RETRY).await;
        Ok(())
    }

    fn forget_everything(&self) {
        let mut state = self.state();
        state.entries.clear();
        state.by_trace.clear();
        state.delivered.clear();
        state.bytes = 0;
        drop(state);
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

    /// Removes an export when nothing is left to do for it.
    async fn remove_if_over(&self, seq: Seq) {
        {
            let mut state = self.state();
            if !state.entries.get(&seq).is_some_and(|entry| entry.record.is_over()) {
                return;
            }
            if let Some(entry) = state.remove(seq) {
                state.remember(entry.record.head.trace_id);
            }
        }
        self.shared.changed.notify_waiters();
        // Should this be lost, the next start finds the id in the file and removes it then.
        let _ = self.shared.journal.write(vec![Op::Remove { seq }]).await;
    }
}

#[cfg(test)]
mod tests;
