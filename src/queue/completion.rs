//! The right to finalize an entry that every required exporter has finished.
//!
//! ```text
//! Queue::completion() ─▶ Completion ─▶ written_back()       ─▶ removed when every exporter is done
//!                                  ─▶ write_back_failed()  ─▶ offered again after a given time
//!                                  ─▶ reported()           ─▶ stays as a dead letter
//!                                  ─▶ dropped              ─▶ offered again
//! ```

use bytes::Bytes;
use tokio::time::Instant;

use super::handle::Queue;
use super::index::Completing;
use super::record::{Head, Outcome, STATE_FILES, Seq};
use super::submit::EntryGone;
use super::transition::Transition;
use super::writer::Epoch;
use crate::base::ids::TraceId;

/// An entry that every required exporter has delivered, or that one has rejected.
#[derive(Debug)]
#[must_use = "a completion that is dropped comes again"]
pub(crate) struct Completion {
    queue: Queue,
    seq: Seq,
    epoch: Epoch,
    pub(crate) head: Head,
    pub(crate) outcome: Outcome,
    /// Whether a write-back failed before, in this process.
    pub(crate) is_retry: bool,
}

impl Queue {
    /// Waits for the next entry that can be finalized. `None` if the queue is closed and no other
    /// entry will follow.
    pub(crate) async fn completion(&self) -> Option<Completion> {
        loop {
            // Register before the check, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let next = {
                let mut index = self.index();
                if let Some(completing) = index.complete(Instant::now()) {
                    drop(index);
                    return Some(Completion::new(self.clone(), completing));
                }
                if index.closed && index.is_finalized() {
                    return None;
                }
                index.next_completion()
            };
            match next {
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}

impl Completion {
    fn new(queue: Queue, completing: Completing) -> Completion {
        let Completing { seq, epoch, head, outcome, is_retry } = completing;
        Completion { queue, seq, epoch, head, outcome, is_retry }
    }

    /// Returns the encoded state files, as they were enqueued. `None` if the entry has none.
    ///
    /// # Errors
    /// Returns [`EntryGone`] if the entry left the queue; nothing is left to finalize then.
    pub(crate) async fn state_files(&self) -> Result<Option<Bytes>, EntryGone> {
        if !self.head.has_state_files {
            return Ok(None);
        }
        self.queue.read((self.seq, self.epoch), STATE_FILES).await.map(Some)
    }

    /// Records why the id could not be written. The entry is offered again at `not_before`, or,
    /// after the `final_try`, in the next process.
    pub(crate) async fn write_back_failed(
        mut self,
        reason: &str,
        not_before: Instant,
        final_try: bool,
    ) {
        if self.head.not_written.as_deref() != Some(reason) {
            self.head.not_written = Some(reason.to_owned());
            // The reason is informational, and the next attempt writes it again.
            self.transit(Transition::WriteBackFailed(reason.to_owned())).await;
        }
        self.queue.index().change(self.seq, |entry| {
            entry.finalize_not_before = Some(not_before);
            entry.reported |= final_try;
        });
    }

    /// Records that the file has the id, must not get it, or is gone. `tombstone` is the trace id
    /// of a file version that must not be read as a new export.
    pub(crate) async fn written_back(self, tombstone: Option<TraceId>) {
        // If this write is lost, the next start finds the id in the file.
        self.transit(Transition::WrittenBack { tombstone }).await;
    }

    /// Records that the rejection was reported. It is not offered again in this process.
    pub(crate) fn reported(self) {
        let mut index = self.queue.index();
        // An operator may have retried it in the meantime.
        let is_current = index
            .get(self.seq)
            .is_some_and(|entry| index.outcome(&entry.record).as_ref() == Some(&self.outcome));
        if is_current {
            index.change(self.seq, |entry| entry.reported = true);
        }
    }

    async fn transit(&self, transition: Transition) {
        if let Ok(submitted) = self.queue.submit((self.seq, self.epoch), transition).await {
            submitted.best_effort().await;
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.queue.index().change(self.seq, |entry| entry.completing = false);
        self.queue.shared.changed.notify_waiters();
    }
}
