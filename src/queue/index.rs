//! The queue in memory: every entry without its requests, and indices over them.
//!
//! ```text
//! insert, apply, change, remove ─▶ entries ─▶ marks ─┬─▶ one lane per exporter: what can be leased
//!                                                    └─▶ what can be finalized
//! ```
//!
//! An entry changes only through `change`, which updates its marks. The oldest entry that can be
//! leased or finalized is therefore found without a scan of all entries. `admission` decides what
//! may be enqueued, and `report` summarizes.

mod admission;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use tokio::time::Instant;

use super::entry::Exporters;
use super::record::{Change, Head, Item, ItemState, LanePosition, Outcome, Record, Seq};
use super::transition::{NotApplicable, Transition};
use super::writer::Epoch;
use crate::base::ids::TraceId;

/// All entries, and the state of the queue that is not stored on disk.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// In order of arrival.
    entries: BTreeMap<Seq, Entry>,
    by_key: HashMap<TraceId, Seq>,
    /// The last export that was read from each file, without additions.
    by_path: HashMap<PathBuf, Seq>,
    /// By id of the configured exporter.
    lanes: HashMap<String, Lane>,
    /// The directories whose exports are delivered. `None` means all.
    scope: Option<Vec<PathBuf>>,
    /// Entries that can be finalized, some of them only after their `finalize_not_before`.
    to_finalize: BTreeSet<Seq>,
    /// Number of entries in scope that are not finalized.
    unfinalized: usize,
    /// Traces being written to the store; not yet leasable.
    accepting: HashSet<TraceId>,
    /// Keys of the last delivered entries, newest first.
    delivered: VecDeque<TraceId>,
    /// The exporters whose backlog counts for health.
    pub(crate) expected: HashSet<String>,
    /// Keys that must not be enqueued again: dropped by an operator, or done.
    pub(crate) tombstones: HashSet<TraceId>,
    /// The files of entries that were lost with a corrupt store and were not enqueued again.
    pub(crate) lost: Vec<PathBuf>,
    pub(crate) epoch: Epoch,
    pub(crate) next_seq: u64,
    deferrals: u64,
    pub(crate) closed: bool,
}

/// The backlog of one exporter.
#[derive(Debug, Default)]
struct Lane {
    /// In the order in which they are leased. Some cannot be leased yet.
    to_lease: BTreeSet<(LanePosition, Seq)>,
    unfinished: usize,
    /// Size of the requests that wait for the exporter or that it refused, in bytes. Includes
    /// reservations.
    bytes: u64,
    /// The part of these that was refused.
    dead: u64,
    /// Limit for `bytes`.
    capacity: u64,
}

/// An entry, with the state that is not stored on disk.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Boxed: the map also allocates its empty slots.
    pub(crate) record: Box<Record>,
    /// The epoch of the store that has the entry.
    pub(crate) epoch: Epoch,
    /// The indices of leased items.
    pub(crate) leased: BTreeSet<usize>,
    /// Whether an operator command needs the entry: holders of leases must return it.
    pub(crate) revoked: bool,
    /// Whether a completion is held.
    pub(crate) completing: bool,
    /// Earliest time of the next write-back, after a failed one.
    pub(crate) finalize_not_before: Option<Instant>,
    /// Whether the rejection, or the last failed write-back, was reported to the operator.
    pub(crate) reported: bool,
}

/// The data for a lease.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) seq: Seq,
    pub(crate) index: usize,
    pub(crate) epoch: Epoch,
    pub(crate) head: Head,
    pub(crate) item: Item,
    /// Whether no request of the entry was acknowledged or in doubt, and no item was finished.
    pub(crate) nothing_sent: bool,
}

/// The data for a completion.
#[derive(Debug)]
pub(crate) struct Completing {
    pub(crate) seq: Seq,
    pub(crate) epoch: Epoch,
    pub(crate) head: Head,
    pub(crate) outcome: Outcome,
    /// Whether the write-back failed before.
    pub(crate) is_retry: bool,
}

