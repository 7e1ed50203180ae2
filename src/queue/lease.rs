//! RAII handles: [`Lease`] for delivery, [`Completion`] for write-back. Dropping one returns the work to the
//! queue.

use bytes::Bytes;
use tokio::time::Instant;

use super::record::{Blob, Failures, Head, Item, STATE_FILES, Seq, State as ItemState};
use super::state::Leased;
use super::store::Op;
use super::writer::Epoch;
use super::{Outcome, Queue, Rejection};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;

/// The export is not in the queue any more: its store was lost, or the program is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the export is not in the queue any more")]
pub struct EntryGone;

/// One export in the hands of one exporter. Dropped, it is deferred: what was acknowledged stays
/// acknowledged, the rest waits for the next lease.
///
/// Every change is on disk when its call returns. A call that is dropped half-way may have been
/// recorded or not; both are true to what happened.
#[derive(Debug)]
#[must_use = "a lease that is dropped is deferred"]
pub struct Lease {
    queue: Queue,
    leased: Leased,
}

impl Lease {
    pub(super) fn new(queue: Queue, leased: Leased) -> Lease {
        Lease { queue, leased }
    }

    pub fn head(&self) -> &Head {
        &self.leased.head
    }

    pub fn item(&self) -> &Item {
        &self.leased.item
    }

    /// Returns whether an id in the file means that nothing is left to do: another process has delivered the
    /// export to all required exporters, and this one has not begun.
    pub fn ends_with_the_id(&self) -> bool {
        self.leased.item.required || self.leased.untouched
    }

