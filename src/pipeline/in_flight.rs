//! Tracks in-flight paths, and decides when a file has stopped changing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::StageDied;
use crate::fs::stamp;
use crate::receiver::Candidate;
use crate::receiver::scan::Stamp;
use crate::receiver::stability::quiet_since;

/// What tells versions of a file apart well enough to report each once.
fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Refused file versions that were reported. A version is reported once, however many events lead to it.
#[derive(Debug, Default)]
pub struct Refusals {
    reported: Mutex<HashMap<PathBuf, Refusal>>,
}

type Refusal = (Option<(SystemTime, u64)>, String);

impl Refusals {
    /// Above this count the memory of all of them is dropped; their next refusal is reported again.
    const MAX: usize = 1_024;

    /// Whether this refusal of the present version of a file has not been reported yet.
    pub fn is_new(&self, path: &Path, reason: &str) -> bool {
        let refusal = (version(path), reason.to_owned());
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.get(path) == Some(&refusal) {
            return false;
        }
        if reported.len() >= Refusals::MAX {
            reported.clear();
        }
        reported.insert(path.to_owned(), refusal);
        true
    }
}

/// The paths that are in work.
#[derive(Debug, Default)]
pub struct InFlight {
    /// In-flight paths. `true`: the file changed since processing began and must be processed again.
    paths: Mutex<HashMap<PathBuf, bool>>,
}

impl InFlight {
    /// Has the candidates worked on that `prefilter` leaves, so many at a time, until there are no more.
    pub async fn process_all<S, W>(
        &self,
        mut candidates: mpsc::Receiver<Candidate>,
        at_a_time: usize,
        prefilter: impl Fn(Vec<Candidate>) -> S,
        work: impl Fn(PathBuf) -> W,
    ) -> Result<(), StageDied>
    where
        S: Future<Output = Vec<Candidate>>,
        W: Future<Output = ()> + Send + 'static,
    {
        let mut working = JoinSet::new();
        loop {
            let (mut some, room) = (Vec::new(), at_a_time.saturating_sub(working.len()));
            tokio::select! {
                biased;
                Some(ended) = working.join_next() => {
                    ended.map_err(StageDied::from)?;
                    continue;
                }
                received = candidates.recv_many(&mut some, room), if room > 0 => {
                    if received == 0 {
                        break;
                    }
                }
            }
            for Candidate { path } in prefilter(some).await {
                if self.is_new(&path) {
                    working.spawn(work(path));
                }
            }
        }
        while let Some(ended) = working.join_next().await {
            ended.map_err(StageDied::from)?;
        }
        Ok(())
    }

    /// A path that is in work already is looked at again when that work ends.
    fn is_new(&self, path: &Path) -> bool {
        let mut in_flight = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_flight.entry(path.to_owned()) {
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
        let mut in_flight = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_flight.get_mut(path) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                in_flight.remove(path);
                true
            }
        }
    }
}

/// File versions written by our own write-back. File events for them are ignored.
#[derive(Clone, Debug, Default)]
pub struct SelfWriteFilter {
    versions: Arc<Mutex<HashMap<PathBuf, Stamp>>>,
}

/// Capacity. Beyond it, our own writes are read again: correct, but one extra read.
const MAX_SELF_WRITES: usize = 1_024;

impl SelfWriteFilter {
    /// Remembers a file that was just written with this timestamp, if it still has the time of it.
    pub fn note(&self, path: &Path, timestamp: &str) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        let is_ours = stamp::time_of(timestamp)
            .is_some_and(|at| (at.tv_sec, at.tv_nsec) == (metadata.mtime(), metadata.mtime_nsec()));
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if is_ours {
            if versions.len() >= MAX_SELF_WRITES {
                // No event came for them, for example because the files are gone.
                versions.clear();
            }
            versions.insert(path.to_owned(), Stamp::from(&metadata));
        }
    }

    /// Removes the entry for `path`, and returns whether the file still has that version. Each write-back
    /// suppresses one event.
    pub fn take(&self, path: &Path) -> bool {
        let known = self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        let metadata = known.and_then(|known| Some((known, fs::symlink_metadata(path).ok()?)));
        metadata.is_some_and(|(known, metadata)| known == Stamp::from(&metadata))
    }
}

/// How long nothing has changed about an export: by the file's times, and, since those may lie,
/// by what was seen here.
pub struct StabilityProbe<'a> {
    path: &'a Path,
    since: Instant,
    changes: Vec<SystemTime>,
    version: Vec<Stamp>,
    seen_change: Instant,
    last: Duration,
}

impl<'a> StabilityProbe<'a> {
    pub fn new(path: &'a Path) -> StabilityProbe<'a> {
        let now = Instant::now();
        let (changes, version) = (Vec::new(), Vec::new());
        StabilityProbe {
            path,
            since: now,
            changes,
            version,
            seen_change: now,
            last: Duration::ZERO,
        }
    }

    /// Looks again.
    pub fn now(&mut self) -> Duration {
        let paths = [Some(self.path), self.path.parent()].into_iter().flatten();
        let found: Vec<Metadata> = paths.filter_map(|it| fs::symlink_metadata(it).ok()).collect();
        let changes: Vec<SystemTime> = found.iter().filter_map(|it| it.modified().ok()).collect();
        if changes != self.changes {
            self.seen_change = Instant::now();
        }
        self.version = found.iter().map(Stamp::from).collect();
        let by_times = quiet_since(&changes, SystemTime::now());
        self.changes = changes;
        self.last = by_times.max(self.seen_change.elapsed());
        self.last
    }

    pub fn last(&self) -> Duration {
        self.last
    }

    /// What tells the version that was seen at the last look from others.
    pub fn version(&self) -> Vec<Stamp> {
        self.version.clone()
    }

    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::base::clock::UnixNanos;

    fn set_time(path: &Path, at: UnixNanos) {
        let time = UNIX_EPOCH + Duration::from_nanos(at.0);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_we_left_is_known_until_anybody_touches_it() {
        const AT: UnixNanos = UnixNanos(1_795_414_500_123_000_000);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("export");
        let written = || {
            fs::write(&path, "ours").unwrap();
            set_time(&path, AT);
        };
        let self_writes = SelfWriteFilter::default();
        assert!(!self_writes.take(&path), "nothing was left there");

        written();
        self_writes.note(&path, &AT.rfc3339());
        assert!(self_writes.take(&path));
        assert!(!self_writes.take(&path), "the next event leads to a read");

        self_writes.note(&path, &AT.rfc3339());
        fs::write(&path, "newer").unwrap();
        assert!(!self_writes.take(&path));

        // Not even the same size and the old time make another file ours.
        written();
        self_writes.note(&path, &AT.rfc3339());
        let before = fs::symlink_metadata(&path).unwrap();
        while fs::symlink_metadata(&path).unwrap().ctime_nsec() == before.ctime_nsec() {
            fs::write(&path, "them").unwrap();
            set_time(&path, AT);
        }
        assert!(!self_writes.take(&path));

        // Nor is a version that replaced it before the filter looked.
        fs::write(&path, "newer").unwrap();
        self_writes.note(&path, &AT.rfc3339());
        assert!(!self_writes.take(&path));
        fs::remove_file(&path).unwrap();
        self_writes.note(&path, &AT.rfc3339());
        assert!(!self_writes.take(&path));
    }
}
