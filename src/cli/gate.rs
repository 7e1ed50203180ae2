//! `taskspan gate`: adds the results of gates to the trace of the export that they judged (R4.5).

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::addition::Onto;
use super::exit::Failure;
use super::watchdog::Watchdog;
use super::{Exit, Global};
use crate::base::clock::UnixNanos;
use crate::converter::additions::NoTask;
use crate::plan::Emitted;
use crate::plan::gate::{GateFile, GateResult};

/// Size limit of the input, in bytes.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct Gate {
    #[command(flatten)]
    onto: Onto,

    /// Files with GateResults, lists of them or reports; `-` or nothing reads standard input
    #[arg(value_name = "RESULT.json")]
    results: Vec<PathBuf>,
}

impl Gate {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let watchdog = Watchdog::arm(self.onto.timeout.0);
        let prepared = self.onto.prepare(global)?;
        drop(watchdog);
        let ready = match prepared {
            Ok(ready) => ready,
            Err(exit) => return Ok(exit),
        };
        let stdin = [PathBuf::from("-")];
        let files = if self.results.is_empty() { &stdin[..] } else { &self.results };
        let mut results = Vec::new();
        let mut is_refused = false;
        for file in files {
            match read(file).and_then(|gates| of_export(gates, &ready.emitted)) {
                Ok(more) => results.extend(more),
                Err(reason) => {
                    tracing::error!("{}: {reason}", name(file));
                    is_refused = true;
                }
            }
        }
        // Send all results or none: some of them would give a wrong picture.
        if is_refused {
            return Ok(Exit::Refused);
        }
        let addition = ready.pipelines.addition::<NoTask>(
            ready.metadata(),
            &ready.emitted,
            |trace| {
                for id in trace.unknown_tasks(&results) {
                    tracing::warn!("no task `{id}` in the export; the result goes to the epic");
                }
                trace.gate_results(&results)
            },
            |_| Ok(Vec::new()),
        );
        let addition = match addition {
            Ok(addition) => addition,
            Err(error) => {
                tracing::error!("{}: {error}", ready.metadata().display());
                return Ok(Exit::Refused);
            }
        };
        if results.is_empty() {
            tracing::warn!("there is no gate result to add");
            return Ok(Exit::Done);
        }
        ready.send(addition).await
    }
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

fn read(file: &Path) -> Result<GateFile, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let written_at = std::fs::metadata(file).and_then(|it| it.modified());
    let written_at = written_at.map_or_else(|_| UnixNanos::now(), UnixNanos::from);
    let file = GateFile::parse(&bytes, written_at).map_err(|error| error.to_string())?;
    for warning in &file.warnings {
        tracing::warn!("{warning}");
    }
    Ok(file)
}

/// Returns the results of a file if they are about this export, else the reason why not.
fn of_export(file: GateFile, emitted: &Emitted) -> Result<Vec<GateResult>, String> {
    let project = &emitted.plan.project;
    if let Some(other) = file.project_id.filter(|id| !project.is_named(id)) {
        let own = &project.id;
        return Err(format!("the report is of project `{other}`, but the export is of `{own}`"));
    }
    let others = file.results.iter().filter_map(|result| result.trace_id);
    if let Some(other) = others.into_iter().find(|id| *id != emitted.trace_id) {
        let own = emitted.trace_id;
        return Err(format!("a result is of trace {other}, but the trace of the export is {own}"));
    }
    Ok(file.results)
}
