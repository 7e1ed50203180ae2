//! One exporter working its part of the queue off, in order.
//!
//! ```text
//! lease ─▶ send ─accepted─▶ next request … ─▶ verify ─▶ delivered
//!           ▲ │ retry: wait │ too large: halve   │ refused, incomplete: rejected
//!           └─┘                                  └─▶ lost spans: once more
//! ```

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::StageDied;
use super::event::{Event, Observer};
use super::stop::Stopping;
use crate::clock::UnixNanos;
use crate::converter::{rework, split};
use crate::exporter::classify::Delivery as Arrival;
use crate::exporter::retry::Retry;
use crate::exporter::{Exporter, Reply, Verifier};
use crate::queue::{Lease, Lost, Queue, Rejection, RejectionKind};

/// What was made longer ago than this is sent as of now, if nothing of it was sent before: a
/// backend finds nothing by times that are minutes old.
const STALE: Duration = Duration::from_secs(60);

/// The first wait between two looks for a trace; it doubles.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SLOWEST_LOOK: Duration = Duration::from_secs(5);

/// How long to wait before the queue is asked again after it lost an export.
const AFTER_LOSS: Duration = Duration::from_secs(1);

/// A trace larger than this is known to be cut by a Tempo with its default limits.
const TEMPO_TRACE_BYTES: u64 = 5_000_000;

pub struct Deliverer {
    exporter: Exporter,
    queue: Queue,
    observer: Observer,
    stopping: Stopping,
    /// Since when the endpoint takes nothing.
    down_since: Option<Instant>,
}

/// Why an export is not delivered, for now or for good.
enum Stop {
    Rejected(Rejection),
    /// The program is stopping; not a failure.
    Interrupted,
    /// The queue does not have the export any more.
    Lost,
}

impl From<Lost> for Stop {
    fn from(_: Lost) -> Stop {
        Stop::Lost
    }
}

impl Deliverer {
    pub(super) fn new(
        exporter: Exporter,
        queue: Queue,
        observer: Observer,
        stopping: Stopping,
    ) -> Deliverer {
        Deliverer { exporter, queue, observer, stopping, down_since: None }
    }

