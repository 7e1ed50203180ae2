//! The state machine of a queued entry: its transitions, and the rows that each changes. Pure.
//!
//! ```text
//!                ┌───── Fail ─────┐  Acknowledge, Split, Replace, Resend: other requests pending
//!                ▼                │ ┌──┐
//! enqueued ─▶ waiting ─MarkInFlight─▶ in flight ─Deliver─▶ delivered
//!                ▲                            └──Reject──▶ dead letter
//!                └────────────── Retry ──────────────────────┘
//!
//! delivered by all required exporters ─WrittenBack─▶ removed, once optional exporters are done too
//!                                └────WriteBackFailed: retried
//! every state ─Drop─▶ removed, with a tombstone
//! ```
//!
//! Leases, the finalizer and operator commands all change an entry through [`Record::apply`]. It
//! returns the rows to write. The queue makes them durable, and then applies the same transition to
//! its index.

use bytes::Bytes;
use tokio::time::Instant;

use super::record::{Blob, Change, Failures, Item, ItemState, Record, Rejection};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;

/// A transition of one entry.
#[derive(Clone, Debug)]
pub(crate) enum Transition {
    /// A transition of the item with this index.
    Item(usize, ItemTransition),
    /// The trace id could not be written, for this reason.
    WriteBackFailed(String),
    /// The file has the trace id, must not get it, or is gone. The tombstone is the trace id of a
    /// file version that must not be read as a new export.
    WrittenBack { tombstone: Option<TraceId> },
    /// Rejected items are retried.
    Retry(Retry),
    /// An operator drops the entry.
    Drop,
}

/// A transition of the part for one exporter.
#[derive(Clone, Debug)]
pub(crate) enum ItemTransition {
    /// A request is about to be sent.
    MarkInFlight,
    /// The first pending request was acknowledged. `rejected` describes the spans that the server
    /// rejected in it.
    Acknowledge { rejected: Option<String> },
    /// The first pending request failed. `in_doubt` means that it may have arrived.
    Fail { reason: String, in_doubt: bool, next_attempt: UnixNanos, now: Instant },
    /// Two requests replace the first pending one.
    Split([Bytes; 2]),
    /// These requests replace all pending ones, none of which was sent.
    Replace { requests: Vec<Bytes>, made_at: UnixNanos },
    /// These requests, with spans that the backend lost, replace all pending ones.
    Resend(Vec<Bytes>),
    /// Every request was acknowledged, the last one at `at`.
    Deliver { at: UnixNanos },
    /// The item becomes a dead letter.
    Reject(Rejection),
}

/// Which rejected items are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    All,
    /// Items of required exporters only. An optional exporter's backend may have stored part of a
    /// request that it refused, so the request is not sent again.
    Required,
}

/// The transition does not apply in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotApplicable;

impl Record {
    /// Changes the record, and returns the rows that changed, in the order in which they must be
    /// written.
    ///
    /// # Errors
    /// Returns [`NotApplicable`] and leaves the record unchanged if the transition is not valid in
    /// the entry's current state.
    pub(crate) fn apply(&mut self, transition: &Transition) -> Result<Vec<Change>, NotApplicable> {
        let mut changes = match transition {
            Transition::Item(index, change) => self.apply_to_item(*index, change)?,
            Transition::WriteBackFailed(reason) => {
                self.head.not_written = Some(reason.clone());
                vec![Change::Head]
            }
            Transition::WrittenBack { tombstone } => {
                self.head.written = true;
                self.head.not_written = None;
                tombstone.map(Change::Tombstone).into_iter().chain([Change::Head]).collect()
            }
            Transition::Retry(which) => self.retry(*which)?,
            Transition::Drop => {
                return Ok(vec![Change::Tombstone(self.head.key()), Change::Remove]);
            }
        };
        if self.is_over() {
            changes.retain(|change| matches!(change, Change::Tombstone(_)));
            changes.push(Change::Remove);
        } else if matches!(transition, Transition::Item(_, ItemTransition::Deliver { .. }))
            && self.is_delivered()
        {
            changes.push(Change::RemoveBlobs);
        }
        Ok(changes)
    }

    fn apply_to_item(
        &mut self,
        index: usize,
        transition: &ItemTransition,
    ) -> Result<Vec<Change>, NotApplicable> {
        let item = self.items.get_mut(index).filter(|item| !item.is_finished());
        let item = item.ok_or(NotApplicable)?;
        let is_marked = item.state == ItemState::InFlight;
        if is_marked && matches!(transition, ItemTransition::MarkInFlight) {
            return Ok(Vec::new());
        }
        let changes = item.apply(transition)?;
        Ok([Change::Item(index)].into_iter().chain(changes).collect())
    }

