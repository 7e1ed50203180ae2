//! The only place that knows all stages: it hands values from one to the next.
//!
//! ```text
//! receiver ─Candidate─▶ intake ─Delivery─▶ queue ─Lease─▶ deliver ─▶ exporter
//!                       (plan, converter)    └─Settlement─▶ settle ─▶ write-back
//! ```
//!
//! Built and started downstream first, stopped upstream first, so that no stage is ever without
//! the one behind it.

mod deliver;
mod intake;
mod settle;

pub mod event;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::otel_env::OtelEnv;
use crate::config::values::ComponentId;
use crate::config::{Config, PipelineConfig, ProcessorConfig, ReceiverConfig};
use crate::converter::options::ResourceConfig;
use crate::converter::{BadPattern, Converter, Redaction};
use crate::exporter::{BuildError, Exporter};
use crate::queue::Queue;
use crate::receiver::config::ExportDirConfig;
use crate::receiver::{self, Candidate};
use event::Observer;

/// Candidates that wait for the intake.
const MAX_WAITING: usize = 64;

/// How long requests in flight have to finish once the program is asked to stop.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Watch until stopped.
    Watch,
    /// Process what is there and end.
    Once,
}

/// Pipelines, built and not started.
#[derive(Debug)]
pub struct Pipelines(Vec<Pipeline>);

#[derive(Debug)]
struct Pipeline {
    receivers: Vec<Source>,
    exporters: Vec<Exporter>,
    queue: Queue,
}

/// A receiver and the converter for what it finds.
#[derive(Debug)]
struct Source {
    config: ExportDirConfig,
    converter: Converter,
}

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
}

/// A stage ended on its own, which it never should.
#[derive(Debug, thiserror::Error)]
#[error("a stage of the pipeline died ({0}); nothing was lost, start again")]
pub struct StageDied(String);

impl Pipelines {
    /// Builds every component and starts none.
    ///
    /// # Errors
    /// Every component that cannot be built, not only the first.
    pub fn build(config: &Config, otel: &OtelEnv) -> Result<Pipelines, Vec<PipelineError>> {
        let mut errors = Vec::new();
        let mut fed: HashMap<&ComponentId, usize> = HashMap::new();
        let mut pipelines = Vec::new();
        for (_, pipeline) in traces_pipelines(config) {
            for receiver in &pipeline.receivers {
                let times = fed.entry(receiver).or_default();
                *times += 1;
                if *times == 2 {
                    errors.push(PipelineError::SharedReceiver {
                        id: receiver.clone(),
                    });
                }
            }
            pipelines.push(Pipeline::build(config, pipeline, otel, &mut errors));
        }
        if errors.is_empty() {
            Ok(Pipelines(pipelines))
        } else {
            Err(errors)
        }
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
        let converters = sources
            .into_iter()
            .map(|source| (source.config, source.converter));
        if errors.is_empty() {
            Ok(converters.collect())
        } else {
            Err(errors)
        }
    }

    /// Where the pipelines send to, for a person.
    pub fn destinations(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|it| &it.exporters)
            .map(Exporter::destination)
            .collect()
    }

    /// Runs until the work is done (`Once`) or `stop` is cancelled.
    ///
    /// # Errors
    /// A stage ended on its own.
    pub async fn run(
        self,
        mode: Mode,
        observer: Observer,
        stop: CancellationToken,
    ) -> Result<(), StageDied> {
        let stopping = Stopping::new(stop);
        let mut running = JoinSet::new();
        for pipeline in self.0 {
            running.spawn(pipeline.run(mode, observer.clone(), stopping.clone()));
        }
        let result = join_all(running, &stopping).await;
        stopping.finished.cancel();
        result
    }
}

