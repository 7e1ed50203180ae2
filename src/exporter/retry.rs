//! Computes when to retry: after an exponential backoff with the Collector's options, or after the
//! pause in the server's answer if that is longer.
//!
//! No other file uses `backoff`, so the crate can be replaced. It is unmaintained
//! (RUSTSEC-2025-0012).

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use super::classify::MAX_SERVER_WAIT;
use super::config::RetryConfig;

/// The waits between failed attempts of one exporter.
#[derive(Debug)]
pub(crate) struct Retry {
    /// `None` if `retry_on_failure.enabled` is false.
    backoff: Option<ExponentialBackoff>,
    /// How long one request is retried. `None` means without limit.
    max_elapsed_time: Option<Duration>,
}

impl Retry {
    /// Creates the backoff of one exporter, at its initial interval.
    pub(crate) fn new(config: &RetryConfig) -> Retry {
        let cap = config.max_elapsed_time.0;
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(config.initial_interval.0)
            .with_multiplier(config.multiplier)
            .with_randomization_factor(config.randomization_factor)
            .with_max_interval(config.max_interval.0)
            .with_max_elapsed_time(None)
            .build();
        let max_elapsed_time = (!cap.is_zero()).then_some(cap);
        Retry { backoff: config.enabled.then_some(backoff), max_elapsed_time }
    }

    /// Resets the backoff to its initial interval, for an endpoint that has answered.
    pub(crate) fn reset(&mut self) {
        if let Some(backoff) = &mut self.backoff {
            backoff.reset();
        }
    }

    /// Returns the wait before the next attempt of a request that has failed for `failing_for`: the
    /// longer of the backoff and `asked`, the pause in the server's answer. `None` if the request
    /// must not be retried.
    pub(crate) fn next(
        &mut self,
        asked: Option<Duration>,
        failing_for: Duration,
    ) -> Option<Duration> {
        let wait = self.backoff.as_mut()?.next_backoff()?;
        self.within_limits(wait, asked, failing_for)
    }

    /// Like [`Retry::next`], for a request that fails while others succeed and that was deferred
    /// `deferrals` times. The wait depends on that number, so other requests do not reset it.
    pub(crate) fn for_item(
        &self,
        deferrals: u32,
        asked: Option<Duration>,
        failing_for: Duration,
    ) -> Option<Duration> {
        let ExponentialBackoff { initial_interval, multiplier, max_interval, .. } =
            self.backoff.as_ref()?;
        let factor = multiplier.powf(f64::from(deferrals));
        let wait = Duration::try_from_secs_f64(initial_interval.as_secs_f64() * factor);
        let wait = wait.unwrap_or(*max_interval).min(*max_interval);
        self.within_limits(wait, asked, failing_for)
    }

    /// Applies `max_elapsed_time` to a backoff, and lengthens it to the server's pause.
    fn within_limits(
        &self,
        wait: Duration,
        asked: Option<Duration>,
        failing_for: Duration,
    ) -> Option<Duration> {
        if self.max_elapsed_time.is_some_and(|most| failing_for + wait > most) {
            return None;
        }
        Some(wait.max(asked.unwrap_or_default().min(MAX_SERVER_WAIT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::HumanDuration;

    fn steady() -> RetryConfig {
        RetryConfig { randomization_factor: 0.0, ..RetryConfig::default() }
    }

    #[test]
    fn waits_grow_to_the_maximum_and_never_end() {
        let mut retry = Retry::new(&steady());
        let waits: Vec<f64> = (0..200)
            .filter_map(|_| retry.next(None, Duration::ZERO))
            .map(|wait| wait.as_secs_f64())
            .collect();
        assert_eq!(waits.len(), 200);
        assert!((waits[0] - 1.0).abs() < 0.01 && (waits[1] - 1.5).abs() < 0.01, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 30.01));
        assert!((waits[199] - 30.0).abs() < 0.01);
    }

    #[test]
    fn the_wait_of_the_server_is_used_if_it_is_longer() {
        let mut retry = Retry::new(&steady());
        assert_eq!(
            retry.next(Some(Duration::from_secs(5)), Duration::ZERO),
            Some(Duration::from_secs(5))
        );
        assert!(
            retry.next(Some(Duration::from_millis(1)), Duration::ZERO)
                > Some(Duration::from_secs(1))
        );
        assert_eq!(
            retry.next(Some(Duration::from_secs(9_999)), Duration::ZERO),
            Some(MAX_SERVER_WAIT)
        );
    }

    #[test]
    fn an_answer_makes_the_waits_short_again() {
        let mut retry = Retry::new(&steady());
        let first = retry.next(None, Duration::ZERO);
        for _ in 0..9 {
            retry.next(None, Duration::ZERO);
        }
        retry.reset();
        assert_eq!(retry.next(None, Duration::ZERO), first);
    }

    #[test]
    fn one_request_has_waits_of_its_own() {
        let mut retry = Retry::new(&steady());
        let own = |retry: &Retry, deferrals| retry.for_item(deferrals, None, Duration::ZERO);
        assert_eq!(own(&retry, 0), Some(Duration::from_secs(1)));
        assert_eq!(own(&retry, 2), Some(Duration::from_millis(2_250)));
        assert_eq!(own(&retry, u32::MAX), Some(Duration::from_secs(30)));
        retry.next(None, Duration::ZERO);
        assert_eq!(own(&retry, 0), Some(Duration::from_secs(1)));
        let asked = Some(Duration::from_secs(50));
        assert_eq!(retry.for_item(0, asked, Duration::ZERO), asked);
    }

    #[test]
    fn off_and_capped() {
        let mut off = Retry::new(&RetryConfig { enabled: false, ..steady() });
        assert_eq!(off.next(None, Duration::ZERO), None);
        let cap = HumanDuration(Duration::from_millis(10));
        let mut capped = Retry::new(&RetryConfig { max_elapsed_time: cap, ..steady() });
        let ended = capped.next(None, Duration::ZERO);
        assert_eq!(ended, None, "the first wait is past the cap already");
        let cap = HumanDuration::from_secs(60);
        let mut capped = Retry::new(&RetryConfig { max_elapsed_time: cap, ..steady() });
        assert!(capped.next(None, Duration::from_secs(50)).is_some());
        assert_eq!(capped.next(None, Duration::from_secs(59)), None);
    }
}
