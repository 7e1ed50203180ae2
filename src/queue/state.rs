//! The queue in memory: every export that is held, without its requests.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::record::{Blob, Head, Item, Record, Seq};
use super::store::{Op, StoreError};
use super::{Accepted, Delivery, Destination, Outcome};
use crate::ids::TraceId;

/// How many delivered exports are remembered: a file that was read just before its id was written
/// comes too late to be sent again.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub struct State {
    /// In order of arrival.
    pub entries: BTreeMap<Seq, Entry>,
    pub by_trace: HashMap<TraceId, Seq>,
    /// On their way to the disk.
    pub accepting: HashSet<TraceId>,
    pub delivered: VecDeque<TraceId>,
    /// Dropped by a person.
    pub forgotten: HashSet<TraceId>,
    pub next_seq: u64,
    pub bytes: u64,
    pub closed: bool,
}

#[derive(Debug)]
pub struct Entry {
    pub record: Record,
    /// By item: in somebody's hands.
    pub leased: Vec<bool>,
    /// Somebody holds the settlement.
    pub settling: bool,
    /// Its refusal was told to a person.
    pub reported: bool,
}

/// The record of a delivery, and all that has to be written for it.
pub fn prepare(
    seq: Seq,
    delivery: &Delivery,
    destinations: &[Destination],
) -> Result<(Record, Vec<Op>), StoreError> {
    let count = u32::try_from(delivery.requests.len()).unwrap_or(u32::MAX);
    let items = destinations
        .iter()
        .enumerate()
        .map(|(index, to)| Item::new(&to.exporter, to.required, index, count, delivery.made_at));
    let record = Record {
        items: items.collect(),
        head: Head {
            trace_id: delivery.trace_id,
            source: delivery.source.clone(),
            project_id: delivery.project_id.clone(),
            span_count: delivery.span_count,
            requests: count,
            bytes: delivery.requests.iter().map(|request| request.len() as u64).sum(),
            first_seen: delivery.made_at,
            written: false,
        },
    };
    let mut ops = vec![Op::put_head(seq, &record.head)?];
    for (index, item) in record.items.iter().enumerate() {
        ops.push(Op::put_item(seq, index, item)?);
    }
    for (blob, bytes) in (0..count).zip(&delivery.requests) {
        ops.push(Op::PutBlob { seq, blob: Blob(blob), bytes: bytes.clone() });
    }
    Ok((record, ops))
}

impl State {
    /// `known`: the record stands for its trace, so that the same one is not taken in again.
    pub fn insert(&mut self, seq: Seq, record: Record, known: bool) {
        self.bytes += record.head.bytes;
        if known {
            self.by_trace.insert(record.head.trace_id, seq);
        }
        let leased = vec![false; record.items.len()];
        let reported = matches!(record.outcome(), Some(Outcome::Rejected { .. }));
        self.entries.insert(seq, Entry { record, leased, settling: false, reported });
    }

    /// What was on its way to the disk is there.
    pub fn accepted(&mut self, seq: Seq, record: Record) {
        self.accepting.remove(&record.head.trace_id);
        self.insert(seq, record, true);
    }

    pub fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.bytes = self.bytes.saturating_sub(entry.record.head.bytes);
        if self.by_trace.get(&entry.record.head.trace_id) == Some(&seq) {
            self.by_trace.remove(&entry.record.head.trace_id);
        }
        Some(entry)
    }

    pub fn known(&self, trace_id: TraceId) -> Option<Accepted> {
        let gone = self.delivered.contains(&trace_id) || self.forgotten.contains(&trace_id);
        if gone || self.accepting.contains(&trace_id) {
            return Some(Accepted::Known);
        }
        let seq = self.by_trace.get(&trace_id)?;
        let record = &self.entries.get(seq)?.record;
        Some(match record.outcome() {
            Some(Outcome::Rejected { rejection, .. }) => Accepted::DeadLetter {
                id: seq.0,
                reason: rejection.reason,
                // What a server took in part is never sent again unless a person says so.
                may_be_retried: record.items.iter().all(|item| item.lost_spans.is_none()),
            },
            _ => Accepted::Known,
        })
    }

    pub fn remember(&mut self, trace_id: TraceId) {
        self.delivered.push_front(trace_id);
        self.delivered.truncate(REMEMBERED);
    }
}

impl Entry {
    pub fn is_settled(&self) -> bool {
        self.record.head.written || self.reported
    }
}
