//! Builds all components from the configuration, before any is started.

use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;

use super::memory::{self, MemoryBudget};
use super::quarantine::Quarantine;
use super::{Gates, Pipelines, ReceiverPipeline};
use crate::base::signal::Signal;
use crate::base::units::{ByteSize, ComponentId};
use crate::config::otel_env::OtelEnv;
use crate::config::receivers::ExportDirConfig;
use crate::config::{Config, ExporterConfig, PipelineConfig, ProcessorConfig, ReceiverConfig};
use crate::converter::options::ResourceConfig;
use crate::converter::{BadPattern, Converter, Redaction};
use crate::exporter::{BuildError, Exporter};
use crate::fs::carried::WriteBackMode;
use crate::fs::cgroup;
use crate::queue::{self, Destination};
use crate::receiver::baseline::Baseline;
use crate::receiver::config::WatchConfig;

/// A component that cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error("exporter `{id}`: {source}")]
    Exporter { id: ComponentId, source: BuildError },
    #[error("processor `{id}`: {source}")]
    Redaction { id: ComponentId, source: BadPattern },
    #[error(
        "receiver `{id}` feeds more than one {signal} pipeline, so each export would be sent \
         twice; list all exporters in one pipeline"
    )]
    SharedReceiver { id: ComponentId, signal: Signal },
    #[error(
        "receiver `{id}` feeds a logs pipeline and no traces pipeline, so the log records would \
         speak of spans that are never sent; list it in a traces pipeline, too"
    )]
    LogsAlone { id: ComponentId },
    #[error(
        "receiver `{id}` adds to the traces of exports, and with `write_back: {{mode: off}}` nothing \
         says which trace an export became; use in_place or beside"
    )]
    NoIds { id: ComponentId },
    #[error("receiver `{id}` gives no log records; list it in a traces pipeline")]
    NoLogs { id: ComponentId },
    #[error(
        "pipeline `{id}`: every exporter is marked `required: false`, so nothing would say when \
         task_trace_id may be written; leave at least one required"
    )]
    NothingRequired { id: ComponentId },
}

impl Pipelines {
    /// Builds every component and starts none.
    ///
    /// # Errors
    /// Returns every component that cannot be built, not only the first.
    pub(crate) fn build(config: &Config, otel: &OtelEnv) -> Result<Pipelines, Vec<PipelineError>> {
        let mut errors = faults_of_wiring(config);
        let mut exporters = Exporters::default();
        let (mut sources, mut gates) = (Vec::new(), Vec::new());
        for (pipeline_id, pipeline) in pipelines(config, Signal::Traces) {
            let destinations = exporters.of_pipeline(config, pipeline, Signal::Traces);
            if !destinations.iter().any(|destination| destination.required) {
                errors.push(PipelineError::NothingRequired { id: pipeline_id.clone() });
            }
            for receiver in &pipeline.receivers {
                let dir = match config.receivers.get(receiver) {
                    Some(ReceiverConfig::ExportDir(dir)) => dir,
                    Some(ReceiverConfig::GateResults(results)) => {
                        gates.push(Gates {
                            id: receiver.to_string(),
                            config: WatchConfig {
                                directories: absolute(&results.directories),
                                ..results.watching()
                            },
                            destinations: destinations.clone(),
                            watching: Arc::default(),
                            baseline: Baseline::default(),
                        });
                        continue;
                    }
                    None => continue,
                };
                let mut source = ReceiverPipeline {
                    id: receiver.to_string(),
                    config: with_absolute_directories(dir),
                    converter: converter(config, pipeline, dir, otel, &mut errors),
                    logs: None,
                    destinations: destinations.clone(),
                    watching: Arc::default(),
                    baseline: Baseline::default(),
                };
                for (_, logs) in pipelines(config, Signal::Logs) {
                    if logs.receivers.contains(receiver) {
                        source.logs = Some(converter(config, logs, dir, otel, &mut errors));
                        let more = exporters.of_pipeline(config, logs, Signal::Logs);
                        source.destinations.extend(more);
                    }
                }
                sources.push(source);
            }
        }
        errors.append(&mut exporters.errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Pipelines {
            receivers: sources,
            gates,
            exporters: exporters.built.into_values().collect(),
            capacities: exporters.capacities,
            shutdown_timeout: config.service.shutdown_timeout.0,
            memory: MemoryBudget::new(max_memory(config)),
            quarantine: Quarantine::default(),
        })
    }

    /// Returns the settings of every receiver that feeds a pipeline.
    pub(crate) fn receivers(config: &Config) -> Vec<ExportDirConfig> {
        export_dirs(config).map(|(_, dir)| with_absolute_directories(dir)).collect()
    }

    /// Returns the settings of each receiver with its converter. Exporters are not built, so a
    /// preview needs no endpoint.
    ///
    /// # Errors
    /// Returns every processor that cannot be built.
    pub(crate) fn converters(
        config: &Config,
        otel: &OtelEnv,
    ) -> Result<Vec<(ExportDirConfig, Converter)>, Vec<PipelineError>> {
        let mut errors = Vec::new();
        let made = export_dirs(config).map(|(pipeline, dir)| {
            let converter = converter(config, pipeline, dir, otel, &mut errors);
            (with_absolute_directories(dir), converter)
        });
        let made = made.collect();
        if errors.is_empty() { Ok(made) } else { Err(errors) }
    }
}

/// Returns the limit for the memory of all exports together.
fn max_memory(config: &Config) -> ByteSize {
    config.service.max_memory.unwrap_or_else(|| memory::default_limit(cgroup::memory_limit()))
}

