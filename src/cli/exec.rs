//! `taskspan exec`: a job as it always was, and its exports delivered (R7.1, R7.2).
//!
//! ```text
//! pipelines, watching ─────────────────────▶ one last look, deliver ─▶ summary ─┐
//! job ── streams and signals pass through ──▶ ends ─┘                           └─▶ the job's code
//! ```
//!
//! Whatever is wrong with the telemetry, the job runs, and its exit code is ours.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use clap::Args;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::exit::Failure;
use super::report::Report;
use super::session::OnTrouble;
use super::setup::Setup;
use super::signals::{self, Passed, Signals};
use super::{ConfigArgs, Exit, Global, Timeout};
use crate::pipeline::{Mode, Orders, observer};

#[derive(Debug, Args)]
pub struct Exec {
    /// A directory that the job writes exports to; those of the configuration unless given
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

    /// The job and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    job: Vec<OsString>,
}

/// What shells say of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The pipelines beside the job.
struct Beside {
    setup: Setup,
    report: Report,
    orders: Orders,
    run: JoinHandle<Result<(), Failure>>,
}

impl Exec {
    pub async fn run(self, global: &Global) -> Result<Exit, Failure> {
        // Before the job starts: a signal must find us listening.
        let mut signals = Signals::listen();
        let beside = match self.start(global) {
            Ok(beside) => beside,
            Err(failure) => {
                failure.report();
                super::say("taskspan: the job runs without it");
                None
            }
        };
        let code = match self.spawn() {
            Ok(child) => wait(child, &mut signals).await.map_or(u8::MAX, code_of),
            Err(code) => code,
        };
        if let Some(beside) = beside {
            self.conclude(beside, &mut signals).await;
        }
        Ok(Exit::Job(code))
    }

    fn start(&self, global: &Global) -> Result<Option<Beside>, Failure> {
        let mut setup = Setup::for_job(&self.config, &self.directories)?;
        // The job has the screen; what matters is said at the end, in one line.
        setup.lower_log_level("warn");
        setup.start_logging(global);
        if setup.otel.disabled {
            return Ok(None);
        }
        let session = setup.open(OnTrouble::GoWithout)?;
        let (report, orders) = (Report::default(), Orders::default());
        let listening = report.clone();
        let observer = observer(move |event| {
            listening.observe(event);
            event.log();
        });
        let run = session.run(Mode::Job, observer, orders.clone());
        Ok(Some(Beside { setup, report, orders, run: tokio::spawn(run) }))
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
    async fn conclude(&self, beside: Beside, signals: &mut Signals) {
        let Beside { setup, report, orders, mut run } = beside;
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
        super::say(&report.line());
        report.write(&setup, self.summary.as_deref());
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
