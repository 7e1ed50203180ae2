//! The queue's interface to the pipeline: open, enqueue, close, and queries.
//!
//! Leases, completions and operator commands are in files of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::entry::{Destination, Enqueued, Exporters, NewEntry};
use super::figures::{Health, HealthFacts, LaneFigures};
use super::index::Index;
use super::record::{Head, Item, Record, Seq};
use super::store::{Location, Op, OpenError, Opened, Store, StoreError};
use super::writer::{Epoch, StoreWriter};
use crate::base::ids::TraceId;

/// A durable queue from which several exporters deliver independently. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(super) shared: Arc<Shared>,
}

/// The state that all clones of a queue share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) writer: StoreWriter,
    index: Mutex<Index>,
    /// Notified of every change that a caller may wait for.
    pub(super) changed: Notify,
    health: watch::Sender<Health>,
    /// Counts how often the store was replaced since the start.
    store_resets: watch::Sender<u64>,
    /// Held while a corrupt store is replaced.
    pub(super) recovering: tokio::sync::Mutex<()>,
    /// Held while an operator command changes the queue.
    pub(super) admin: tokio::sync::Mutex<()>,
}

/// A queue that was just opened.
#[derive(Debug)]
pub struct Ready {
    pub queue: Queue,
    /// Number of entries from an earlier run, without dead letters.
    pub(crate) waiting: usize,
    /// Number of dead letters.
    pub(crate) dead_letters: usize,
    /// Number of entries that wait for an exporter that is no longer configured, until it is
    /// configured again.
    pub(crate) orphaned: usize,
    /// Where a corrupt store was moved to, and what was wrong with it.
    pub(crate) quarantined: Option<(PathBuf, String)>,
    /// Ends when everything is on disk, after the last handle is dropped.
    pub thread: std::thread::JoinHandle<()>,
}

impl Queue {
    /// Opens the store. With a `scope`, only exports below these directories are delivered; others
    /// stay in the queue.
    ///
    /// # Errors
    /// Returns an [`OpenError`] if the directory cannot be used or another process holds the store.
    /// A corrupt store is an error only for [`Location::Existing`]; otherwise it is quarantined.
    pub fn open(
        location: Location,
        exporters: &Exporters,
        scope: Option<Vec<PathBuf>>,
    ) -> Result<Ready, OpenError> {
        Queue::from_opened(Store::open(location)?, exporters, scope)
    }

    /// Starts the queue on an opened store.
    ///
    /// # Errors
    /// Returns an [`OpenError`] if the system cannot start a thread.
    pub(super) fn from_opened(
        opened: Opened,
        exporters: &Exporters,
        scope: Option<Vec<PathBuf>>,
    ) -> Result<Ready, OpenError> {
        let Opened { mut store, records, tombstones, quarantined } = opened;
        let mut index = Index::new(exporters, scope);
        index.tombstones.extend(tombstones);
        let mut over = Vec::new();
        for (seq, mut record) in records {
            if record.is_over() {
                over.push(Op::Remove { seq });
                continue;
            }
            record.items.iter_mut().for_each(Item::recover);
            index.insert(seq, record, Epoch::default());
        }
        // A failure is harmless: the next start removes them.
        let _ = store.apply(&over);
        let count = |what: &dyn Fn(&Record) -> bool| {
            index.iter().filter(|(_, entry)| what(&entry.record)).count()
        };
        let dead_letters = count(&Record::is_dead_letter);
        let waiting = count(&|record| !record.is_dead_letter());
        let orphaned = count(&|record| {
            let known = |item: &Item| exporters.contains_key(&item.exporter);
            record.items.iter().any(|item| !item.is_finished() && !known(item))
        });
        let (writer, thread) = StoreWriter::start(store)
            .map_err(|source| OpenError::Directory { path: PathBuf::from("(thread)"), source })?;
        Ok(Ready {
            queue: Queue::new(writer, index),
            waiting,
            dead_letters,
            orphaned,
            quarantined,
            thread,
        })
    }

    fn new(writer: StoreWriter, index: Index) -> Queue {
        let shared = Shared {
            writer,
            index: Mutex::new(index),
            changed: Notify::new(),
            health: watch::Sender::new(Health::Good),
            store_resets: watch::Sender::new(0),
            recovering: tokio::sync::Mutex::default(),
            admin: tokio::sync::Mutex::default(),
        };
        Queue { shared: Arc::new(shared) }
    }

    /// Stores an entry durably. Waits while the queue is full or its disk fails.
    ///
    /// # Cancel safety
    /// If the call is dropped after the entry was submitted to the store, the entry is delivered
    /// after the next start.
    pub async fn enqueue(&self, entry: &NewEntry, destinations: &[Destination]) -> Enqueued {
        let place = match self.reserve(entry, destinations).await {
            Ok(reserved) => reserved,
            Err(answer) => return answer,
        };
        loop {
            let (record, changes) = Record::of_new(entry, destinations);
            let ops = match Op::of(place.seq, &record, changes) {
                Ok(ops) => ops,
                Err(error) => return Enqueued::Impossible(error.to_string()),
            };
            let before = self.epoch();
            match self.shared.writer.enqueue(ops).await {
                // If the store was replaced meanwhile, the entry is lost and must be enqueued
                // again.
                Ok(epoch) if place.fill(&record, epoch) => {
                    self.set_health(Health::Good);
                    self.shared.changed.notify_waiters();
                    return Enqueued::New;
                }
                Ok(_) => {}
                Err(StoreError::Closed) => return Enqueued::Closed,
                // The next iteration retries, with the same number.
                Err(error) => drop(self.store_failed(error, before).await),
            }
        }
    }

