//! The queue in memory: every export that is held, without its requests, and who has what to do.
//!
//! ```text
//! insert, change, remove ─▶ entries ─▶ marks ─▶ a lane for each exporter: what it can lease
//!                                          └──▶ what can be settled
//! ```
//!
//! An entry changes only through `change`, which moves its marks along, so that the oldest that
//! waits is found without looking at all others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::record::{Head, Item, Place, Record, Seq, State as ItemState};
use super::writer::Epoch;
use super::{Accepted, Delivery, Destination, Exporters, HealthFacts, LaneFigures, Outcome};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;

/// How many delivered exports are remembered: a file that was read just before its id was written
/// comes too late to be sent again.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub struct State {
    /// In order of arrival.
    entries: BTreeMap<Seq, Entry>,
    by_key: HashMap<TraceId, Seq>,
    /// The last export that was read from each file. Additions are not exports.
    by_path: HashMap<PathBuf, Seq>,
    /// By exporter that is there to take a lease.
    lanes: HashMap<String, Lane>,
    /// Where exports have to lie to be worked on; none: anywhere.
    scope: Option<Vec<PathBuf>>,
    to_finalize: BTreeSet<Seq>,
    unfinalized: usize,
    /// Traces being written to the store; not yet leasable.
    accepting: HashSet<TraceId>,
    delivered: VecDeque<TraceId>,
    /// The exporters whose backlog counts for health.
    pub expected: HashSet<String>,
    /// Dropped by a person.
    pub tombstones: HashSet<TraceId>,
    /// The files of what a corrupt store held, and nothing holds now.
    pub lost: Vec<PathBuf>,
    pub epoch: Epoch,
    pub next_seq: u64,
    deferrals: u64,
    pub closed: bool,
}

/// What one exporter has before it.
#[derive(Debug, Default)]
struct Lane {
    /// In the order in which they are leased, except that some have to wait.
    to_lease: BTreeSet<(Place, Seq)>,
    unfinished: usize,
    /// Of requests that wait for it or that it refused.
    bytes: u64,
    /// The part of these that was refused.
    dead: u64,
    /// How many bytes may wait.
    capacity: u64,
}

#[derive(Debug)]
pub struct Entry {
    /// Boxed: the map also allocates its empty slots.
    pub record: Box<Record>,
    /// The store that has it.
    pub epoch: Epoch,
    /// The indices of leased items.
    pub leased: BTreeSet<usize>,
    /// Revocation requested: a holder in backoff must release the lease.
    pub wanted: bool,
    /// A [`Completion`](super::lease::Completion) is held.
    pub settling: bool,
    /// Its refusal was told to a person.
    pub reported: bool,
}

/// What a lease is made of.
#[derive(Debug)]
pub struct Leased {
    pub seq: Seq,
    pub index: usize,
    pub epoch: Epoch,
    pub head: Head,
    pub item: Item,
    /// No exporter has sent anything of the export.
    pub untouched: bool,
}

/// What an entry adds to the lanes.
struct Marks {
    lanes: Vec<LaneMark>,
    to_finalize: bool,
    unfinalized: bool,
}

struct LaneMark {
    exporter: String,
    /// Its place, if it can be leased.
    to_lease: Option<Place>,
    unfinished: bool,
    bytes: u64,
    dead: u64,
}