    /// The request to send next; none when all are acknowledged.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn next_request(&mut self) -> Result<Option<Bytes>, EntryGone> {
        match self.leased.item.pending.first() {
            Some(&blob) => self.read(blob).await.map(Some),
            None => Ok(None),
        }
    }

    /// All requests that are not acknowledged.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn pending_requests(&mut self) -> Result<Vec<Bytes>, EntryGone> {
        let mut requests = Vec::new();
        for blob in self.leased.item.pending.clone() {
            requests.push(self.read(blob).await?);
        }
        Ok(requests)
    }

    /// All requests of the export, as they were taken in.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn all_requests(&mut self) -> Result<Vec<Bytes>, EntryGone> {
        let mut requests = Vec::new();
        for blob in self.leased.head.blobs(self.leased.item.signal) {
            requests.push(self.read(blob).await?);
        }
        Ok(requests)
    }

    /// Waits until revocation is requested, for example because an operator drops the export.
    pub async fn wanted(&self) {
        let is_wanted = |state: &mut super::state::State| {
            state.get(self.leased.seq).is_none_or(|entry| entry.wanted).then_some(())
        };
        self.queue.when(is_wanted).await;
    }

    /// Returns whether other exports wait for the same exporter.
    pub fn has_others(&self) -> bool {
        self.queue.state().has_waiting(&self.leased.item.exporter)
    }

    /// Returns the export to the queue, behind all others that wait for the same exporter. It is not leased
    /// again before `not_before`.
    pub fn defer(self, not_before: Instant, is_reported: bool) {
        let (seq, index) = (self.leased.seq, self.leased.index);
        let mut state = self.queue.state();
        let place = state.place_of_deferred();
        state.change(seq, |entry| {
            if let Some(Item { failures, .. }) = entry.record.items.get_mut(index) {
                failures.deferrals = failures.deferrals.saturating_add(1);
                failures.place = Some(place);
                failures.not_before = Some(not_before);
                failures.is_reported |= is_reported;
            }
        });
        // The lock is not held when the lease is dropped.
        drop(state);
    }

    /// From here on, a request may be on its way.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn begin(&mut self) -> Result<(), EntryGone> {
        if self.leased.item.state == ItemState::Delivering {
            return Ok(());
        }
        let item = Item { state: ItemState::Delivering, ..self.leased.item.clone() };
        self.save(item, Vec::new()).await
    }

    /// The request was acknowledged: it is never sent again.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn acknowledged(&mut self, lost_spans: Option<String>) -> Result<(), EntryGone> {
        let mut item = self.leased.item.clone();
        item.pending.remove(0);
        item.touched = true;
        item.attempts += 1;
        item.last_error = None;
        item.next_attempt = None;
        item.failures = Failures::default();
        // Rejected spans are never sent again.
        item.resent |= lost_spans.is_some();
        item.lost_spans = item.lost_spans.or(lost_spans);
        self.save(item, Vec::new()).await
    }

    /// Records the last error for `status`, in memory only.
    pub fn note(&mut self, reason: &str) {
        let item = Item { last_error: Some(reason.to_owned()), ..self.leased.item.clone() };
        // A removed entry needs no note.
        let _ = self.remember(item);
    }

    /// The request is to be tried again. `in_doubt`: it may have arrived.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn failed(
        &mut self,
        reason: &str,
        in_doubt: bool,
        next_attempt: UnixNanos,
    ) -> Result<(), EntryGone> {
        let mut item = self.leased.item.clone();
        item.touched |= in_doubt;
        let now = Instant::now();
        item.failures.since.get_or_insert(now);
        item.failures.last = Some(now);
        item.state = ItemState::Accepted;
        item.attempts += 1;
        item.last_error = Some(reason.to_owned());
        item.next_attempt = Some(next_attempt);
        self.save(item, Vec::new()).await
    }

    /// The request to send next goes in two instead.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn split_next(&mut self, first: Bytes, second: Bytes) -> Result<(), EntryGone> {
        let mut item = self.leased.item.clone();
        let whole = item.pending.remove(0);
        let (mut blobs, mut ops) = self.new_blobs(&mut item, [first, second]);
        blobs.append(&mut item.pending);
        ops.extend(
            item.owns(whole).then_some(Op::RemoveBlob { seq: self.leased.seq, blob: whole }),
        );
        item.pending = blobs;
        item.failures = Failures::default();
        self.save(item, ops).await
    }

    /// Nothing of it has been sent so far, and it goes in this form instead, made at this time.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn replace_pending(
        &mut self,
        requests: Vec<Bytes>,
        made_at: UnixNanos,
    ) -> Result<(), EntryGone> {
        let mut item = self.leased.item.clone();
        let (blobs, ops) = self.new_blobs(&mut item, requests);
        // The form before, if it was this exporter's own, is of no more use.
        let old = item.pending.iter().filter(|blob| item.owns(**blob));
        let old = old.map(|blob| Op::RemoveBlob { seq: self.leased.seq, blob: *blob });
        let ops = ops.into_iter().chain(old).collect();
        item.pending = blobs;
        item.made_at = made_at;
        self.save(item, ops).await
    }

    /// What the backend lost of it is sent once more.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn resend(&mut self, requests: Vec<Bytes>) -> Result<(), EntryGone> {
        let mut item = self.leased.item.clone();
        let (blobs, ops) = self.new_blobs(&mut item, requests);
        item.pending = blobs;
        item.resent = true;
        self.save(item, ops).await
    }

    /// Everything was acknowledged, the last at this time, which need not have been recorded before.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn delivered(mut self, at: UnixNanos) -> Result<(), EntryGone> {
        self.finish(ItemState::Delivered { at }).await
    }

    /// It becomes a dead letter.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn rejected(mut self, rejection: Rejection) -> Result<(), EntryGone> {
        self.finish(ItemState::Rejected(rejection)).await
    }

    async fn finish(&mut self, state: ItemState) -> Result<(), EntryGone> {
        let is_refused = matches!(state, ItemState::Rejected(_));
        let before = &self.leased.item;
        let ends_with_a_request =
            before.state == ItemState::Delivering && !before.pending.is_empty();
        let attempts = before.attempts.saturating_add(u32::from(is_refused || ends_with_a_request));
        let mut item = Item { state, attempts, next_attempt: None, ..before.clone() };
        if item.is_delivered() {
            item.pending.clear();
            item.touched |= ends_with_a_request;
            item.last_error = None;
        }
        self.save(item, Vec::new()).await?;
        self.queue.tidy(self.leased.seq).await;
        Ok(())
    }

    fn new_blobs(
        &self,
        item: &mut Item,
        requests: impl IntoIterator<Item = Bytes>,
    ) -> (Vec<Blob>, Vec<Op>) {
        let mut blobs = Vec::new();
        let mut ops = Vec::new();
        for bytes in requests {
            let blob = Blob(item.next_blob);
            item.next_blob = item.next_blob.saturating_add(1);
            blobs.push(blob);
            ops.push(Op::PutBlob { seq: self.leased.seq, blob, bytes });
        }
        (blobs, ops)
    }

    /// To disk, then to memory. Tries until the disk takes it: what happened did happen.
    async fn save(&mut self, item: Item, mut ops: Vec<Op>) -> Result<(), EntryGone> {
        ops.push(Op::put_item(self.leased.seq, self.leased.index, &item).map_err(|_| EntryGone)?);
        loop {
            match self.queue.shared.journal.write(ops.clone(), self.leased.epoch).await {
                Ok(()) => {
                    self.queue.recovered();
                    break;
                }
                Err(error) => self.queue.store_failed(error, self.leased.epoch).await?,
            }
        }
        self.remember(item)
    }

    /// What is on disk.
    fn remember(&mut self, item: Item) -> Result<(), EntryGone> {
        let saved = self.queue.state().change(self.leased.seq, |entry| {
            if let Some(known) = entry.record.items.get_mut(self.leased.index) {
                known.clone_from(&item);
            }
        });
        saved.ok_or(EntryGone)?;
        self.leased.item = item;
        self.queue.shared.changed.notify_waiters();
        Ok(())
    }

    async fn read(&mut self, blob: Blob) -> Result<Bytes, EntryGone> {
        self.queue.read(self.leased.seq, blob, self.leased.epoch).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let index = self.leased.index;
        self.queue.state().change(self.leased.seq, |entry| {
            entry.leased.remove(&index);
            if let Some(item) = entry.record.items.get_mut(index) {
                item.recover();
            }
        });
        self.queue.shared.changed.notify_waiters();
    }
}

