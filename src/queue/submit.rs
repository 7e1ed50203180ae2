//! Makes transitions durable.
//!
//! ```text
//! prepare: rows ─▶ submit: the order is fixed ─▶ on disk ─▶ apply: visible in memory
//!                          ▲                        │ failed
//!                          └── retry after a second ┘ corrupt: store replaced, entry gone
//! ```
//!
//! Only the holder of a lease, of a completion, or of the whole entry changes its rows. So the
//! prepared rows are still correct when they are on disk.

use std::time::Duration;

use bytes::Bytes;

use super::figures::Health;
use super::handle::Queue;
use super::record::{Blob, Change, Seq};
use super::store::{Op, StoreError};
use super::transition::Transition;
use super::writer::{Ack, Epoch};

/// Pause before a failed store is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The entry is no longer in the queue: it was dropped, its store was lost, or the program is
/// stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the export is not in the queue any more")]
pub struct EntryGone;

/// A transition whose position in the order of writes is fixed, and which is not durable yet.
#[derive(Debug)]
#[must_use = "a submitted transition becomes visible only when it is awaited"]
pub(super) struct Submitted {
    queue: Queue,
    seq: Seq,
    epoch: Epoch,
    transition: Transition,
    ops: Vec<Op>,
    /// `None` if nothing must be written.
    ack: Option<Ack>,
}

impl Queue {
    /// Submits a transition. Transitions are written in the order in which these calls return.
    pub(super) async fn submit(
        &self,
        (seq, epoch): (Seq, Epoch),
        transition: Transition,
    ) -> Result<Submitted, EntryGone> {
        let prepared = {
            let mut index = self.index();
            let prepared = index.prepare(seq, &transition);
            // The file event for the version that was just written may come before the transition
            // is durable, so the tombstone must already be visible.
            if let (Ok((_, changes)), Transition::WrittenBack { .. }) = (&prepared, &transition) {
                index.tombstones.extend(changes.iter().filter_map(Change::tombstone));
            }
            prepared
        };
        let (record, changes) = prepared.map_err(|_| EntryGone)?;
        let ops = Op::of(seq, &record, changes).map_err(|_| EntryGone)?;
        let ack = match ops.is_empty() {
            true => None,
            false => Some(self.shared.writer.submit(ops.clone(), epoch).await),
        };
        Ok(Submitted { queue: self.clone(), seq, epoch, transition, ops, ack })
    }

    /// Reads a blob. Retries while the disk fails.
    pub(super) async fn read(
        &self,
        (seq, epoch): (Seq, Epoch),
        blob: Blob,
    ) -> Result<Bytes, EntryGone> {
        loop {
            match self.shared.writer.read(seq, blob, epoch).await {
                Ok(found) => return Ok(found),
                Err(error) => self.store_failed(error, epoch).await?,
            }
        }
    }

    /// Pauses before the next attempt. A corrupt store is quarantined and replaced instead, which
    /// begins the next epoch.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry was lost with its store or the queue is closed; do not
    /// retry.
    pub(super) async fn store_failed(
        &self,
        error: StoreError,
        epoch: Epoch,
    ) -> Result<(), EntryGone> {
        match error {
            StoreError::Closed | StoreError::Replaced => return Err(EntryGone),
            StoreError::Corrupt(reason) => {
                // Several callers can find the same corruption; one of them recovers from it.
                let _recovering = self.shared.recovering.lock().await;
                if self.epoch() != epoch {
                    return Err(EntryGone);
                }
                tracing::error!("the queue's store is corrupt ({reason}); setting it aside");
                match self.shared.writer.start_over(epoch).await {
                    Ok((begun, aside)) => {
                        self.start_epoch(begun);
                        let aside = aside.map(|path| path.display().to_string());
                        tracing::error!(
                            aside,
                            "a new store was begun; every export without an id is looked up again"
                        );
                        return Err(EntryGone);
                    }
                    Err(error) => self.set_health(Health::Failing(error.to_string())),
                }
            }
            error => self.set_health(Health::Failing(error.to_string())),
        }
        tokio::time::sleep(STORE_RETRY).await;
        Ok(())
    }
}

impl Submitted {
    /// Waits until the transition is on disk, and makes it visible. Retries while the disk fails,
    /// because what it records has happened.
    pub(super) async fn durable(mut self) -> Result<(), EntryGone> {
        let mut ack = self.ack.take();
        while let Some(submitted) = ack.take() {
            match submitted.durable().await {
                Ok(()) => self.queue.report_working(),
                Err(error) => {
                    self.queue.store_failed(error, self.epoch).await?;
                    ack = Some(self.queue.shared.writer.submit(self.ops.clone(), self.epoch).await);
                }
            }
        }
        self.make_visible().await
    }

    /// Like [`Submitted::durable`], without retrying.
    ///
    /// # Errors
    /// Returns the store's error; nothing was changed.
    pub(super) async fn durable_once(mut self) -> Result<(), StoreError> {
        if let Some(ack) = self.ack.take() {
            ack.durable().await?;
        }
        // An entry that is gone needs no change.
        let _ = self.make_visible().await;
        Ok(())
    }

    /// Makes the transition visible even if the disk fails. The next start recovers from its loss.
    pub(super) async fn best_effort(mut self) {
        if let Some(ack) = self.ack.take() {
            let _ = ack.durable().await;
        }
        let _ = self.make_visible().await;
    }

    async fn make_visible(self) -> Result<(), EntryGone> {
        let applied = self.queue.index().apply(self.seq, &self.transition);
        self.queue.shared.changed.notify_waiters();
        let is_removed = applied.map_err(|_| EntryGone)?;
        let was_expected = self.ops.iter().any(|op| matches!(op, Op::Remove { .. }));
        if is_removed && !was_expected {
            // A concurrent transition finished the rest of the entry, so neither wrote its removal.
            // If this write is lost, the next start removes the entry.
            let _ = self
                .queue
                .shared
                .writer
                .write(vec![Op::Remove { seq: self.seq }], self.epoch)
                .await;
        }
        Ok(())
    }
}
