//! The right of one exporter to deliver one entry.
//!
//! ```text
//! Queue::lease() ─▶ Lease ─▶ mark_in_flight() ─▶ acknowledge(), fail() …   each durable
//!                        ─▶ complete()     ─▶ Ack   delivered
//!                        ─▶ dead_letter()  ─▶ Ack   refused, until an operator retries or drops it
//!                        ─▶ defer()                 waits again, after all others
//!                        ─▶ dropped                 waits again; acknowledgements are kept
//! ```

use bytes::Bytes;
use tokio::time::Instant;

use super::handle::Queue;
use super::index::{Index, Leased};
use super::record::{Blob, Head, Item, Rejection, Seq};
use super::submit::{EntryGone, Submitted};
use super::transition::{ItemTransition, Transition};
use super::writer::Epoch;
use crate::base::clock::UnixNanos;

/// One entry, leased by one exporter.
///
/// # Cancel safety
/// A change is durable when its call returns, or, for an [`Ack`], when [`Ack::durable`] returns. If
/// the call is dropped earlier, the change may or may not be recorded. The queue is consistent
/// either way.
#[derive(Debug)]
#[must_use = "dropping a lease returns its entry to the queue"]
pub struct Lease {
    queue: Queue,
    leased: Leased,
}

impl Queue {
    /// Leases the next item that this exporter can send, and waits until there is one. `None` if
    /// the queue is closed and nothing is left for the exporter.
    pub async fn lease(&self, exporter: &str) -> Option<Lease> {
        loop {
            // Register before the check, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let next_try = {
                let mut index = self.index();
                if let Some(leased) = index.lease(exporter, Instant::now()) {
                    return Some(Lease { queue: self.clone(), leased });
                }
                if index.closed && index.is_done(exporter) {
                    return None;
                }
                index.next_try(exporter)
            };
            match next_try {
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}

impl Lease {
    /// Returns the part of the entry that all exporters share.
    pub(crate) fn head(&self) -> &Head {
        &self.leased.head
    }

    /// Returns the item, as of the last call that changed it.
    pub(crate) fn item(&self) -> &Item {
        &self.leased.item
    }

    /// Whether an id in the file means that nothing is left to do, because another process has
    /// delivered the export. False for an optional exporter if a request of the entry may have
    /// arrived when the lease began: the id can then come from this queue.
    pub(crate) fn ends_with_the_id(&self) -> bool {
        self.leased.item.required || self.leased.nothing_sent
    }

    /// Returns the request to send next. `None` if all are acknowledged.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn next_request(&mut self) -> Result<Option<Bytes>, EntryGone> {
        match self.leased.item.pending.first() {
            Some(&blob) => self.read(blob).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns all requests that are not acknowledged.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn pending_requests(&mut self) -> Result<Vec<Bytes>, EntryGone> {
        self.read_all(self.leased.item.pending.clone()).await
    }

    /// Returns all requests of the entry, as they were enqueued.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn all_requests(&mut self) -> Result<Vec<Bytes>, EntryGone> {
        self.read_all(self.leased.head.blobs(self.leased.item.signal)).await
    }

    /// Waits until an operator command needs the entry, or the entry is gone. The holder must then
    /// drop the lease.
    pub(crate) fn revocation(&self) -> impl Future<Output = ()> + Send + use<> {
        let (queue, seq) = (self.queue.clone(), self.leased.seq);
        async move { queue.when(|index| is_revoked(index, seq).then_some(())).await }
    }

    /// Whether an operator command needs the entry, or the entry is gone.
    pub(crate) fn is_revoked(&self) -> bool {
        is_revoked(&self.queue.index(), self.leased.seq)
    }

    /// Whether other entries wait for the same exporter.
    pub(crate) fn has_others(&self) -> bool {
        self.queue.index().has_waiting(&self.leased.item.exporter)
    }

    /// Returns the item to the queue, after all others that wait for the same exporter. It is not
    /// leased again before `not_before`. `is_reported` marks it as reported in the log.
    pub(crate) fn defer(self, not_before: Instant, is_reported: bool) {
        let (seq, at) = (self.leased.seq, self.leased.index);
        let mut index = self.queue.index();
        let place = index.position_of_deferred();
        index.change(seq, |entry| {
            if let Some(Item { failures, .. }) = entry.record.items.get_mut(at) {
                failures.deferrals = failures.deferrals.saturating_add(1);
                failures.place = Some(place);
                failures.not_before = Some(not_before);
                failures.is_reported |= is_reported;
            }
        });
        // Unlock first, because dropping the lease locks the index again.
        drop(index);
    }

    /// Records that a request is about to be sent.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; send nothing.
    pub async fn mark_in_flight(&mut self) -> Result<(), EntryGone> {
        self.transit(ItemTransition::MarkInFlight).await
    }

    /// Records that the first pending request was acknowledged: it is never sent again. `rejected`
    /// describes the spans that the server refused, if any.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn acknowledge(&mut self, rejected: Option<String>) -> Result<(), EntryGone> {
        self.transit(ItemTransition::Acknowledge { rejected }).await
    }

    /// Records that the first pending request failed and is retried. `in_doubt` means that it may
    /// have arrived.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub async fn fail(
        &mut self,
        reason: &str,
        in_doubt: bool,
        next_attempt: UnixNanos,
    ) -> Result<(), EntryGone> {
        let (reason, now) = (reason.to_owned(), Instant::now());
        self.transit(ItemTransition::Fail { reason, in_doubt, next_attempt, now }).await
    }

