//! Sends the requests of one leased entry, in order, and decides after each response.
//!
//! ```text
//! next request ─▶ mark in flight ─▶ send ─┬─ accepted ─▶ acknowledge ─▶ next request … ─▶ Sent
//!      ▲                                  ├─ retry ─▶ wait, or defer the entry
//!      └────── two halves ◀── too large ──┴─ refused ─▶ Rejected
//! ```

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::RunContext;
use super::event::{Event, Observer, SendOutcome};
use super::lane::{Failure, Next, RetryState};
use super::reachability::Reachability;
use super::shutdown::{Shutdown, Stopped};
use crate::base::clock::UnixNanos;
use crate::base::signal::Signal;
use crate::converter::{rewrite, split};
use crate::exporter::classify::{self, Delivery as Certainty};
use crate::exporter::retry::Retry;
use crate::exporter::{Answer, Exporter, Reply};
use crate::queue::{EntryGone, Lease, Rejection, RejectionKind};

/// If no request of an entry was sent yet, spans older than this get the current time. Backends
/// search recent times by default.
const STALE: Duration = Duration::from_secs(60);

/// Why a delivery attempt ended without a delivery.
pub(crate) enum Interruption {
    Rejected(Rejection),
    /// The program is stopping, or an operator command needs the entry. Not a failure.
    Interrupted,
    /// The entry fails, and other entries wait.
    Deferred(Deferral),
    EntryGone,
}

/// When a deferred entry may be retried.
pub(crate) struct Deferral {
    /// Earliest time for this entry.
    pub(crate) entry_not_before: Instant,
    /// Earliest time for any entry.
    pub(crate) lane_not_before: Instant,
    /// Whether the log reports that this entry fails while others are delivered.
    pub(crate) is_reported: bool,
}

impl From<EntryGone> for Interruption {
    fn from(_: EntryGone) -> Interruption {
        Interruption::EntryGone
    }
}

impl From<Stopped> for Interruption {
    fn from(_: Stopped) -> Interruption {
        Interruption::Interrupted
    }
}

pub(crate) struct Sender {
    pub(crate) exporter: Exporter,
    observer: Observer,
    shutdown: Shutdown,
    reach: Reachability,
    lane: RetryState,
    /// Whether traces are verified after their last request.
    verifies: bool,
}

impl Sender {
    pub(crate) fn new(exporter: Exporter, common: &RunContext, verifies: bool) -> Sender {
        let RunContext { queue, observer, shutdown, .. } = common.clone();
        let destination = exporter.destination();
        let reach = Reachability::new(&exporter.id, destination, queue, observer.clone());
        let lane = RetryState::new(Retry::new(&exporter.retry));
        Sender { exporter, observer, shutdown, reach, lane, verifies }
    }

    /// Sends every pending request. The last acknowledgement may be recorded later, together with
    /// the delivery.
    pub(crate) async fn send(&mut self, lease: &mut Lease) -> Result<(), Interruption> {
        self.send_all(lease).await?;
        match &lease.item().rejected_spans {
            // The trace is incomplete, so no id may point to it, unless verification finds every
            // span.
            Some(reason) if !self.verifies => Err(Interruption::Rejected(refused(reason.clone()))),
            _ => Ok(()),
        }
    }

    async fn send_all(&mut self, lease: &mut Lease) -> Result<(), Interruption> {
        let mut failures = 0;
        loop {
            if lease.is_revoked() {
                return Err(Interruption::Interrupted);
            }
            bring_up_to_date(lease).await?;
            let Some(request) = lease.next_request().await? else {
                return Ok(());
            };
            lease.mark_in_flight().await?;
            let answer = self.exporter.send(request.clone()).await;
            self.record_response(&answer, &request);
            match answer.reply {
                // Recording the acknowledgement together with the delivery saves one fsync.
                Reply::Accepted if self.is_delivered_with(lease) => {
                    (self.observer)(&Event::Acknowledged { trace_id: lease.head().trace_id });
                    self.accepted();
                    return Ok(());
                }
                Reply::Accepted => self.acknowledge(lease, None).await?,
                Reply::Partial { rejected, message } => {
                    let reason = (rejected > 0).then(|| {
                        format!(
                            "the server rejected {rejected} {}: {message}",
                            self.exporter.signal.records()
                        )
                    });
                    self.acknowledge(lease, reason).await?;
                    self.report_message(lease, rejected, message);
                }
                Reply::Retry { reason, after, delivery } => {
                    failures += 1;
                    let failure = Failure {
                        before: &lease.item().failures.clone(),
                        in_a_row: failures,
                        // A connection that broke during a request may have broken because of it.
                        is_answered: answer.code != classify::NOT_CONNECTED
                            || delivery == Certainty::InDoubt,
                        in_doubt: delivery == Certainty::InDoubt,
                        after,
                        has_others: lease.has_others(),
                    };
                    self.failed(lease, &reason, &failure).await?;
                    continue;
                }
                Reply::TooLarge { reason } => match split::halve(self.exporter.signal, &request) {
                    Some((first, second)) => {
                        let exporter = &self.exporter.id;
                        tracing::debug!(
                            exporter,
                            reason,
                            "the request is too large: sending halves"
                        );
                        lease.split_next(first, second).await?;
                    }
                    // The other requests may fit. The entry as a whole is refused at the end.
                    None => self.acknowledge(lease, Some(reason)).await?,
                },
                // The server may have stored a part, so this request is not sent again. The others
                // are.
                Reply::Refused { reason } if self.exporter.signal == Signal::Logs => {
                    self.acknowledge(lease, Some(reason)).await?;
                }
                Reply::Refused { reason } => return Err(Interruption::Rejected(refused(reason))),
            }
            self.accepted();
            failures = 0;
        }
    }

