//! Decides whether an export may be enqueued: room for each exporter, and keys that are known.

use std::path::Path;

use super::super::entry::{Destination, Enqueued, NewEntry};
use super::super::record::{Head, Outcome, Seq};
use super::{Index, Lane};
use crate::base::ids::TraceId;

/// Number of delivered exports to remember: a file that was read just before its id was written
/// must not be sent again.
const REMEMBERED: usize = 256;

impl Index {
    /// Describes the first exporter whose backlog leaves no room for `entry`. `None` if there is
    /// room. With `slack`, 1/`slack` of the capacity must stay free as well.
    pub(crate) fn is_full_for(
        &self,
        entry: &NewEntry,
        destinations: &[Destination],
        slack: Option<u64>,
    ) -> Option<String> {
        destinations.iter().find_map(|to| {
            let bytes = entry.bytes_of(to.signal);
            let lane = self.lanes.get(&to.exporter)?;
            let limit = lane.capacity - slack.map_or(0, |part| lane.capacity / part);
            // An entry larger than the capacity is accepted if the lane is empty.
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

    /// Reserves room and a number for an entry that is being written.
    pub(crate) fn reserve(&mut self, entry: &NewEntry, destinations: &[Destination]) -> Seq {
        self.accepting.insert(entry.key());
        for to in destinations {
            if let Some(lane) = self.lanes.get_mut(&to.exporter) {
                lane.bytes = lane.bytes.saturating_add(entry.bytes_of(to.signal));
            }
        }
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        seq
    }

    /// Frees the reserved room.
    pub(crate) fn release(&mut self, entry: &NewEntry, destinations: &[Destination]) {
        self.accepting.remove(&entry.key());
        for to in destinations {
            if let Some(lane) = self.lanes.get_mut(&to.exporter) {
                lane.bytes = lane.bytes.saturating_sub(entry.bytes_of(to.signal));
            }
        }
    }

    /// Returns why this key must not be enqueued. `None` if it may be.
    pub(crate) fn known(&self, trace_id: TraceId) -> Option<Enqueued> {
        if self.delivered.contains(&trace_id) {
            return Some(Enqueued::Delivered);
        }
        if self.tombstones.contains(&trace_id) || self.accepting.contains(&trace_id) {
            return Some(Enqueued::Known);
        }
        let seq = self.by_key.get(&trace_id)?;
        let record = &self.entries.get(seq)?.record;
        Some(match self.outcome(record) {
            Some(Outcome::Rejected { rejection, .. }) => Enqueued::DeadLetter {
                id: seq.0,
                reason: rejection.reason,
                // Requests that a server accepted in part are retried only by an operator command.
                may_be_retried: record.items.iter().all(|item| item.rejected_spans.is_none()),
            },
            _ => Enqueued::Known,
        })
    }

    /// Whether the queue has an entry with this key whose write-back is not finished.
    pub(crate) fn is_to_write(&self, trace_id: TraceId) -> bool {
        let seq = self.by_key.get(&trace_id);
        seq.and_then(|seq| self.entries.get(seq)).is_some_and(|entry| !entry.record.head.written)
    }

    /// Whether this key has a tombstone or was delivered recently.
    pub(crate) fn is_done_with(&self, trace_id: TraceId) -> bool {
        self.tombstones.contains(&trace_id) || self.delivered.contains(&trace_id)
    }

    /// Whether an entry with this key is queued or is being enqueued.
    pub(crate) fn holds(&self, trace_id: TraceId) -> bool {
        self.accepting.contains(&trace_id) || self.by_key.contains_key(&trace_id)
    }

    /// Returns the last export that was read from this file, if it waits for an exporter or for its
    /// write-back. A refused export waits for nothing.
    pub(crate) fn waiting_from(&self, path: &Path) -> Option<&Head> {
        let record = &self.entries.get(self.by_path.get(path)?)?.record;
        let is_refused = matches!(self.outcome(record), Some(Outcome::Rejected { .. }));
        let head = &record.head;
        (!is_refused && !head.written).then_some(head)
    }

    /// Remembers a key as delivered.
    pub(super) fn remember(&mut self, trace_id: TraceId) {
        self.delivered.push_front(trace_id);
        self.delivered.truncate(REMEMBERED);
    }
}
