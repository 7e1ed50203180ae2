//! Delivers the queued exports of one exporter, in order.
//!
//! ```text
//! lease ─▶ send ─accepted─▶ next request … ─▶ prove ─▶ delivered
//!           ▲ │ retry: wait │ too large: halve   │ refused, incomplete: rejected
//!           └─┘                                  └─▶ lost spans: once more
//! ```
//!
//! While the backend is asked for one export, the next is sent already.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::event::{Event, Observer, SendOutcome};
use super::lane::{Failure, Lane, Next};
use super::locks::{LockRegistry, Ownership};
use super::reachability::Reachability;
use super::shutdown::{Shutdown, Stopped};
use super::verify::{Verifier, VerifyOutcome};
use super::{RunContext, StageDied};
use crate::base::clock::UnixNanos;
use crate::base::signal::Signal;
use crate::converter::{rewrite, split};
use crate::exporter::classify::{self, Delivery as Arrival};
use crate::exporter::retry::Retry;
use crate::exporter::{Answer, Exporter, Reply};
use crate::queue::{EntryGone, Health, Lease, Queue, Rejection, RejectionKind};

/// What was made longer ago than this is sent as of now, if it was never on its way before: a
/// backend finds nothing by times that are minutes old.
const STALE: Duration = Duration::from_secs(60);

/// How long to wait before the queue is asked again after it lost an export.
const AFTER_LOSS: Duration = Duration::from_secs(1);

/// How long to wait before an export that another process works on is looked at again.
const WHILE_BUSY: Duration = Duration::from_millis(100);

/// Exports that are looked for in the backend at the same time.
const MAX_VERIFYING: usize = 64;

pub struct Deliverer {
    exporter: Exporter,
    queue: Queue,
    observer: Observer,
    shutdown: Shutdown,
    locks: LockRegistry,
    reach: Reachability,
    lane: Lane,
    /// When the next request may be sent, after an export was deferred.
    not_before: Option<Instant>,
    /// Set if `verify` is configured.
    verifier: Option<Arc<Verifier>>,
    verifying: JoinSet<(Lease, Result<VerifyOutcome, Interruption>)>,
    /// Leases on exports that another process has locked; each is retried after `WHILE_BUSY`.
    busy: JoinSet<Lease>,
    /// Outcomes being persisted. The store applies writes in submission order, so an outcome is durable
    /// before the next export is marked in flight; both usually share one fsync.
    recording: JoinSet<Result<(), EntryGone>>,
}

/// Why a delivery attempt ended without a delivery.
pub enum Interruption {
    Rejected(Rejection),
    /// The program is stopping, or an operator wants the export; not a failure.
    Interrupted,
    /// It fails, and others wait.
    Deferred(Deferral),
    /// The queue does not have the export any more.
    EntryGone,
}

/// How an export that fails makes way for others.
pub struct Deferral {
    /// When the export may be tried again.
    export_not_before: Instant,
    /// When any export may be tried.
    lane_not_before: Instant,
    /// The log says that it fails while others are delivered.
    is_reported: bool,
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

impl Deliverer {
    pub(super) fn new(mut exporter: Exporter, common: &RunContext) -> Deliverer {
        let RunContext { queue, locks, observer, shutdown, .. } = common.clone();
        let reach = |to| Reachability::new(&exporter.id, to, queue.clone(), observer.clone());
        let verifier = exporter.trace_reader.take().map(|trace_reader| {
            let reach = reach(trace_reader.destination());
            Arc::new(Verifier { trace_reader, reach, shutdown: shutdown.clone() })
        });
        let reach = reach(exporter.destination());
        let lane = Lane::new(Retry::new(&exporter.retry));
        let (verifying, busy, recording) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        Deliverer {
            exporter,
            queue,
            observer,
            shutdown,
            locks,
            reach,
            lane,
            not_before: None,
            verifier,
            verifying,
            busy,
            recording,
        }
    }