    /// Records that a request was accepted.
    fn accepted(&mut self) {
        self.reach.report_up();
        self.lane.accepted(Instant::now());
    }

    /// Whether acknowledging the request in flight completes the delivery.
    fn is_delivered_with(&self, lease: &Lease) -> bool {
        let item = lease.item();
        item.pending.len() == 1 && item.rejected_spans.is_none() && !self.verifies
    }

    fn record_response(&self, answer: &Answer, request: &[u8]) {
        (self.observer)(&Event::Answered {
            exporter: self.exporter.id.clone(),
            signal: self.exporter.signal,
            code: answer.code.clone(),
            outcome: match &answer.reply {
                Reply::Accepted => SendOutcome::Accepted,
                Reply::Partial { rejected, .. } => {
                    SendOutcome::Partial(u64::try_from(*rejected).unwrap_or_default())
                }
                Reply::Retry { .. } | Reply::TooLarge { .. } => SendOutcome::Failed,
                Reply::Refused { .. } => SendOutcome::Rejected,
            },
            records: split::count(request),
        });
    }

    /// Records a failed attempt, and waits or defers the entry.
    async fn failed(
        &mut self,
        lease: &mut Lease,
        reason: &str,
        failure: &Failure<'_>,
    ) -> Result<(), Interruption> {
        let is_own_fault = self.lane.is_own_fault(failure);
        match is_own_fault {
            true if failure.before.is_reported => {}
            true => (self.observer)(&Event::Deferred {
                path: lease.head().source.path.clone(),
                exporter: self.exporter.id.clone(),
                reason: reason.to_owned(),
            }),
            false => self.reach.report_down(reason),
        }
        let now = Instant::now();
        let next = self.lane.failed(failure, now);
        let wait = match next {
            Next::Wait(wait) | Next::Defer { export: wait, .. } => wait,
            Next::GiveUp => {
                let reason = format!("no more tries: {reason}");
                let kind = RejectionKind::GivenUp;
                return Err(Interruption::Rejected(Rejection { reason, kind }));
            }
        };
        tracing::debug!(exporter = self.exporter.id, ?next, reason, "trying again");
        let next_attempt = UnixNanos(UnixNanos::now().0.saturating_add(nanos(wait)));
        lease.fail(reason, failure.in_doubt, next_attempt).await?;
        match next {
            Next::Defer { export, lane } => Err(Interruption::Deferred(Deferral {
                entry_not_before: now + export,
                lane_not_before: now + lane,
                is_reported: is_own_fault,
            })),
            Next::Wait(_) | Next::GiveUp => self.wait(lease, wait).await,
        }
    }

    async fn wait(&self, lease: &Lease, wait: Duration) -> Result<(), Interruption> {
        tokio::select! {
            waited = self.shutdown.sleep(wait) => Ok(waited?),
            // The next lease returns the entry, unless it is dropped.
            () = lease.revocation() => Err(Interruption::Interrupted),
            // Finished verifications must not wait for this entry.
            () = self.shutdown.deadline.cancelled() => Err(Interruption::Interrupted),
        }
    }

    async fn acknowledge(
        &self,
        lease: &mut Lease,
        rejected: Option<String>,
    ) -> Result<(), EntryGone> {
        lease.acknowledge(rejected).await?;
        (self.observer)(&Event::Acknowledged { trace_id: lease.head().trace_id });
        Ok(())
    }

    fn report_message(&self, lease: &Lease, rejected: i64, message: String) {
        let path = lease.head().source.path.clone();
        let exporter = self.exporter.id.clone();
        (self.observer)(&Event::Remark { path, exporter, rejected, message });
    }
}

/// Shifts the times of an entry that waited long, unless one of its requests may have arrived.
async fn bring_up_to_date(lease: &mut Lease) -> Result<(), EntryGone> {
    let (item, now) = (lease.item(), UnixNanos::now());
    let (made_at, signal) = (item.made_at, item.signal);
    let age = now.since(made_at);
    if item.may_have_arrived || item.pending.is_empty() || age < STALE {
        return Ok(());
    }
    let requests = lease.pending_requests().await?;
    // Consume one request at a time, so that only one is in memory twice.
    let shift_times = |request: Bytes| rewrite::shift_times(signal, &request, made_at, now);
    let moved: Option<Vec<Bytes>> = requests.into_iter().map(shift_times).collect();
    match moved {
        Some(moved) => lease.replace_pending(moved, now).await,
        // A request that cannot be decoded here is left to the server to refuse.
        None => Ok(()),
    }
}

fn refused(reason: String) -> Rejection {
    Rejection { reason, kind: RejectionKind::Refused }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
