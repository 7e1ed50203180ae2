//! Maps a 64-bit hash of the path to sequence numbers, to avoid storing each path twice. Callers compare the
//! full path.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::record::{Head, Seq};

#[derive(Debug, Default)]
pub struct PathIndex {
    digests: RandomState,
    /// The last one that was put in, where several are from one file.
    seqs: HashMap<u64, Seq>,
}

impl PathIndex {
    pub fn insert(&mut self, head: &Head, seq: Seq) {
        // What was added to a trace later says nothing about the export.
        if head.addition.is_none() {
            self.seqs.insert(self.digests.hash_one(&head.source.path), seq);
        }
    }

    pub fn remove(&mut self, head: &Head, seq: Seq) {
        let digest = self.digests.hash_one(&head.source.path);
        if self.seqs.get(&digest) == Some(&seq) {
            self.seqs.remove(&digest);
        }
    }

    pub fn get(&self, path: &Path) -> Option<Seq> {
        self.seqs.get(&self.digests.hash_one(path)).copied()
    }
}
