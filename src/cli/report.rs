//! The outcome of a run for a CI job: one line, a summary, outputs of a step.
//!
//! ```text
//! events ─▶ Report ─▶ line on standard error
//!                └──▶ --summary, $GITHUB_STEP_SUMMARY, $GITHUB_OUTPUT
//! ```

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::setup::Setup;
use super::summary::{Emitted, markdown};
use crate::base::ids::TraceId;
use crate::config::receivers::ExportDirConfig;
use crate::converter::Converter;
use crate::fs::named;
use crate::fs::root::Roots;
use crate::observe::grafana::Grafana;
use crate::pipeline::event::{Counts, Event, Tally};
use crate::pipeline::{self, Pipelines};
use crate::plan::{self, Export, ReadOptions, trace_of};

/// Collects the events of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    tally: Tally,
    /// Trace id by metadata file. `None` for an export that already had an id.
    traces: Arc<Mutex<BTreeMap<PathBuf, Option<TraceId>>>>,
}

impl Report {
    pub(crate) fn observe(&self, event: &Event) {
        self.tally.count(event);
        match event {
            Event::Done { path, trace_id, .. }
            | Event::Superseded { path, trace_id, gone: false }
            | Event::NotWritten { path, trace_id, .. } => {
                self.traces().insert(path.clone(), Some(*trace_id));
            }
            Event::AlreadyEmitted { path, foreign: false } => {
                self.traces().entry(path.clone()).or_insert(None);
            }
            _ => {}
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// Summarizes the run in one line.
    pub(crate) fn line(&self) -> String {
        let Counts { done, added, spans, refused, not_written, undelivered, given_up, .. } =
            self.counts();
        let exports = |count: usize| format!("{count} export{}", if count == 1 { "" } else { "s" });
        let mut parts = vec![format!("{} emitted, {spans} spans", exports(done))];
        if added > 0 {
            parts.push(format!("{added} added to traces"));
        }
        for (count, what) in [
            (refused, "refused"),
            (not_written, "emitted but not written back"),
            (undelivered + given_up, "not delivered"),
        ] {
            if count > 0 {
                parts.push(format!("{} {what}", exports(count)));
            }
        }
        let traces = self.traces();
        let ids: Vec<String> = traces.values().flatten().map(ToString::to_string).collect();
        match &ids[..] {
            [] => {}
            [id] => parts.push(format!("task_trace_id={id}")),
            several => parts.push(format!("task_trace_ids={}", several.join(","))),
        }
        format!("taskspan: {}", parts.join("; "))
    }

    /// Writes the summary to the given file, and to the files of the CI system. A file that cannot
    /// be written is a warning, because the exports are delivered.
    pub(crate) fn write(&self, setup: &Setup, summary: Option<&Path>) {
        let of_environment = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let page = of_environment("GITHUB_STEP_SUMMARY");
        let outputs = of_environment("GITHUB_OUTPUT");
        if summary.is_none() && page.is_none() && outputs.is_none() {
            return;
        }
        let exports = self.emitted(setup);
        if let Some(path) = outputs {
            // Later lines override earlier ones, so exports from before the run are listed only if
            // there are no new ones.
            let has_new = exports.iter().any(|export| export.is_new);
            let told = exports.iter().filter(|export| export.is_new || !has_new);
            let line = |export: &Emitted| format!("task_trace_id={}\n", export.trace_id);
            tell(&path, append(&path, &told.map(line).collect::<String>()));
        }
        let grafana = Grafana::of(&setup.config.service);
        let text = markdown(&exports, grafana.as_ref());
        if let Some(path) = summary {
            tell(path, overwrite(path, &text));
        }
        if let Some(path) = page {
            tell(&path, append(&path, &text));
        }
    }

    /// Reads every export that has a trace again: its figures are in its file.
    fn emitted(&self, setup: &Setup) -> Vec<Emitted> {
        let sources = Pipelines::converters(&setup.config, &setup.otel).unwrap_or_default();
        let traces = self.traces().clone();
        let of_file = |(path, trace_id): (PathBuf, Option<TraceId>)| {
            let finds = |(config, _): &&(ExportDirConfig, Converter)| {
                pipeline::selection(&config.watching()).is_export(&path)
            };
            let (config, converter) = sources.iter().find(finds).or(sources.first())?;
            let options = ReadOptions { emit_existing: true, ..config.read_options() };
            let roots = Roots::new(&config.directories);
            let fresh = match plan::read(&roots, &path, &options) {
                Ok(Export::Fresh(fresh)) => Some(*fresh),
                _ => None,
            };
            let (asked, mode) = (config.read_options(), config.write_back.mode);
            let carries = fresh
                .as_ref()
                .and_then(|it| trace_of(&roots.locate(&path).ok()?, it, &asked, mode).ok());
            let (is_new, trace_id) = (trace_id.is_some(), trace_id.or(carries)?);
            // A newer version of the export has another id, or none yet.
            let is_same = |it: &plan::Fresh| carries == Some(trace_id) || it.trace_id == trace_id;
            let plan = fresh.filter(is_same).map(|it| (it.plan, converter.clone()));
            Some(Emitted { path: path.display().to_string(), trace_id, is_new, plan })
        };
        traces.into_iter().filter_map(of_file).collect()
    }

    fn traces(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<TraceId>>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    named::open(path, options.create(true).write(true).truncate(true))?.write_all(text.as_bytes())
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    named::open(path, OpenOptions::new().create(true).append(true))?.write_all(text.as_bytes())
}

fn tell(path: &Path, written: io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!("{}: cannot be written: {error}", path.display());
    }
}
