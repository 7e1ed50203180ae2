//! `taskspan exec`: runs a job unchanged and delivers the exports that it writes (R7.1, R7.2).
//!
//! ```text
//! main thread       job starts ── streams and signals pass ──▶ ends ──▶ wait, at most --timeout ─▶ its code
//! telemetry thread   └▶ existing exports ─▶ pipelines, watching ──▶ one last scan, deliver ─▶ summary
//! ```
//!
//! The job starts first and needs nothing of the telemetry. Whatever hangs, fails or panics there
//! happens on a thread of its own, and the exit code is the job's.

mod telemetry;

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

use super::signals::{self, Passed, Signals};
use super::{ConfigArgs, Exit, Global, Timeout};
use crate::base::clock::UnixNanos;
use telemetry::Telemetry;

#[derive(Clone, Debug, Args)]
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

/// Time limit for opening the configuration, the queue and the directories, from the start of the
/// job. A hung mount would block it indefinitely.
const PREPARATION: Duration = Duration::from_secs(5);

/// Time limit for the report after the delivery was given up.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// Maximum wait for the coarse clock. It is at most two periods of 10 ms late, unless a virtual
/// machine pauses the processor that advances it.
const MAX_TICK: Duration = Duration::from_millis(200);

impl Exec {
    /// Runs the job on this thread, and the telemetry on another. Blocks until both have ended, or
    /// until the time limit after the job.
    pub(crate) fn run(self, global: &Global) -> Exit {
        let code = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.attend(global)),
            Err(error) => self.become_the_job(&error),
        };
        Exit::Job(code)
    }

    async fn attend(self, global: &Global) -> u8 {
        // Listen for signals before the job starts, so that none is missed.
        let mut signals = Signals::listen();
        let started = next_tick().await;
        let child = match self.spawn() {
            Ok(child) => child,
            Err(code) => return code,
        };
        let (timeout, prepared_by) = (self.timeout.0, Instant::now() + PREPARATION);
        let telemetry = Telemetry::start(self, global.clone(), started);
        let code = wait(child, &mut signals).await.map_or(u8::MAX, code_of);
        match telemetry {
            Ok(telemetry) => conclude(telemetry, &mut signals, prepared_by, timeout).await,
            Err(error) => without_telemetry(&error),
        }
        code
    }

    fn spawn(&self) -> Result<Child, u8> {
        let (program, arguments) = self.job.split_first().ok_or(NOT_FOUND)?;
        Command::new(program).args(arguments).spawn().map_err(|error| cannot_start(program, &error))
    }

    /// Replaces this process by the job. Returns only if the job cannot be started.
    fn become_the_job(&self, reason: &io::Error) -> u8 {
        without_telemetry(reason);
        let Some((program, arguments)) = self.job.split_first() else { return NOT_FOUND };
        super::flush();
        cannot_start(program, &std::process::Command::new(program).args(arguments).exec())
    }
}

fn cannot_start(program: &OsStr, error: &io::Error) -> u8 {
    super::say(&format!("taskspan: {}: {error}", program.display()));
    match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

fn without_telemetry(reason: &io::Error) {
    super::say(&format!("taskspan: the job runs without telemetry: {reason}"));
}

/// Returns a time after every change that was made before the call, and not after any change that
/// is made after it.
///
/// A file system takes the time of a change from the coarse clock, which is some milliseconds
/// late. Since Linux 6.13 it takes it from the precise clock if the file was looked at before the
/// change. Thus the coarse clock must have passed the precise one.
async fn next_tick() -> UnixNanos {
    let now = |clock| {
        let now = clock_gettime(clock);
        let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        UnixNanos(u64::try_from(nanos).unwrap_or_default())
    };
    let (called_at, give_up) = (now(ClockId::Realtime), Instant::now() + MAX_TICK);
    loop {
        let tick = now(ClockId::RealtimeCoarse);
        if tick > called_at || Instant::now() >= give_up {
            return tick;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for the job and forwards signals to it.
async fn wait(mut child: Child, signals: &mut Signals) -> io::Result<ExitStatus> {
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

/// Waits until the exports are delivered, or until the time limit or a signal. Then waits a moment
/// for the report.
async fn conclude(
    mut telemetry: Telemetry,
    signals: &mut Signals,
    prepared_by: Instant,
    timeout: Duration,
) {
    telemetry.job_ended.cancel();
    let deadline = Instant::now() + timeout;
    let prepared = telemetry.prepared.clone();
    tokio::select! {
        () = telemetry.ended() => return,
        () = prepared.cancelled() => {}
        () = sleep_until(prepared_by.min(deadline)) => {
            super::say(
                "taskspan: the configuration, the queue or a watched directory did not answer in \
                 time: does a mount hang?",
            );
            return;
        }
        _ = signals.next_wish() => return,
    }
    tokio::select! {
        () = telemetry.ended() => return,
        () = sleep_until(deadline) => {}
        _ = signals.next_wish() => {}
    }
    telemetry.give_up.cancel();
    tokio::select! {
        () = telemetry.ended() => {}
        () = sleep(REPORT_GRACE) => {
            super::say("taskspan: the telemetry did not end in time: does a mount hang?");
        }
        _ = signals.next_wish() => {}
    }
}

/// Returns the exit code as a shell reports it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tick_is_after_everything_that_was_before() {
        for _ in 0..20 {
            let before = UnixNanos::now();
            let tick = next_tick().await;
            assert!(tick > before, "{tick:?} after {before:?}");
        }
    }
}
