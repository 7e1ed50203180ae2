//! Decides what an exporter does after a failed request: wait, or try another export. Pure: the
//! caller passes the time.
//!
//! ```text
//! fails ─▶ others were accepted since it failed last? ─yes─▶ the export's own fault: only this export waits
//!             │ no: the endpoint may fail for all
//!             ├─▶ no connection, no others, or its turn is not over ─▶ wait, then the same export
//!             └─▶ one other export at once, then one per wait
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::exporter::retry::Retry;
use crate::queue::record::Failures;

/// Attempts for an export that may have arrived, before another export is tried. Each further
/// export of this kind gets twice as many: the times of an export are fixed once it may have
/// arrived, so an outage should leave few of them.
const TURN_IN_DOUBT: u32 = 3;

/// Limit for the doubling of these attempts.
const MAX_DOUBLINGS: u32 = 2;

/// The state of one exporter between requests.
#[derive(Debug)]
pub(crate) struct RetryState {
    retry: Retry,
    /// Time of the last accepted request.
    last_accepted: Option<Instant>,
    /// Number of exports that were deferred since then.
    failing_exports: u32,
    /// Whether an export failed for its own fault since then. A second such failure points to the
    /// endpoint.
    has_own_fault: bool,
}

/// A failed request that may be retried.
#[derive(Debug)]
pub(crate) struct Failure<'a> {
    /// The earlier failures of the request.
    pub(crate) before: &'a Failures,
    /// Number of consecutive failures since the export was leased.
    pub(crate) in_a_row: u32,
    /// Whether the endpoint answered. If not even a connection succeeds, all exports fail alike.
    pub(crate) is_answered: bool,
    /// Whether the request may have arrived.
    pub(crate) in_doubt: bool,
    /// The pause that the server asked for.
    pub(crate) after: Option<Duration>,
    /// Whether other exports wait for the exporter.
    pub(crate) has_others: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The configuration allows no further attempt.
    GiveUp,
    /// Retry the same export after this time.
    Wait(Duration),
    /// Try another export.
    Defer {
        /// Pause before this export is retried.
        export: Duration,
        /// Pause before any export is tried.
        lane: Duration,
    },
}

impl RetryState {
    pub(crate) fn new(retry: Retry) -> RetryState {
        RetryState { retry, last_accepted: None, failing_exports: 0, has_own_fault: false }
    }

    /// Records that a request was accepted, so the endpoint works.
    pub(crate) fn accepted(&mut self, now: Instant) {
        self.retry.reset();
        self.last_accepted = Some(now);
        self.failing_exports = 0;
        self.has_own_fault = false;
    }

    /// Whether the failure is this export's own fault: the endpoint accepted other exports since
    /// this one failed last, and no other export has failed since.
    pub(crate) fn is_own_fault(&self, failure: &Failure<'_>) -> bool {
        let before = failure.before.last;
        failure.is_answered
            && !self.has_own_fault
            && before.is_some_and(|failed| self.last_accepted > Some(failed))
    }

