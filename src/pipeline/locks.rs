//! The exports that this process has locked against others, from the time they are read until the id is
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

/// Exports whose lock is held, so that they do not use up the files that a process may have open.
/// What comes on top, in an outage, is locked when it is its turn to be sent.
const MAX_HELD: usize = 256;

#[derive(Clone, Debug)]
pub struct LockRegistry {
    held: Arc<Mutex<Held>>,
    fs: FsByReceiver,
}

#[derive(Debug, Default)]
struct Held {
    locks: HashMap<TraceId, Option<File>>,
    /// What another process was seen to work on.
    elsewhere: HashSet<TraceId>,
}

/// Whether to go on with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    Acquired,
    /// Another process works on it.
    HeldElsewhere,
    /// Another process did, or is about to.
    AlreadyEmitted,
}

impl LockRegistry {
    pub fn new(fs: FsByReceiver) -> LockRegistry {
        LockRegistry { held: Arc::default(), fs }
    }

    /// Tries the lock of an entry that is to be sent.
    pub async fn lock(&self, head: &Head) -> Ownership {
        let trace_id = head.trace_id;
        // The file of an addition carries no id that could say so. Its spans have the same ids in every
        // process.
        if head.addition.is_some() {
            return Ownership::Acquired;
        }
        // The id is written, and an optional exporter may still deliver the export.
        if head.written || self.held().locks.contains_key(&trace_id) {
            return Ownership::Acquired;
        }
        let (locks, source, mode) = (self.clone(), head.source.clone(), head.write_back);
        let ReceiverFs { roots, calls } = self.fs.of_file(&head.receiver, &source.path);
        let locked = calls.run(move || locks.lock_blocking(&roots, &source, trace_id, mode)).await;
        // A file system that does not answer is asked again, like a lock that is held elsewhere.
        locked.unwrap_or(Ownership::HeldElsewhere)
    }

    /// For an export that was just read. Blocks on the disk.
    pub fn lock_blocking(
        &self,
        roots: &Roots,
        source: &FileVersion,
        trace_id: TraceId,
        mode: WriteBackMode,
    ) -> Ownership {
        if self.held().locks.contains_key(&trace_id) {
            return Ownership::Acquired;
        }
        match try_lock(roots, source, trace_id, mode) {
            LockAttempt::Acquired(lock) => {
                self.held().insert(trace_id, lock);
                Ownership::Acquired
            }
            LockAttempt::HeldElsewhere => {
                self.held().elsewhere.insert(trace_id);
                Ownership::HeldElsewhere
            }
            LockAttempt::AlreadyEmitted => Ownership::AlreadyEmitted,
            // It was replaced while another process worked on it, in whose queue it is.
            LockAttempt::Superseded if self.held().elsewhere.contains(&trace_id) => {
                Ownership::AlreadyEmitted
            }
            LockAttempt::Superseded => Ownership::Acquired,
        }
    }

    /// Releases the lock of an entry that is finished. An addition has none.
    pub fn release(&self, head: &Head) {
        if head.addition.is_none() {
            self.release_export(head.trace_id);
        }
    }

    /// Releases the lock of an export that is not in the queue.
    pub fn release_export(&self, trace_id: TraceId) {
        let mut held = self.held();
        held.locks.remove(&trace_id);
        held.elsewhere.remove(&trace_id);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, trace_id: TraceId, lock: Option<File>) {
        if self.locks.len() < MAX_HELD {
            self.locks.insert(trace_id, lock);
        }
    }
}
