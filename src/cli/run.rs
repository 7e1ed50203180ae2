//! `taskspan run`: runs as a sidecar.
//!
//! ```text
//! configuration ─▶ session ── runs until SIGTERM ─▶ end
//!       ▲             │ SIGHUP with a valid new configuration
//!       └─────────────┘
//! ```

use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Failure;
use super::preview::{self, Format};
use super::progress::Progress;
use super::session::{OnTrouble, Session};
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global, signals};
use crate::config::{Fault, Faults};
use crate::observe::{Metrics, Observe};
use crate::pipeline::event::Observer;
use crate::pipeline::quarantine::Quarantine;
use crate::pipeline::{Mode, Pipelines, RunControl, observer};
use crate::queue::{Location, Ready};

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: ConfigArgs,

    /// Show what would be sent for the existing exports, and exit
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let mut setup = Arc::new(Setup::load(&self.config, &[])?);
        setup.start_logging(global);
        if self.dry_run {
            return preview::show(&setup, &[], Format::Tree);
        }
        let stop = signals::stop_on_signal(setup.shutdown_timeout())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // Metrics count over all sessions of this process.
        let metrics = Arc::default();
        if setup.otel.disabled {
            return disabled(&setup, &metrics, stop).await;
        }
        let Some((mut session, mut observer)) = open(&setup, &metrics, &stop).await? else {
            return Ok(Exit::Done);
        };
        loop {
            tracing::info!(to = session.destinations().join(", "), "watching");
            // A child token: a reload ends this session and no other.
            let this = stop.child_token();
            let orders = RunControl { stop: this.clone(), ..RunControl::default() };
            let mut running = tokio::spawn(session.run(Mode::Watch, observer, orders));
            let next = tokio::select! {
                biased;
                ended = &mut running => {
                    ended.map_err(anyhow::Error::from)??;
                    tracing::info!("stopped");
                    return Ok(Exit::Done);
                }
                next = self.reloaded(&mut hang_up, &setup) => next,
            };
            this.cancel();
            running.await.map_err(anyhow::Error::from)??;
            let next = Arc::new(next);
            let opened = match open(&next, &metrics, &stop).await {
                Ok(opened) => {
                    tracing::info!("the new configuration is in force");
                    setup = next;
                    opened
                }
                // The new session cannot start, for example because an address is in use. Continue
                // with the old configuration.
                Err(failure) => {
                    tracing::error!("going back to the configuration before");
                    failure.log();
                    open(&setup, &metrics, &stop).await?
                }
            };
            let Some(opened) = opened else { return Ok(Exit::Done) };
            (session, observer) = opened;
        }
    }

    /// Waits for SIGHUP and returns the next valid configuration that differs from the present one.
    async fn reloaded(&self, hang_up: &mut Signal, present: &Setup) -> Setup {
        loop {
            if hang_up.recv().await.is_none() {
                return std::future::pending().await;
            }
            let config = self.config.clone();
            // The files may be on a hung mount, and this task handles signals.
            let load = tokio::task::spawn_blocking(move || {
                let setup = Setup::load(&config, &[])?;
                setup.build().map(|_| setup)
            });
            let loaded = match load.await {
                Ok(loaded) => loaded,
                Err(error) => Err(anyhow::Error::from(error).into()),
            };
            match loaded {
                // Entries in the present queue would never be delivered.
                Ok(setup) if setup.queue_directory() != present.queue_directory() => {
                    tracing::error!(
                        "SIGHUP: the queue cannot move to another directory while it is in use; \
                         going on with the present configuration. Start taskspan again to move it"
                    );
                }
                Ok(setup) => return setup,
                Err(failure) => {
                    tracing::error!(
                        "SIGHUP: the new configuration is not good, going on with the present one"
                    );
                    failure.log();
                }
            }
        }
    }
}

/// Binds the configured servers.
async fn bind(setup: &Setup, metrics: &Arc<Metrics>) -> Result<Observe, Failure> {
    let exports = Pipelines::converters(&setup.config, &setup.otel);
    let exports = exports.map_err(super::setup::pipeline_faults)?;
    let observe = Observe::bind(&setup.config, exports, Arc::clone(metrics)).await;
    let observe = observe.map_err(|error| Faults(vec![Fault::nowhere(error.to_string())]))?;
    let (metrics, health) = observe.addresses();
    if let Some(address) = metrics {
        tracing::info!("metrics are on http://{address}/metrics");
    }
    if let Some(address) = health {
        tracing::info!("health is on http://{address}");
    }
    Ok(observe)
}

/// Binds the configured servers and opens the queue. `None` if the program is to stop before the
/// queue is open, for example because its disk does not answer.
async fn open(
    setup: &Arc<Setup>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Option<(Session, Observer)>, Failure> {
    let observe = bind(setup, metrics).await?;
    let opened = Arc::clone(setup);
    let opening = tokio::task::spawn_blocking(move || opened.open(OnTrouble::Refuse));
    let opened = tokio::select! {
        opened = opening => opened.map_err(anyhow::Error::from)?,
        () = stop.cancelled() => return Ok(None),
    };
    let mut session = opened?;
    let (count, progress) = (observe.listener(), Progress::start());
    session.observed_by(observe);
    let observer = observer(move |event| {
        count(event);
        progress.observe(event);
    });
    Ok(Some((session, observer)))
}

/// Runs without reading or sending anything. Probes are still answered, so that a job which waits
/// for them is not blocked.
async fn disabled(
    setup: &Setup,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    tracing::warn!("OTEL_SDK_DISABLED is true: nothing is read and nothing is sent");
    let observe = bind(setup, metrics).await?;
    let queue = setup.build()?.open_queue(Location::Memory, Mode::Watch);
    let Ready { queue, .. } = queue.map_err(anyhow::Error::from)?;
    let servers = observe.serve((queue, Quarantine::default()), Vec::new(), stop.clone(), &stop);
    servers.join_all().await;
    stop.cancelled().await;
    Ok(Exit::Done)
}
