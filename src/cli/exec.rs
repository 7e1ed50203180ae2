//! `taskspan exec`: runs a job unchanged and delivers the exports that it writes (R7.1, R7.2).
//!
//! ```text
//! existing exports ─▶ pipelines, watching ────────────────▶ one last scan, deliver ─▶ summary ─┐
//!                  job ── streams and signals pass ──▶ ends ─┘                              └─▶ its code
//! ```
//!
//! The job runs whatever is wrong with the telemetry, and its exit code is the command's. Exports
//! that were there before the job and did not change are left alone, because the job did not write
//! them.

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
pub(crate) struct Exec {
    /// Directory that the job writes exports to; may be repeated. Defaults to the configured
    /// directories, else to the job's own -o or --output-dir
    #[arg(long = "watch", value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Time limit for the delivery after the job
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Timeout,

    /// Write a Markdown summary to this file
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,

    /// Run the job, show what would be sent for the exports that it wrote, and send nothing
    #[arg(long)]
    dry_run: bool,

    /// The job and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    job: Vec<OsString>,
}

/// Exit codes of shells for a command that does not exist, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Maximum time that the job waits for its telemetry. A hung mount would block the job
/// indefinitely.
const PREPARATION: Duration = Duration::from_secs(5);

/// Everything that is made before the job starts.
struct Prepared {
    setup: Setup,
    before: Vec<Baseline>,
    /// `None` if nothing is to be sent.
    session: Option<Session>,
}

/// The pipelines that run next to the job.
struct Beside {
    report: Report,
    orders: RunControl,
    run: JoinHandle<Result<(), Failure>>,
}

impl Exec {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        // Listen for signals before the job starts, so that none is missed.
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
        // A job with `--emit-tasks` writes an id when it ends, which must not conflict with one
        // that taskspan writes.
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

    /// Runs blocking work after the job, within a time limit.
    async fn after_the_job(&self, work: impl FnOnce() + Send + 'static) {
        let work = tokio::task::spawn_blocking(work);
        if tokio::time::timeout(self.timeout.0, work).await.is_err() {
            super::say("taskspan: writing the report of the run timed out");
        }
    }

    /// Runs the preparation that needs the disk, within a time limit.
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

    /// Delivers what the job wrote, within the time limit.
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

/// The directories to watch while the job runs.
enum Directories {
    /// Those of `--watch`, or those of the configuration if this is empty.
    Named(Vec<PathBuf>),
    /// The job's own output directory.
    OfJob(PathBuf),
}

impl Directories {
    /// Chooses the directories. The job's own output directory is watched only if nothing else is
    /// configured. Many programs use `-o` for a file, so a file is not watched.
    fn of(named: Vec<PathBuf>, config: &ConfigArgs, of_job: Option<PathBuf>) -> Directories {
        let is_configured = !named.is_empty() || !config.config.is_empty();
        match of_job.filter(|path| !is_configured && (path.is_dir() || !path.exists())) {
            Some(directory) if !Setup::has_default_file() => Directories::OfJob(directory),
            _ => Directories::Named(named),
        }
    }
}

/// Prepares the pipelines. `None` if the environment disables telemetry.
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
    // The job owns the terminal; the outcome is one line at the end.
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

/// Logs one line about the exports without an id that the job did not write.
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

/// Waits for the job and forwards signals to it.
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

/// Returns the exit code as a shell reports it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