    fn retry(&mut self, which: Retry) -> Result<Vec<Change>, NotApplicable> {
        let mut changes = Vec::new();
        for (index, item) in self.items.iter_mut().enumerate() {
            if item.is_rejected() && (item.required || which == Retry::All) {
                *item = item.again(&self.head);
                changes.push(Change::Item(index));
            }
        }
        if changes.is_empty() { Err(NotApplicable) } else { Ok(changes) }
    }
}

impl Item {
    /// Applies the transition and returns the changes of blobs. The item's own row always changes.
    fn apply(&mut self, transition: &ItemTransition) -> Result<Vec<Change>, NotApplicable> {
        match transition {
            ItemTransition::MarkInFlight => self.state = ItemState::InFlight,
            ItemTransition::Acknowledge { rejected } => {
                self.take_first_pending()?;
                self.may_have_arrived = true;
                self.attempts = self.attempts.saturating_add(1);
                self.last_error = None;
                self.next_attempt = None;
                self.failures = Failures::default();
                // Verification does not resend rejected spans.
                self.retransmitted |= rejected.is_some();
                self.rejected_spans = self.rejected_spans.take().or_else(|| rejected.clone());
            }
            ItemTransition::Fail { reason, in_doubt, next_attempt, now } => {
                self.may_have_arrived |= in_doubt;
                self.failures.since.get_or_insert(*now);
                self.failures.last = Some(*now);
                self.state = ItemState::Waiting;
                self.attempts = self.attempts.saturating_add(1);
                self.last_error = Some(reason.clone());
                self.next_attempt = Some(*next_attempt);
            }
            ItemTransition::Split(halves) => {
                let whole = self.take_first_pending()?;
                let (mut blobs, mut changes) = self.new_blobs(halves);
                blobs.append(&mut self.pending);
                self.pending = blobs;
                self.failures = Failures::default();
                changes.extend(self.owns(whole).then_some(Change::RemoveBlob(whole)));
                return Ok(changes);
            }
            ItemTransition::Replace { requests, made_at } => {
                let (blobs, mut changes) = self.new_blobs(requests);
                // Earlier requests that only this exporter needed are no longer used.
                let old = self.pending.iter().filter(|blob| self.owns(**blob));
                changes.extend(old.map(|blob| Change::RemoveBlob(*blob)));
                self.pending = blobs;
                self.made_at = *made_at;
                return Ok(changes);
            }
            ItemTransition::Resend(requests) => {
                let (blobs, changes) = self.new_blobs(requests);
                self.pending = blobs;
                self.retransmitted = true;
                return Ok(changes);
            }
            ItemTransition::Deliver { at } => {
                let ends_with_a_request = self.ends_with_a_request();
                self.count_last_attempt(ends_with_a_request);
                self.may_have_arrived |= ends_with_a_request;
                self.pending.clear();
                self.last_error = None;
                self.state = ItemState::Delivered { at: *at };
            }
            ItemTransition::Reject(rejection) => {
                self.count_last_attempt(true);
                self.state = ItemState::Rejected(rejection.clone());
            }
        }
        Ok(Vec::new())
    }

    fn take_first_pending(&mut self) -> Result<Blob, NotApplicable> {
        if self.pending.is_empty() { Err(NotApplicable) } else { Ok(self.pending.remove(0)) }
    }

    /// Whether the last acknowledgement is recorded together with the delivery.
    fn ends_with_a_request(&self) -> bool {
        self.state == ItemState::InFlight && !self.pending.is_empty()
    }

    fn count_last_attempt(&mut self, counts: bool) {
        self.attempts = self.attempts.saturating_add(u32::from(counts));
        self.next_attempt = None;
    }

    fn new_blobs<'a>(
        &mut self,
        requests: impl IntoIterator<Item = &'a Bytes>,
    ) -> (Vec<Blob>, Vec<Change>) {
        let mut blobs = Vec::new();
        let mut changes = Vec::new();
        for bytes in requests {
            let blob = Blob(self.next_blob);
            self.next_blob = self.next_blob.saturating_add(1);
            blobs.push(blob);
            changes.push(Change::PutBlob(blob, bytes.clone()));
        }
        (blobs, changes)
    }
}

#[cfg(test)]
mod tests;
