//! Runs the pipelines together with the queue, its control socket, and the servers.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::exit::Failure;
use crate::base::clock::UnixNanos;
use crate::config::{Fault, Faults};
use crate::observe::Observe;
use crate::pipeline::event::Observer;
use crate::pipeline::{Mode, Pipelines, RunControl};
use crate::queue::control::Server;
use crate::queue::{Location, Ready};
use crate::receiver::baseline::Baseline;

/// Time limit for the queue to write its last changes to the disk. The steps that anything depends
/// on are durable already.
const QUEUE_GRACE: Duration = Duration::from_secs(5);

/// What to do if the durable queue cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTrouble {
    /// A sidecar that cannot keep its guarantees must not start.
    Refuse,
    /// A step of a job continues in memory. An export that it does not deliver stays a file without
    /// an id.
    GoWithout,
}

impl OnTrouble {
    fn mode(self) -> Mode {
        match self {
            OnTrouble::Refuse => Mode::Watch,
            OnTrouble::GoWithout => Mode::Once,
        }
    }
}

pub(crate) struct Session {
    pipelines: Pipelines,
    ready: Ready,
    /// Directory of the queue and of its control socket.
    directory: Option<PathBuf>,
    observe: Option<Observe>,
}

impl Session {
    /// Opens the queue and connects the pipelines.
    ///
    /// # Errors
    /// Returns an error if the queue cannot be opened and `on_trouble` refuses to continue without
    /// it.
    pub(crate) fn open(
        mut pipelines: Pipelines,
        location: Option<Location>,
        on_trouble: OnTrouble,
    ) -> Result<Session, Failure> {
        let directory = match &location {
            Some(Location::Directory(directory)) => Some(directory.clone()),
            Some(Location::Memory | Location::Existing(_)) | None => None,
        };
        let opened = match location {
            Some(location) => {
                pipelines.open_queue(location, on_trouble.mode()).map_err(|error| error.to_string())
            }
            None => Err("there is no directory for the queue: set XDG_STATE_HOME or HOME, or \
                         give one with --state-dir"
                .to_owned()),
        };
        match opened {
            Ok(ready) => {
                tell(&ready);
                if let Some(directory) = &directory {
                    pipelines.note_work_in(directory);
                }
                Ok(Session { pipelines, ready, directory, observe: None })
            }
            Err(reason) if on_trouble == OnTrouble::GoWithout => {
                tracing::warn!("this run keeps its queue in memory: {reason}");
                Session::in_memory(pipelines)
            }
            Err(reason) => Err(Faults(vec![Fault::nowhere(reason)]).into()),
        }
    }

    /// Makes a session with a queue in memory.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub(crate) fn in_memory(pipelines: Pipelines) -> Result<Session, Failure> {
        let ready =
            pipelines.open_queue(Location::Memory, Mode::Once).map_err(anyhow::Error::from)?;
        Ok(Session { pipelines, ready, directory: None, observe: None })
    }

    /// Serves the state of this session over HTTP while it runs.
    pub(crate) fn observed_by(&mut self, observe: Observe) {
        self.observe = Some(observe);
    }

    /// Makes the run ignore the files that were last changed before `start`. Returns the exports
    /// among them that are not in the queue, per receiver. Blocks on disk I/O.
    pub(crate) fn pass_over(&mut self, start: UnixNanos) -> Vec<Baseline> {
        self.pipelines.pass_over(start);
        let queue = &self.ready.queue;
        let is_queued = |path: &std::path::Path| queue.waiting_from(path).is_some();
        self.pipelines.baselines().into_iter().map(|it| it.without(is_queued)).collect()
    }

    pub(crate) fn destinations(&self) -> Vec<String> {
        self.pipelines.destinations()
    }

    /// Runs to the end, until all changes are durable.
    ///
    /// # Errors
    /// Returns an error if a stage failed.
    pub(crate) async fn run(
        self,
        mode: Mode,
        observer: Observer,
        orders: RunControl,
    ) -> Result<(), Failure> {
        let Ready { queue, thread, .. } = self.ready;
        let quarantine = self.pipelines.quarantine();
        let finished = CancellationToken::new();
        let server = self.directory.as_deref().and_then(|directory| {
            Server::bind(directory)
                .inspect_err(|error| {
                    let directory = directory.display();
                    tracing::warn!(%directory, %error, "no control socket: `taskspan queue` works \
                                   only while this is not running");
                })
                .ok()
        });
        let control =
            server.map(|server| tokio::spawn(server.run(queue.clone(), finished.clone())));
        let servers = self.observe.map(|observe| {
            let watching = self.pipelines.watching();
            let shown = (queue.clone(), quarantine.clone());
            observe.serve(shown, watching, orders.stop.clone(), &finished)
        });
        let result = self.pipelines.run(queue, mode, observer, orders).await;
        finished.cancel();
        if let Some(servers) = servers {
            servers.join_all().await;
        }
        if let Some(control) = control {
            let _ = control.await;
        }
        // A blocked read holds a handle of the queue, and so its thread.
        let joined = tokio::task::spawn_blocking(move || {
            quarantine.close();
            thread.join()
        });
        let _ = tokio::time::timeout(QUEUE_GRACE, joined).await;
        Ok(result?)
    }
}

/// Logs what an earlier run left in the queue.
fn tell(ready: &Ready) {
    if let Some((path, reason)) = &ready.quarantined {
        tracing::error!(
            set_aside = %path.display(),
            "the queue's store was corrupt ({reason}) and a new one was begun; every export \
             without an id is looked up again"
        );
    }
    if ready.waiting > 0 {
        tracing::info!(exports = ready.waiting, "going on with what an earlier run left");
    }
    if ready.dead_letters > 0 {
        tracing::warn!(
            exports = ready.dead_letters,
            "refused exports are held; look at them with `taskspan queue list`"
        );
    }
    if ready.orphaned > 0 {
        tracing::warn!(
            exports = ready.orphaned,
            "exports wait for exporters that are not configured any more; `taskspan queue list`"
        );
    }
}
