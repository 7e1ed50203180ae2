//! Shared by the commands that add spans to the trace of an export.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::exit::Failure;
use super::progress::Progress;
use super::setup::Setup;
use super::watchdog::Watchdog;
use super::{ConfigArgs, Exit, Global, Timeout, signals};
use crate::pipeline::event::{Event, Tally};
use crate::pipeline::{Addition, Pipelines, RunControl, observer};
use crate::plan::Emitted;

#[derive(Debug, Args)]
pub(crate) struct Onto {
    /// Metadata file of the export whose trace is extended
    #[arg(long, value_name = "FILE")]
    metadata: PathBuf,

    #[command(flatten)]
    config: ConfigArgs,

    /// Time limit for the delivery
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) timeout: Timeout,
}

/// An emitted export, and the pipelines that deliver additions to its trace.
pub(crate) struct Ready {
    onto: Onto,
    disabled: bool,
    pub(crate) pipelines: Pipelines,
    pub(crate) emitted: Emitted,
}

impl Onto {
    /// Reads the export and builds the pipelines. If the export has no trace, the reason has been
    /// printed and the exit code is returned.
    ///
    /// # Errors
    /// Returns an error if the configuration is invalid.
    pub(crate) fn prepare(self, global: &Global) -> Result<Result<Ready, Exit>, Failure> {
        // Without a configuration, only the export's own directory is known.
        let directory = self.metadata.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.map_or_else(|| PathBuf::from("."), PathBuf::from);
        let unconfigured = self.config.config.is_empty() && !Setup::has_default_file();
        let directories = if unconfigured { vec![directory] } else { Vec::new() };
        let setup = Setup::load(&self.config, &directories)?;
        setup.start_logging(global);
        let pipelines = setup.build()?;
        match pipelines.emitted(&self.metadata) {
            Ok(emitted) => {
                let odd = emitted.plan.warnings.iter().map(ToString::to_string);
                for warning in odd.chain(emitted.doubt.clone()) {
                    tracing::warn!("{warning}");
                }
                Ok(Ok(Ready { onto: self, disabled: setup.otel.disabled, pipelines, emitted }))
            }
            Err(error) => {
                tracing::error!("{error}");
                Ok(Err(Exit::Refused))
            }
        }
    }
}

impl Ready {
    pub(crate) fn metadata(&self) -> &std::path::Path {
        &self.onto.metadata
    }

    /// Sends the addition and waits until it is delivered.
    ///
    /// # Errors
    /// Returns an error if a stage failed.
    pub(crate) async fn send(self, addition: Addition) -> Result<Exit, Failure> {
        if self.disabled {
            tracing::warn!("OTEL_SDK_DISABLED is true: nothing is sent");
            return Ok(Exit::Done);
        }
        let Ready { onto, pipelines, emitted, .. } = self;
        let _watchdog = Watchdog::arm(onto.timeout.0);
        let stop = signals::stop_on_signal(onto.timeout.0)?;
        let orders = RunControl { stop, ..RunControl::default() };
        let (stop, abort): (CancellationToken, _) = (orders.stop.clone(), orders.abort.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(onto.timeout.0).await;
            stop.cancel();
            abort.cancel();
        });
        let tally = Tally::default();
        let (counting, progress) = (tally.clone(), Progress::start());
        let observer = observer(move |event| {
            counting.count(event);
            // This command has no durable queue, so its summary line reports what was not
            // delivered.
            if !matches!(event, Event::Undelivered { .. }) {
                progress.observe(event);
            }
        });
        let sent = pipelines.send(&onto.metadata, emitted, addition, observer, orders).await;
        timer.abort();
        sent.map_err(anyhow::Error::from)?;
        let counts = tally.counts();
        Ok(if counts.added > 0 {
            // The span was sent, so running the command again would add another.
            if counts.undelivered > 0 || counts.refused > 0 || counts.given_up > 0 {
                tracing::warn!("the span is delivered, its log records are not");
            }
            Exit::Done
        } else if counts.refused > 0 {
            Exit::Refused
        } else {
            tracing::error!("not delivered in time, and not kept; run it again");
            Exit::NotDelivered
        })
    }
}
