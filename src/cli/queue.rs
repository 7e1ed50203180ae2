//! `taskspan queue`: lists queued and refused exports, and retries or drops them.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::exit::Failure;
use super::setup::{self, Setup};
use super::{ConfigArgs, Exit};
use crate::base::text::escape_control;
use crate::queue::admin::Listed;
use crate::queue::control::{self, Answer, Question};
use crate::queue::{Exporters, Location, Queue, is_there};

#[derive(Debug, Args)]
pub(crate) struct QueueCommand {
    #[command(subcommand)]
    action: Action,

    /// Directory of the queue [default: the configured one, else $XDG_STATE_HOME/taskspan]
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,

    /// Configuration file that names the directory; may be repeated
    #[arg(short, long = "config", value_name = "FILE", global = true)]
    config: Vec<PathBuf>,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List queued exports in order of arrival
    List,
    /// Show the details of one export
    Show {
        /// Number of the export, or the start of its trace id
        id: String,
    },
    /// Retry refused exports
    Retry(Which),
    /// Drop refused exports; their files are not changed
    Drop {
        #[command(flatten)]
        which: Which,

        /// Also drop exports that are still queued
        #[arg(long)]
        force: bool,
    },
    /// Read back every queued request, to check the store
    Verify,
}

#[derive(Debug, Args)]
struct Which {
    /// Numbers of exports, or starts of trace ids
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,

    /// All refused exports
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

impl QueueCommand {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let source = Source::find(&self.directory()?).await?;
        let listed = source.list().await?;
        match &self.action {
            Action::List => self.print(&listed, || table(&listed))?,
            Action::Show { id } => {
                let one = find(&listed, id)?;
                self.print(one, || details(one))?;
            }
            Action::Retry(which) => {
                let ids = which.ids(&listed, false)?;
                let done = source.change(Question::Retry { ids }).await?;
                self.print(&done, || format!("{} export(s) are sent again\n", done.len()))?;
            }
            Action::Drop { which, force } => {
                let (ids, force) = (which.ids(&listed, *force)?, *force);
                let done = source.change(Question::Drop { ids: ids.clone(), force }).await?;
                self.print(&done, || format!("{} export(s) forgotten\n", done.len()))?;
                let held = Source::find(&self.directory()?).await?.list().await?;
                // An export that was delivered in the meantime is not an error.
                let is_held = |id: &u64| held.iter().any(|one| one.id == *id);
                let left: Vec<u64> = ids.into_iter().filter(is_held).collect();
                if !left.is_empty() {
                    return Err(anyhow!("{left:?}: being sent at this moment; try again").into());
                }
            }
            Action::Verify => {
                let verified = match source.ask(Question::Verify).await? {
                    Answer::Verified(verified) => verified,
                    other => return Err(unexpected(other).into()),
                };
                self.print(&verified, || {
                    let missing: String =
                        verified.missing.iter().map(|it| format!("missing: {it}\n")).collect();
                    let (exports, requests) = (verified.exports, verified.requests);
                    let bytes = verified.bytes;
                    format!("{exports} export(s), {requests} request(s), {bytes} bytes\n{missing}")
                })?;
                if !verified.missing.is_empty() {
                    return Ok(Exit::NotDelivered);
                }
            }
        }
        Ok(Exit::Done)
    }

    fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(directory) = &self.state_dir {
            return Ok(directory.clone());
        }
        if !self.config.is_empty() {
            let args = ConfigArgs { config: self.config.clone(), ..ConfigArgs::default() };
            if let Some(Location::Directory(directory)) = Setup::load(&args, &[])?.location() {
                return Ok(directory);
            }
        }
        let env = |name: &str| std::env::var(name).ok();
        let directory = setup::default_state_dir(&env);
        Ok(directory.context("no queue directory: give one with --state-dir")?)
    }

    fn print<T: serde::Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => text(),
            Format::Json => {
                let json = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
                format!("{json}\n")
            }
        };
        Ok(super::print(&text)?)
    }
}

impl Which {
    /// Returns the dead letters among the given exports, and with `force` every one of them.
    fn ids(&self, listed: &[Listed], force: bool) -> anyhow::Result<Vec<u64>> {
        let is_dead = |one: &Listed| one.exporters.iter().any(|item| item.state.is_refusal());
        if self.all {
            return Ok(listed.iter().filter(|one| is_dead(one)).map(|one| one.id).collect());
        }
        let mut ids = Vec::new();
        for id in &self.ids {
            let one = find(listed, id)?;
            if !force && !is_dead(one) {
                bail!("export {} was not refused; it is {}", one.id, one.state.as_str());
            }
            ids.push(one.id);
        }
        Ok(ids)
    }
}

