//! Looking into the queue, and telling it what to do with dead letters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Queue;
use super::record::{Blob, Item, Record, RejectionKind, Seq, State as ItemState};
use super::state::Entry;
use super::store::{Op, StoreError};
use crate::base::clock::UnixNanos;

/// An export that is to be dropped. When that comes to nothing, exporters may have it again.
struct Wanted<'a> {
    queue: &'a Queue,
    seq: Seq,
    is_taken: bool,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let is_taken = self.is_taken;
        // One that was dropped is not there any more.
        self.queue.state().change(self.seq, |entry| {
            entry.wanted = false;
            if is_taken {
                entry.leased.clear();
            }
        });
        self.queue.shared.changed.notify_waiters();
    }
}

/// One export, as a person sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// Its number in the order of arrival.
    pub id: u64,
    pub trace_id: String,
    /// It is no export, but something that is added to the trace of one.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_addition: bool,
    pub project_id: String,
    pub path: PathBuf,
    pub state: ListedState,
    pub spans: usize,
    pub bytes: u64,
    pub first_seen: String,
    pub written_back: bool,
    /// Why its id could not be written so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_written: Option<String>,
    /// Which exporters it waits for, and what each said last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits_for: Option<String>,
    pub exporters: Vec<ListedItem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListedState {
    Accepted,
    Delivering,
    /// Every required exporter has delivered it; its file does not say so yet.
    Delivered,
    /// The same, but for an exporter that is not required.
    WrittenBack,
    Incomplete,
    Rejected,
}

impl ListedState {
    pub fn is_refusal(self) -> bool {
        matches!(self, ListedState::Rejected | ListedState::Incomplete)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ListedState::Accepted => "accepted",
            ListedState::Delivering => "delivering",
            ListedState::Delivered => "delivered",
            ListedState::WrittenBack => "written_back",
            ListedState::Incomplete => "incomplete",
            ListedState::Rejected => "rejected",
        }
    }
}

/// Its way to one exporter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListedItem {
    pub exporter: String,
    pub required: bool,
    pub state: ListedState,
    pub requests_waiting: usize,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_attempt: Option<String>,
    /// How often the item was deferred: others were tried first, because it failed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub deferrals: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What was found when every export was read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    pub exports: usize,
    pub requests: usize,
    pub bytes: u64,
    /// Requests that are listed and not there.
    pub missing: Vec<String>,
}

impl Queue {
    /// Every export that is held, in order of arrival.
    pub fn list(&self) -> Vec<Listed> {
        let state = self.state();
        state
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

    /// How many exports are in each state. Makes no list of them: there may be very many.
    pub fn count_by_state(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (_, entry) in self.state().iter() {
            *counts.entry(overall(&entry.record).as_str()).or_default() += 1;
        }
        counts
    }

    /// Gives a dead letter another chance. False when it is none.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn retry(&self, id: u64) -> Result<bool, String> {
        self.retry_items(id, Item::is_rejected).await
    }