    pub async fn run(mut self) -> Result<(), StageDied> {
        let (queue, stop) = (self.queue.clone(), self.stopping.stop.clone());
        let abort = self.stopping.abort.clone();
        let id = self.exporter.id.clone();
        loop {
            let mut lease = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                lease = queue.lease(&id) => match lease {
                    Some(lease) => lease,
                    None => return Ok(()),
                },
            };
            let worked = tokio::select! {
                biased;
                worked = self.work(&mut lease) => worked,
                () = abort.cancelled() => Err(Stop::Interrupted),
            };
            let settled = match worked {
                Ok(()) => lease.delivered(UnixNanos::now()).await,
                Err(Stop::Rejected(rejection)) => {
                    self.tell_optional(&lease, &rejection);
                    lease.rejected(rejection).await
                }
                Err(Stop::Interrupted) => {
                    drop(lease);
                    Ok(())
                }
                Err(Stop::Lost) => Err(Lost),
            };
            if settled.is_err() {
                // The store began anew, or is about to: there is no hurry to ask it again.
                tracing::warn!(exporter = id, "the export left the queue while it was sent");
                if self.sleep(AFTER_LOSS).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// The refusal of a required exporter decides about the export and is told when it is settled.
    fn tell_optional(&self, lease: &Lease, rejection: &Rejection) {
        if !lease.item().required {
            (self.observer)(&Event::Rejected {
                path: lease.head().source.path.clone(),
                exporter: self.exporter.id.clone(),
                reason: rejection.reason.clone(),
                permanent: rejection.kind != RejectionKind::GivenUp,
                required: false,
            });
        }
    }

    async fn work(&mut self, lease: &mut Lease) -> Result<(), Stop> {
        self.send_all(lease).await?;
        if self.exporter.verifier.is_some() {
            // What was read back is there, whatever was said of it on the way.
            return self.verify(lease).await;
        }
        // Spans that the server did not keep make the trace one that an id must not vouch for.
        match &lease.item().lost_spans {
            Some(reason) => Err(Stop::Rejected(refused(reason.clone()))),
            None => Ok(()),
        }
    }

    async fn send_all(&mut self, lease: &mut Lease) -> Result<(), Stop> {
        let mut retry = Retry::new(&self.exporter.retry);
        loop {
            bring_up_to_date(lease).await?;
            let Some(request) = lease.next_request().await? else {
                return Ok(());
            };
            lease.begin().await?;
            match self.exporter.send_traces(request.clone()).await {
                Reply::Accepted => self.acknowledged(lease, None).await?,
                Reply::Partial { rejected, message } => {
                    let lost = (rejected > 0)
                        .then(|| format!("the server rejected {rejected} spans: {message}"));
                    self.acknowledged(lease, lost).await?;
                    self.remark(lease, rejected, message);
                }
                Reply::Retry { reason, after, delivery } => {
                    self.is_down(&reason);
                    let in_doubt = delivery == Arrival::InDoubt;
                    self.wait(lease, &mut retry, &reason, after, in_doubt).await?;
                    continue;
                }
                Reply::TooLarge { reason } => match split::halve(&request) {
                    Some((first, second)) => lease.split_next(first, second).await?,
                    // The others may fit; the export as a whole is refused at the end.
                    None => self.acknowledged(lease, Some(reason)).await?,
                },
                Reply::Refused { reason } => return Err(Stop::Rejected(refused(reason))),
            }
            self.is_up();
            retry = Retry::new(&self.exporter.retry);
        }
    }

    async fn wait(
        &self,
        lease: &mut Lease,
        retry: &mut Retry,
        reason: &str,
        after: Option<Duration>,
        in_doubt: bool,
    ) -> Result<(), Stop> {
        let Some(wait) = retry.next(after) else {
            let reason = format!("no more tries: {reason}");
            return Err(Stop::Rejected(Rejection { reason, kind: RejectionKind::GivenUp }));
        };
        let next = UnixNanos(UnixNanos::now().0.saturating_add(nanos(wait)));
        lease.failed(reason, in_doubt, next).await?;
        tracing::debug!(exporter = self.exporter.id, ?wait, reason, "trying again");
        self.sleep(wait).await
    }

    /// A sleep that ends at once when the program is to stop.
    async fn sleep(&self, wait: Duration) -> Result<(), Stop> {
        tokio::select! {
            biased;
            () = self.stopping.stop.cancelled() => Err(Stop::Interrupted),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    async fn acknowledged(&self, lease: &mut Lease, lost: Option<String>) -> Result<(), Lost> {
        lease.acknowledged(lost).await?;
        (self.observer)(&Event::Acknowledged { trace_id: lease.head().trace_id });
        Ok(())
    }

    /// Looks for every span in the backend; what it lost is sent once more.
    async fn verify(&mut self, lease: &mut Lease) -> Result<(), Stop> {
        loop {
            let requests = lease.all_requests().await?;
            let sent: HashSet<Vec<u8>> =
                requests.iter().flat_map(|request| rework::span_ids(request)).collect();
            let missing = self.missing(lease, &sent).await?;
            if missing.is_empty() {
                return Ok(());
            }
            // A backend that knows nothing of the trace is the wrong one, or the wrong tenant.
            if lease.item().resent || missing.len() == sent.len() {
                return Err(Stop::Rejected(incomplete(lease, sent.len(), missing.len())));
            }
            let (found, all) = (sent.len() - missing.len(), sent.len());
            let path = lease.head().source.path.display().to_string();
            tracing::warn!(path, found, all, "the backend lost spans; sending those once more");
            // They are taken from the export as it came in, and its times may have moved since.
            let (from, to) = (lease.head().first_seen, lease.item().made_at);
            let lost: Vec<Bytes> = requests
                .iter()
                .filter_map(|request| rework::only(request, &missing))
                .filter_map(|request| rework::restamp(&request, from, to))
                .collect();
            lease.resend(lost).await?;
            self.send_all(lease).await?;
        }
    }

    /// The spans that are not there when the time for them is over. A backend that cannot be asked
    /// has not lost anything yet, so its silence does not count.
    async fn missing(
        &mut self,
        lease: &Lease,
        sent: &HashSet<Vec<u8>>,
    ) -> Result<HashSet<Vec<u8>>, Stop> {
        let trace_id = lease.head().trace_id;
        let timeout = self.exporter.verifier.as_ref().map_or(Duration::ZERO, |it| it.timeout);
        let mut deadline = Instant::now() + timeout;
        let mut pause = FIRST_LOOK;
        loop {
            let stored = match &self.exporter.verifier {
                Some(verifier) => Verifier::stored_spans(verifier, trace_id).await,
                None => return Ok(HashSet::new()),
            };
            match stored {
                Ok(stored) => {
                    self.is_up();
                    let missing: HashSet<Vec<u8>> = sent.difference(&stored).cloned().collect();
                    if missing.is_empty() || Instant::now() >= deadline {
                        return Ok(missing);
                    }
                }
                Err(reason) => {
                    self.is_down(&format!(
                        "cannot read the trace back (verify.endpoint): {reason}"
                    ));
                    deadline = Instant::now() + timeout;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.sleep(pause.min(left.max(FIRST_LOOK))).await?;
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }

    fn remark(&self, lease: &Lease, rejected: i64, message: String) {
        let path = lease.head().source.path.clone();
        let exporter = self.exporter.id.clone();
        (self.observer)(&Event::Remark { path, exporter, rejected, message });
    }

    /// One line when it goes …
    fn is_down(&mut self, reason: &str) {
        if self.down_since.is_none() {
            self.down_since = Some(Instant::now());
            (self.observer)(&Event::Down {
                exporter: self.exporter.id.clone(),
                destination: self.exporter.destination(),
                reason: reason.to_owned(),
            });
        }
    }

    /// … and one when it is back.
    fn is_up(&mut self) {
        if let Some(since) = self.down_since.take() {
            (self.observer)(&Event::Up {
                exporter: self.exporter.id.clone(),
                destination: self.exporter.destination(),
                after: since.elapsed(),
                waiting: self.queue.waiting().len(),
            });
        }
    }
}

/// Moves the times of an export that waited long, unless some of it may have arrived.
async fn bring_up_to_date(lease: &mut Lease) -> Result<(), Lost> {
    let (item, now) = (lease.item(), UnixNanos::now());
    let made_at = item.made_at;
    let age = Duration::from_nanos(now.0.saturating_sub(made_at.0));
    if item.touched || item.pending.is_empty() || age < STALE {
        return Ok(());
    }
    let requests = lease.pending_requests().await?;
    let moved: Option<Vec<Bytes>> =
        requests.iter().map(|request| rework::restamp(request, made_at, now)).collect();
    match moved {
        Some(moved) => lease.replace_pending(moved, now).await,
        // What cannot be read here is for the server to refuse.
        None => Ok(()),
    }
}

fn refused(reason: String) -> Rejection {
    Rejection { reason, kind: RejectionKind::Refused }
}

fn incomplete(lease: &Lease, sent: usize, missing: usize) -> Rejection {
    let bytes = lease.head().bytes;
    let cause = if bytes > TEMPO_TRACE_BYTES {
        format!("likely the trace is too large for it, with {bytes} bytes")
    } else {
        "likely a limit of its ingestion: a rate limit, or the size of a trace".to_owned()
    };
    let found = sent - missing;
    if found == 0 {
        let reason = format!(
            "every span was acknowledged, but the backend at verify.endpoint knows none of the \
             {sent}; is it the right address and tenant?"
        );
        return Rejection { reason, kind: RejectionKind::Incomplete };
    }
    let reason = format!(
        "every span was acknowledged, but the backend has {found} of {sent}, after the missing \
         ones were sent again; {cause}"
    );
    Rejection { reason, kind: RejectionKind::Incomplete }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