/// An export that every required exporter is done with. Dropped, it comes again.
#[derive(Debug)]
#[must_use = "a settlement that is dropped comes again"]
pub struct Completion {
    queue: Queue,
    seq: Seq,
    epoch: Epoch,
    pub head: Head,
    pub outcome: Outcome,
}

impl Completion {
    pub(super) fn new(
        queue: Queue,
        seq: Seq,
        epoch: Epoch,
        head: Head,
        outcome: Outcome,
    ) -> Completion {
        Completion { queue, seq, epoch, head, outcome }
    }

    /// The state files that are to be written, as they were enqueued.
    ///
    /// # Errors
    /// The export is lost.
    pub async fn state_files(&self) -> Result<Option<Bytes>, EntryGone> {
        if !self.head.has_state_files {
            return Ok(None);
        }
        self.queue.read(self.seq, STATE_FILES, self.epoch).await.map(Some)
    }

    /// The id could not be written, for this reason. It stays to be tried again.
    pub async fn not_written(&mut self, reason: &str) {
        self.head.not_written = Some(reason.to_owned());
        let head = self.head.clone();
        self.queue.state().change(self.seq, |entry| entry.record.head = head.clone());
        if let Ok(op) = Op::put_head(self.seq, &head) {
            // Best effort: the reason is informational, and the next attempt writes it again.
            let _ = self.queue.shared.journal.write(vec![op], self.epoch).await;
        }
    }

    /// The file says so, or is not to, or is not there any more. `done`: a version of the file that
    /// is not to be taken in, whatever it says itself.
    pub async fn written(self, done: Option<TraceId>) {
        if let Some(trace_id) = done {
            self.queue.state().tombstones.insert(trace_id);
            let op = Op::Tombstone { trace_id };
            let _ = self.queue.shared.journal.write(vec![op], self.epoch).await;
        }
        let head = Head { written: true, not_written: None, ..self.head.clone() };
        let over = self.queue.state().change(self.seq, |entry| {
            entry.record.head = head.clone();
            entry.record.is_over()
        });
        match over {
            None => {}
            Some(true) => self.queue.tidy(self.seq).await,
            Some(false) => {
                // Should this be lost, the next start finds the id in the file.
                if let Ok(op) = Op::put_head(self.seq, &head) {
                    let _ = self.queue.shared.journal.write(vec![op], self.epoch).await;
                }
            }
        }
    }

    /// Its refusal was told to a person; it stays as a dead letter.
    pub fn reported(self) {
        self.queue.state().change(self.seq, |entry| entry.reported = true);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.queue.state().change(self.seq, |entry| entry.settling = false);
        self.queue.shared.changed.notify_waiters();
    }
}
