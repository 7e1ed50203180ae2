//! `taskspan status`: shows the delivery state of every export below a directory.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::exit::Failure;
use super::queue::{Format, Source};
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global};
use crate::base::text::escape_control;
use crate::pipeline::Pipelines;
use crate::pipeline::quarantine::Quarantine;
use crate::pipeline::status::{ExportOnDisk, ExportStatus, QueueSnapshot, find};
use crate::queue::control::{Answer, Question};
use crate::queue::is_there;

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Directories to search [default: those of the configuration]
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Status {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &self.directories)?;
        setup.start_logging(global);
        let state = setup.queue_directory();
        let quarantine = state.as_deref().map(Quarantine::look).unwrap_or_default();
        let found = find(&Pipelines::receivers(&setup.config), &quarantine);
        let queue = queue_of(&setup, &found).await?;
        let all: Vec<ExportStatus> = found.into_iter().map(|found| found.status(&queue)).collect();
        let text = match self.format {
            Format::Table => table(&all),
            Format::Json => {
                let json = serde_json::to_string_pretty(&all).map_err(anyhow::Error::from)?;
                format!("{json}\n")
            }
        };
        super::print(&text)?;
        Ok(Exit::Done)
    }
}

/// Returns the entries of the queue, from this process or from a running taskspan.
async fn queue_of(setup: &Setup, found: &[ExportOnDisk]) -> Result<QueueSnapshot, Failure> {
    let Some(directory) = setup.queue_directory().filter(|it| is_there(it)) else {
        return Ok(QueueSnapshot::default());
    };
    let source = Source::find(&directory).await?;
    let trace_ids = found.iter().filter_map(ExportOnDisk::version).collect();
    let listed = source.ask(Question::List).await?;
    match (listed, source.ask(Question::AreDone { trace_ids }).await?) {
        (Answer::Listed(listed), Answer::AreDone(done)) => Ok(QueueSnapshot::new(listed, done)),
        other => Err(anyhow!("an unexpected answer: {other:?}").into()),
    }
}

fn table(all: &[ExportStatus]) -> String {
    if all.is_empty() {
        return "there are no exports\n".to_owned();
    }
    let mut text = format!("{:<11}  {:<32}  PATH\n", "STATE", "TRACE");
    for ExportStatus { path, state, reason, trace_id, .. } in all {
        let trace = trace_id.as_deref().unwrap_or("-");
        text.push_str(&format!("{:<11}  {trace:<32}  {}\n", state.as_str(), escape_control(path)));
        if let Some(reason) = reason {
            text.push_str(&format!("{:13}{}\n", "", escape_control(reason)));
        }
    }
    text
}
