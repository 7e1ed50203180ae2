//! The telemetry of a job: a thread with a runtime of its own, next to the job.
//!
//! ```text
//! prepare (may block) ─▶ pipelines … job_ended ─▶ one last scan, deliver ─▶ report ─▶ ended
//!                                    give_up ─▶ stop ─────────────────────▶ report ─▶ ended
//! ```
//!
//! Exports that existed before the job and did not change are left alone, because the job did not
//! write them.

#![expect(clippy::disallowed_methods, reason = "the thread exists to be blocked")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::exit::Failure;
use super::super::preview::{self, Format};
use super::super::report::Report;
use super::super::session::{OnTrouble, Session};
use super::super::setup::Setup;
use super::super::{ConfigArgs, Global, job, say};
use super::Exec;
use crate::base::clock::UnixNanos;
use crate::base::text::escape_control;
use crate::fs::carried;
use crate::fs::root::Roots;
use crate::pipeline::{self, Mode, Pipelines, RunControl, observer};
use crate::receiver::baseline::Baseline;

/// Number of threads that the pipelines need at least, including those of the runtime.
const THREADS: usize = 12;

/// Time limit for the pipelines to end after they were aborted.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The telemetry thread, seen from the job's thread.
pub(super) struct Telemetry {
    /// Deliver what the job wrote, and end.
    pub(super) job_ended: CancellationToken,
    /// Everything is open, and the pipelines run.
    pub(super) prepared: CancellationToken,
    /// Report now, without waiting for a delivery.
    pub(super) give_up: CancellationToken,
    ended: oneshot::Receiver<()>,
}

/// Everything that is made while the job starts.
struct Prepared {
    setup: Setup,
    before: Vec<Baseline>,
    /// `None` if nothing is to be sent.
    session: Option<Session>,
}

impl Telemetry {
    /// Starts the thread. `started` is the time of the job's start.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub(super) fn start(exec: Exec, global: Global, started: UnixNanos) -> io::Result<Telemetry> {
        let (job_ended, give_up) = (CancellationToken::new(), CancellationToken::new());
        let (done, ended) = oneshot::channel();
        let prepared = CancellationToken::new();
        let beside = Beside {
            exec,
            started,
            job_ended: job_ended.clone(),
            prepared: prepared.clone(),
            give_up: give_up.clone(),
        };
        let run = move || {
            let run = AssertUnwindSafe(|| beside.run(&global));
            match catch_unwind(run) {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    failure.report();
                    say("taskspan: the job runs without it");
                }
                Err(_) => say("taskspan: the telemetry of the job ended; the job runs without it"),
            }
            // Nothing is received if the job's thread waits no longer.
            let _ = done.send(());
        };
        thread::Builder::new().name("telemetry".to_owned()).spawn(run)?;
        Ok(Telemetry { job_ended, prepared, give_up, ended })
    }

    /// Waits until the thread has ended.
    pub(super) async fn ended(&mut self) {
        // An error means that the thread has ended without a message.
        let _ = (&mut self.ended).await;
    }
}

/// What the telemetry thread needs.
struct Beside {
    exec: Exec,
    started: UnixNanos,
    job_ended: CancellationToken,
    prepared: CancellationToken,
    give_up: CancellationToken,
}

