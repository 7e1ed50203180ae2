//! One exporter working its part of the queue off, in order.
//!
//! ```text
//! lease ─▶ send ─accepted─▶ next request … ─▶ delivered
//!           ▲ │ retry: wait │ too large: halve │ refused: rejected
//!           └─┘
//! ```

use tokio::time::Instant;

use super::Stopping;
use super::event::{Event, Observer};
use crate::clock::UnixNanos;
use crate::converter::split;
use crate::exporter::retry::Retry;
use crate::exporter::{Exporter, Reply};
use crate::queue::{Lease, Queue, Rejection};

pub struct Deliverer {
    exporter: Exporter,
    queue: Queue,
    observer: Observer,
    stopping: Stopping,
    /// Since when the endpoint takes nothing.
    down_since: Option<Instant>,
}

/// How far an export got.
enum End {
    Delivered,
    Rejected(Rejection),
    /// The program is stopping; not a failure.
    Interrupted,
}

impl Deliverer {
    pub(super) fn new(
        exporter: Exporter,
        queue: Queue,
        observer: Observer,
        stopping: Stopping,
    ) -> Deliverer {
        Deliverer {
            exporter,
            queue,
            observer,
            stopping,
            down_since: None,
        }
    }

    pub async fn run(mut self) {
        let (queue, stop) = (self.queue.clone(), self.stopping.stop.clone());
        let id = self.exporter.id.clone();
        loop {
            let mut lease = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                lease = queue.lease(&id) => match lease {
                    Some(lease) => lease,
                    None => return,
                },
            };
            match self.send_all(&mut lease).await {
                End::Delivered => lease.delivered(UnixNanos::now()),
                End::Rejected(rejection) => lease.rejected(rejection),
                End::Interrupted => drop(lease),
            }
        }
    }

    async fn send_all(&mut self, lease: &mut Lease) -> End {
        let mut retry = Retry::new(&self.exporter.retry);
        let mut lost_spans: Option<Rejection> = None;
        while let Some(request) = lease.next_request() {
            let reply = tokio::select! {
                biased;
                reply = self.exporter.send_traces(request.clone()) => reply,
                () = self.stopping.abort.cancelled() => return End::Interrupted,
            };
            match reply {
                Reply::Accepted => self.acknowledged(lease),
                Reply::Partial { rejected, message } => {
                    self.acknowledged(lease);
                    if rejected > 0 {
                        lost_spans.get_or_insert(Rejection {
                            reason: format!("the server rejected {rejected} spans: {message}"),
                            permanent: true,
                        });
                    }
                    self.remark(lease, rejected, message);
                }
                Reply::Retry { reason, after, .. } => {
                    self.is_down(&reason);
                    let Some(wait) = retry.next(after) else {
                        let reason = format!("no more tries: {reason}");
                        return End::Rejected(Rejection {
                            reason,
                            permanent: false,
                        });
                    };
                    tracing::debug!(exporter = self.exporter.id, ?wait, reason, "trying again");
                    tokio::select! {
                        biased;
                        () = self.stopping.stop.cancelled() => return End::Interrupted,
                        () = tokio::time::sleep(wait) => {}
                    }
                    continue;
                }
                Reply::TooLarge { reason } => match split::halve(&request) {
                    Some((first, second)) => lease.split_next(first, second),
                    None => {
                        return End::Rejected(Rejection {
                            reason,
                            permanent: true,
                        });
                    }
                },
                Reply::Refused { reason } => {
                    return End::Rejected(Rejection {
                        reason,
                        permanent: true,
                    });
                }
            }
            self.is_up();
            retry = Retry::new(&self.exporter.retry);
        }
        // Spans that the server did not keep make the trace one that an id must not vouch for.
        lost_spans.map_or(End::Delivered, End::Rejected)
    }

    fn acknowledged(&self, lease: &mut Lease) {
        lease.acknowledged();
        (self.observer)(&Event::Acknowledged {
            trace_id: lease.delivery().trace_id,
        });
    }

    fn remark(&self, lease: &Lease, rejected: i64, message: String) {
        let path = lease.delivery().source.path.clone();
        let exporter = self.exporter.id.clone();
        (self.observer)(&Event::Remark {
            path,
            exporter,
            rejected,
            message,
        });
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
                waiting: self.queue.len(),
            });
        }
    }
}
