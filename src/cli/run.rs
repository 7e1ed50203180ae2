//! `taskspan run`: the sidecar.
//!
//! ```text
//! configuration ─▶ session ── runs until SIGTERM ─▶ end
//!       ▲             │ SIGHUP, and the new configuration is good
//!       └─────────────┘
//! ```

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Failure;
use super::preview::{self, Format};
use super::progress::Progress;
use super::session::{OnTrouble, Session};
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global, signals};
use crate::config::{Fault, Faults};
use crate::observe::Observe;
use crate::pipeline::event::Observer;
use crate::pipeline::{Mode, Orders, Pipelines, observer};

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgs,

    /// Show what would be sent for the exports that are there, and end
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let mut setup = Setup::load(&self.config, &[])?;
        setup.start_logging(global);
        if self.dry_run {
            return preview::show(&setup, &[], Format::Tree);
        }
        let stop = signals::stop_on_signal()?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let (mut session, mut observer) = open(&setup).await?;
        if setup.otel.disabled {
            tracing::warn!("OTEL_SDK_DISABLED is true: nothing is read and nothing is sent");
            stop.cancelled().await;
            return Ok(Exit::Done);
        }
        loop {
            tracing::info!(to = session.destinations().join(", "), "watching");
            // A child, so that a reload ends this session and no other.
            let this = stop.child_token();
            let orders = Orders { stop: this.clone(), ..Orders::default() };
            let mut running = tokio::spawn(session.run(Mode::Watch, observer, orders));
            let next = tokio::select! {
                biased;
                ended = &mut running => {
                    ended.map_err(anyhow::Error::from)??;
                    tracing::info!("stopped");
                    return Ok(Exit::Done);
                }
                next = self.reloaded(&mut hang_up) => next,
            };
            (session, observer) = replace(this, running, &setup, &next).await?;
            setup = next;
        }
    }

    /// The next configuration that is good. One that is not changes nothing.
    async fn reloaded(&self, hang_up: &mut tokio::signal::unix::Signal) -> Setup {
        loop {
            if hang_up.recv().await.is_none() {
                return std::future::pending().await;
            }
            let loaded = Setup::load(&self.config, &[]);
            match loaded.and_then(|setup| setup.build().map(|_| setup)) {
                Ok(setup) => {
                    tracing::info!("SIGHUP: going on with the new configuration");
                    return setup;
                }
                Err(failure) => {
                    tracing::error!(
                        "SIGHUP: the new configuration is not good, going on with the present \
                         one:\n{}",
                        failure.text()
                    );
                }
            }
        }
    }
}

/// Binds what is asked for, then opens the queue.
async fn open(setup: &Setup) -> Result<(Session, Observer), Failure> {
    let exports = Pipelines::converters(&setup.config, &setup.otel);
    let exports = exports.map_err(super::setup::pipeline_faults)?;
    let observe = Observe::bind(&setup.config, exports).await;
    let observe = observe.map_err(|error| Faults(vec![Fault::nowhere(error.to_string())]))?;
    let mut session = setup.open(OnTrouble::Refuse)?;
    let (metrics, health) = observe.addresses();
    if let Some(address) = metrics {
        tracing::info!("metrics are on http://{address}/metrics");
    }
    if let Some(address) = health {
        tracing::info!("health is on http://{address}");
    }
    let (count, progress) = (observe.listener(), Progress::start());
    session.observed_by(observe);
    let observer = observer(move |event| {
        count(event);
        progress.observe(event);
    });
    Ok((session, observer))
}

/// Ends one session and begins the next, with the same queue. If that cannot be had after all, a taken
/// address say, the old configuration is better than none.
async fn replace(
    this: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), Failure>>,
    old: &Setup,
    new: &Setup,
) -> Result<(Session, Observer), Failure> {
    this.cancel();
    running.await.map_err(anyhow::Error::from)??;
    match open(new).await {
        Ok(opened) => Ok(opened),
        Err(failure) => {
            tracing::error!("going back to the configuration before:\n{}", failure.text());
            open(old).await
        }
    }
}
