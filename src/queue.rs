//! What was accepted and is not settled yet.
//!
//! ```text
//! accept ─▶ one item for each exporter ─▶ lease ─▶ acknowledged, … ─▶ delivered │ rejected
//!                                          drop = later        all exporters ─▶ settlement
//! ```
//!
//! The queue knows bytes only. It keeps them in memory: the directories are the durable queue so
//! far, since what was not delivered stays a file without `task_trace_id`.

pub mod config;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::clock::UnixNanos;
use crate::ids::TraceId;
use crate::source::Source;

/// How many delivered exports are remembered.
const REMEMBERED: usize = 256;

/// One export on its way.
#[derive(Debug)]
pub struct Delivery {
    pub trace_id: TraceId,
    pub source: Source,
    pub project_id: String,
    pub span_count: usize,
    /// Encoded requests, in the order in which they are sent.
    pub requests: Vec<Bytes>,
}

impl Delivery {
    fn bytes(&self) -> u64 {
        self.requests
            .iter()
            .map(|request| request.len() as u64)
            .sum()
    }
}

/// Whether an offered export was new to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The same trace is on its way already.
    Known,
    /// No more is taken: the program is stopping.
    Closed,
}

/// How one export ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every exporter has delivered it, the last one at this time.
    Delivered { at: UnixNanos },
    Rejected {
        exporter: String,
        rejection: Rejection,
    },
}

/// Why an exporter does not go on with an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    /// The server refused it for good; otherwise the retries were used up.
    pub permanent: bool,
}

/// A bounded queue that several exporters work off independently.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    exporters: Vec<String>,
    capacity: u64,
    state: Mutex<State>,
    /// Something changed that somebody may wait for.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In order of arrival.
    order: VecDeque<TraceId>,
    entries: HashMap<TraceId, Entry>,
    bytes: u64,
    closed: bool,
    /// The last that were delivered: a file that was read just before its id was written comes
    /// too late to be sent again.
    delivered: VecDeque<TraceId>,
}

#[derive(Debug)]
struct Entry {
    delivery: Arc<Delivery>,
    items: Vec<Item>,
    /// All exporters are done and somebody holds the settlement.
    settling: bool,
}

#[derive(Debug)]
struct Item {
    pending: VecDeque<Bytes>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Waiting,
    Leased,
    Delivered(UnixNanos),
    Rejected(Rejection),
}

impl Queue {
    /// `capacity` is in bytes of requests; an export is taken while less than that is held.
    pub fn new(exporters: Vec<String>, capacity: u64) -> Queue {
        let (state, changed) = (Mutex::default(), Notify::new());
        Queue {
            shared: Arc::new(Shared {
                exporters,
                capacity,
                state,
                changed,
            }),
        }
    }

    /// Takes an export in; waits while the queue is full.
    pub async fn accept(&self, delivery: Delivery) -> Accepted {
        let mut delivery = Some(delivery);
        self.when(|state| {
            let offered = delivery.as_ref()?;
            if state.closed {
                return Some(Accepted::Closed);
            }
            let id = &offered.trace_id;
            if state.entries.contains_key(id) || state.delivered.contains(id) {
                return Some(Accepted::Known);
            }
            if state.bytes >= self.shared.capacity {
                return None;
            }
            state.insert(delivery.take()?, self.shared.exporters.len());
            Some(Accepted::New)
        })
        .await
    }

    /// The oldest export that waits for this exporter; none when the queue is closed and nothing
    /// is left for it.
    pub async fn lease(&self, exporter: &str) -> Option<Lease> {
        let index = self.shared.exporters.iter().position(|id| id == exporter)?;
        self.when(|state| {
            let waiting = state.order.iter().copied().find_map(|id| {
                let entry = state.entries.get_mut(&id)?;
                let item = entry.items.get_mut(index)?;
                matches!(item.progress, Progress::Waiting).then(|| {
                    item.progress = Progress::Leased;
                    let pending = std::mem::take(&mut item.pending);
                    let delivery = Arc::clone(&entry.delivery);
                    Lease {
                        queue: self.clone(),
                        index,
                        delivery,
                        pending,
                        settled: false,
                    }
                })
            });
            match waiting {
                Some(lease) => Some(Some(lease)),
                None if state.closed && state.nothing_left_for(index) => Some(None),
                None => None,
            }
        })
        .await
    }

    /// The next export that every exporter is done with; none when the queue is closed and empty.
    pub async fn settlement(&self) -> Option<Settlement> {
        self.when(|state| {
            let done = state.order.iter().copied().find_map(|id| {
                let entry = state.entries.get_mut(&id).filter(|entry| !entry.settling)?;
                let outcome = entry.outcome(&self.shared.exporters)?;
                entry.settling = true;
                let delivery = Arc::clone(&entry.delivery);
                Some(Settlement {
                    queue: self.clone(),
                    delivery,
                    outcome,
                })
            });
            match done {
                Some(settlement) => Some(Some(settlement)),
                None if state.closed && state.entries.is_empty() => Some(None),
                None => None,
            }
        })
        .await
    }