/// What an entry contributes to the lanes and indices.
struct Marks {
    lanes: Vec<LaneMark>,
    to_finalize: bool,
    unfinalized: bool,
}

struct LaneMark {
    exporter: String,
    /// Its position, if it can be leased.
    to_lease: Option<LanePosition>,
    unfinished: bool,
    bytes: u64,
    dead: u64,
}

impl Index {
    /// Creates an index without entries. See [`Queue::open`] for `scope`.
    ///
    /// [`Queue::open`]: super::Queue::open
    pub(crate) fn new(exporters: &Exporters, scope: Option<Vec<PathBuf>>) -> Index {
        let lane = |capacity: &u64| Lane { capacity: *capacity, ..Lane::default() };
        let lanes = exporters.iter().map(|(id, capacity)| (id.clone(), lane(capacity)));
        Index { lanes: lanes.collect(), scope, ..Index::default() }
    }

    /// Iterates over all entries in order of arrival.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Seq, &Entry)> {
        self.entries.iter().map(|(seq, entry)| (*seq, entry))
    }

    /// Returns the entry with this number, if there is one.
    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(&seq)
    }

    /// Adds a stored entry.
    pub(crate) fn insert(&mut self, seq: Seq, record: Box<Record>, epoch: Epoch) {
        // An entry whose exporters are all unconfigured must not block a new one of the same trace.
        if self.has_known_exporter(&record) {
            self.by_key.insert(record.head.key(), seq);
            if record.head.addition.is_none() {
                self.by_path.insert(record.head.source.path.clone(), seq);
            }
        }
        self.lost.retain(|path| *path != record.head.source.path);
        let leased = BTreeSet::new();
        let reported = matches!(self.outcome(&record), Some(Outcome::Rejected { .. }));
        let entry = Entry {
            record,
            epoch,
            leased,
            revoked: false,
            completing: false,
            finalize_not_before: None,
            reported,
        };
        self.next_seq = self.next_seq.max(seq.0.saturating_add(1));
        self.mark(seq, &self.marks(seq, &entry), true);
        self.entries.insert(seq, entry);
    }

    /// Changes an entry. All changes go through this function. `None` if there is no such entry.
    pub(crate) fn change<T>(
        &mut self,
        seq: Seq,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entry = self.entries.remove(&seq)?;
        self.mark(seq, &self.marks(seq, &entry), false);
        let result = change(&mut entry);
        self.mark(seq, &self.marks(seq, &entry), true);
        self.entries.insert(seq, entry);
        Some(result)
    }

    /// Removes an entry. `None` if there is no such entry.
    pub(crate) fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.mark(seq, &self.marks(seq, &entry), false);
        if self.by_key.get(&entry.record.head.key()) == Some(&seq) {
            self.by_key.remove(&entry.record.head.key());
        }
        let path = &entry.record.head.source.path;
        if self.by_path.get(path) == Some(&seq) {
            self.by_path.remove(path);
        }
        Some(entry)
    }

    /// Removes the entries of earlier epochs, which were lost with their store.
    pub(crate) fn start_epoch(&mut self, epoch: Epoch) {
        let gone = self.entries.iter().filter(|(_, entry)| entry.epoch < epoch);
        for seq in gone.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            let lost = self.remove(seq).filter(|entry| !entry.is_finalized());
            self.lost.extend(lost.map(|entry| entry.record.head.source.path));
        }
        self.epoch = epoch;
        self.delivered.clear();
    }

    /// Leases the first item of this exporter that can be sent now. `None` if there is none.
    pub(crate) fn lease(&mut self, exporter: &str, now: Instant) -> Option<Leased> {
        let waiting = &self.lanes.get(exporter)?.to_lease;
        let may_be_tried = |(place, seq): &&(LanePosition, Seq)| {
            self.not_before(exporter, *place, *seq).is_none_or(|at| at <= now)
        };
        let (place, seq) = *waiting.iter().find(may_be_tried)?;
        self.change(seq, |entry| {
            let mut free = entry.record.items.iter().enumerate().filter(|(index, item)| {
                item.exporter == exporter
                    && item.state == ItemState::Waiting
                    && item.place(seq) == place
                    && !entry.leased.contains(index)
            });
            let (index, item) = free.next()?;
            entry.leased.insert(index);
            let (head, item) = (entry.record.head.clone(), item.clone());
            let nothing_sent =
                entry.record.items.iter().all(|it| !it.may_have_arrived && !it.is_finished());
            Some(Leased { seq, index, epoch: entry.epoch, head, item, nothing_sent })
        })?
    }

    /// Returns when the first deferred item of this exporter can be leased. `None` if no item is
    /// deferred.
    pub(crate) fn next_try(&self, exporter: &str) -> Option<Instant> {
        let waiting = &self.lanes.get(exporter)?.to_lease;
        waiting.iter().filter_map(|(place, seq)| self.not_before(exporter, *place, *seq)).min()
    }

    fn not_before(&self, exporter: &str, place: LanePosition, seq: Seq) -> Option<Instant> {
        let items = &self.entries.get(&seq)?.record.items;
        let mut at = items.iter().filter(|it| it.exporter == exporter && it.place(seq) == place);
        at.next()?.failures.not_before
    }

    /// Whether items without a lease wait for this exporter.
    pub(crate) fn has_waiting(&self, exporter: &str) -> bool {
        self.lanes.get(exporter).is_some_and(|lane| !lane.to_lease.is_empty())
    }

    /// Returns the position of an item that is deferred now.
    pub(crate) fn position_of_deferred(&mut self) -> LanePosition {
        self.deferrals += 1;
        LanePosition::deferred(self.next_seq, self.deferrals)
    }

    /// Whether this exporter has delivered or rejected every item.
    pub(crate) fn is_done(&self, exporter: &str) -> bool {
        self.lanes.get(exporter).is_none_or(|lane| lane.unfinished == 0)
    }

    /// Marks the oldest entry that can be finalized now as completing, and returns it. `None` if
    /// there is none.
    pub(crate) fn complete(&mut self, now: Instant) -> Option<Completing> {
        let is_due = |seq: &&Seq| self.finalize_not_before(**seq).is_none_or(|at| at <= now);
        let seq = *self.to_finalize.iter().find(is_due)?;
        let outcome = self.outcome(&self.entries.get(&seq)?.record)?;
        self.change(seq, |entry| {
            entry.completing = true;
            let is_retry = entry.finalize_not_before.is_some();
            let (epoch, head) = (entry.epoch, entry.record.head.clone());
            Completing { seq, epoch, head, outcome, is_retry }
        })
    }

    /// Returns when the first failed write-back can be retried. `None` if none failed.
    pub(crate) fn next_completion(&self) -> Option<Instant> {
        self.to_finalize.iter().filter_map(|seq| self.finalize_not_before(*seq)).min()
    }

    fn finalize_not_before(&self, seq: Seq) -> Option<Instant> {
        self.entries.get(&seq)?.finalize_not_before
    }

    /// Returns the rows that a transition changes, and the changed record. Changes nothing itself.
    ///
    /// # Errors
    /// Returns [`NotApplicable`] if the entry is gone, or is not in a state for the transition.
    pub(crate) fn prepare(
        &self,
        seq: Seq,
        transition: &Transition,
    ) -> Result<(Record, Vec<Change>), NotApplicable> {
        let entry = self.entries.get(&seq).ok_or(NotApplicable)?;
        let mut record = (*entry.record).clone();
        let changes = record.apply(transition)?;
        Ok((record, changes))
    }

    /// Applies a transition that is durable. Returns whether the entry was removed.
    ///
    /// # Errors
    /// Returns [`NotApplicable`] if the entry is gone, or is not in a state for the transition.
    pub(crate) fn apply(
        &mut self,
        seq: Seq,
        transition: &Transition,
    ) -> Result<bool, NotApplicable> {
        let changes = self.change(seq, |entry| {
            let changes = entry.record.apply(transition)?;
            entry.reported &= !matches!(transition, Transition::Retry(_));
            Ok(changes)
        });
        let changes = changes.ok_or(NotApplicable)??;
        let is_removed = changes.contains(&Change::Remove);
        for change in changes {
            match change {
                Change::Tombstone(trace_id) => drop(self.tombstones.insert(trace_id)),
                Change::Remove => {
                    let removed = self.remove(seq);
                    let delivered = removed.filter(|_| !matches!(transition, Transition::Drop));
                    if let Some(entry) = delivered {
                        self.remember(entry.record.head.key());
                    }
                }
                _ => {}
            }
        }
        Ok(is_removed)
    }

    /// Whether no entry is left to finalize and none is being enqueued.
    pub(crate) fn is_finalized(&self) -> bool {
        self.unfinalized == 0 && self.accepting.is_empty()
    }

    /// Whether any exporter of the entry is configured.
    pub(crate) fn has_known_exporter(&self, record: &Record) -> bool {
        record.items.iter().any(|item| self.lanes.contains_key(&item.exporter))
    }

    /// Whether this process delivers the export: it has an exporter for it, and the export is in
    /// its scope.
    fn is_affected_by(&self, record: &Record) -> bool {
        let path = &record.head.source.path;
        let within = |scope: &Vec<PathBuf>| scope.iter().any(|it| path.starts_with(it));
        self.has_known_exporter(record) && self.scope.as_ref().is_none_or(within)
    }

    /// Returns the outcome of an entry for the configured exporters.
    pub(crate) fn outcome(&self, record: &Record) -> Option<Outcome> {
        record.outcome(|exporter| self.lanes.contains_key(exporter))
    }

    fn marks(&self, seq: Seq, entry: &Entry) -> Marks {
        let is_affected_by = self.is_affected_by(&entry.record);
        let lanes = entry.record.items.iter().enumerate().map(|(index, item)| {
            let is_free = !entry.revoked && !entry.leased.contains(&index);
            let bytes = entry.record.head.bytes_of(item.signal);
            LaneMark {
                exporter: item.exporter.clone(),
                to_lease: (is_affected_by && item.state == ItemState::Waiting && is_free)
                    .then_some(item.place(seq)),
                unfinished: is_affected_by && !item.is_finished(),
                bytes: if item.is_delivered() { 0 } else { bytes },
                dead: if item.is_rejected() { bytes } else { 0 },
            }
        });
        let unfinalized = is_affected_by && !entry.is_finalized();
        let is_free = !entry.completing && !entry.revoked;
        let to_finalize = unfinalized && is_free && self.outcome(&entry.record).is_some();
        Marks { lanes: lanes.collect(), to_finalize, unfinalized }
    }

    fn mark(&mut self, seq: Seq, marks: &Marks, add: bool) {
        let count = |number: &mut usize, by: bool| match add {
            true => *number += usize::from(by),
            false => *number -= usize::from(by),
        };
        let sum = |number: &mut u64, by: u64| match add {
            true => *number = number.saturating_add(by),
            false => *number = number.saturating_sub(by),
        };
        for mark in &marks.lanes {
            let Some(lane) = self.lanes.get_mut(&mark.exporter) else { continue };
            count(&mut lane.unfinished, mark.unfinished);
            sum(&mut lane.bytes, mark.bytes);
            sum(&mut lane.dead, mark.dead);
            if let Some(place) = mark.to_lease {
                match add {
                    true => lane.to_lease.insert((place, seq)),
                    false => lane.to_lease.remove(&(place, seq)),
                };
            }
        }
        count(&mut self.unfinalized, marks.unfinalized);
        if add && marks.to_finalize {
            self.to_finalize.insert(seq);
        } else if !add {
            self.to_finalize.remove(&seq);
        }
    }
}

impl Entry {
    /// Whether the write-back is finished, or the rejection was reported.
    pub(crate) fn is_finalized(&self) -> bool {
        self.record.head.written || self.reported
    }
}
