//! The only place that knows all stages: it hands values from one to the next.
//!
//! ```text
//! receiver ─Candidate─▶ intake ─Delivery─▶ queue ─Lease─▶ deliver ─▶ exporter
//!                       (plan, converter)    └─Settlement─▶ settle ─▶ write-back
//! ```
//!
//! Built and started downstream first, stopped upstream first, so that no stage is ever without
//! the one behind it.

mod build;
mod claims;
mod deliver;
mod intake;
mod prove;
mod reach;
mod settle;
mod stop;

pub mod event;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::converter::Converter;
use crate::exporter::Exporter;
use crate::queue::{Destination, Exporters, Location, OpenError, Queue, Ready};
use crate::receiver::config::ExportDirConfig;
use crate::receiver::scan::Tidy;
use crate::receiver::select::Selection;
use crate::receiver::{self, Candidate};
use crate::writeback;
pub use build::PipelineError;
use event::{Event, Observer};
pub use stop::StageDied;
use stop::{Stopping, guarded, join_all};

/// Candidates that wait for the intake.
const MAX_WAITING: usize = 64;

/// How long `Once` waits for exporters that are not required when all others are done. What they do
/// not take in this time stays in the queue.
const OPTIONAL_GRACE: Duration = Duration::from_secs(5);

/// Whether to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Watch until stopped.
    Watch,
    /// Process what is there and end.
    Once,
}

/// Pipelines, built and not started. All share one queue, in which every exporter has its part.
#[derive(Debug)]
pub struct Pipelines {
    pipelines: Vec<Pipeline>,
    exporters: Vec<Exporter>,
    /// Their `queue_size`.
    capacities: Exporters,
    /// How long requests in flight have to finish.
    shutdown_timeout: Duration,
}

#[derive(Debug)]
struct Pipeline {
    receivers: Vec<Source>,
    destinations: Vec<Destination>,
}

/// A receiver and the converter for what it finds.
#[derive(Debug)]
struct Source {
    config: ExportDirConfig,
    converter: Converter,
}

impl Pipelines {
    /// Where the pipelines send to, for a person.
    pub fn destinations(&self) -> Vec<String> {
        self.exporters.iter().map(Exporter::destination).collect()
    }

    /// Opens the queue for these exporters.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_queue(&self, location: Location, mode: Mode) -> Result<Ready, OpenError> {
        // A step of a job answers for its own directories, and not for what others left behind.
        let sources = self.pipelines.iter().flat_map(|pipeline| &pipeline.receivers);
        let directories = sources.flat_map(|source| source.config.directories.clone());
        let scope = (mode == Mode::Once).then(|| directories.collect());
        Queue::open(location, &self.capacities, scope)
    }

    /// Runs until the work is done (`Once`) or `stop` is cancelled, which leaves requests in flight
    /// the shutdown timeout; `abort` does not.
    ///
    /// # Errors
    /// A stage ended on its own.
    pub async fn run(
        self,
        queue: Queue,
        mode: Mode,
        observer: Observer,
        stop: CancellationToken,
        abort: CancellationToken,
    ) -> Result<(), StageDied> {
        let stopping = Stopping::new(stop, abort, self.shutdown_timeout);
        let sources = self.pipelines.iter().flat_map(|pipeline| &pipeline.receivers);
        let claims = claims::Claims::default();
        let settler = settle::Settler {
            claims: claims.clone(),
            queue: queue.clone(),
            observer: observer.clone(),
            configs: sources.map(|source| source.config.clone()).collect(),
            mode,
        };
        let delivered = CancellationToken::new();
        let mut downstream = JoinSet::new();
        let settled = CancellationToken::new();
        let settling = settler.run(delivered.clone(), settled.clone());
        downstream.spawn(guarded(settling, stopping.stop.clone()));
        let watched = watch_health(queue.clone(), observer.clone(), stopping.finished.clone());
        downstream.spawn(watched);

        let mut delivery = JoinSet::new();
        for exporter in self.exporters {
            let (queue, observer) = (queue.clone(), observer.clone());
            let (stop, stopping) = (stopping.stop.clone(), stopping.clone());
            let claims = claims.clone();
            let deliverer = deliver::Deliverer::new(exporter, queue, observer, stopping, claims);
            delivery.spawn(guarded(deliverer.run(), stop));
        }

        let mut upstream = JoinSet::new();
        for pipeline in self.pipelines {
            for Source { config, converter } in pipeline.receivers {
                let (candidates, incoming) = mpsc::channel::<Candidate>(MAX_WAITING);
                let destinations = pipeline.destinations.clone();
                let intake = intake::Intake::new(
                    &config,
                    converter,
                    (queue.clone(), claims.clone()),
                    destinations,
                    observer.clone(),
                    mode,
                );
                let stop = stopping.stop.clone();
                upstream.spawn(guarded(intake.run(incoming, stop.clone()), stop));
                let (stop, restarts) = (stopping.stop.clone(), queue.restarts());
                let max_bytes = config.max_file_size.0;
                let tidy = Tidy {
                    is_leftover: |name| writeback::is_temp_name(name),
                    tidy: Arc::new(move |directory: &Path| tidy(directory, max_bytes)),
                };
                let selection = selection(&config);
                upstream.spawn(async move {
                    match mode {
                        Mode::Once => receiver::scan_once(selection, &candidates, tidy).await,
                        Mode::Watch => {
                            let incoming = (candidates, tidy, restarts);
                            receiver::run(&config, selection, incoming, stop).await;
                        }
                    }
                    Ok(())
                });
            }
        }

        let taken_in = join_all(upstream, &stopping).await;
        queue.close();
        if mode == Mode::Once {
            let (settled, stop) = (settled.clone(), stopping.stop.clone());
            let finished = stopping.finished.clone();
            tokio::spawn(async move {
                settled.cancelled().await;
                tokio::select! {
                    () = tokio::time::sleep(OPTIONAL_GRACE) => stop.cancel(),
                    () = finished.cancelled() => {}
                }
            });
        }
        let sent = join_all(delivery, &stopping).await;
        delivered.cancel();
        stopping.finished.cancel();
        let ended = join_all(downstream, &stopping).await;
        for path in queue.waiting() {
            observer(&Event::Undelivered { path });
        }
        taken_in.and(sent).and(ended)
    }
}

/// What a receiver of these settings takes for an export: nothing that we write ourselves.
pub fn selection(config: &ExportDirConfig) -> Selection {
    Selection::new(config, |name| writeback::is_temp_name(name) || writeback::is_beside_name(name))
}

/// Removes what a killed run left behind in the middle of a write-back.
fn tidy(directory: &Path, max_bytes: u64) {
    let path = directory.display();
    match writeback::remove_stale(directory, max_bytes) {
        Ok(0) => {}
        Ok(count) => tracing::info!(%path, count, "temporary files of an earlier run removed"),
        Err(error) => tracing::debug!(%path, %error, "temporary files were not looked for"),
    }
}

/// Tells when exports are no longer taken in, and when they are again.
async fn watch_health(
    queue: Queue,
    observer: Observer,
    finished: CancellationToken,
) -> Result<(), StageDied> {
    let mut health = queue.health();
    loop {
        tokio::select! {
            biased;
            () = finished.cancelled() => return Ok(()),
            changed = health.changed() => if changed.is_err() { return Ok(()) },
        }
        let health = health.borrow_and_update().clone();
        observer(&Event::Health { health });
    }
}

/// A shared reference that stages keep to tell what happens.
pub fn observer(observe: impl Fn(&Event) + Send + Sync + 'static) -> Observer {
    Arc::new(observe)
}
