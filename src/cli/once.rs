//! `taskspan once`: delivers the existing exports and exits.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit::Failure;
use super::preview::{self, Format};
use super::progress::Progress;
use super::report::Report;
use super::session::OnTrouble;
use super::setup::Setup;
use super::watchdog::Watchdog;
use super::{ConfigArgs, Exit, Global, Timeout, signals};
use crate::pipeline::event::Counts;
use crate::pipeline::{Mode, RunControl, observer};

#[derive(Debug, Args)]
pub(crate) struct Once {
    /// Directories to search [default: those of the configuration]
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Time limit for the delivery; verification has its own limit, which is added
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: Timeout,

    /// Base URL of Tempo's HTTP API: verify every trace before its id is written
    #[arg(long, value_name = "URL")]
    verify: Option<String>,

    /// Write a Markdown summary to this file
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,

    /// Show what would be sent, and exit
    #[arg(long)]
    dry_run: bool,
}

impl Once {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let watchdog = Watchdog::arm(self.timeout.0);
        let mut setup = Setup::load(&self.config, &self.directories)?;
        if let Some(url) = &self.verify {
            setup.verify(url)?;
        }
        setup.start_logging(global);
        if self.dry_run {
            return preview::show(&setup, &[], Format::Tree);
        }
        drop(watchdog);
        let limit = self.timeout.0.saturating_add(setup.longest_verification());
        let _watchdog = Watchdog::arm(limit);
        let stop = signals::stop_on_signal(setup.shutdown_timeout())?;
        let session = setup.open(OnTrouble::GoWithout)?;
        if setup.otel.disabled {
            tracing::warn!("OTEL_SDK_DISABLED is true: nothing is read and nothing is sent");
            return Ok(Exit::Done);
        }

        let report = Report::default();
        let progress = Progress::start();
        let listening = report.clone();
        let observer = observer(move |event| {
            listening.observe(event);
            progress.observe(event);
        });
        let orders = RunControl { stop, ..RunControl::default() };
        let timer =
            tokio::spawn(time(orders.clone(), self.timeout.0, setup.longest_verification()));
        session.run(Mode::Once, observer, orders).await?;
        timer.abort();
        report.write(&setup, self.summary.as_deref());
        Ok(conclude(&report.counts()))
    }
}

/// Ends the delivery after its time limit, then the verification. Requests in flight are in doubt,
/// which the queue records.
async fn time(orders: RunControl, delivery: Duration, verification: Duration) {
    tokio::time::sleep(delivery).await;
    orders.deadline.cancel();
    tokio::time::sleep(verification).await;
    orders.stop.cancel();
    orders.abort.cancel();
}

fn conclude(counts: &Counts) -> Exit {
    let Counts { done, spans, refused, already_emitted, not_written, .. } = *counts;
    let waiting = counts.undelivered;
    let summary = (done, spans, refused, already_emitted, waiting, not_written);
    tracing::debug!(?summary, "emitted, spans, refused, emitted before, waiting, not written");
    match () {
        () if refused > 0 => Exit::Refused,
        () if waiting + not_written + counts.given_up + counts.unreadable > 0 => {
            if waiting > 0 {
                tracing::error!(waiting, "not everything was delivered in time");
            }
            Exit::NotDelivered
        }
        () if done + already_emitted + counts.added == 0 => {
            tracing::warn!("there is no onboarding-metadata.json to emit");
            Exit::Done
        }
        () => Exit::Done,
    }
}