    /// Waits for room and reserves it.
    async fn reserve<'a>(
        &'a self,
        entry: &'a NewEntry,
        destinations: &'a [Destination],
    ) -> Result<Reservation<'a>, Enqueued> {
        let key = entry.key();
        self.when(|index| {
            if index.closed {
                return Some(Err(Enqueued::Closed));
            }
            if let Some(known) = index.known(key) {
                return Some(Err(known));
            }
            // A full queue accepts entries again only when a tenth of it is free. This avoids a
            // log line for every entry.
            let was_full = matches!(*self.shared.health.borrow(), Health::Full(_));
            if let Some(why) = index.is_full_for(entry, destinations, was_full.then_some(10)) {
                if !was_full {
                    self.set_health(Health::Full(why));
                }
                return None;
            }
            let seq = index.reserve(entry, destinations);
            Some(Ok(Reservation { queue: self, seq, entry, destinations }))
        })
        .await
    }

    /// Stops accepting entries. Entries in the queue are still delivered.
    pub(crate) fn close(&self) {
        self.index().closed = true;
        self.shared.changed.notify_waiters();
    }

    /// Returns the files of the exports that wait for delivery or for their write-back.
    pub(crate) fn waiting(&self) -> Vec<PathBuf> {
        self.index().waiting(&[]).into_iter().map(|(path, _)| path).collect()
    }

    /// Sets the exporters whose backlog counts for health. They include exporters of logs, for
    /// which the write-back does not wait.
    pub(crate) fn expect(&self, exporters: &[String]) {
        self.index().expected = exporters.iter().cloned().collect();
    }

    /// Returns conditions that an operator may have to act on.
    pub(crate) fn health_facts(&self) -> HealthFacts {
        self.index().health_facts()
    }

    /// Returns the backlog of each exporter.
    pub(crate) fn lanes(&self) -> Vec<LaneFigures> {
        self.index().lanes()
    }

    /// Returns the files that wait for their write-back or for one of these exporters, each with
    /// what it waits for.
    pub(crate) fn waiting_for(&self, exporters: &[String]) -> Vec<(PathBuf, Option<String>)> {
        self.index().waiting(exporters)
    }

    /// Whether the id of this trace is about to be written, or was written and is not recorded yet.
    pub(crate) fn is_to_write(&self, trace_id: TraceId) -> bool {
        self.index().is_to_write(trace_id)
    }

    /// Returns those of these traces that were delivered recently or have a tombstone.
    pub(crate) fn are_done(&self, trace_ids: &[TraceId]) -> Vec<TraceId> {
        let index = self.index();
        trace_ids.iter().copied().filter(|id| index.is_done_with(*id)).collect()
    }

    /// Adds a tombstone: this key must not be enqueued.
    pub(crate) async fn note_done(&self, key: TraceId) {
        let epoch = self.epoch();
        self.index().tombstones.insert(key);
        // If this write is lost, the work is repeated after the next start.
        let _ = self.shared.writer.write(vec![Op::Tombstone { trace_id: key }], epoch).await;
    }

    /// Whether an entry with this key is queued, in any state, or is being enqueued.
    pub(crate) fn holds(&self, trace_id: TraceId) -> bool {
        self.index().holds(trace_id)
    }

    /// Returns the export that was read from this file and is neither written back nor refused.
    pub(crate) fn waiting_from(&self, path: &Path) -> Option<Head> {
        self.index().waiting_from(path).cloned()
    }

    /// Watches whether the queue accepts entries.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Changes when the store was replaced. Every export without an id must then be read again.
    pub(crate) fn store_resets(&self) -> watch::Receiver<u64> {
        self.shared.store_resets.subscribe()
    }

    /// Returns the epoch of the current store. Commands carry it; an error from an earlier epoch is
    /// ignored.
    pub(super) fn epoch(&self) -> Epoch {
        self.index().epoch
    }

    /// Begins the next epoch, after a corrupt store was replaced.
    pub(super) fn start_epoch(&self, epoch: Epoch) {
        self.index().start_epoch(epoch);
        self.shared.store_resets.send_modify(|count| *count += 1);
        self.shared.changed.notify_waiters();
    }

    /// Waits until `answer` returns a value. It is called again after each change of the index.
    pub(super) async fn when<T>(&self, mut answer: impl FnMut(&mut Index) -> Option<T>) -> T {
        loop {
            // Register before the check, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let found = answer(&mut self.index());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// Locks the index.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        // Every change is complete before the lock is released, so a panic elsewhere leaves no
        // partial change.
        self.shared.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends [`Health::Failing`] after a successful write. Does not change [`Health::Full`].
    pub(super) fn report_working(&self) {
        let failing = matches!(*self.shared.health.borrow(), Health::Failing(_));
        if failing {
            self.set_health(Health::Good);
        }
    }

    /// Sets the health, and notifies its watchers if it changed.
    pub(super) fn set_health(&self, health: Health) {
        self.shared.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

/// Room that is reserved for an entry being written. Dropping it frees the room.
struct Reservation<'a> {
    queue: &'a Queue,
    seq: Seq,
    entry: &'a NewEntry,
    destinations: &'a [Destination],
}

impl Reservation<'_> {
    /// Adds the stored entry to the index. Returns false if its store was replaced.
    fn fill(&self, record: &Record, epoch: Epoch) -> bool {
        let mut index = self.queue.index();
        let present = epoch >= index.epoch;
        if present {
            index.insert(self.seq, Box::new(record.clone()), epoch);
        }
        present
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.queue.index().release(self.entry, self.destinations);
        self.queue.shared.changed.notify_waiters();
    }
}
