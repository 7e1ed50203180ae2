//! Components from the configuration: every one is built before any is started.

use std::collections::HashMap;
use std::path::PathBuf;

use indexmap::IndexMap;

use super::{Pipeline, Pipelines, Source};
use crate::config::otel_env::OtelEnv;
use crate::config::values::ComponentId;
use crate::config::{Config, PipelineConfig, ProcessorConfig, ReceiverConfig};
use crate::converter::options::ResourceConfig;
use crate::converter::{BadPattern, Converter, Redaction};
use crate::exporter::{BuildError, Exporter};
use crate::queue::{Destination, Exporters};
use crate::receiver::config::ExportDirConfig;

/// A component that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("exporter `{id}`: {source}")]
    Exporter { id: ComponentId, source: BuildError },
    #[error("processor `{id}`: {source}")]
    Redaction { id: ComponentId, source: BadPattern },
    #[error(
        "receiver `{id}` feeds more than one traces pipeline, so each export would be sent and \
         written back twice; list all exporters in one pipeline"
    )]
    SharedReceiver { id: ComponentId },
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
    /// Every component that cannot be built, not only the first.
    pub fn build(config: &Config, otel: &OtelEnv) -> Result<Pipelines, Vec<PipelineError>> {
        let mut errors = Vec::new();
        let mut fed: HashMap<&ComponentId, usize> = HashMap::new();
        let mut exporters: IndexMap<ComponentId, Exporter> = IndexMap::new();
        let mut capacities = Exporters::new();
        let mut pipelines = Vec::new();
        for (pipeline_id, pipeline) in traces_pipelines(config) {
            for receiver in &pipeline.receivers {
                let times = fed.entry(receiver).or_default();
                *times += 1;
                if *times == 2 {
                    errors.push(PipelineError::SharedReceiver { id: receiver.clone() });
                }
            }
            let mut destinations = Vec::new();
            for id in &pipeline.exporters {
                let Some(config) = config.exporters.get(id) else {
                    continue;
                };
                let required = config.is_required();
                destinations.push(Destination { exporter: id.to_string(), required });
                let capacity = config.queue_size().unwrap_or(u64::MAX);
                capacities.insert(id.to_string(), capacity);
                if exporters.contains_key(id) {
                    continue;
                }
                match Exporter::build(&id.to_string(), config) {
                    Ok(exporter) => drop(exporters.insert(id.clone(), exporter)),
                    Err(source) => errors.push(PipelineError::Exporter { id: id.clone(), source }),
                }
            }
            if !destinations.iter().any(|destination| destination.required) {
                errors.push(PipelineError::NothingRequired { id: pipeline_id.clone() });
            }
            let receivers = Source::of_pipeline(config, pipeline, otel, &mut errors);
            pipelines.push(Pipeline { receivers, destinations });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Pipelines {
            pipelines,
            exporters: exporters.into_values().collect(),
            capacities,
            shutdown_timeout: config.service.shutdown_timeout.0,
        })
    }

    /// The settings of every receiver that feeds a pipeline.
    pub fn receivers(config: &Config) -> Vec<ExportDirConfig> {
        let used = traces_pipelines(config).flat_map(|(_, pipeline)| &pipeline.receivers);
        let used = used.filter_map(|id| config.receivers.get(id));
        used.map(|ReceiverConfig::ExportDir(config)| with_absolute_directories(config)).collect()
    }

    /// The receivers' settings with the converter for what they find, and nothing built behind
    /// them: a preview needs no endpoint.
    ///
    /// # Errors
    /// Every processor that cannot be built.
    pub fn converters(
        config: &Config,
        otel: &OtelEnv,
    ) -> Result<Vec<(ExportDirConfig, Converter)>, Vec<PipelineError>> {
        let mut errors = Vec::new();
        let mut sources = Vec::new();
        for (_, pipeline) in traces_pipelines(config) {
            sources.extend(Source::of_pipeline(config, pipeline, otel, &mut errors));
        }
        let converters = sources.into_iter().map(|source| (source.config, source.converter));
        if errors.is_empty() { Ok(converters.collect()) } else { Err(errors) }
    }
}

fn traces_pipelines(config: &Config) -> impl Iterator<Item = (&ComponentId, &PipelineConfig)> {
    config.service.pipelines.iter().filter(|(id, _)| id.kind == "traces")
}

impl Source {
    /// The receivers of a pipeline, each with the pipeline's processors made into a converter.
    fn of_pipeline(
        config: &Config,
        pipeline: &PipelineConfig,
        otel: &OtelEnv,
        errors: &mut Vec<PipelineError>,
    ) -> Vec<Source> {
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
        // Secrets stay here even where nobody thought of the processor.
        let redaction = redaction.unwrap_or_default();
        // Environment beats file.
        resource.attributes.extend(otel.resource_attributes.iter().cloned());
        let service_name = otel.service_name.iter().cloned();
        resource.attributes.extend(service_name.map(|name| ("service.name".to_owned(), name)));

        let receivers = pipeline.receivers.iter().filter_map(|id| config.receivers.get(id));
        receivers
            .map(|ReceiverConfig::ExportDir(config)| Source {
                config: with_absolute_directories(config),
                converter: Converter {
                    spans: config.spans.clone(),
                    redaction: redaction.clone(),
                    resource: resource.clone(),
                    limits: otel.limits,
                },
            })
            .collect()
    }
}

/// File events name absolute paths, so what they are compared with has to be absolute too.
fn with_absolute_directories(config: &ExportDirConfig) -> ExportDirConfig {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    ExportDirConfig {
        directories: config.directories.iter().map(absolute).collect(),
        ..config.clone()
    }
}
