//! When an export is taken: pure decisions about times.
//!
//! ```text
//! changed ──most of settle──▶ read ──rest of it──▶ the same still? ──ok──▶ take
//!                              │ torn, or its manifest is not there yet
//!                              └──▶ read again, until it has been quiet for long enough ─▶ final
//! ```

use std::time::{Duration, SystemTime};

/// How often an export whose siblings do not fit is looked at again.
const SECOND_LOOKS: u32 = 4;

/// How long before its time an export is read at the earliest: as long as that takes, as a rule.
const AHEAD: Duration = Duration::from_millis(20);

/// The times to wait, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct StabilityPolicy {
    /// The quiet after which an export is read.
    pub settle: Duration,
    /// The quiet after which an unfinished export is given up.
    pub timeout: Duration,
}

/// What a look at an export came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The text ends in the middle: a writer is at work, or died.
    Unfinished,
    /// Complete, but it does not fit together: a sibling may still be on its way.
    Inconsistent,
}

impl StabilityPolicy {
    /// How long to wait before the first look. `quiet` is the time since the last change; a
    /// directory that is never quiet cannot put it off for ever.
    pub fn before_reading(&self, quiet: Duration, waited: Duration) -> Option<Duration> {
        self.until(self.settle, quiet, waited)
    }

    /// Like `before_reading`, but earlier, for a speculative read. The caller must check the stamps of the file
    /// and its directory again before using the result. An in-place manifest rewrite is caught by its checksum.
    pub fn speculative_read_delay(&self, quiet: Duration, waited: Duration) -> Option<Duration> {
        self.until(self.settle - (self.settle / 5).min(AHEAD), quiet, waited)
    }

    fn until(&self, settled: Duration, quiet: Duration, waited: Duration) -> Option<Duration> {
        if waited >= self.timeout {
            return None;
        }
        settled.checked_sub(quiet).filter(|left| !left.is_zero())
    }

    /// How long to wait before the next look; none when this one is final. `looks` counts those
    /// that were made.
    pub fn before_next_look(&self, look: Look, looks: u32, quiet: Duration) -> Option<Duration> {
        let wait = self.settle.saturating_mul(1 << looks.saturating_sub(1).min(10));
        match look {
            Look::Unfinished if quiet < self.timeout => {
                Some(wait.min(self.timeout - quiet).max(Duration::from_millis(1)))
            }
            Look::Inconsistent if looks <= SECOND_LOOKS && quiet < self.timeout => Some(wait),
            _ => None,
        }
    }
}

/// Time since the last of some changes. What lies in the future counts as just now.
pub fn quiet_since(changes: &[SystemTime], now: SystemTime) -> Duration {
    let last = changes.iter().max();
    last.map_or(Duration::MAX, |last| now.duration_since(*last).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLING: StabilityPolicy =
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
            assert_eq!(SETTLING.before_reading(quiet, waited), left, "{quiet:?} {waited:?}");
            let ahead = left.map(|left| left - ms(20)).filter(|left| !left.is_zero());
            assert_eq!(
                SETTLING.speculative_read_delay(quiet, waited),
                ahead,
                "{quiet:?} {waited:?}"
            );
        }
        assert_eq!(SETTLING.speculative_read_delay(ms(80), ms(0)), None);
    }

    #[test]
    fn an_unfinished_export_has_until_the_timeout() {
        let next = |looks, quiet| SETTLING.before_next_look(Look::Unfinished, looks, quiet);
        assert_eq!(next(1, ms(100)), Some(ms(100)));
        assert_eq!(next(4, ms(100)), Some(ms(800)));
        assert_eq!(next(9, ms(9_900)), Some(ms(100)));
        assert_eq!(next(1, ms(10_000)), None);
    }

    #[test]
    fn an_inconsistent_export_has_a_few_more_looks() {
        let next = |looks, quiet| SETTLING.before_next_look(Look::Inconsistent, looks, quiet);
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