    pub async fn run(mut self) -> Result<(), StageDied> {
        let (queue, id) = (self.queue.clone(), self.exporter.id.clone());
        let Shutdown { stop, abort, deadline, .. } = self.shutdown.clone();
        loop {
            // A store that fails is tried again by each for itself, and so not in order.
            let is_failing = matches!(*queue.health().borrow(), Health::Failing(_));
            let can_preserve_order = !is_failing || self.recording.is_empty();
            let not_before = self.not_before.filter(|at| *at > Instant::now());
            let may_lease = self.verifying.len() < MAX_VERIFYING
                && can_preserve_order
                && not_before.is_none()
                && !deadline.is_cancelled();
            let (mut lease, outcome) = tokio::select! {
                biased;
                Some(recorded) = self.recording.join_next() => {
                    if recorded?.is_err() {
                        // The store began anew, or is about to: there is no hurry to ask it again.
                        tracing::warn!(exporter = id, "the export left the queue while it was sent");
                        if self.shutdown.sleep(AFTER_LOSS).await.is_err() {
                            break;
                        }
                    }
                    continue;
                }
                // What is being looked for stays in the queue, acknowledged.
                () = stop.cancelled() => break,
                () = deadline.cancelled(), if self.verifying.is_empty() => break,
                Some(proved) = self.verifying.join_next() => proved?,
                () = tokio::time::sleep_until(not_before.unwrap_or_else(Instant::now)),
                    if not_before.is_some() => continue,
                Some(lease) = self.busy.join_next() => (lease?, Ok(VerifyOutcome::Missing(Vec::new()))),
                lease = queue.lease(&id), if may_lease => match lease {
                    Some(lease) => (lease, Ok(VerifyOutcome::Missing(Vec::new()))),
                    None => break,
                },
            };
            match self.turn(&lease).await {
                Ownership::Acquired => {}
                Ownership::AlreadyEmitted => {
                    tracing::debug!(trace_id = %lease.head().trace_id, "another process sent it");
                    tokio::select! {
                        biased;
                        // A store that is gone has nothing to note.
                        _ = lease.delivered(UnixNanos::now()) => continue,
                        () = abort.cancelled() => return Ok(()),
                    }
                }
                // Defer instead of waiting: two processes that wait for each other's locks would deadlock.
                Ownership::HeldElsewhere => {
                    self.busy.spawn(async move {
                        tokio::time::sleep(WHILE_BUSY).await;
                        lease
                    });
                    continue;
                }
            }
            // What verification found to be missing is sent again after the deadline, too.
            let is_fresh =
                matches!(&outcome, Ok(VerifyOutcome::Missing(requests)) if requests.is_empty());
            let worked = tokio::select! {
                biased;
                worked = self.work(&mut lease, outcome) => worked,
                () = abort.cancelled() => Err(Interruption::Interrupted),
                () = deadline.cancelled(), if is_fresh => {
                    Err(Interruption::Interrupted)
                }
            };
            // Shutdown does not wait for a failing store. The export stays marked in flight on disk, so the
            // next run treats its delivery as uncertain.
            let recording = match (worked, &self.verifier) {
                (Ok(Progress::Arrived), _) | (Ok(Progress::Sent), None) => {
                    PendingAck::Delivered(lease)
                }
                (Ok(Progress::Sent), Some(verifier)) => {
                    let verifier = Arc::clone(verifier);
                    self.verifying.spawn(async move {
                        let outcome = verifier.verify(&mut lease).await;
                        (lease, outcome)
                    });
                    PendingAck::Nothing
                }
                (Err(Interruption::Rejected(rejection)), _) => {
                    self.report_optional_rejection(&lease, &rejection);
                    PendingAck::Rejected(lease, rejection)
                }
                (Err(Interruption::Interrupted), _) => PendingAck::Nothing,
                (Err(Interruption::Deferred(deferral)), _) => {
                    self.not_before = self.not_before.max(Some(deferral.lane_not_before));
                    lease.defer(deferral.export_not_before, deferral.is_reported);
                    PendingAck::Nothing
                }
                (Err(Interruption::EntryGone), _) => {
                    self.locks.release(lease.head().trace_id);
                    PendingAck::EntryGone
                }
            };
            // The first poll submits the write, which fixes its position before any later write.
            let mut recording = Box::pin(tokio::task::unconstrained(recording.run()));
            tokio::select! {
                biased;
                recorded = &mut recording => drop(self.recording.spawn(async move { recorded })),
                () = std::future::ready(()) => drop(self.recording.spawn(recording)),
            }
        }
        // Acknowledgements are recorded, unless the store fails.
        loop {
            tokio::select! {
                biased;
                recorded = self.recording.join_next() => match recorded {
                    Some(recorded) => drop(recorded?),
                    None => return Ok(()),
                },
                () = abort.cancelled() => return Ok(()),
            }
        }
    }

