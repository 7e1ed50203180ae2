//! Ends a run: in two steps on request, or as a whole if a stage fails.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::RunControl;

/// A stage ended on its own, which is a bug.
#[derive(Debug, thiserror::Error)]
#[error("a stage of the pipeline died ({0}); nothing was lost, start again")]
pub(crate) struct StageDied(String);

impl From<JoinError> for StageDied {
    fn from(error: JoinError) -> StageDied {
        StageDied(error.to_string())
    }
}

/// Runs a stage, and stops all others if it ends on its own.
pub(crate) async fn guarded(
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

/// How long a stage may take to end after an abort.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Waits for all stages. If one ends on its own, the others are asked to stop, so that a supervisor
/// restarts the program.
///
/// A stage that blocks on a disk or a mount after an abort is abandoned. Its exports are in the
/// queue, or are files without an id.
pub(crate) async fn join_all(
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
pub(crate) struct Shutdown {
    /// Start no new request. Verifications in progress continue.
    pub(crate) deadline: CancellationToken,
    /// Start nothing new: cancelled by `stop` and by `deadline`.
    pub(crate) closing: CancellationToken,
    /// Start nothing new, and end every wait.
    pub(crate) stop: CancellationToken,
    /// Abort requests in flight.
    pub(crate) abort: CancellationToken,
    /// Nothing is left to wait for.
    pub(crate) finished: CancellationToken,
}

/// A wait ended early because the program is stopping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

impl Shutdown {
    /// Sleeps. Ends early if the program is stopping.
    pub(crate) async fn sleep(&self, wait: Duration) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// `timeout` is how long requests in flight may take to finish after `stop`.
    pub(crate) fn new(orders: &RunControl, timeout: Duration) -> Shutdown {
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
