//! `taskspan exec`: runs a job unchanged and delivers the exports that it writes (R7.1, R7.2).
//!
//! ```text
//! what is there ─▶ pipelines, watching ────────────────▶ one last scan, deliver ─▶ summary ─┐
//!                  job ── streams and signals pass ──▶ ends ─┘                              └─▶ its code
//! ```
//!
//! Whatever is wrong with the telemetry, the job runs, and its exit code is ours. What was there before
//! the job, and is the same after it, is left alone: the job did not write it.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::exit::Failure;
use super::preview::{self, Format};
use super::report::Report;
use super::session::{OnTrouble, Session};
use super::setup::Setup;
use super::signals::{self, Passed, Signals};
use super::{ConfigArgs, Exit, Global, Timeout, job};
use crate::base::text::escape_control;
use crate::fs::carried;
use crate::fs::root::Roots;
use crate::pipeline::{self, Mode, Pipelines, RunControl, observer};
use crate::receiver::baseline::Baseline;

#[derive(Debug, Args)]
pub struct Exec {
    /// A directory that the job writes exports to; may be repeated. Defaults to the directories of the
    /// configuration, else to the job's own -o or --output-dir
    #[arg(long = "watch", value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// How long to wait, after the job, until everything is delivered
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Timeout,

    /// A file for a summary in Markdown
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,

    /// Run the job, show what would be sent for the exports that it wrote, and send nothing
    #[arg(long)]
    dry_run: bool,

    /// The job and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    job: Vec<OsString>,
}

/// What shells say of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The longest that a job waits for its telemetry. A hung mount would block the job indefinitely.
const PREPARATION: Duration = Duration::from_secs(5);

/// Made before the job starts.
struct Prepared {
    setup: Setup,
    before: Vec<Baseline>,
    /// `None`: nothing is to be sent.
    session: Option<Session>,
}

/// The pipelines that run next to the job.
struct Beside {
    report: Report,
    orders: RunControl,
    run: JoinHandle<Result<(), Failure>>,
}

impl Exec {
    pub async fn run(self, global: &Global) -> Result<Exit, Failure> {
        // Before the job starts: a signal must find us listening.
        let mut signals = Signals::listen();
        let emits_tasks = job::emits_tasks(&self.job);
        if emits_tasks {
            super::say(
                "taskspan: the job itself has --emit-tasks: an export that carries the id of another \
                 program is not delivered; remove the flag",
            );
        }
        let prepared = match self.prepare(global).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                failure.report();
                super::say("taskspan: the job runs without it");
                None
            }
        };
        // The id that such a job writes at its end must not meet one of ours.
        let start =
            |Prepared { setup, before, session }| (setup, before, session.map(Beside::start));
        let (now, later) = if emits_tasks { (None, prepared) } else { (prepared, None) };
        let now = now.map(start);
        let code = match self.spawn() {
            Ok(child) => wait(child, &mut signals).await.map_or(u8::MAX, code_of),
            Err(code) => code,
        };
        let prepared = now.or_else(|| later.map(start));
        match prepared {
            Some((setup, before, Some(beside))) => {
                let report = self.conclude(beside, &mut signals).await;
                let summary = self.summary.clone();
                let report_run = move || {
                    say_what_was_left(&setup, &before);
                    super::say(&report.line());
                    report.write(&setup, summary.as_deref());
                };
                self.after_the_job(report_run).await;
            }
            Some((setup, before, None)) if self.dry_run => {
                self.after_the_job(move || preview_written(&setup, &before)).await;
            }
            _ => {}
        }
        Ok(Exit::Job(code))
    }

    /// What needs the disk once the job has ended, in bounded time.
    async fn after_the_job(&self, work: impl FnOnce() + Send + 'static) {
        let work = tokio::task::spawn_blocking(work);
        if tokio::time::timeout(self.timeout.0, work).await.is_err() {
            super::say("taskspan: writing the report of the run timed out");
        }
    }

    /// Everything that needs the disk, in bounded time.
    async fn prepare(&self, global: &Global) -> Result<Option<Prepared>, Failure> {
        let (config, global, dry_run) = (self.config.clone(), global.clone(), self.dry_run);
        let named = self.directories.clone();
        let of_job = job::output_directory(&self.job);
        let prepare = tokio::task::spawn_blocking(move || {
            let directories = Directories::of(named, &config, of_job);
            prepare(&config, &directories, &global, dry_run)
        });
        match tokio::time::timeout(PREPARATION, prepare).await {
            Ok(prepared) => prepared.map_err(anyhow::Error::from)?,
            Err(_) => {
                let waited = humantime::format_duration(PREPARATION);
                Err(anyhow::anyhow!(
                    "the configuration, the queue or a watched directory did not answer within \
                     {waited}: does a mount hang?"
                )
                .into())
            }
        }
    }

    fn spawn(&self) -> Result<Child, u8> {
        let (program, arguments) = self.job.split_first().ok_or(NOT_FOUND)?;
        Command::new(program).args(arguments).spawn().map_err(|error| {
            let program = program.display();
            super::say(&format!("taskspan: {program}: {error}"));
            match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            }
        })
    }

    /// Delivers what the job wrote, within the time there is.
    async fn conclude(&self, beside: Beside, signals: &mut Signals) -> Report {
        let Beside { report, orders, mut run } = beside;
        orders.finish.cancel();
        let ended = tokio::select! {
            ended = &mut run => ended,
            () = give_up(signals, self.timeout) => {
                orders.stop.cancel();
                orders.abort.cancel();
                run.await
            }
        };
        if let Ok(Err(failure)) = ended {
            failure.report();
        }
        report
    }
}

