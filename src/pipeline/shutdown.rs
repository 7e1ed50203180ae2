//! How a run ends: in two steps when it is asked to, and whole when a stage dies.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::RunControl;

/// A stage ended on its own, which it never should.
#[derive(Debug, thiserror::Error)]
#[error("a stage of the pipeline died ({0}); nothing was lost, start again")]
pub struct StageDied(String);

impl From<JoinError> for StageDied {
    fn from(error: JoinError) -> StageDied {
        StageDied(error.to_string())
    }
}

/// Runs a stage, and stops all others if it dies.
pub async fn guarded(
    stage: impl Future<Output = Result<(), StageDied>>,
    stop: CancellationToken,
) -> Result<(), StageDied> {
    let guard = stop.drop_guard();
    let ended = stage.await;
    if ended.is_ok() {
        guard.disarm();
    }
    ended
}

/// How long a stage may take to let go.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Waits for stages; when one dies, the others are asked to stop: better to be restarted than to
/// be half alive.
///
/// One that hangs when it is to let go, on a disk or a mount that does not answer, is left behind:
/// what it had in hand is in the queue, or a file without an id.
pub async fn join_all(
    mut stages: JoinSet<Result<(), StageDied>>,
    shutdown: &Shutdown,
) -> Result<(), StageDied> {
    let mut result = Ok(());
    let hangs = async {
        shutdown.abort.cancelled().await;
        tokio::time::sleep(ABORT_GRACE).await;
    };
    tokio::pin!(hangs);
    loop {
        let ended = tokio::select! {
            biased;
            ended = stages.join_next() => match ended {
                Some(ended) => ended,
                None => return result,
            },
            () = &mut hangs => {
                let hanging = "it did not end in time: is a disk or a mount hanging?";
                return result.and(Err(StageDied(hanging.to_owned())));
            }
        };
        let ended = ended.map_err(StageDied::from).and_then(|ended| ended);
        if ended.is_err() {
            shutdown.stop.cancel();
            result = result.and(ended);
        }
    }
}

/// The steps of a shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Send nothing more; a verification in progress goes on.
    pub deadline: CancellationToken,
    /// Take nothing new: cancelled by `stop` and by `deadline`.
    pub closing: CancellationToken,
    /// Take nothing new, end every wait.
    pub stop: CancellationToken,
    /// Let go of what is still in flight.
    pub abort: CancellationToken,
    /// Nothing is left to wait for.
    pub finished: CancellationToken,
}

/// A wait was ended because the program is to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stopped;

impl Shutdown {
    /// A sleep that ends at once when the program is to stop.
    pub async fn sleep(&self, wait: Duration) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// `timeout`: how long requests in flight have to finish after `stop`.
    pub fn new(orders: &RunControl, timeout: Duration) -> Shutdown {
        let RunControl { stop, abort, deadline, .. } = orders.clone();
        let (closing, finished) = (stop.child_token(), CancellationToken::new());
        let shutdown = Shutdown { deadline, closing, stop, abort, finished };
        let Shutdown { deadline, closing, finished, .. } = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = deadline.cancelled() => closing.cancel(),
                () = finished.cancelled() => {}
            }
        });
        let Shutdown { stop, abort, finished, .. } = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = finished.cancelled() => return,
            }
            let timeout = tokio::time::sleep(timeout);
            tokio::select! {
                () = timeout => abort.cancel(),
                () = finished.cancelled() => {}
            }
        });
        shutdown
    }
}
