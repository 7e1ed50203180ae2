//! The stored state of one entry, without its requests. Plain data.
//!
//! ```text
//! Record ─┬─ Head: the export, its file version, whether its id is written
//!         └─ Item, one per exporter: pending requests, state, attempts, last error
//! ```
//!
//! `transition` defines how a record changes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::entry::{Destination, NewEntry};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::FileVersion;

/// The number of an entry, in order of arrival. Unique in the queue, but the number of a removed
/// entry can be reused after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Seq(pub u64);

/// The number of one encoded request, or of the state files, within an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Blob(pub u32);

/// One entry, with an item per exporter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) items: Vec<Item>,
}

/// The data of an entry that all exporters share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) trace_id: TraceId,
    /// The id of an addition to the trace of an export. `None` for the export itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) addition: Option<TraceId>,
    /// The id of the receiver that found the file. Empty in entries of version 0.1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) receiver: String,
    pub(crate) source: FileVersion,
    pub(crate) project_id: String,
    pub(crate) span_count: usize,
    /// Number of requests of spans when it was enqueued.
    pub(crate) requests: u32,
    /// Size of these requests, in bytes.
    pub(crate) bytes: u64,
    /// Number of requests of log records, which come after those of spans.
    #[serde(default)]
    pub(crate) log_requests: u32,
    /// Size of these requests, in bytes.
    #[serde(default)]
    pub(crate) log_bytes: u64,
    pub(crate) first_seen: UnixNanos,
    /// Whether the file has the id, must not get it, or is gone.
    pub(crate) written: bool,
    /// The write-back mode of its directory when it was enqueued.
    #[serde(default)]
    pub(crate) write_back: WriteBackMode,
    /// Whether state files must be written. They are the blob [`STATE_FILES`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_state_files: bool,
    /// Why its id could not be written, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_written: Option<String>,
}

impl Head {
    /// Returns the key of the entry, as [`NewEntry::key`].
    pub(crate) fn key(&self) -> TraceId {
        self.addition.unwrap_or(self.trace_id)
    }

    /// Returns the requests of one signal, as they were enqueued.
    pub(crate) fn blobs(&self, signal: Signal) -> impl Iterator<Item = Blob> + use<> {
        let range = match signal {
            Signal::Traces => 0..self.requests,
            Signal::Logs => self.requests..self.requests.saturating_add(self.log_requests),
        };
        range.map(Blob)
    }

    /// Returns the size of these requests, in bytes.
    pub(crate) fn bytes_of(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Traces => self.bytes,
            Signal::Logs => self.log_bytes,
        }
    }
}

/// The part of an entry for one exporter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) exporter: String,
    /// The signal that the exporter receives.
    #[serde(default)]
    pub(crate) signal: Signal,
    /// Whether the write-back waits for it.
    pub(crate) required: bool,
    /// Requests that are not acknowledged, in order.
    pub(crate) pending: Vec<Blob>,
    /// The next number for a request that only this exporter needs.
    pub(crate) next_blob: u32,
    /// The time that the timestamps of the spans are based on.
    pub(crate) made_at: UnixNanos,
    pub(crate) state: ItemState,
    /// Whether a request was acknowledged or may have arrived. If so, the spans must not change any
    /// more.
    #[serde(rename = "touched")]
    pub(crate) may_have_arrived: bool,
    /// Whether missing spans must not be resent: they were resent before, or the server rejected
    /// spans. Reset when the dead letter is retried.
    #[serde(rename = "resent")]
    pub(crate) retransmitted: bool,
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) next_attempt: Option<UnixNanos>,
    /// How many spans the server rejected in requests that it accepted, and its message. For an
    /// item that is retried after a failed verification, the reason of that failure.
    #[serde(rename = "lost_spans")]
    pub(crate) rejected_spans: Option<String>,
    #[serde(skip)]
    pub(crate) failures: Failures,
}

/// The failures of an item since its last acknowledged request. Empty after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// When the request first failed.
    pub(crate) since: Option<Instant>,
    /// When the request last failed.
    pub(crate) last: Option<Instant>,
    /// Number of deferrals.
    pub(crate) deferrals: u32,
    /// The position in the lane after the last deferral.
    pub(crate) place: Option<LanePosition>,
    /// Earliest time of the next lease.
    pub(crate) not_before: Option<Instant>,
    /// Whether the log reports that the item fails while others are delivered.
    pub(crate) is_reported: bool,
}