    /// Whether it is for this process to send the export.
    async fn turn(&self, lease: &Lease) -> Ownership {
        match self.locks.turn(lease.head()).await {
            Ownership::AlreadyEmitted if !lease.ends_with_the_id() => Ownership::Acquired,
            turn => turn,
        }
    }

    /// Reports a rejection by an optional exporter. The finalizer reports that of a required exporter.
    fn report_optional_rejection(&self, lease: &Lease, rejection: &Rejection) {
        if !lease.item().required {
            (self.observer)(&Event::Rejected {
                path: lease.head().source.path.clone(),
                exporter: self.exporter.id.clone(),
                reason: rejection.reason.clone(),
                permanent: rejection.kind != RejectionKind::GivenUp,
                required: self.exporter.required,
            });
        }
    }

    /// Sends what is left to send, which is nothing when all was found to have arrived.
    async fn work(
        &mut self,
        lease: &mut Lease,
        outcome: Result<VerifyOutcome, Interruption>,
    ) -> Result<Progress, Interruption> {
        match outcome? {
            VerifyOutcome::Arrived => return Ok(Progress::Arrived),
            VerifyOutcome::Missing(requests) if !requests.is_empty() => {
                lease.resend(requests).await?
            }
            VerifyOutcome::Missing(_) => {}
        }
        self.send_all(lease).await?;
        match &lease.item().lost_spans {
            // Spans that the server did not keep make the trace one that an id must not vouch for,
            // unless what is read back says otherwise.
            Some(reason) if self.verifier.is_none() => {
                Err(Interruption::Rejected(refused(reason.clone())))
            }
            _ => Ok(Progress::Sent),
        }
    }

