//! `taskspan status`: every export below a directory, how far it is, and why.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::exit::Failure;
use super::queue::{Format, Source};
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global};
use crate::control::{Answer, Question};
use crate::ids::TraceId;
use crate::pipeline;
use crate::plan::{self, Export, Fresh, PlanError};
use crate::queue::admin::{Listed, ListedState};
use crate::queue::is_there;
use crate::receiver::scan::Scanner;
use crate::text::visible;
use crate::writeback;
use crate::writeback::config::WriteBackMode;

#[derive(Debug, Args)]
pub struct Status {
    /// Directories to look into; those of the configuration unless given
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Nobody has taken it in so far.
    Waiting,
    /// It is no export.
    Invalid,
    /// It cannot be read.
    Unreadable,
    /// It waits for an exporter, or is on its way.
    Queued,
    /// It arrived; the id is about to be written.
    Delivered,
    /// The id is where it belongs.
    Written,
    /// It arrived, and the id cannot be written.
    NotWritten,
    /// It arrived in part.
    Incomplete,
    /// It was refused.
    Rejected,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Invalid => "invalid",
            State::Unreadable => "unreadable",
            State::Queued => "queued",
            State::Delivered => "delivered",
            State::Written => "written",
            State::NotWritten => "not_written",
            State::Incomplete => "incomplete",
            State::Rejected => "rejected",
        }
    }
}

#[derive(Debug, Serialize)]
struct Known {
    path: String,
    state: State,
    reason: Option<String>,
    /// The trace that it became, or becomes.
    trace_id: Option<String>,
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &self.directories)?;
        setup.start_logging(global);
        let mut found = Vec::new();
        for config in pipeline::Pipelines::receivers(&setup.config) {
            let exports = Scanner::new(pipeline::selection(&config)).scan_all().exports;
            found.extend(exports.into_keys().map(|path| {
                let export = plan::read(&path, &config.read_options());
                (path, export, config.write_back.mode)
            }));
        }
        let fresh = found.iter().filter_map(|(_, export, _)| match export {
            Ok(Export::Fresh(fresh)) => Some(fresh.trace_id),
            _ => None,
        });
        let held = Held::by(&setup, fresh.collect()).await?;
        let known = found.into_iter().map(|(path, export, mode)| known(path, export, mode, &held));
        let all: Vec<Known> = known.collect();
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

/// What the queue knows; nothing, where there is no queue.
#[derive(Default)]
struct Held {
    listed: Vec<Listed>,
    /// Delivered, or dropped, and not held any more.
    done: Vec<TraceId>,
}

impl Held {
    async fn by(setup: &Setup, trace_ids: Vec<TraceId>) -> Result<Held, Failure> {
        let Some(directory) = setup.queue_directory().filter(|it| is_there(it)) else {
            return Ok(Held::default());
        };
        let source = Source::find(&directory).await?;
        match (
            source.ask(Question::List).await?,
            source.ask(Question::AreDone { trace_ids }).await?,
        ) {
            (Answer::Listed(listed), Answer::AreDone(done)) => Ok(Held { listed, done }),
            other => Err(anyhow!("an unexpected answer: {other:?}").into()),
        }
    }

    fn find(&self, id: &str) -> Option<&Listed> {
        self.listed.iter().find(|listed| listed.trace_id == id)
    }
}

fn known(
    path: PathBuf,
    export: Result<Export, PlanError>,
    mode: WriteBackMode,
    held: &Held,
) -> Known {
    let (state, reason, trace_id) = match export {
        Ok(Export::Emitted { task_trace_id }) => by_id(task_trace_id, held),
        Ok(Export::Fresh(fresh)) => by_queue(&path, &fresh, mode, held),
        Err(error @ PlanError::Source(_)) => (State::Unreadable, Some(error.to_string()), None),
        Err(error) => (State::Invalid, Some(error.to_string()), None),
    };
    Known { path: path.to_string_lossy().into_owned(), state, reason, trace_id }
}

type Found = (State, Option<String>, Option<String>);

/// It carries an id; an exporter that write-back does not wait for may be at work still.
fn by_id(id: String, held: &Held) -> Found {
    (State::Written, held.find(&id).and_then(Listed::waits_for), Some(id))
}

fn by_queue(path: &Path, fresh: &Fresh, mode: WriteBackMode, held: &Held) -> Found {
    let id = fresh.trace_id.to_string();
    let Some(listed) = held.find(&id) else {
        let own = fresh.carries.clone().filter(|_| fresh.is_our_write);
        let beside = || writeback::id_beside(path).filter(|beside| *beside == id);
        let written = own.or_else(|| beside().filter(|_| mode == WriteBackMode::Beside));
        return match written {
            Some(id) => by_id(id, held),
            // Sent, and nothing says so but the queue; or dropped by a person.
            None if held.done.contains(&fresh.trace_id) => {
                let reason = "not held any more, and no id is written for it";
                (State::Delivered, Some(reason.to_owned()), Some(id))
            }
            None => {
                let reason =
                    "not taken in yet: no sidecar has read it, or its queue is another one";
                (State::Waiting, Some(reason.to_owned()), None)
            }
        };
    };
    let refusal = || {
        let refused = listed.exporters.iter().find(|item| item.state.is_refusal());
        refused.and_then(|item| item.last_error.clone())
    };
    let (state, reason) = match listed.state {
        ListedState::Accepted | ListedState::Delivering => (State::Queued, listed.waits_for()),
        ListedState::Delivered if listed.not_written.is_some() => {
            (State::NotWritten, listed.not_written.clone())
        }
        ListedState::Delivered => (State::Delivered, None),
        ListedState::WrittenBack => (State::Written, listed.waits_for()),
        ListedState::Incomplete => (State::Incomplete, refusal()),
        ListedState::Rejected => (State::Rejected, refusal()),
    };
    (state, reason, Some(id))
}

fn table(all: &[Known]) -> String {
    if all.is_empty() {
        return "there are no exports\n".to_owned();
    }
    let mut text = format!("{:<11}  {:<32}  PATH\n", "STATE", "TRACE");
    for Known { path, state, reason, trace_id } in all {
        let trace = trace_id.as_deref().unwrap_or("-");
        text.push_str(&format!("{:<11}  {trace:<32}  {}\n", state.as_str(), visible(path)));
        if let Some(reason) = reason {
            text.push_str(&format!("{:13}{}\n", "", visible(reason)));
        }
    }
    text
}
