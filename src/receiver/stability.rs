//! Whether a file has stopped changing.
//!
//! ```text
//! changed ──unchanged for settle──▶ read ──complete──▶ ingest
//!                ▲                    │ incomplete, or its manifest is missing
//!                └────────────────────┘ again, until it was unchanged for settle_timeout
//! ```
//!
//! `StabilityPolicy` decides from times alone. `StabilityProbe` looks at the file.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often an export whose siblings do not fit is looked at again.
const SECOND_LOOKS: u32 = 4;

/// The times to wait, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct StabilityPolicy {
    /// A file that has not changed for this long is read.
    pub settle: Duration,
    /// An incomplete file that has not changed for this long is given up.
    pub timeout: Duration,
}

/// Why a file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncompleteReason {
    /// The text ends in the middle: a writer is at work, or died.
    Unfinished,
    /// Complete, but it does not fit together: a sibling may still be on its way.
    Inconsistent,
}

impl StabilityPolicy {
    /// How long to wait before the file is read. `quiet` is the time since its last change, `waited` the time
    /// since it was found: a directory that keeps changing delays it for `timeout` at most.
    pub fn before_reading(&self, quiet: Duration, waited: Duration) -> Option<Duration> {
        if waited >= self.timeout {
            return None;
        }
        self.settle.checked_sub(quiet).filter(|left| !left.is_zero())
    }

    /// How long to wait before an incomplete file is read again. `None`: the next read is the last one. `looks` is
    /// the number of reads so far.
    pub fn before_next_look(
        &self,
        reason: IncompleteReason,
        looks: u32,
        quiet: Duration,
    ) -> Option<Duration> {
        let wait = self.settle.saturating_mul(1 << looks.saturating_sub(1).min(10));
        match reason {
            IncompleteReason::Unfinished if quiet < self.timeout => {
                Some(wait.min(self.timeout - quiet).max(Duration::from_millis(1)))
            }
            IncompleteReason::Inconsistent if looks <= SECOND_LOOKS && quiet < self.timeout => {
                Some(wait)
            }
            _ => None,
        }
    }
}

/// How long a file has been unchanged: by its times, and, since those may lie, by what was observed.
#[derive(Debug)]
pub struct StabilityProbe {
    path: PathBuf,
    since: Instant,
    changes: Vec<SystemTime>,
    version: Option<ContentVersion>,
    seen_change: Instant,
    quiet: Duration,
}

impl StabilityProbe {
    pub fn new(path: &Path) -> StabilityProbe {
        let now = Instant::now();
        StabilityProbe {
            path: path.to_owned(),
            since: now,
            changes: Vec::new(),
            version: None,
            seen_change: now,
            quiet: Duration::ZERO,
        }
    }

    /// Looks at the file. Returns how long to wait before it may be read; `None`: it is stable. Blocks on the disk.
    #[expect(clippy::disallowed_methods, reason = "callers run it through `fs::blocking`")]
    pub fn observe(&mut self, policy: &StabilityPolicy) -> Option<Duration> {
        let metadata = |path: &Path| fs::symlink_metadata(path).ok();
        let (file, directory) = (metadata(&self.path), self.path.parent().and_then(metadata));
        let found = [&file, &directory].into_iter().flatten();
        let changes: Vec<SystemTime> = found.filter_map(|it| it.modified().ok()).collect();
        if changes != self.changes {
            self.seen_change = Instant::now();
        }
        let by_times = quiet_since(&changes, SystemTime::now());
        self.quiet = by_times.max(self.seen_change.elapsed());
        self.version = file.as_ref().map(ContentVersion::from);
        self.changes = changes;
        policy.before_reading(self.quiet, self.since.elapsed())
    }

    /// How long the file had been unchanged at the last observation.
    pub fn quiet(&self) -> Duration {
        self.quiet
    }

    /// The version of the file's content at the last observation; `None` if there was no file.
    pub fn version(&self) -> Option<ContentVersion> {
        self.version
    }
}

/// What tells versions of a file's content apart well enough to report each once: a `chmod` is no new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentVersion {
    modified: Option<SystemTime>,
    size: u64,
}

impl From<&Metadata> for ContentVersion {
    fn from(metadata: &Metadata) -> ContentVersion {
        ContentVersion { modified: metadata.modified().ok(), size: metadata.len() }
    }
}

/// The time since the last of these changes. A change in the future counts as now.
pub fn quiet_since(changes: &[SystemTime], now: SystemTime) -> Duration {
    let last = changes.iter().max();
    last.map_or(Duration::MAX, |last| now.duration_since(*last).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: StabilityPolicy =
        StabilityPolicy { settle: Duration::from_millis(100), timeout: Duration::from_secs(10) };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn waits_for_quiet() {
        let cases = [
            // quiet, waited, left
            (ms(0), ms(0), Some(ms(100))),
            (ms(30), ms(0), Some(ms(70))),
            (ms(100), ms(0), None),
            (ms(0), ms(200), Some(ms(100))),
            (ms(0), ms(10_000), None),
        ];
        for (quiet, waited, left) in cases {
            assert_eq!(POLICY.before_reading(quiet, waited), left, "{quiet:?} {waited:?}");
        }
    }

    #[test]
    fn an_unfinished_export_has_until_the_timeout() {
        let next =
            |looks, quiet| POLICY.before_next_look(IncompleteReason::Unfinished, looks, quiet);
        assert_eq!(next(1, ms(100)), Some(ms(100)));
        assert_eq!(next(4, ms(100)), Some(ms(800)));
        assert_eq!(next(9, ms(9_900)), Some(ms(100)));
        assert_eq!(next(1, ms(10_000)), None);
    }

    #[test]
    fn an_inconsistent_export_has_a_few_more_looks() {
        let next =
            |looks, quiet| POLICY.before_next_look(IncompleteReason::Inconsistent, looks, quiet);
        assert_eq!(next(1, ms(100)), Some(ms(100)));
        assert_eq!(next(4, ms(100)), Some(ms(800)));
        assert_eq!(next(5, ms(100)), None);
        assert_eq!(next(1, ms(60_000)), None, "it has lain there for a minute");
    }

    #[test]
    fn the_last_change_counts() {
        let now = SystemTime::now();
        assert_eq!(quiet_since(&[now - ms(500), now - ms(20)], now), ms(20));
        assert_eq!(quiet_since(&[now + ms(500)], now), Duration::ZERO);
        assert_eq!(quiet_since(&[], now), Duration::MAX);
    }
}