    pub(crate) fn failed(&mut self, failure: &Failure<'_>, now: Instant) -> Next {
        let &Failure { before, in_a_row, is_answered, in_doubt, after, has_others } = failure;
        let failing_for = before.since.map(|since| now - since).unwrap_or_default();
        if self.is_own_fault(failure) {
            self.has_own_fault = true;
            return match self.retry.for_item(before.deferrals, after, failing_for) {
                Some(export) => Next::Defer { export, lane: Duration::ZERO },
                None => Next::GiveUp,
            };
        }
        let Some(wait) = self.retry.next(after, failing_for) else {
            self.retry.reset();
            return Next::GiveUp;
        };
        let turn = match in_doubt {
            true => TURN_IN_DOUBT << self.failing_exports.min(MAX_DOUBLINGS),
            false => 1,
        };
        if !is_answered || !has_others || in_a_row < turn {
            return Next::Wait(wait);
        }
        let is_first = self.failing_exports == 0 && after.is_none();
        self.failing_exports = self.failing_exports.saturating_add(1);
        Next::Defer { export: wait, lane: if is_first { Duration::ZERO } else { wait } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exporter::config::RetryConfig;

    const S: Duration = Duration::from_secs(1);

    fn lane() -> RetryState {
        let steady = RetryConfig { randomization_factor: 0.0, ..RetryConfig::default() };
        RetryState::new(Retry::new(&steady))
    }

    fn failure(before: &Failures) -> Failure<'_> {
        Failure {
            before,
            in_a_row: 1,
            is_answered: true,
            in_doubt: false,
            after: None,
            has_others: true,
        }
    }

    #[test]
    fn an_outage_tries_one_other_at_once_and_then_one_per_wait() {
        let (mut lane, fresh, now) = (lane(), Failures::default(), Instant::now());
        let first = lane.failed(&failure(&fresh), now);
        assert_eq!(first, Next::Defer { export: S, lane: Duration::ZERO });
        let second = lane.failed(&failure(&fresh), now);
        assert_eq!(second, Next::Defer { export: S.mul_f64(1.5), lane: S.mul_f64(1.5) });
        lane.accepted(now);
        assert_eq!(lane.failed(&failure(&fresh), now), first);
    }

    #[test]
    fn an_export_waits_alone_when_others_were_accepted_since() {
        let (mut lane, now) = (lane(), Instant::now());
        let failed = Failures { last: Some(now), deferrals: 2, ..Failures::default() };
        assert!(!lane.is_own_fault(&failure(&failed)));
        lane.accepted(now + S);
        assert!(lane.is_own_fault(&failure(&failed)));
        let alone = Failure { has_others: false, ..failure(&failed) };
        for failure in [failure(&failed), alone] {
            let next = lane.failed(&failure, now + 2 * S);
            assert_eq!(next, Next::Defer { export: S.mul_f64(2.25), lane: Duration::ZERO });
            lane.accepted(now + S);
        }
        // A later failure is not its own fault until other exports are accepted again.
        let again = Failures { last: Some(now + 2 * S), ..failed };
        assert!(!lane.is_own_fault(&failure(&again)));
    }

    /// After an outage every export has failed once, and then the endpoint fails again.
    #[test]
    fn a_second_fault_in_a_row_is_the_endpoints() {
        let (mut lane, now) = (lane(), Instant::now());
        let failed = Failures { last: Some(now), ..Failures::default() };
        lane.accepted(now + S);
        let asked = Failure { after: Some(30 * S), ..failure(&failed) };
        assert_eq!(
            lane.failed(&asked, now + S),
            Next::Defer { export: 30 * S, lane: Duration::ZERO }
        );
        assert!(!lane.is_own_fault(&asked));
        assert_eq!(lane.failed(&asked, now + S), Next::Defer { export: 30 * S, lane: 30 * S });
    }

    #[test]
    fn a_request_in_doubt_has_longer_turns() {
        let (mut lane, fresh, now) = (lane(), Failures::default(), Instant::now());
        for turn in [3, 6, 12, 12] {
            for in_a_row in 1..turn {
                let failure = Failure { in_a_row, in_doubt: true, ..failure(&fresh) };
                assert!(
                    matches!(lane.failed(&failure, now), Next::Wait(_)),
                    "{in_a_row} of {turn}"
                );
            }
            let failure = Failure { in_a_row: turn, in_doubt: true, ..failure(&fresh) };
            assert!(matches!(lane.failed(&failure, now), Next::Defer { .. }), "{turn}");
        }
    }

    #[test]
    fn without_a_connection_or_others_the_same_export_is_tried() {
        let (mut lane, fresh, now) = (lane(), Failures::default(), Instant::now());
        let away = Failure { is_answered: false, ..failure(&fresh) };
        let alone = Failure { has_others: false, ..failure(&fresh) };
        for failure in [away, alone] {
            assert!(matches!(lane.failed(&failure, now), Next::Wait(_)), "{failure:?}");
        }
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_kept_before_any_other_export() {
        let (mut lane, fresh, now) = (lane(), Failures::default(), Instant::now());
        let asked = Failure { after: Some(20 * S), ..failure(&fresh) };
        assert_eq!(lane.failed(&asked, now), Next::Defer { export: 20 * S, lane: 20 * S });
    }

    #[test]
    fn retries_end_as_configured() {
        let off = RetryConfig { enabled: false, ..RetryConfig::default() };
        let mut lane = RetryState::new(Retry::new(&off));
        let (fresh, now) = (Failures::default(), Instant::now());
        assert_eq!(lane.failed(&failure(&fresh), now), Next::GiveUp);
        lane.accepted(now + S);
        let failed = Failures { last: Some(now), ..fresh };
        assert_eq!(lane.failed(&failure(&failed), now + S), Next::GiveUp);
    }
}
