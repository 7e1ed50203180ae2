//! Operator commands: list entries, retry or drop them, and check the store.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::handle::Queue;
use super::index::Entry;
use super::record::{Blob, Item, ItemState, Record, RejectionKind, Seq};
use super::store::StoreError;
use super::submit::EntryGone;
use super::transition::{Retry, Transition};
use crate::base::clock::UnixNanos;
use crate::base::path;

/// A command's revocation of an entry: exporters and the finalizer return the entry. When this is
/// dropped and the entry still exists, it can be leased again.
struct Revocation<'a> {
    queue: &'a Queue,
    seq: Seq,
    /// Whether the command holds all rights to the entry.
    is_exclusive: bool,
}

impl Drop for Revocation<'_> {
    fn drop(&mut self) {
        let is_exclusive = self.is_exclusive;
        // A dropped entry is gone.
        self.queue.index().change(self.seq, |entry| {
            entry.revoked = false;
            if is_exclusive {
                entry.leased.clear();
                entry.completing = false;
            }
        });
        self.queue.shared.changed.notify_waiters();
    }
}

/// One entry, for the output of commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its number, in order of arrival.
    pub(crate) id: u64,
    pub(crate) trace_id: String,
    /// Whether it is an addition to the trace of an export.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) is_addition: bool,
    pub(crate) project_id: String,
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    pub(crate) state: EntryState,
    pub(crate) spans: usize,
    pub(crate) bytes: u64,
    pub(crate) first_seen: String,
    pub(crate) written_back: bool,
    /// Why its id could not be written, if it could not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) not_written: Option<String>,
    /// The exporters that it waits for, each with its last error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) waits_for: Option<String>,
    pub(crate) exporters: Vec<ListedItem>,
}

/// The state of an entry or of an item, for the output of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntryState {
    Accepted,
    Delivering,
    /// Delivered by every required exporter; the id is not written yet.
    Delivered,
    /// The write-back is finished; an optional exporter has not delivered the entry.
    WrittenBack,
    Incomplete,
    Rejected,
}

impl EntryState {
    const ALL: [EntryState; 6] = [
        EntryState::Accepted,
        EntryState::Delivering,
        EntryState::Delivered,
        EntryState::WrittenBack,
        EntryState::Incomplete,
        EntryState::Rejected,
    ];

    /// Whether the entry is a dead letter.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, EntryState::Rejected | EntryState::Incomplete)
    }

    /// Returns the name in JSON and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EntryState::Accepted => "accepted",
            EntryState::Delivering => "delivering",
            EntryState::Delivered => "delivered",
            EntryState::WrittenBack => "written_back",
            EntryState::Incomplete => "incomplete",
            EntryState::Rejected => "rejected",
        }
    }
}

/// The part of an entry for one exporter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListedItem {
    pub(crate) exporter: String,
    pub(crate) required: bool,
    pub(crate) state: EntryState,
    pub(crate) requests_waiting: usize,
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) next_attempt: Option<String>,
    /// Number of deferrals: other entries were tried first, because this one failed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub(crate) deferrals: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The result of reading every entry back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) exports: usize,
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
    /// Requests that are listed but not in the store.
    pub(crate) missing: Vec<String>,
}

