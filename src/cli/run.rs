//! `taskspan run`: the sidecar.

use clap::Args;

use super::exit::Failure;
use super::preview::{self, Format};
use super::progress::Progress;
use super::session::OnTrouble;
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global, signals};
use crate::config::{Fault, Faults};
use crate::observe::Observe;
use crate::pipeline::{Mode, Orders, observer};

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
        let setup = Setup::load(&self.config, &[])?;
        setup.start_logging(global);
        if self.dry_run {
            return preview::show(&setup, &[], Format::Tree);
        }
        let stop = signals::stop_on_signal()?;
        let observe = Observe::bind(&setup.config).await;
        let observe = observe.map_err(|error| Faults(vec![Fault::nowhere(error.to_string())]))?;
        let mut session = setup.open(OnTrouble::Refuse)?;
        if setup.otel.disabled {
            tracing::warn!("OTEL_SDK_DISABLED is true: nothing is read and nothing is sent");
            stop.cancelled().await;
            return Ok(Exit::Done);
        }
        tracing::info!(to = session.destinations().join(", "), "watching");
        let progress = Progress::start();
        let (metrics, health) = observe.addresses();
        if let Some(address) = metrics {
            tracing::info!("metrics are on http://{address}/metrics");
        }
        if let Some(address) = health {
            tracing::info!("health is on http://{address}");
        }
        let count = observe.listener();
        session.observed_by(observe);
        let observer = observer(move |event| {
            count(event);
            progress.observe(event);
        });
        session.run(Mode::Watch, observer, Orders { stop, ..Orders::default() }).await?;
        tracing::info!("stopped");
        Ok(Exit::Done)
    }
}