    /// Replaces the first pending request with two.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn split_next(
        &mut self,
        first: Bytes,
        second: Bytes,
    ) -> Result<(), EntryGone> {
        self.transit(ItemTransition::Split([first, second])).await
    }

    /// Replaces all pending requests, none of which was sent, with requests whose timestamps are
    /// based on `made_at`.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn replace_pending(
        &mut self,
        requests: Vec<Bytes>,
        made_at: UnixNanos,
    ) -> Result<(), EntryGone> {
        self.transit(ItemTransition::Replace { requests, made_at }).await
    }

    /// Replaces all pending requests with requests for the spans that the backend lost.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; drop the lease.
    pub(crate) async fn resend(&mut self, requests: Vec<Bytes>) -> Result<(), EntryGone> {
        self.transit(ItemTransition::Resend(requests)).await
    }

    /// Submits that every request was acknowledged, the last one at `at`. The acknowledgement of
    /// the last request is recorded with it.
    pub(crate) async fn complete(self, at: UnixNanos) -> Ack {
        self.end(ItemTransition::Deliver { at }).await
    }

    /// Submits that the item is a dead letter.
    pub(crate) async fn dead_letter(self, rejection: Rejection) -> Ack {
        self.end(ItemTransition::Reject(rejection)).await
    }

    /// Sets the last error, for `status`. It is not written to disk.
    pub(crate) fn note(&mut self, reason: &str) {
        let (seq, at) = self.place();
        self.queue.index().change(seq, |entry| {
            if let Some(item) = entry.record.items.get_mut(at) {
                item.last_error = Some(reason.to_owned());
                self.leased.item.clone_from(item);
            }
        });
        self.queue.shared.changed.notify_waiters();
    }

    async fn end(self, change: ItemTransition) -> Ack {
        let transition = Transition::Item(self.leased.index, change);
        let submitted = self.queue.submit(self.key(), transition).await;
        Ack { _lease: self, submitted }
    }

    async fn transit(&mut self, change: ItemTransition) -> Result<(), EntryGone> {
        let transition = Transition::Item(self.leased.index, change);
        self.queue.submit(self.key(), transition).await?.durable().await?;
        let (seq, at) = self.place();
        let item = self.queue.index().get(seq).and_then(|it| it.record.items.get(at).cloned());
        self.leased.item = item.ok_or(EntryGone)?;
        Ok(())
    }

    async fn read_all(
        &self,
        blobs: impl IntoIterator<Item = Blob>,
    ) -> Result<Vec<Bytes>, EntryGone> {
        let mut requests = Vec::new();
        for blob in blobs {
            requests.push(self.read(blob).await?);
        }
        Ok(requests)
    }

    async fn read(&self, blob: Blob) -> Result<Bytes, EntryGone> {
        self.queue.read(self.key(), blob).await
    }

    fn key(&self) -> (Seq, Epoch) {
        (self.leased.seq, self.leased.epoch)
    }

    fn place(&self) -> (Seq, usize) {
        (self.leased.seq, self.leased.index)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (seq, at) = self.place();
        self.queue.index().change(seq, |entry| {
            entry.leased.remove(&at);
            if let Some(item) = entry.record.items.get_mut(at) {
                item.recover();
            }
        });
        self.queue.shared.changed.notify_waiters();
    }
}

fn is_revoked(index: &Index, seq: Seq) -> bool {
    index.get(seq).is_none_or(|entry| entry.revoked)
}

/// The submitted outcome of a lease. Its position in the order of writes is fixed, but it is not
/// durable yet.
#[derive(Debug)]
#[must_use = "the outcome is not visible until it is durable"]
pub(crate) struct Ack {
    /// The item stays leased until the outcome is visible.
    _lease: Lease,
    submitted: Result<Submitted, EntryGone>,
}

impl Ack {
    /// Waits until the outcome is on disk. Retries while the disk fails.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue.
    pub(crate) async fn durable(self) -> Result<(), EntryGone> {
        self.submitted?.durable().await
    }
}