impl Queue {
    /// Returns every entry, in order of arrival.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let index = self.index();
        index
            .iter()
            .map(|(seq, entry)| {
                let record = &entry.record;
                Listed {
                    id: seq.0,
                    trace_id: record.head.trace_id.to_string(),
                    is_addition: record.head.addition.is_some(),
                    project_id: record.head.project_id.clone(),
                    path: record.head.source.path.clone(),
                    state: overall(record),
                    spans: record.head.span_count,
                    bytes: record.head.bytes + record.head.log_bytes,
                    first_seen: record.head.first_seen.rfc3339(),
                    written_back: record.head.written,
                    waits_for: record.waits_for(),
                    not_written: record.head.not_written.clone(),
                    exporters: record.items.iter().map(listed_item).collect(),
                }
            })
            .collect()
    }

    /// Counts the entries in each state; a state without entries counts 0. Makes no list of entries.
    pub(crate) fn count_by_state(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::from(EntryState::ALL.map(|state| (state.as_str(), 0)));
        for (_, entry) in self.index().iter() {
            *counts.entry(overall(&entry.record).as_str()).or_default() += 1;
        }
        counts
    }

    /// Retries a dead letter. Returns false if the entry is not a dead letter.
    ///
    /// # Errors
    /// Returns the store's error; the entry is unchanged.
    pub(crate) async fn retry(&self, id: u64) -> Result<bool, String> {
        self.retry_items(id, Retry::All).await
    }

    /// Like [`Queue::retry`], for required exporters only: what an optional exporter refused may
    /// have arrived in part, and is not sent again.
    ///
    /// # Errors
    /// Returns the store's error; the entry is unchanged.
    pub(crate) async fn retry_required(&self, id: u64) -> Result<bool, String> {
        self.retry_items(id, Retry::Required).await
    }

    async fn retry_items(&self, id: u64, which: Retry) -> Result<bool, String> {
        // One command at a time, so that the entry does not change between the check and the
        // change.
        let _alone = self.shared.admin.lock().await;
        let seq = Seq(id);
        let Some(epoch) = self.index().get(seq).map(|entry| entry.epoch) else { return Ok(false) };
        match self.submit((seq, epoch), Transition::Retry(which)).await {
            Ok(submitted) => submitted.durable_once().await.map_err(|error| error.to_string())?,
            Err(EntryGone) => return Ok(false),
        }
        Ok(true)
    }

    /// Drops a dead letter. Its file is not changed, and not read again until it changes. With
    /// `force`, drops an entry in any state: exporters and the finalizer must return it by `until`.
    /// Returns false if the entry is gone, is not a dead letter, or was not returned in time.
    ///
    /// # Errors
    /// Returns the store's error if the disk failed; the entry stays.
    pub(crate) async fn drop_entry(
        &self,
        id: u64,
        force: bool,
        until: Instant,
    ) -> Result<bool, String> {
        let seq = Seq(id);
        let _alone = self.shared.admin.lock().await;
        let may_go = |entry: &mut Entry| {
            entry.revoked = force || entry.record.is_dead_letter();
            entry.revoked
        };
        if !self.index().change(seq, may_go).unwrap_or(false) {
            return Ok(false);
        }
        let mut revocation = Revocation { queue: self, seq, is_exclusive: false };
        self.shared.changed.notify_waiters();
        let exclusive = self.when(|index| {
            let exclusive = index.change(seq, |entry| {
                if !entry.leased.is_empty() || entry.completing {
                    return None;
                }
                entry.leased.extend(0..entry.record.items.len());
                entry.completing = true;
                Some(entry.epoch)
            });
            // The entry may have left the queue in the meantime.
            exclusive.map_or(Some(None), |epoch| epoch.map(Some))
        });
        let exclusive = tokio::time::timeout_at(until, exclusive).await.ok().flatten();
        let Some(epoch) = exclusive else { return Ok(false) };
        revocation.is_exclusive = true;
        let Ok(submitted) = self.submit((seq, epoch), Transition::Drop).await else {
            return Ok(false);
        };
        submitted.durable_once().await.map_err(|error| error.to_string())?;
        Ok(true)
    }

    /// Reads every pending request, and counts those that can be read.
    ///
    /// # Errors
    /// Returns the store's error if the disk failed.
    pub(crate) async fn verify(&self) -> Result<Verified, String> {
        let mut verified = Verified::default();
        let listed: Vec<_> = {
            let index = self.index();
            let entries = index.iter();
            entries.map(|(seq, entry)| (seq, entry.epoch, entry.record.clone())).collect()
        };
        for (seq, epoch, record) in listed {
            verified.exports += 1;
            for item in &record.items {
                for blob in &item.pending {
                    match self.shared.writer.read(seq, *blob, epoch).await {
                        Ok(bytes) => {
                            verified.requests += 1;
                            verified.bytes += bytes.len() as u64;
                        }
                        // The request was delivered or replaced since the list was made.
                        Err(_) if !self.needs(seq, *blob) => {}
                        Err(StoreError::Corrupt(_)) => {
                            verified.missing.push(format!("export {}, request {}", seq.0, blob.0));
                        }
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
        }
        Ok(verified)
    }
}

impl Queue {
    /// Whether a request is still needed.
    fn needs(&self, seq: Seq, blob: Blob) -> bool {
        let index = self.index();
        let items = index.get(seq).map(|entry| entry.record.items.as_slice());
        items.unwrap_or_default().iter().any(|item| item.pending.contains(&blob))
    }
}

fn listed_item(item: &Item) -> ListedItem {
    let rejection = match &item.state {
        ItemState::Rejected(rejection) => Some(rejection.reason.clone()),
        _ => None,
    };
    ListedItem {
        exporter: item.exporter.clone(),
        required: item.required,
        state: state_of(item),
        requests_waiting: item.pending.len(),
        attempts: item.attempts,
        last_error: rejection.or_else(|| item.last_error.clone()),
        next_attempt: item.next_attempt.map(UnixNanos::rfc3339),
        deferrals: item.failures.deferrals,
    }
}

fn state_of(item: &Item) -> EntryState {
    match &item.state {
        ItemState::Waiting => EntryState::Accepted,
        ItemState::InFlight => EntryState::Delivering,
        ItemState::Delivered { .. } => EntryState::Delivered,
        ItemState::Rejected(rejection) if rejection.kind == RejectionKind::Incomplete => {
            EntryState::Incomplete
        }
        ItemState::Rejected(_) => EntryState::Rejected,
    }
}

fn overall(record: &Record) -> EntryState {
    let any = |state: EntryState| record.items.iter().any(|item| state_of(item) == state);
    [EntryState::Rejected, EntryState::Incomplete]
        .into_iter()
        .find(|state| any(*state))
        .unwrap_or_else(|| {
            let mut required = record.items.iter().filter(|it| it.required);
            match () {
                () if record.head.written => EntryState::WrittenBack,
                () if required.all(Item::is_delivered) => EntryState::Delivered,
                () if any(EntryState::Delivering) => EntryState::Delivering,
                () => EntryState::Accepted,
            }
        })
}