    /// The same, but only with the exporters that write-back waits for: what others refused may be
    /// there in part, and is not sent again.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn retry_required(&self, id: u64) -> Result<bool, String> {
        self.retry_items(id, |item| item.required && item.is_rejected()).await
    }

    async fn retry_items(&self, id: u64, which: fn(&Item) -> bool) -> Result<bool, String> {
        // One at a time: what a person sees of an export is to be true when it is acted upon.
        let _alone = self.shared.admin.lock().await;
        let seq = Seq(id);
        let (again, epoch) = {
            let state = self.state();
            let Some(entry) = state.get(seq) else { return Ok(false) };
            let Record { head, items } = &*entry.record;
            let refused = items.iter().enumerate().filter(|(_, item)| which(item));
            let again = refused.map(|(index, item)| (index, item.again(head)));
            (again.collect::<Vec<_>>(), entry.epoch)
        };
        let ops: Result<Vec<Op>, _> =
            again.iter().map(|(index, item)| Op::put_item(seq, *index, item)).collect();
        let ops = ops.map_err(|error| error.to_string())?;
        let written = self.shared.journal.write(ops, epoch).await;
        written.map_err(|error| error.to_string())?;
        self.state().change(seq, |entry| {
            for (index, item) in &again {
                if let Some(known) = entry.record.items.get_mut(*index) {
                    known.clone_from(item);
                }
            }
            entry.reported = false;
        });
        self.shared.changed.notify_waiters();
        Ok(!again.is_empty())
    }

    /// Forgets a dead letter, for good: its file stays as it is and is not read again until it
    /// changes. By `force` any other export too. False when it is none, or while an exporter
    /// sends it: one that waits for its next try gives it back, and has time for it `until` then.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn discard(&self, id: u64, force: bool, until: Instant) -> Result<bool, String> {
        let seq = Seq(id);
        let _alone = self.shared.admin.lock().await;
        let may_go = |entry: &mut Entry| {
            entry.wanted = force || entry.record.is_dead_letter();
            entry.wanted
        };
        if !self.state().change(seq, may_go).unwrap_or(false) {
            return Ok(false);
        }
        let mut wanted = Wanted { queue: self, seq, is_taken: false };
        self.shared.changed.notify_waiters();
        let take = self.when(|state| {
            let taken = state.change(seq, |entry| {
                if !entry.leased.is_empty() {
                    return None;
                }
                // From here on no exporter takes it.
                entry.leased.extend(0..entry.record.items.len());
                Some((entry.record.head.key(), entry.epoch))
            });
            // It may have left the queue in the meantime.
            taken.map_or(Some(None), |taken| taken.map(Some))
        });
        let taken = tokio::time::timeout_at(until, take).await.ok().flatten();
        let Some((key, epoch)) = taken else { return Ok(false) };
        wanted.is_taken = true;
        let ops = vec![Op::Tombstone { trace_id: key }, Op::Remove { seq }];
        self.shared.journal.write(ops, epoch).await.map_err(|error| error.to_string())?;
        let mut state = self.state();
        state.tombstones.insert(key);
        state.remove(seq);
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(true)
    }

    /// Reads back every request that is waiting.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn verify(&self) -> Result<Verified, String> {
        let mut verified = Verified::default();
        let listed: Vec<_> = {
            let state = self.state();
            let entries = state.iter();
            entries.map(|(seq, entry)| (seq, entry.epoch, entry.record.clone())).collect()
        };
        for (seq, epoch, record) in listed {
            verified.exports += 1;
            for item in &record.items {
                for blob in &item.pending {
                    match self.shared.journal.read(seq, *blob, epoch).await {
                        Ok(bytes) => {
                            verified.requests += 1;
                            verified.bytes += bytes.len() as u64;
                        }
                        // Delivered, or sent in another form, since the list was made.
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
    /// Whether a request still waits for anybody.
    fn needs(&self, seq: Seq, blob: Blob) -> bool {
        let state = self.state();
        let items = state.get(seq).map(|entry| entry.record.items.as_slice());
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

fn state_of(item: &Item) -> ListedState {
    match &item.state {
        ItemState::Accepted => ListedState::Accepted,
        ItemState::Delivering => ListedState::Delivering,
        ItemState::Delivered { .. } => ListedState::Delivered,
        ItemState::Rejected(rejection) if rejection.kind == RejectionKind::Incomplete => {
            ListedState::Incomplete
        }
        ItemState::Rejected(_) => ListedState::Rejected,
    }
}

fn overall(record: &Record) -> ListedState {
    let any = |state: ListedState| record.items.iter().any(|item| state_of(item) == state);
    [ListedState::Rejected, ListedState::Incomplete]
        .into_iter()
        .find(|state| any(*state))
        .unwrap_or_else(|| {
            let mut required = record.items.iter().filter(|it| it.required);
            match () {
                () if record.head.written => ListedState::WrittenBack,
                () if required.all(Item::is_delivered) => ListedState::Delivered,
                () if any(ListedState::Delivering) => ListedState::Delivering,
                () => ListedState::Accepted,
            }
        })
}
