//! What the queue reports: exports that wait, conditions for health, and the backlog of exporters.

use std::path::PathBuf;

use super::super::figures::{HealthFacts, LaneFigures};
use super::super::record::{Item, Outcome};
use super::{Entry, Index, Lane};
use crate::base::clock::UnixNanos;

impl Index {
    /// Returns the files of exports that wait for their write-back or for one of these exporters,
    /// each with a description of what it waits for. Includes exports that were lost with their
    /// store.
    pub(crate) fn waiting(&self, exporters: &[String]) -> Vec<(PathBuf, Option<String>)> {
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

    /// Returns the conditions that an operator may have to act on.
    pub(crate) fn health_facts(&self) -> HealthFacts {
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
            // A refusal by an exporter of logs counts, although the write-back does not wait for
            // that exporter.
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

    /// Returns the backlog of each exporter.
    pub(crate) fn lanes(&self) -> Vec<LaneFigures> {
        let figures = |(exporter, lane): (&String, &Lane)| LaneFigures {
            exporter: exporter.clone(),
            items: lane.unfinished,
            bytes: lane.bytes,
            capacity: lane.capacity,
        };
        self.lanes.iter().map(figures).collect()
    }
}
