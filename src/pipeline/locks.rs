//! Holds the locks of exports that this process works on, from reading them until the id is
//! written.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::ids::TraceId;
use crate::fs::blocking::{FsByReceiver, ReceiverFs};
use crate::fs::carried::WriteBackMode;
use crate::fs::file::FileVersion;
use crate::fs::lock::{LockAttempt, try_lock};
use crate::fs::root::Roots;
use crate::queue::record::Head;

/// Maximum number of locks held, because each needs an open file. Further exports, which exist
/// during an outage, are locked when they are sent.
const MAX_HELD: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct LockRegistry {
    held: Arc<Mutex<HeldLocks>>,
    fs: FsByReceiver,
}

#[derive(Debug, Default)]
struct HeldLocks {
    locks: HashMap<TraceId, Option<File>>,
    /// Exports that another process was seen to work on.
    elsewhere: HashSet<TraceId>,
}

/// The outcome of locking an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    Acquired,
    /// Another process works on it.
    HeldElsewhere,
    /// Another process finished it, or is about to.
    AlreadyEmitted,
}

impl LockRegistry {
    pub(crate) fn new(fs: FsByReceiver) -> LockRegistry {
        LockRegistry { held: Arc::default(), fs }
    }

    /// Tries to lock the export of an entry before it is sent.
    pub(crate) async fn lock(&self, head: &Head) -> Ownership {
        let trace_id = head.trace_id;
        // The file of an addition carries no id of it. Its spans have the same ids in every
        // process, so sending it twice is harmless.
        if head.addition.is_some() {
            return Ownership::Acquired;
        }
        // The id is written. Only optional exporters may still deliver the export.
        if head.written || self.held().locks.contains_key(&trace_id) {
            return Ownership::Acquired;
        }
        let (locks, source, mode) = (self.clone(), head.source.clone(), head.write_back);
        let ReceiverFs { roots, calls } = self.fs.of_file(&head.receiver, &source.path);
        let locked = calls.run(move || locks.lock_blocking(&roots, &source, trace_id, mode)).await;
        // Retry if the file system does not answer, as for a lock that another process holds.
        locked.unwrap_or(Ownership::HeldElsewhere)
    }

    /// Tries to lock an export that was just read. Blocks on disk I/O.
    pub(crate) fn lock_blocking(
        &self,
        roots: &Roots,
        source: &FileVersion,
        trace_id: TraceId,
        mode: WriteBackMode,
    ) -> Ownership {
        if self.held().locks.contains_key(&trace_id) {
            return Ownership::Acquired;
        }
        let attempt = match try_lock(roots, source, trace_id, mode) {
            Ok(attempt) => attempt,
            // Another process may hold the lock, or have written the id.
            Err(error) => {
                tracing::debug!(%error, "an export cannot be locked; trying again");
                return Ownership::HeldElsewhere;
            }
        };
        match attempt {
            LockAttempt::Acquired(lock) => {
                self.held().insert(trace_id, lock);
                Ownership::Acquired
            }
            LockAttempt::HeldElsewhere => {
                self.held().elsewhere.insert(trace_id);
                Ownership::HeldElsewhere
            }
            LockAttempt::AlreadyEmitted => Ownership::AlreadyEmitted,
            // The file was replaced while another process worked on it. The export is in that
            // process's queue.
            LockAttempt::Superseded if self.held().elsewhere.contains(&trace_id) => {
                Ownership::AlreadyEmitted
            }
            LockAttempt::Superseded => Ownership::Acquired,
        }
    }

    /// Releases the lock of a finished entry. An addition has none.
    pub(crate) fn release(&self, head: &Head) {
        if head.addition.is_none() {
            self.release_export(head.trace_id);
        }
    }

    /// Releases the lock of an export that is not in the queue.
    pub(crate) fn release_export(&self, trace_id: TraceId) {
        let mut held = self.held();
        held.locks.remove(&trace_id);
        held.elsewhere.remove(&trace_id);
    }

    fn held(&self) -> MutexGuard<'_, HeldLocks> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldLocks {
    fn insert(&mut self, trace_id: TraceId, lock: Option<File>) {
        if self.locks.len() < MAX_HELD {
            self.locks.insert(trace_id, lock);
        }
    }
}