fn traces_pipelines(config: &Config) -> impl Iterator<Item = (&ComponentId, &PipelineConfig)> {
    config
        .service
        .pipelines
        .iter()
        .filter(|(id, _)| id.kind == "traces")
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
                    Err(source) => errors.push(PipelineError::Redaction {
                        id: id.clone(),
                        source,
                    }),
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
        resource
            .attributes
            .extend(otel.resource_attributes.iter().cloned());
        let service_name = otel.service_name.iter().cloned();
        resource
            .attributes
            .extend(service_name.map(|name| ("service.name".to_owned(), name)));

        let receivers = pipeline
            .receivers
            .iter()
            .filter_map(|id| config.receivers.get(id));
        receivers
            .map(|ReceiverConfig::ExportDir(config)| Source {
                config: config.clone(),
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

impl Pipeline {
    fn build(
        config: &Config,
        pipeline: &PipelineConfig,
        otel: &OtelEnv,
        errors: &mut Vec<PipelineError>,
    ) -> Pipeline {
        let receivers = Source::of_pipeline(config, pipeline, otel, errors);
        let mut exporters = Vec::new();
        let mut capacity = u64::MAX;
        for id in &pipeline.exporters {
            let Some(config) = config.exporters.get(id) else {
                continue;
            };
            match Exporter::build(&id.to_string(), config) {
                Ok(exporter) => exporters.push(exporter),
                Err(source) => errors.push(PipelineError::Exporter {
                    id: id.clone(),
                    source,
                }),
            }
            capacity = capacity.min(config.queue_size().unwrap_or(u64::MAX));
        }
        let ids = exporters
            .iter()
            .map(|exporter| exporter.id.clone())
            .collect();
        Pipeline {
            receivers,
            exporters,
            queue: Queue::new(ids, capacity),
        }
    }

    async fn run(
        self,
        mode: Mode,
        observer: Observer,
        stopping: Stopping,
    ) -> Result<(), StageDied> {
        let Pipeline {
            receivers,
            exporters,
            queue,
        } = self;
        let delivered = CancellationToken::new();
        let mut downstream = JoinSet::new();
        let settler = settle::Settler {
            queue: queue.clone(),
            observer: observer.clone(),
            configs: receivers
                .iter()
                .map(|source| source.config.clone())
                .collect(),
            mode,
        };
        downstream.spawn(settler.run(stopping.stop.clone(), delivered.clone()));

        let mut delivery = JoinSet::new();
        for exporter in exporters {
            let deliverer = deliver::Deliverer::new(
                exporter,
                queue.clone(),
                observer.clone(),
                stopping.clone(),
            );
            delivery.spawn(deliverer.run());
        }

        let mut upstream = JoinSet::new();
        for Source { config, converter } in receivers {
            let (candidates, incoming) = mpsc::channel::<Candidate>(MAX_WAITING);
            let intake = intake::Intake::new(&config, converter, queue.clone(), observer.clone());
            upstream.spawn(intake.run(incoming, stopping.stop.clone()));
            let stop = stopping.stop.clone();
            upstream.spawn(async move {
                match mode {
                    Mode::Once => receiver::scan_once(&config, &candidates).await,
                    Mode::Watch => receiver::run(&config, candidates, stop).await,
                }
                Ok(())
            });
        }

        // Upstream first. A stage that dies stops all: better to be restarted than to be half alive.
        let taken_in = join_all(upstream, &stopping).await;
        queue.close();
        let sent = join_all(delivery, &stopping).await;
        delivered.cancel();
        let settled = join_all(downstream, &stopping).await;
        for path in queue.waiting() {
            observer(&event::Event::Undelivered { path });
        }
        taken_in.and(sent).and(settled)
    }
}

/// Waits for stages; when one dies, the others are asked to stop.
async fn join_all<T: Ended + 'static>(
    mut stages: JoinSet<T>,
    stopping: &Stopping,
) -> Result<(), StageDied> {
    let mut result = Ok(());
    while let Some(ended) = stages.join_next().await {
        let ended = match ended {
            Ok(ended) => ended.result(),
            Err(error) => Err(StageDied(error.to_string())),
        };
        if ended.is_err() {
            stopping.stop.cancel();
            result = result.and(ended);
        }
    }
    result
}

/// How a stage can end: in peace, or with the death of one of its own.
trait Ended {
    fn result(self) -> Result<(), StageDied>;
}

impl Ended for () {
    fn result(self) -> Result<(), StageDied> {
        Ok(())
    }
}

impl Ended for Result<(), StageDied> {
    fn result(self) -> Result<(), StageDied> {
        self
    }
}

/// The two steps of a shutdown.
#[derive(Clone, Debug)]
struct Stopping {
    /// Take nothing new, end every wait.
    stop: CancellationToken,
    /// Let go of what is still in flight.
    abort: CancellationToken,
    /// Nothing is left to wait for.
    finished: CancellationToken,
}

impl Stopping {
    fn new(stop: CancellationToken) -> Stopping {
        let stopping = Stopping {
            stop,
            abort: CancellationToken::new(),
            finished: CancellationToken::new(),
        };
        let Stopping {
            stop,
            abort,
            finished,
        } = stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = finished.cancelled() => return,
            }
            let timeout = tokio::time::sleep(SHUTDOWN_TIMEOUT);
            tokio::select! {
                () = timeout => abort.cancel(),
                () = finished.cancelled() => {}
            }
        });
        stopping
    }
}

/// A shared reference that stages keep to tell what happens.
pub fn observer(observe: impl Fn(&event::Event) + Send + Sync + 'static) -> Observer {
    Arc::new(observe)
}
