//! `taskspan run`: the sidecar.

use clap::Args;

use super::exit::Failure;
use super::preview::{self, Format};
use super::progress::Progress;
use super::session::OnTrouble;
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global, signals};
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
        let session = setup.open(OnTrouble::Refuse)?;
        if setup.otel.disabled {
            tracing::warn!("OTEL_SDK_DISABLED is true: nothing is read and nothing is sent");
            stop.cancelled().await;
            return Ok(Exit::Done);
        }
        tracing::info!(to = session.destinations().join(", "), "watching");
        let progress = Progress::start();
        let observer = observer(move |event| progress.observe(event));
        session.run(Mode::Watch, observer, Orders { stop, ..Orders::default() }).await?;
        tracing::info!("stopped");
        Ok(Exit::Done)
    }
}