/// The position of an item in its lane. Items are ordered by arrival, but a deferred item comes
/// after all items that waited when it was deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LanePosition {
    arrival: u64,
    /// Orders items of the same `arrival`: deferred ones first, in the order of their deferrals.
    deferral: u64,
}

impl LanePosition {
    /// Returns the position of an item that was never deferred.
    pub(crate) fn by_arrival(seq: Seq) -> LanePosition {
        LanePosition { arrival: seq.0, deferral: u64::MAX }
    }

    /// Returns the position of the `deferral`-th deferral, before the entry that gets `next_seq`.
    pub(crate) fn deferred(next_seq: u64, deferral: u64) -> LanePosition {
        LanePosition { arrival: next_seq, deferral }
    }
}

/// The delivery state of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum ItemState {
    #[serde(rename = "accepted")]
    Waiting,
    /// A request may have been sent and is not acknowledged.
    #[serde(rename = "delivering")]
    InFlight,
    Delivered {
        at: UnixNanos,
    },
    Rejected(Rejection),
}

/// Why an item became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) kind: RejectionKind,
}

/// The kind of a [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RejectionKind {
    /// The server refused it permanently.
    Refused,
    /// The configured number or time of retries was exceeded.
    GivenUp,
    /// Every request was acknowledged, but the backend does not have all spans.
    Incomplete,
}

/// A change of the stored rows of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Head,
    Item(usize),
    PutBlob(Blob, Bytes),
    RemoveBlob(Blob),
    /// Removes all requests, but not the state files.
    RemoveBlobs,
    /// Removes the entry with all its rows.
    Remove,
    Tombstone(TraceId),
}

impl Change {
    /// Returns the key of the tombstone that this change adds, if it adds one.
    pub(crate) fn tombstone(&self) -> Option<TraceId> {
        match self {
            Change::Tombstone(trace_id) => Some(*trace_id),
            _ => None,
        }
    }
}

/// The delivery outcome of a whole entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every required exporter has delivered the entry, the last one at `at`.
    Delivered {
        at: UnixNanos,
    },
    Rejected {
        exporter: String,
        rejection: Rejection,
    },
}

/// The blob with an entry's state files. Its number is above those of all requests.
pub(crate) const STATE_FILES: Blob = Blob(u32::MAX);

/// How many blob numbers each exporter has for rewritten requests.
const OWN_BLOBS: u32 = 1 << 24;

impl Item {
    /// Makes the item of the `index`-th exporter. Exporters of one signal share the original
    /// requests.
    pub(crate) fn new(to: &Destination, index: usize, head: &Head) -> Item {
        // Requests rewritten for one exporter (split, times shifted) get numbers from that
        // exporter's range.
        let own = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        Item {
            exporter: to.exporter.clone(),
            signal: to.signal,
            required: to.required,
            pending: head.blobs(to.signal).collect(),
            next_blob: own.saturating_mul(OWN_BLOBS),
            made_at: head.first_seen,
            state: ItemState::Waiting,
            may_have_arrived: false,
            retransmitted: false,
            attempts: 0,
            last_error: None,
            next_attempt: None,
            rejected_spans: None,
            failures: Failures::default(),
        }
    }

    /// Returns the item's position in its lane.
    pub(crate) fn place(&self, seq: Seq) -> LanePosition {
        self.failures.place.unwrap_or(LanePosition::by_arrival(seq))
    }

    /// Whether the request was rewritten for one exporter, so that no other exporter needs it.
    pub(crate) fn owns(&self, blob: Blob) -> bool {
        blob.0 >= OWN_BLOBS
    }

