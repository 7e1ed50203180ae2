//! The exports that this process works on, locked against others from the first request until the
//! id is written.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::claim::{Claim, claim};
use crate::ids::TraceId;
use crate::queue::record::Head;

/// Exports whose lock is held. More than these are only delivered and not written back; of such the
/// oldest locks are let go, so that they do not use up the files that a process may have open.
const MAX_HELD: usize = 256;

#[derive(Clone, Debug, Default)]
pub struct Claims {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    locks: HashMap<TraceId, Option<File>>,
    /// In the order in which they were taken.
    order: VecDeque<TraceId>,
}

/// Whether to go on with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Ours,
    /// Another process works on it.
    Busy,
    /// Another process did.
    Emitted,
}

impl Claims {
    pub async fn claim(&self, head: &Head) -> Turn {
        let trace_id = head.trace_id;
        // What we wrote ourselves carries the id, and may still be on its way to somebody.
        if head.written || self.held().locks.contains_key(&trace_id) {
            return Turn::Ours;
        }
        let (source, mode) = (head.source.clone(), head.write_back);
        let claimed = tokio::task::spawn_blocking(move || claim(&source, trace_id, mode)).await;
        match claimed {
            Ok(Claim::Ours(lock)) => {
                self.held().insert(trace_id, lock);
                Turn::Ours
            }
            Ok(Claim::Busy) => Turn::Busy,
            Ok(Claim::Emitted) => Turn::Emitted,
            // The runtime is going down.
            Err(_) => Turn::Busy,
        }
    }

    /// Nothing is left to do for it.
    pub fn release(&self, trace_id: TraceId) {
        let mut held = self.held();
        held.locks.remove(&trace_id);
        held.order.retain(|other| *other != trace_id);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, trace_id: TraceId, lock: Option<File>) {
        self.locks.insert(trace_id, lock);
        self.order.push_back(trace_id);
        if self.order.len() > MAX_HELD
            && let Some(oldest) = self.order.pop_front()
        {
            self.locks.remove(&oldest);
        }
    }
}
