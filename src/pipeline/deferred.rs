//! The exports of one exporter that keep failing while others are delivered.
//!
//! ```text
//! fails, several times in a row ─▶ behind the others ─▶ another one is delivered ─▶ reported, once
//!                                                    └▶ the others fail as well: the endpoint is down
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use crate::base::ids::TraceId;
use crate::queue::Lease;

/// The exports that were deferred, to report those that others overtake.
#[derive(Debug, Default)]
pub struct Deferred {
    /// By key: the file and the last answer; `None` once it was reported.
    exports: HashMap<TraceId, Option<(PathBuf, String)>>,
}

impl Deferred {
    pub fn add(&mut self, lease: &Lease, reason: &str) {
        let first = || Some((lease.head().source.path.clone(), reason.to_owned()));
        self.exports.entry(lease.head().key()).or_insert_with(first);
    }

    pub fn is_reported(&self, lease: &Lease) -> bool {
        self.exports.get(&lease.head().key()).is_some_and(Option::is_none)
    }

    /// One was delivered: those that were deferred, and were not reported before, fail for a reason of
    /// their own.
    pub fn overtaken_by(&mut self, lease: &Lease) -> Vec<(PathBuf, String)> {
        self.exports.remove(&lease.head().key());
        self.exports.values_mut().filter_map(Option::take).collect()
    }
}