/// Access to the queue: through the process that runs on it, or directly if there is none.
pub(super) enum Source {
    Running(PathBuf),
    Opened(Queue, std::thread::JoinHandle<()>),
}

impl Source {
    pub(super) async fn find(directory: &Path) -> Result<Source, Failure> {
        let there = control::ask(directory, &Question::List).await;
        if there.with_context(|| directory.display().to_string())?.is_some() {
            return Ok(Source::Running(directory.to_owned()));
        }
        if !is_there(directory) {
            return Err(anyhow!("{}: there is no queue here", directory.display()).into());
        }
        let location = Location::Existing(directory.to_owned());
        let ready = Queue::open(location, &Exporters::new(), None).map_err(anyhow::Error::from)?;
        Ok(Source::Opened(ready.queue, ready.thread))
    }

    pub(super) async fn ask(&self, question: Question) -> anyhow::Result<Answer> {
        match self {
            Source::Running(directory) => control::ask(directory, &question)
                .await?
                .context("taskspan has just stopped; ask again"),
            Source::Opened(queue, _) => Ok(control::answer(queue, question).await),
        }
    }

    async fn list(&self) -> anyhow::Result<Vec<Listed>> {
        match self.ask(Question::List).await? {
            Answer::Listed(listed) => Ok(listed),
            other => Err(unexpected(other)),
        }
    }

    /// Requests a change and waits until it is durable.
    async fn change(self, question: Question) -> anyhow::Result<Vec<u64>> {
        let answer = self.ask(question).await?;
        if let Source::Opened(queue, thread) = self {
            drop(queue);
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        match answer {
            Answer::Done(ids) => Ok(ids),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(answer: Answer) -> anyhow::Error {
    match answer {
        Answer::Failed(reason) => anyhow!(reason),
        other => anyhow!("an unexpected answer: {other:?}"),
    }
}

fn find<'a>(listed: &'a [Listed], id: &str) -> anyhow::Result<&'a Listed> {
    let by_number = listed.iter().find(|one| one.id.to_string() == id);
    let mut by_trace = listed.iter().filter(|one| !id.is_empty() && one.trace_id.starts_with(id));
    match (by_number, by_trace.next(), by_trace.next()) {
        (Some(one), ..) | (None, Some(one), None) => Ok(one),
        (None, Some(_), Some(_)) => bail!("`{id}` begins more than one trace id"),
        (None, None, _) => bail!("there is no export `{id}` in the queue"),
    }
}

fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "the queue is empty\n".to_owned();
    }
    let mut text = format!("{:>5}  {:<12}  {:<32}  {:>6}  PATH\n", "ID", "STATE", "TRACE", "SPANS");
    for one in listed {
        let (id, state, trace, spans) = (one.id, one.state.as_str(), &one.trace_id, one.spans);
        let path = escape_control(&one.path.to_string_lossy());
        text.push_str(&format!("{id:>5}  {state:<12}  {trace:<32}  {spans:>6}  {path}\n"));
    }
    text
}

fn details(one: &Listed) -> String {
    let mut text = format!(
        "export {}\n  state       {}\n  trace       {}\n  project     {}\n  path        {}\n  \
         spans       {} in {} bytes\n  first seen  {}\n  written back  {}\n",
        one.id,
        one.state.as_str(),
        one.trace_id,
        escape_control(&one.project_id),
        escape_control(&one.path.to_string_lossy()),
        one.spans,
        one.bytes,
        one.first_seen,
        one.written_back,
    );
    if let Some(reason) = &one.not_written {
        text.push_str(&format!("  not written back: {reason}\n"));
    }
    for item in &one.exporters {
        let required = if item.required { "" } else { ", not required" };
        text.push_str(&format!(
            "  {}: {}{required}, {} attempt(s), {} request(s) waiting\n",
            item.exporter,
            item.state.as_str(),
            item.attempts,
            item.requests_waiting,
        ));
        for (label, value) in
            [("last error", &item.last_error), ("next attempt", &item.next_attempt)]
        {
            if let Some(value) = value {
                text.push_str(&format!("    {label}: {value}\n"));
            }
        }
    }
    text
}