impl Beside {
    fn start(session: Session) -> Beside {
        let (report, orders) = (Report::default(), RunControl::default());
        let listening = report.clone();
        let observer = observer(move |event| {
            listening.observe(event);
            event.log();
        });
        let run = tokio::spawn(session.run(Mode::Job, observer, orders.clone()));
        Beside { report, orders, run }
    }
}

/// What is watched while the job runs.
enum Directories {
    /// By `--watch`, or by the configuration if there are none.
    Named(Vec<PathBuf>),
    /// The job's own output directory.
    OfJob(PathBuf),
}

impl Directories {
    /// The job's own output directory is watched where nothing else is configured. Many programs have an option `-o`
    /// for a file, so a file is not watched.
    fn of(named: Vec<PathBuf>, config: &ConfigArgs, of_job: Option<PathBuf>) -> Directories {
        let is_configured = !named.is_empty() || !config.config.is_empty();
        match of_job.filter(|path| !is_configured && (path.is_dir() || !path.exists())) {
            Some(directory) if !Setup::has_default_file() => Directories::OfJob(directory),
            _ => Directories::Named(named),
        }
    }
}

/// `None`: the environment turns telemetry off.
fn prepare(
    config: &ConfigArgs,
    directories: &Directories,
    global: &Global,
    dry_run: bool,
) -> Result<Option<Prepared>, Failure> {
    let mut setup = match directories {
        Directories::Named(directories) => Setup::for_job(config, directories)?,
        Directories::OfJob(directory) => {
            let shown = escape_control(&directory.display().to_string());
            super::say(&format!("taskspan: watching {shown}, the job's output directory"));
            Setup::for_job(config, std::slice::from_ref(directory))?.without_files()
        }
    };
    // The job has the screen; what matters is said at the end, in one line.
    setup.lower_log_level("warn");
    setup.start_logging(global);
    if dry_run {
        let before = baselines(&setup);
        return Ok(Some(Prepared { setup, before, session: None }));
    }
    if setup.otel.disabled {
        return Ok(None);
    }
    let mut session = setup.open(OnTrouble::GoWithout)?;
    let before = session.pass_over_what_is_there();
    Ok(Some(Prepared { setup, before, session: Some(session) }))
}

fn baselines(setup: &Setup) -> Vec<Baseline> {
    let receivers = Pipelines::receivers(&setup.config);
    receivers.iter().map(|config| Baseline::take(pipeline::selection(&config.watching()))).collect()
}

/// Mentions, in one line, the exports without an id that the job did not write.
fn say_what_was_left(setup: &Setup, before: &[Baseline]) {
    let receivers = Pipelines::receivers(&setup.config);
    let left = before.iter().zip(&receivers).flat_map(|(before, config)| {
        let max_bytes = config.max_file_size.0;
        let roots = Roots::new(&config.directories);
        let carries = move |path: &std::path::Path| {
            roots.locate(path).is_ok_and(|it| carried::carries_any(&it, max_bytes))
        };
        before.unchanged().into_iter().filter(move |path| !carries(path))
    });
    let left: Vec<_> = left.collect();
    let Some(first) = left.first() else { return };
    let (count, first) = (left.len(), escape_control(&first.display().to_string()));
    super::say(&format!(
        "taskspan: exports that the job did not write were left alone: {count} (first: {first}); \
         `taskspan once` delivers them"
    ));
}

/// Shows what would be sent for the exports that the job wrote.
fn preview_written(setup: &Setup, before: &[Baseline]) {
    let after = baselines(setup);
    let written = before.iter().zip(&after).flat_map(|(before, after)| before.written_since(after));
    let written: Vec<PathBuf> = written.map(PathBuf::from).collect();
    if written.is_empty() {
        super::say("taskspan: the job wrote no export");
    } else if let Err(failure) = preview::show(setup, &written, Format::Tree) {
        failure.report();
    }
}

async fn give_up(signals: &mut Signals, timeout: Timeout) {
    tokio::select! {
        () = tokio::time::sleep(timeout.0) => {}
        _ = signals.next() => {}
    }
}

/// Waits for the job, and hands on to it what is sent to us.
async fn wait(mut child: Child, signals: &mut Signals) -> std::io::Result<ExitStatus> {
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            signal = signals.next() => {
                if signals::passed_by(signal) == Passed::ByUs
                    && let Some(id) = child.id()
                {
                    signals::send(id, signal);
                }
            }
        }
    }
}

/// As a shell says it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