    async fn send_all(&mut self, lease: &mut Lease) -> Result<(), Interruption> {
        let mut failures = 0;
        loop {
            bring_up_to_date(lease).await?;
            let Some(request) = lease.next_request().await? else {
                return Ok(());
            };
            lease.begin().await?;
            let answer = self.exporter.send(request.clone()).await;
            self.record_response(&answer, &request);
            match answer.reply {
                // The acknowledgement is recorded together with the delivery, which saves one fsync.
                Reply::Accepted if self.is_delivered_with(lease) => {
                    (self.observer)(&Event::Acknowledged { trace_id: lease.head().trace_id });
                    self.accepted();
                    return Ok(());
                }
                Reply::Accepted => self.acknowledged(lease, None).await?,
                Reply::Partial { rejected, message } => {
                    let lost = (rejected > 0).then(|| {
                        format!(
                            "the server rejected {rejected} {}: {message}",
                            self.exporter.signal.records()
                        )
                    });
                    self.acknowledged(lease, lost).await?;
                    self.remark(lease, rejected, message);
                }
                Reply::Retry { reason, after, delivery } => {
                    failures += 1;
                    let failure = Failure {
                        before: &lease.item().failures.clone(),
                        in_a_row: failures,
                        // A connection that broke under a request may have broken because of it.
                        is_answered: answer.code != classify::NOT_CONNECTED
                            || delivery == Arrival::InDoubt,
                        in_doubt: delivery == Arrival::InDoubt,
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
                    // The others may fit; the export as a whole is refused at the end.
                    None => self.acknowledged(lease, Some(reason)).await?,
                },
                // A part of it may be stored, so it is not sent again; the others have to go.
                Reply::Refused { reason } if self.exporter.signal == Signal::Logs => {
                    self.acknowledged(lease, Some(reason)).await?;
                }
                Reply::Refused { reason } => return Err(Interruption::Rejected(refused(reason))),
            }
            self.accepted();
            failures = 0;
        }
    }

    /// A request was accepted: the endpoint works.
    fn accepted(&mut self) {
        self.reach.report_up();
        self.lane.accepted(Instant::now());
    }

    /// Whether nothing is left to do after the request that is on its way.
    fn is_delivered_with(&self, lease: &Lease) -> bool {
        let item = lease.item();
        item.pending.len() == 1 && item.lost_spans.is_none() && self.verifier.is_none()
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

    /// Records a failed attempt, and waits or makes way for another export.
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
        lease.failed(reason, failure.in_doubt, next_attempt).await?;
        match next {
            Next::Defer { export, lane } => Err(Interruption::Deferred(Deferral {
                export_not_before: now + export,
                lane_not_before: now + lane,
                is_reported: is_own_fault,
            })),
            Next::Wait(_) | Next::GiveUp => self.wait(lease, wait).await,
        }
    }

    async fn wait(&self, lease: &Lease, wait: Duration) -> Result<(), Interruption> {
        tokio::select! {
            waited = self.shutdown.sleep(wait) => Ok(waited?),
            // It comes back with the next lease, unless it was dropped.
            () = lease.wanted() => Err(Interruption::Interrupted),
            // Verifications that are done need not wait for this export.
            () = self.shutdown.deadline.cancelled() => Err(Interruption::Interrupted),
        }
    }

    async fn acknowledged(&self, lease: &mut Lease, lost: Option<String>) -> Result<(), EntryGone> {
        lease.acknowledged(lost).await?;
        (self.observer)(&Event::Acknowledged { trace_id: lease.head().trace_id });
        Ok(())
    }

    fn remark(&self, lease: &Lease, rejected: i64, message: String) {
        let path = lease.head().source.path.clone();
        let exporter = self.exporter.id.clone();
        (self.observer)(&Event::Remark { path, exporter, rejected, message });
    }
}

/// The outcome of one delivery attempt, to be persisted.
enum PendingAck {
    Delivered(Lease),
    Rejected(Lease, Rejection),
    EntryGone,
    Nothing,
}

impl PendingAck {
    async fn run(self) -> Result<(), EntryGone> {
        match self {
            PendingAck::Delivered(lease) => lease.delivered(UnixNanos::now()).await,
            PendingAck::Rejected(lease, rejection) => lease.rejected(rejection).await,
            PendingAck::EntryGone => Err(EntryGone),
            PendingAck::Nothing => Ok(()),
        }
    }
}

/// How far an export is with this exporter.
enum Progress {
    /// Every request was acknowledged.
    Sent,
    /// And every span was read back.
    Arrived,
}

/// Moves the times of an export that waited long, unless some of it may have arrived.
async fn bring_up_to_date(lease: &mut Lease) -> Result<(), EntryGone> {
    let (item, now) = (lease.item(), UnixNanos::now());
    let (made_at, signal) = (item.made_at, item.signal);
    let age = now.since(made_at);
    if item.touched || item.pending.is_empty() || age < STALE {
        return Ok(());
    }
    let requests = lease.pending_requests().await?;
    // Each goes as the one that it becomes comes.
    let shift_times = |request: Bytes| rewrite::shift_times(signal, &request, made_at, now);
    let moved: Option<Vec<Bytes>> = requests.into_iter().map(shift_times).collect();
    match moved {
        Some(moved) => lease.replace_pending(moved, now).await,
        // What cannot be read here is for the server to refuse.
        None => Ok(()),
    }
}

fn refused(reason: String) -> Rejection {
    Rejection { reason, kind: RejectionKind::Refused }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