    /// Takes no more in; what is there is still worked off.
    pub fn close(&self) {
        self.state().closed = true;
        self.shared.changed.notify_waiters();
    }

    /// The files of the exports that are not settled.
    pub fn waiting(&self) -> Vec<std::path::PathBuf> {
        let state = self.state();
        let entries = state.order.iter().filter_map(|id| state.entries.get(id));
        entries
            .map(|entry| entry.delivery.source.path.clone())
            .collect()
    }

    /// How many exports are not settled.
    pub fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether every accepted export is settled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the state has an answer.
    async fn when<T>(&self, mut answer: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // Registered before looking, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let found = answer(&mut self.state());
            if let Some(found) = found {
                self.shared.changed.notify_waiters();
                return found;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole before the lock is let go, so a panic elsewhere tears nothing.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn settle_item(
        &self,
        trace_id: TraceId,
        index: usize,
        pending: VecDeque<Bytes>,
        progress: Progress,
    ) {
        let mut state = self.state();
        if let Some(item) = state
            .entries
            .get_mut(&trace_id)
            .and_then(|entry| entry.items.get_mut(index))
        {
            *item = Item { pending, progress };
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

impl State {
    fn insert(&mut self, delivery: Delivery, exporters: usize) {
        let item = || Item {
            pending: delivery.requests.iter().cloned().collect(),
            progress: Progress::Waiting,
        };
        let items = (0..exporters).map(|_| item()).collect();
        self.bytes += delivery.bytes();
        self.order.push_back(delivery.trace_id);
        let entry = Entry {
            items,
            settling: false,
            delivery: Arc::new(delivery),
        };
        self.entries.insert(entry.delivery.trace_id, entry);
    }

    fn remove(&mut self, trace_id: TraceId) {
        if let Some(entry) = self.entries.remove(&trace_id) {
            self.bytes = self.bytes.saturating_sub(entry.delivery.bytes());
            self.order.retain(|id| *id != trace_id);
        }
    }

    fn nothing_left_for(&self, exporter: usize) -> bool {
        self.entries.values().all(|entry| {
            entry.items.get(exporter).is_none_or(|item| {
                matches!(
                    item.progress,
                    Progress::Delivered(_) | Progress::Rejected(_)
                )
            })
        })
    }
}

impl Entry {
    /// None while some exporter is not done. One refusal decides, whatever the others say.
    fn outcome(&self, exporters: &[String]) -> Option<Outcome> {
        let mut last = UnixNanos(0);
        let mut rejected = None;
        for (item, exporter) in self.items.iter().zip(exporters) {
            match &item.progress {
                Progress::Waiting | Progress::Leased => return None,
                Progress::Delivered(at) => last = last.max(*at),
                Progress::Rejected(rejection) => {
                    let (exporter, rejection) = (exporter.clone(), rejection.clone());
                    rejected.get_or_insert(Outcome::Rejected {
                        exporter,
                        rejection,
                    });
                }
            }
        }
        Some(rejected.unwrap_or(Outcome::Delivered { at: last }))
    }
}

/// One export in the hands of one exporter. To drop it means "later": what was acknowledged stays
/// acknowledged, the rest waits for the next lease.
#[derive(Debug)]
#[must_use = "a lease that is dropped is deferred"]
pub struct Lease {
    queue: Queue,
    index: usize,
    delivery: Arc<Delivery>,
    pending: VecDeque<Bytes>,
    settled: bool,
}

impl Lease {
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The request to send next.
    pub fn next_request(&self) -> Option<Bytes> {
        self.pending.front().cloned()
    }

    /// The request just sent was acknowledged: it is never sent again.
    pub fn acknowledged(&mut self) {
        self.pending.pop_front();
    }

    /// The request to send next goes in two instead.
    pub fn split_next(&mut self, first: Bytes, second: Bytes) {
        self.pending.pop_front();
        self.pending.push_front(second);
        self.pending.push_front(first);
    }

    /// Everything was acknowledged, the last at this time.
    pub fn delivered(mut self, at: UnixNanos) {
        self.settle(Progress::Delivered(at));
    }

    /// It will not be delivered.
    pub fn rejected(mut self, rejection: Rejection) {
        self.settle(Progress::Rejected(rejection));
    }

    fn settle(&mut self, progress: Progress) {
        self.settled = true;
        let pending = std::mem::take(&mut self.pending);
        self.queue
            .settle_item(self.delivery.trace_id, self.index, pending, progress);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Progress::Waiting);
        }
    }
}

/// An export that every exporter is done with. It leaves the queue when this is dropped.
#[derive(Debug)]
#[must_use = "the export leaves the queue when its settlement is dropped"]
pub struct Settlement {
    queue: Queue,
    pub delivery: Arc<Delivery>,
    pub outcome: Outcome,
}

impl Drop for Settlement {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.remove(self.delivery.trace_id);
        if matches!(self.outcome, Outcome::Delivered { .. }) {
            state.delivered.push_front(self.delivery.trace_id);
            state.delivered.truncate(REMEMBERED);
        }
        drop(state);
        self.queue.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