impl Beside {
    fn run(self, global: &Global) -> Result<(), Failure> {
        check_threads().context("threads cannot be started")?;
        let runtime = runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(anyhow::Error::from)?;
        let prepared = {
            let _context = runtime.enter();
            self.prepare(global)
        };
        let result = match prepared {
            Ok(Some(prepared)) => runtime.block_on(self.deliver(prepared)),
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        // A read that blocks on a dead mount must not keep the thread alive.
        runtime.shutdown_background();
        result
    }

    /// Prepares the pipelines. `None` if the environment disables telemetry.
    fn prepare(&self, global: &Global) -> Result<Option<Prepared>, Failure> {
        let Exec { config, dry_run, .. } = &self.exec;
        if job::emits_tasks(&self.exec.job) {
            say(
                "taskspan: the job itself has --emit-tasks: an export that carries the id of another \
                 program is not delivered; remove the flag",
            );
        }
        let of_job = job::output_directory(&self.exec.job);
        let mut setup = match Directories::of(&self.exec.directories, config, of_job) {
            Directories::Named(directories) => Setup::for_job(config, &directories)?,
            Directories::OfJob(directory) => {
                let shown = escape_control(&directory.display().to_string());
                say(&format!("taskspan: watching {shown}, the job's output directory"));
                Setup::for_job(config, &[directory])?.without_files()
            }
        };
        // The job owns the terminal; the outcome is one line at the end.
        setup.lower_log_level("warn");
        setup.start_logging(global);
        if *dry_run {
            let before = baselines(&setup).into_iter().map(|it| it.before(self.started)).collect();
            return Ok(Some(Prepared { setup, before, session: None }));
        }
        if setup.otel.disabled {
            return Ok(None);
        }
        let mut session = setup.open(OnTrouble::GoWithout)?;
        let before = session.pass_over(self.started);
        Ok(Some(Prepared { setup, before, session: Some(session) }))
    }

    /// Delivers what the job writes, and reports.
    async fn deliver(self, prepared: Prepared) -> Result<(), Failure> {
        let Prepared { setup, before, session } = prepared;
        self.prepared.cancel();
        let Some(session) = session else {
            self.job_ended.cancelled().await;
            preview_written(&setup, &before);
            return Ok(());
        };
        // A job with `--emit-tasks` writes an id when it ends, which must not conflict with one
        // that taskspan writes.
        if job::emits_tasks(&self.exec.job) {
            self.job_ended.cancelled().await;
        }
        let report = Report::default();
        let listening = report.clone();
        let observer = observer(move |event| {
            listening.observe(event);
            event.log();
        });
        let orders = RunControl { finish: self.job_ended.clone(), ..RunControl::default() };
        let run = session.run(Mode::Job, observer, orders.clone());
        let given_up = async {
            self.give_up.cancelled().await;
            orders.stop.cancel();
            orders.abort.cancel();
            tokio::time::sleep(ABORT_GRACE).await;
        };
        let result = tokio::select! {
            result = run => result,
            () = given_up => Ok(()),
        };
        if let Err(failure) = result {
            failure.report();
        }
        say_what_was_left(&setup, &before);
        say(&report.line());
        report.write(&setup, self.exec.summary.as_deref());
        Ok(())
    }
}

/// Starts and ends as many threads as the pipelines need. Otherwise they would panic where the number
/// of processes is limited.
fn check_threads() -> io::Result<()> {
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let threads = (0..THREADS).map(|_| {
        let held = Arc::clone(&held);
        thread::Builder::new().spawn(move || drop(held.lock().map(|held| held.recv())))
    });
    let threads: io::Result<Vec<_>> = threads.collect();
    drop(hold);
    for thread in threads? {
        let _ = thread.join();
    }
    Ok(())
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
    fn of(named: &[PathBuf], config: &ConfigArgs, of_job: Option<PathBuf>) -> Directories {
        let is_configured = !named.is_empty() || !config.config.is_empty();
        match of_job.filter(|path| !is_configured && (path.is_dir() || !path.exists())) {
            Some(directory) if !Setup::has_default_file() => Directories::OfJob(directory),
            _ => Directories::Named(named.to_vec()),
        }
    }
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
        let carries = move |path: &Path| {
            roots.locate(path).is_ok_and(|it| carried::carries_any(&it, max_bytes))
        };
        before.unchanged().into_iter().filter(move |path| !carries(path))
    });
    let left: Vec<_> = left.collect();
    let Some(first) = left.first() else { return };
    let (count, first) = (left.len(), escape_control(&first.display().to_string()));
    say(&format!(
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
        say("taskspan: the job wrote no export");
    } else if let Err(failure) = preview::show(setup, &written, Format::Tree) {
        failure.report();
    }
}
