//! Verifies a delivery: looks up every acknowledged span in the backend.
//!
//! ```text
//! all acknowledged ─▶ read back … ─all there─▶ Arrived
//!                        ▲    │ some missing: Missing, sent once more; then: Incomplete
//!                        └────┘ until `verify.timeout`
//! ```

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::reachability::Reachability;
use super::send::Interruption;
use super::shutdown::Shutdown;
use crate::base::signal::Signal;
use crate::converter::rewrite;
use crate::exporter::{TraceReadError, TraceReader};
use crate::queue::{Lease, Rejection, RejectionKind};

/// Pause before the second attempt to find a trace. It doubles.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SLOWEST_LOOK: Duration = Duration::from_secs(5);

/// Tempo with its default limits drops spans from a trace larger than this.
const TEMPO_TRACE_BYTES: u64 = 5_000_000;

/// The outcome of a verification.
pub(crate) enum VerifyOutcome {
    Arrived,
    /// The backend does not have the spans of these requests.
    Missing(Vec<Bytes>),
}

/// Everything that verification needs, other than the export.
pub(crate) struct Verifier {
    pub(crate) trace_reader: TraceReader,
    pub(crate) reach: Reachability,
    pub(crate) shutdown: Shutdown,
}

impl Verifier {
    /// Verifies that the backend has every span of an export.
    pub(crate) async fn verify(&self, lease: &mut Lease) -> Result<VerifyOutcome, Interruption> {
        let requests = lease.all_requests().await?;
        let sent: HashSet<Vec<u8>> =
            requests.iter().flat_map(|request| rewrite::span_ids(request)).collect();
        let mut missing = self.missing(lease, &sent).await?;
        if missing.is_empty()
            && let Some(after) = self.trace_reader.after
        {
            // A backend may lose recent spans, for example if it is killed.
            self.shutdown.sleep(after).await?;
            missing = self.missing(lease, &sent).await?;
        }
        if missing.is_empty() {
            return Ok(VerifyOutcome::Arrived);
        }
        if lease.item().retransmitted {
            return Err(Interruption::Rejected(incomplete(lease, sent.len(), missing.len())));
        }
        let (found, all) = (sent.len() - missing.len(), sent.len());
        let path = lease.head().source.path.display().to_string();
        tracing::warn!(path, found, all, "the backend lost spans; sending those once more");
        // The requests are those of the original export, whose times may have been shifted since.
        let (from, to) = (lease.head().first_seen, lease.item().made_at);
        let lost = requests
            .iter()
            .filter_map(|request| rewrite::only(request, &missing))
            .filter_map(|request| rewrite::shift_times(Signal::Traces, &request, from, to));
        Ok(VerifyOutcome::Missing(lost.collect()))
    }

    /// Returns the spans that are missing after the time limit. A backend that does not answer has
    /// not lost anything, so its silence does not count.
    async fn missing(
        &self,
        lease: &mut Lease,
        sent: &HashSet<Vec<u8>>,
    ) -> Result<HashSet<Vec<u8>>, Interruption> {
        let trace_id = lease.head().trace_id;
        let timeout = self.trace_reader.timeout;
        let mut deadline = Instant::now() + timeout;
        let mut pause = FIRST_LOOK;
        loop {
            match self.trace_reader.missing_spans(trace_id, sent).await {
                Ok(missing) => {
                    self.reach.report_up();
                    if missing.is_empty() || Instant::now() >= deadline {
                        return Ok(missing);
                    }
                    let (found, all) = (sent.len() - missing.len(), sent.len());
                    lease.note(&format!("the backend shows {found} of {all} spans"));
                }
                // The backend will hardly show a trace that it refuses to show, but it may be
                // overloaded.
                Err(TraceReadError::Refused(reason)) if Instant::now() >= deadline => {
                    return Err(Interruption::Rejected(unreadable(&reason)));
                }
                Err(TraceReadError::Refused(reason)) => {
                    lease.note(&format!("the backend does not show the trace: {reason}"));
                }
                Err(TraceReadError::Unavailable(reason)) => {
                    let reason = format!("cannot read the trace back (verify.endpoint): {reason}");
                    self.reach.report_down(&reason);
                    lease.note(&reason);
                    deadline = Instant::now() + timeout;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.shutdown.sleep(pause.min(left.max(FIRST_LOOK))).await?;
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }
}

fn unreadable(reason: &str) -> Rejection {
    let reason = format!(
        "every span was acknowledged, but the backend at verify.endpoint does not show the trace \
         ({reason}); likely it is too large to be read"
    );
    Rejection { reason, kind: RejectionKind::Incomplete }
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
             {sent}, after they were sent again; is it the right address and tenant?"
        );
        return Rejection { reason, kind: RejectionKind::Incomplete };
    }
    let reason = format!(
        "every span was acknowledged, but the backend has {found} of {sent}, after the missing \
         ones were sent again; {cause}"
    );
    Rejection { reason, kind: RejectionKind::Incomplete }
}