/// Finds combinations that do not work, although each component by itself is valid.
fn faults_of_wiring(config: &Config) -> Vec<PipelineError> {
    let mut errors = Vec::new();
    for (id, receiver) in &config.receivers {
        let feeds =
            |signal| pipelines(config, signal).filter(|(_, it)| it.receivers.contains(id)).count();
        for signal in [Signal::Traces, Signal::Logs] {
            if feeds(signal) > 1 {
                errors.push(PipelineError::SharedReceiver { id: id.clone(), signal });
            }
        }
        let is_export_dir = matches!(receiver, ReceiverConfig::ExportDir(_));
        if !is_export_dir && feeds(Signal::Logs) > 0 {
            errors.push(PipelineError::NoLogs { id: id.clone() });
        } else if feeds(Signal::Logs) > 0 && feeds(Signal::Traces) == 0 {
            errors.push(PipelineError::LogsAlone { id: id.clone() });
        }
    }
    let exports = || export_dirs(config).map(|(_, dir)| dir.write_back.mode);
    let no_ids = exports().all(|mode| mode == WriteBackMode::Off) && exports().next().is_some();
    let results =
        config.receivers.iter().filter(|(_, it)| matches!(it, ReceiverConfig::GateResults(_)));
    errors
        .extend(results.filter(|_| no_ids).map(|(id, _)| PipelineError::NoIds { id: id.clone() }));
    errors
}

/// The built exporters, one per component and signal.
#[derive(Default)]
struct Exporters {
    built: IndexMap<(ComponentId, Signal), Exporter>,
    capacities: queue::Exporters,
    errors: Vec<PipelineError>,
}

impl Exporters {
    fn of_pipeline(
        &mut self,
        config: &Config,
        pipeline: &PipelineConfig,
        signal: Signal,
    ) -> Vec<Destination> {
        let used = pipeline.exporters.iter();
        let used = used.filter_map(|id| Some((id, config.exporters.get(id)?)));
        let mut destinations = Vec::new();
        for (id, config) in used {
            let exporter = Exporter::id_of(id, signal);
            // The id points to spans. Log records are not needed to follow it.
            let required = config.is_required() && signal == Signal::Traces;
            let capacity = config.queue_size().unwrap_or(u64::MAX);
            self.capacities.insert(exporter.clone(), capacity);
            destinations.push(Destination { exporter, signal, required });
            if !self.built.contains_key(&(id.clone(), signal)) {
                self.build(id, config, signal);
            }
        }
        destinations
    }

    fn build(&mut self, id: &ComponentId, config: &ExporterConfig, signal: Signal) {
        match Exporter::build(id, config, signal) {
            Ok(exporter) => drop(self.built.insert((id.clone(), signal), exporter)),
            Err(source) => {
                let error = PipelineError::Exporter { id: id.clone(), source };
                let is_told = self.errors.iter().any(|it| it.to_string() == error.to_string());
                self.errors.extend((!is_told).then_some(error));
            }
        }
    }
}

fn pipelines(
    config: &Config,
    signal: Signal,
) -> impl Iterator<Item = (&ComponentId, &PipelineConfig)> {
    let kind = signal.to_string();
    config.service.pipelines.iter().filter(move |(id, _)| id.kind == kind)
}

/// Returns the export directories that feed a traces pipeline.
fn export_dirs(config: &Config) -> impl Iterator<Item = (&PipelineConfig, &ExportDirConfig)> {
    pipelines(config, Signal::Traces).flat_map(|(_, pipeline)| {
        let used = pipeline.receivers.iter().filter_map(|id| config.receivers.get(id));
        used.filter_map(move |receiver| match receiver {
            ReceiverConfig::ExportDir(dir) => Some((pipeline, dir)),
            ReceiverConfig::GateResults(_) => None,
        })
    })
}

/// Makes the converter for a receiver from the processors of a pipeline.
fn converter(
    config: &Config,
    pipeline: &PipelineConfig,
    receiver: &ExportDirConfig,
    otel: &OtelEnv,
    errors: &mut Vec<PipelineError>,
) -> Converter {
    let mut redaction = None;
    let mut resource = ResourceConfig::default();
    for id in &pipeline.processors {
        match config.processors.get(id) {
            Some(ProcessorConfig::Redaction(config)) => match Redaction::new(config) {
                Ok(built) => redaction = Some(built.and(redaction)),
                Err(source) => errors.push(PipelineError::Redaction { id: id.clone(), source }),
            },
            Some(ProcessorConfig::Resource(more)) => {
                resource.attributes.extend(more.attributes.clone());
            }
            None => {}
        }
    }
    // Environment variables override the file.
    resource.attributes.extend(otel.resource_attributes.iter().cloned());
    let service_name = otel.service_name.iter().cloned();
    resource.attributes.extend(service_name.map(|name| ("service.name".to_owned(), name)));
    Converter {
        spans: receiver.spans.clone(),
        // Secrets are redacted even if the processor is not configured.
        redaction: redaction.unwrap_or_default(),
        resource,
        limits: otel.limits,
        triggered_by: otel.triggered_by,
    }
}

/// Makes directories absolute, because file events have absolute paths.
fn absolute(directories: &[PathBuf]) -> Vec<PathBuf> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    directories.iter().map(absolute).collect()
}

fn with_absolute_directories(config: &ExportDirConfig) -> ExportDirConfig {
    ExportDirConfig { directories: absolute(&config.directories), ..config.clone() }
}
