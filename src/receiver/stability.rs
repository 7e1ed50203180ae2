//! Decides whether a file has stopped changing.
//!
//! ```text
//! changed ──unchanged for settle──▶ read ──complete──▶ ingest
//!                ▲                    │ incomplete, or its manifest is missing
//!                └────────────────────┘ retry, until it was unchanged for settle_timeout
//! ```
//!
//! `StabilityPolicy` decides from times alone. `StabilityProbe` queries the file.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Maximum number of retries for an export whose siblings do not match it.
const SECOND_LOOKS: u32 = 4;

/// The times to wait, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StabilityPolicy {
    /// A file that is unchanged for this long is read.
    pub(crate) settle: Duration,
    /// An incomplete file that is unchanged for this long is given up.
    pub(crate) timeout: Duration,
}

/// Why a file must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncompleteReason {
    /// The text ends in the middle: a writer is writing it, or died.
    Unfinished,
    /// Complete, but its siblings do not match: they may still be being written.
    Inconsistent,
}

impl StabilityPolicy {
    /// Returns how long to wait before the file is read. `quiet` is the time since its last change,
    /// and `waited` the time since it was found. A file that keeps changing is delayed for
    /// `timeout` at most.
    pub(crate) fn before_reading(&self, quiet: Duration, waited: Duration) -> Option<Duration> {
        if waited >= self.timeout {
            return None;
        }
        self.settle.checked_sub(quiet).filter(|left| !left.is_zero())
    }

    /// Returns how long to wait before an incomplete file is read again. `None` means that the next
    /// read is the last one. `looks` is the number of reads so far.
    pub(crate) fn before_next_look(
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

/// Measures how long a file has been unchanged: from its times, and from what was observed, because
/// times can be wrong.
#[derive(Debug)]
pub(crate) struct StabilityProbe {
    path: PathBuf,
    since: Instant,
    changes: Vec<SystemTime>,
    version: Option<ContentVersion>,
    seen_change: Instant,
    quiet: Duration,
}

impl StabilityProbe {
    pub(crate) fn new(path: &Path) -> StabilityProbe {
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

    /// Queries the file. Returns how long to wait before it may be read, or `None` if it is stable.
    /// Blocks on disk I/O.
    #[expect(clippy::disallowed_methods, reason = "callers run it through `fs::blocking`")]
    pub(crate) fn observe(&mut self, policy: &StabilityPolicy) -> Option<Duration> {
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

    /// Returns how long the file had been unchanged at the last observation.
    pub(crate) fn quiet(&self) -> Duration {
        self.quiet
    }

    /// Returns the version of the file's content at the last observation. `None` if there was no
    /// file.
    pub(crate) fn version(&self) -> Option<ContentVersion> {
        self.version
    }
}

/// Distinguishes versions of a file's content, so that each is reported once. A `chmod` makes no
/// new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentVersion {
    modified: Option<SystemTime>,
    size: u64,
}

impl From<&Metadata> for ContentVersion {
    fn from(metadata: &Metadata) -> ContentVersion {
        ContentVersion { modified: metadata.modified().ok(), size: metadata.len() }
    }
}

/// Returns the time since the last of these changes. A change in the future counts as now.
pub(crate) fn quiet_since(changes: &[SystemTime], now: SystemTime) -> Duration {
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
    fn a_changing_file_is_not_stable() {
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
    fn an_inconsistent_export_is_read_a_few_more_times() {
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