    /// Returns whether the item is delivered or rejected.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_delivered() || self.is_rejected()
    }

    /// Returns whether the exporter has delivered every request.
    pub(crate) fn is_delivered(&self) -> bool {
        matches!(self.state, ItemState::Delivered { .. })
    }

    /// Returns whether the item is a dead letter.
    pub(crate) fn is_rejected(&self) -> bool {
        matches!(self.state, ItemState::Rejected(_))
    }

    /// Returns a dead letter as an item that waits again, with the requests to send.
    pub(crate) fn again(&self, head: &Head) -> Item {
        let (rejected_spans, pending) = match (&self.state, &self.rejected_spans) {
            // Keep the reason until the missing spans are read back.
            (ItemState::Rejected(rejection), _) if rejection.kind == RejectionKind::Incomplete => {
                (Some(rejection.reason.clone()), self.pending.clone())
            }
            // Send a partly accepted entry completely: it is unknown which spans the server kept.
            (_, Some(_)) => (None, head.blobs(self.signal).collect()),
            (_, None) => (None, self.pending.clone()),
        };
        let state = ItemState::Waiting;
        Item {
            state,
            retransmitted: false,
            rejected_spans,
            pending,
            failures: Failures::default(),
            ..self.clone()
        }
    }

    /// Makes an item in flight wait again, in doubt, because its request may have arrived.
    pub(crate) fn recover(&mut self) {
        if self.state == ItemState::InFlight {
            self.state = ItemState::Waiting;
            self.may_have_arrived = true;
        }
    }
}

impl Record {
    /// Returns `None` until every required exporter is finished, or if there is none. One rejection
    /// then makes the outcome `Rejected`. An exporter that is not `present` is no longer configured
    /// and is ignored; its item waits until it is configured again.
    pub(crate) fn outcome(&self, present: impl Fn(&str) -> bool) -> Option<Outcome> {
        let mut last = None;
        let mut rejected = None;
        for item in self.items.iter().filter(|item| item.required && present(&item.exporter)) {
            match &item.state {
                ItemState::Waiting | ItemState::InFlight => return None,
                ItemState::Delivered { at } => last = last.max(Some(*at)),
                ItemState::Rejected(rejection) => {
                    let (exporter, rejection) = (item.exporter.clone(), rejection.clone());
                    rejected.get_or_insert(Outcome::Rejected { exporter, rejection });
                }
            }
        }
        rejected.or(last.map(|at| Outcome::Delivered { at }))
    }

    /// Describes the exporters that the entry waits for, each with its last error. `None` if it
    /// waits for none.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let open = self.items.iter().filter(|item| !item.is_finished());
        let open = open.map(|item| {
            let place = if item.failures.deferrals > 0 { " (deferred)" } else { "" };
            match &item.last_error {
                Some(error) => format!("waits for {}{place}: {error}", item.exporter),
                None => format!("waits for {}{place}", item.exporter),
            }
        });
        Some(open.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    }

    /// Whether every exporter has delivered the entry, so its requests are no longer needed.
    pub(crate) fn is_delivered(&self) -> bool {
        self.items.iter().all(Item::is_delivered)
    }

    /// Whether the entry can be removed. A record without items remains from a removal that was
    /// interrupted in version 0.1.
    pub(crate) fn is_over(&self) -> bool {
        (self.head.written && self.is_delivered()) || self.items.is_empty()
    }

    /// Whether an exporter rejected the entry.
    pub(crate) fn is_dead_letter(&self) -> bool {
        self.items.iter().any(Item::is_rejected)
    }

    /// Makes the record of a new entry, and the rows to write.
    pub(crate) fn of_new(entry: &NewEntry, destinations: &[Destination]) -> (Record, Vec<Change>) {
        let count = |requests: &[Bytes]| u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let head = Head {
            trace_id: entry.trace_id,
            addition: entry.addition,
            receiver: entry.receiver.clone(),
            source: entry.source.clone(),
            project_id: entry.project_id.clone(),
            span_count: entry.span_count,
            requests: count(&entry.requests),
            bytes: entry.bytes_of(Signal::Traces),
            log_requests: count(&entry.logs),
            log_bytes: entry.bytes_of(Signal::Logs),
            first_seen: entry.made_at,
            written: false,
            write_back: entry.write_back,
            has_state_files: entry.state_files.is_some(),
            not_written: None,
        };
        let items = destinations.iter().enumerate();
        let items: Vec<Item> = items.map(|(index, to)| Item::new(to, index, &head)).collect();
        // An earlier entry may have left rows with this number.
        let mut changes = vec![Change::Remove, Change::Head];
        changes.extend((0..items.len()).map(Change::Item));
        let requests = (0..).map(Blob).zip(entry.requests.iter().chain(&entry.logs));
        let blobs = requests.chain(entry.state_files.iter().map(|bytes| (STATE_FILES, bytes)));
        changes.extend(blobs.map(|(blob, bytes)| Change::PutBlob(blob, bytes.clone())));
        (Record { head, items }, changes)
    }
}

#[cfg(test)]
mod tests;