impl State {
    pub fn new(exporters: &Exporters, scope: Option<Vec<PathBuf>>) -> State {
        let lane = |capacity: &u64| Lane { capacity: *capacity, ..Lane::default() };
        let lanes = exporters.iter().map(|(id, capacity)| (id.clone(), lane(capacity)));
        State { lanes: lanes.collect(), scope, ..State::default() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Seq, &Entry)> {
        self.entries.iter().map(|(seq, entry)| (*seq, entry))
    }

    pub fn get(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(&seq)
    }

    pub fn insert(&mut self, seq: Seq, record: Box<Record>, epoch: Epoch) {
        // One whose exporters are all gone does not stand in the way of the same trace.
        if self.knows_an_exporter_of(&record) {
            self.by_key.insert(record.head.key(), seq);
            if record.head.addition.is_none() {
                self.by_path.insert(record.head.source.path.clone(), seq);
            }
        }
        self.lost.retain(|path| *path != record.head.source.path);
        let leased = BTreeSet::new();
        let reported = matches!(self.outcome(&record), Some(Outcome::Rejected { .. }));
        let entry = Entry { record, epoch, leased, wanted: false, settling: false, reported };
        self.next_seq = self.next_seq.max(seq.0.saturating_add(1));
        self.mark(seq, &self.marks(seq, &entry), true);
        self.entries.insert(seq, entry);
    }

    /// The only way to change an entry. None: there is none.
    pub fn change<T>(&mut self, seq: Seq, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut entry = self.entries.remove(&seq)?;
        self.mark(seq, &self.marks(seq, &entry), false);
        let result = change(&mut entry);
        self.mark(seq, &self.marks(seq, &entry), true);
        self.entries.insert(seq, entry);
        Some(result)
    }

    pub fn remove(&mut self, seq: Seq) -> Option<Entry> {
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

    /// Everything that an earlier store held is gone with it.
    pub fn begin_anew(&mut self, epoch: Epoch) {
        let gone = self.entries.iter().filter(|(_, entry)| entry.epoch < epoch);
        for seq in gone.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            let lost = self.remove(seq).filter(|entry| !entry.is_finalized());
            self.lost.extend(lost.map(|entry| entry.record.head.source.path));
        }
        self.epoch = epoch;
        self.delivered.clear();
    }

    /// Leases the first item that waits for this exporter and may be tried by now.
    pub fn lease(&mut self, exporter: &str, now: Instant) -> Option<Leased> {
        let waiting = &self.lanes.get(exporter)?.to_lease;
        let may_be_tried = |(place, seq): &&(Place, Seq)| {
            self.not_before(exporter, *place, *seq).is_none_or(|at| at <= now)
        };
        let (place, seq) = *waiting.iter().find(may_be_tried)?;
        self.change(seq, |entry| {
            let mut free = entry.record.items.iter().enumerate().filter(|(index, item)| {
                item.exporter == exporter
                    && item.state == ItemState::Accepted
                    && item.place(seq) == place
                    && !entry.leased.contains(index)
            });
            let (index, item) = free.next()?;
            entry.leased.insert(index);
            let (head, item) = (entry.record.head.clone(), item.clone());
            let untouched = entry.record.items.iter().all(|it| !it.touched && !it.is_finished());
            Some(Leased { seq, index, epoch: entry.epoch, head, item, untouched })
        })?
    }

    /// When the first of the deferred items may be tried that wait for this exporter.
    pub fn next_try(&self, exporter: &str) -> Option<Instant> {
        let waiting = &self.lanes.get(exporter)?.to_lease;
        waiting.iter().filter_map(|(place, seq)| self.not_before(exporter, *place, *seq)).min()
    }

    fn not_before(&self, exporter: &str, place: Place, seq: Seq) -> Option<Instant> {
        let items = &self.entries.get(&seq)?.record.items;
        let mut at = items.iter().filter(|it| it.exporter == exporter && it.place(seq) == place);
        at.next()?.failures.not_before
    }

    /// Returns whether items without a lease wait for this exporter.
    pub fn has_waiting(&self, exporter: &str) -> bool {
        self.lanes.get(exporter).is_some_and(|lane| !lane.to_lease.is_empty())
    }

    /// The place of an item that is deferred now.
    pub fn place_of_deferred(&mut self) -> Place {
        self.deferrals += 1;
        Place::deferred(self.next_seq, self.deferrals)
    }

    /// Nothing is left for this exporter.
    pub fn is_done(&self, exporter: &str) -> bool {
        self.lanes.get(exporter).is_none_or(|lane| lane.unfinished == 0)
    }

    /// Takes the oldest export that can be finalized.
    pub fn settle(&mut self) -> Option<(Seq, Epoch, Head, Outcome)> {
        let seq = *self.to_finalize.first()?;
        let outcome = self.outcome(&self.entries.get(&seq)?.record)?;
        self.change(seq, |entry| {
            entry.settling = true;
            (seq, entry.epoch, entry.record.head.clone(), outcome)
        })
    }

    /// Nothing is left to settle, and nothing will come.
    pub fn is_finalized(&self) -> bool {
        self.unfinalized == 0 && self.accepting.is_empty()
    }

    /// The files of the exports that wait for their write-back, or for one of these exporters, and what each
    /// waits for.
    pub fn waiting(&self, exporters: &[String]) -> Vec<(PathBuf, Option<String>)> {
        let open = |item: &Item| !item.is_finished() && exporters.contains(&item.exporter);
        let waits = |entry: &&Entry| {
            (!entry.is_finalized() || entry.record.items.iter().any(open))
                && self.is_affected_by(&entry.record)
        };
        let entries = self.entries.values().filter(waits);
        let held = entries.map(|entry| {
            let record = &entry.record;
            (
                record.head.source.path.clone(),
                record.waits_for().or(record.head.not_written.clone()),
            )
        });
        held.chain(self.lost.iter().map(|path| (path.clone(), None))).collect()
    }

    pub fn health_facts(&self) -> HealthFacts {
        let mut health_facts = HealthFacts::default();
        let counts = |item: &Item| {
            (item.required || self.expected.contains(&item.exporter))
                && self.lanes.contains_key(&item.exporter)
        };
        for record in self.entries.values().map(|entry| &entry.record) {
            let head = &record.head;
            if !self.is_affected_by(record) {
                continue;
            }
            if record.items.iter().any(|it| counts(it) && !it.is_finished()) {
                let oldest = health_facts.undelivered.unwrap_or(head.first_seen);
                health_facts.undelivered = Some(oldest.min(head.first_seen));
            }
            // A refusal by a required exporter of logs does not keep the id from being written.
            let is_refused = record.items.iter().any(|it| counts(it) && it.is_rejected());
            health_facts.refused += usize::from(is_refused);
            if !head.written && matches!(self.outcome(record), Some(Outcome::Delivered { .. })) {
                let is_older = |(since, _): &(UnixNanos, String)| *since <= head.first_seen;
                if let Some(reason) = head.not_written.clone()
                    && !health_facts.unwritten.as_ref().is_some_and(is_older)
                {
                    health_facts.unwritten = Some((head.first_seen, reason));
                }
            }
        }
        health_facts
    }

    pub fn lanes(&self) -> Vec<LaneFigures> {
        let figures = |(exporter, lane): (&String, &Lane)| LaneFigures {
            exporter: exporter.clone(),
            items: lane.unfinished,
            bytes: lane.bytes,
            capacity: lane.capacity,
        };
        self.lanes.iter().map(figures).collect()
    }

    /// Returns the exporter whose backlog leaves no room for `delivery`, if any. `slack`: the part of
    /// the capacity that must stay free as well, as a divisor.
    pub fn is_full_for(
        &self,
        delivery: &Delivery,
        destinations: &[Destination],
        slack: Option<u64>,
    ) -> Option<String> {
        destinations.iter().find_map(|to| {
            let bytes = delivery.bytes_of(to.signal);
            let lane = self.lanes.get(&to.exporter)?;
            let limit = lane.capacity - slack.map_or(0, |part| lane.capacity / part);
            // What is larger than the whole queue goes when it is empty.
            let full = lane.bytes > 0 && lane.bytes.saturating_add(bytes) > limit;
            full.then(|| {
                let Lane { bytes, dead, capacity, .. } = lane;
                format!(
                    "{bytes} of {capacity} bytes wait for `{}`, {dead} of them refused \
                     (`taskspan queue list`)",
                    to.exporter
                )
            })
        })
    }

    /// Keeps room for what is on its way to the disk.
    pub fn reserve(&mut self, delivery: &Delivery, destinations: &[Destination]) -> Seq {
        self.accepting.insert(delivery.key());
        for to in destinations {
            if let Some(lane) = self.lanes.get_mut(&to.exporter) {
                lane.bytes = lane.bytes.saturating_add(delivery.bytes_of(to.signal));
            }
        }
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        seq
    }

    /// It is there now, or will never be.
    pub fn release(&mut self, delivery: &Delivery, destinations: &[Destination]) {
        self.accepting.remove(&delivery.key());
        for to in destinations {
            if let Some(lane) = self.lanes.get_mut(&to.exporter) {
                lane.bytes = lane.bytes.saturating_sub(delivery.bytes_of(to.signal));
            }
        }
    }

    pub fn known(&self, trace_id: TraceId) -> Option<Accepted> {
        if self.delivered.contains(&trace_id) {
            return Some(Accepted::Delivered);
        }
        if self.tombstones.contains(&trace_id) || self.accepting.contains(&trace_id) {
            return Some(Accepted::Known);
        }
        let seq = self.by_key.get(&trace_id)?;
        let record = &self.entries.get(seq)?.record;
        Some(match self.outcome(record) {
            Some(Outcome::Rejected { rejection, .. }) => Accepted::DeadLetter {
                id: seq.0,
                reason: rejection.reason,
                // What a server took in part is never sent again unless a person says so.
                may_be_retried: record.items.iter().all(|item| item.lost_spans.is_none()),
            },
            _ => Accepted::Known,
        })
    }

    pub fn is_to_write(&self, trace_id: TraceId) -> bool {
        let seq = self.by_key.get(&trace_id);
        seq.and_then(|seq| self.entries.get(seq)).is_some_and(|entry| !entry.record.head.written)
    }

    pub fn is_done_with(&self, trace_id: TraceId) -> bool {
        self.tombstones.contains(&trace_id) || self.delivered.contains(&trace_id)
    }

    pub fn holds(&self, trace_id: TraceId) -> bool {
        self.accepting.contains(&trace_id) || self.by_key.contains_key(&trace_id)
    }

    /// The last export that was read from this file, while some exporter is to have it or its id is
    /// to be written. A refused one does not wait for anything.
    pub fn waiting_from(&self, path: &Path) -> Option<&Head> {
        let record = &self.entries.get(self.by_path.get(path)?)?.record;
        let is_refused = matches!(self.outcome(record), Some(Outcome::Rejected { .. }));
        let head = &record.head;
        (!is_refused && !head.written).then_some(head)
    }

    pub fn remember(&mut self, trace_id: TraceId) {
        self.delivered.push_front(trace_id);
        self.delivered.truncate(REMEMBERED);
    }

    /// Whether any exporter of it is there.
    pub fn knows_an_exporter_of(&self, record: &Record) -> bool {
        record.items.iter().any(|item| self.lanes.contains_key(&item.exporter))
    }

    /// Whether this process works on the export: it has an exporter for it, and was asked to.
    fn is_affected_by(&self, record: &Record) -> bool {
        let path = &record.head.source.path;
        let within = |scope: &Vec<PathBuf>| scope.iter().any(|it| path.starts_with(it));
        self.knows_an_exporter_of(record) && self.scope.as_ref().is_none_or(within)
    }

    fn outcome(&self, record: &Record) -> Option<Outcome> {
        record.outcome(|exporter| self.lanes.contains_key(exporter))
    }

    fn marks(&self, seq: Seq, entry: &Entry) -> Marks {
        let is_affected_by = self.is_affected_by(&entry.record);
        let lanes = entry.record.items.iter().enumerate().map(|(index, item)| {
            let is_free = !entry.wanted && !entry.leased.contains(&index);
            let bytes = entry.record.head.bytes_of(item.signal);
            LaneMark {
                exporter: item.exporter.clone(),
                to_lease: (is_affected_by && item.state == ItemState::Accepted && is_free)
                    .then_some(item.place(seq)),
                unfinished: is_affected_by && !item.is_finished(),
                bytes: if item.is_delivered() { 0 } else { bytes },
                dead: if item.is_rejected() { bytes } else { 0 },
            }
        });
        let unfinalized = is_affected_by && !entry.is_finalized();
        let to_finalize = unfinalized && !entry.settling && self.outcome(&entry.record).is_some();
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
    pub fn is_finalized(&self) -> bool {
        self.record.head.written || self.reported
    }
}
