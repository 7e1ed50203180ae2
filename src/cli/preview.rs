//! `taskspan preview`: what would be sent (R5.3). Sends nothing, writes nothing.
//!
//! ```text
//! files ─▶ plan ─▶ converter ─▶ requests ─▶ tree │ json │ otlp │ mermaid
//! ```
//!
//! It shows the same requests that a run would send, with the present time.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

mod json;
pub(crate) mod mermaid;
pub(crate) mod tree;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::Value;

use super::exit::Failure;
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::config::receivers::ExportDirConfig;
use crate::converter::Converter;
use crate::converter::view::{self, SpanView};
use crate::fs::root::Roots;
use crate::fs::stamp::IdOrigin;
use crate::pipeline::event::Event;
use crate::pipeline::{self, Pipelines};
use crate::plan::{self, Export, Plan};
use crate::receiver::METADATA_FILE;
use crate::receiver::config::WatchConfig;
use crate::receiver::scan::Scanner;

#[derive(Debug, Args)]
pub(crate) struct Preview {
    /// Directories to search, or metadata files [default: those of the configuration]
    #[arg(value_name = "DIR")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Tree)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A tree for people
    Tree,
    /// JSON for programs; a list unless there is exactly one export
    Json,
    /// One ExportTraceServiceRequest in OTLP/JSON
    Otlp,
    /// The dependency graph of each export
    Mermaid,
}

impl Preview {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let setup = Setup::load(&self.config, &self.paths)?;
        setup.start_logging(global);
        show(&setup, &self.paths, self.format)
    }
}

/// An export as it would be sent.
struct Previewed {
    path: PathBuf,
    plan: Plan,
    trace_id: TraceId,
    requests: Vec<ExportTraceServiceRequest>,
    warnings: Vec<String>,
}

impl Previewed {
    fn trees(&self) -> Vec<SpanView> {
        view::trees(&self.requests)
    }
}

/// Shows every export that a run would send. `paths` replace the receiver's directories.
pub(crate) fn show(setup: &Setup, paths: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    let sources =
        Pipelines::converters(&setup.config, &setup.otel).map_err(super::setup::pipeline_faults)?;
    let mut previews = Vec::new();
    let mut exit = Exit::Done;
    for (config, converter) in sources {
        let paths = if paths.is_empty() { &config.directories } else { paths };
        for path in metadata_files(paths, &config) {
            match plan::read(&Roots::of_file(&path), &path, &config.read_options()) {
                Ok(Export::Fresh(fresh)) => {
                    previews.push(preview(path, *fresh, &converter));
                }
                Ok(Export::Emitted(carried)) => {
                    if carried.origin == IdOrigin::Foreign {
                        Event::AlreadyEmitted { path, foreign: true }.log();
                    } else {
                        let (path, task_trace_id) = (path.display(), carried.text);
                        tracing::info!(%path, task_trace_id, "emitted before");
                    }
                }
                Err(error) => {
                    tracing::error!("{error}");
                    exit = Exit::Refused;
                }
            }
        }
    }
    for preview in &previews {
        for warning in &preview.warnings {
            tracing::warn!(path = %preview.path.display(), "{warning}");
        }
    }
    super::print(&render(previews, format)?)?;
    Ok(exit)
}

fn preview(path: PathBuf, fresh: plan::Fresh, converter: &Converter) -> Previewed {
    let plan::Fresh { plan, trace_id, .. } = fresh;
    let conversion = converter.convert(&plan, trace_id, UnixNanos::now());
    let requests = conversion.traces();
    let warnings = conversion.warnings.iter().map(ToString::to_string);
    let warnings = plan.warnings.iter().map(ToString::to_string).chain(warnings).collect();
    Previewed { path, plan, trace_id, requests, warnings }
}

/// Returns the metadata files below `paths`. A path that is a file is returned as it is.
fn metadata_files(paths: &[PathBuf], config: &ExportDirConfig) -> Vec<PathBuf> {
    for path in paths.iter().filter(|path| !path.exists()) {
        tracing::warn!(path = %path.display(), "there is no such directory");
    }
    let config = WatchConfig { directories: paths.to_vec(), ..config.watching() };
    let found = Scanner::new(pipeline::selection(&config)).scan_all();
    if found.exports.is_empty() {
        tracing::warn!("there is no {METADATA_FILE} to show");
    }
    found.exports.into_keys().collect()
}

fn render(previews: Vec<Previewed>, format: Format) -> Result<String, Failure> {
    let text = match format {
        Format::Tree => previews.iter().map(tree::of_preview).collect(),
        Format::Json => {
            let mut documents: Vec<Value> = previews.iter().map(json::document).collect();
            let whole = match documents.len() {
                1 => documents.remove(0),
                _ => Value::Array(documents),
            };
            format!("{}\n", serde_json::to_string_pretty(&whole).map_err(anyhow::Error::from)?)
        }
        Format::Otlp => {
            let requests = previews.into_iter().flat_map(|preview| preview.requests).collect();
            let json = serde_json::to_string_pretty(&view::merged(requests));
            format!("{}\n", json.map_err(anyhow::Error::from)?)
        }
        Format::Mermaid => previews.iter().map(|it| mermaid::graph(&it.plan)).collect(),
    };
    Ok(text)
}
