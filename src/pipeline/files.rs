//! Files on their way in: each once at a time, and not before it is quiet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::StageDied;
use crate::receiver::Candidate;
use crate::receiver::settle::quiet_since;

/// What tells versions of a file apart well enough to say something about each once.
pub fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The paths that are in work.
#[derive(Debug, Default)]
pub struct InWork {
    /// True when they changed again meanwhile.
    paths: Mutex<HashMap<PathBuf, bool>>,
}

impl InWork {
    /// Has every candidate worked on, so many at a time, until there are no more.
    pub async fn work_off<F>(
        &self,
        mut candidates: mpsc::Receiver<Candidate>,
        at_a_time: usize,
        work: impl Fn(PathBuf) -> F,
    ) -> Result<(), StageDied>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut working = JoinSet::new();
        loop {
            let may_take = working.len() < at_a_time;
            let path = tokio::select! {
                biased;
                Some(ended) = working.join_next() => {
                    ended.map_err(StageDied::from)?;
                    continue;
                }
                candidate = candidates.recv(), if may_take => match candidate {
                    Some(Candidate { path }) => path,
                    None => break,
                },
            };
            if self.is_new(&path) {
                working.spawn(work(path));
            }
        }
        while let Some(ended) = working.join_next().await {
            ended.map_err(StageDied::from)?;
        }
        Ok(())
    }

    /// A path that is in work already is looked at again when that work ends.
    fn is_new(&self, path: &Path) -> bool {
        let mut in_work = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_work.entry(path.to_owned()) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                false
            }
            Entry::Vacant(new) => {
                new.insert(false);
                true
            }
        }
    }

    pub fn is_done(&self, path: &Path) -> bool {
        let mut in_work = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_work.get_mut(path) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                in_work.remove(path);
                true
            }
        }
    }
}

/// How long nothing has changed about an export: by the file's times, and, since those may lie,
/// by what was seen here.
pub struct Quiet<'a> {
    path: &'a Path,
    since: Instant,
    changes: Vec<SystemTime>,
    seen_change: Instant,
    last: Duration,
}

impl<'a> Quiet<'a> {
    pub fn new(path: &'a Path) -> Quiet<'a> {
        let now = Instant::now();
        Quiet { path, since: now, changes: Vec::new(), seen_change: now, last: Duration::ZERO }
    }

    /// Looks again.
    pub fn now(&mut self) -> Duration {
        let changes: Vec<SystemTime> = [Some(self.path), self.path.parent()]
            .into_iter()
            .flatten()
            .filter_map(|path| fs::symlink_metadata(path).ok()?.modified().ok())
            .collect();
        if changes != self.changes {
            self.seen_change = Instant::now();
        }
        let by_times = quiet_since(&changes, SystemTime::now());
        self.changes = changes;
        self.last = by_times.max(self.seen_change.elapsed());
        self.last
    }

    pub fn last(&self) -> Duration {
        self.last
    }

    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }
}
