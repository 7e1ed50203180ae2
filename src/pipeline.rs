//! Connects all stages and passes values from one to the next.
//!
//! ```text
//! receiver ─Candidate─▶ ingest ─NewEntry─▶ queue ─Lease─▶ deliver ─▶ exporter
//!                       (plan, converter)    └─Completion─▶ finalize ─▶ write-back
//! ```
//!
//! Stages are built and started downstream first, and stopped upstream first. So a running stage
//! always has a next stage.

mod addition;
mod build;
mod deliver;
mod exports;
mod finalize;
mod gate_results;
mod in_flight;
mod ingest;
mod lane;
mod locks;
mod memory;
pub(crate) mod quarantine;
mod reachability;
mod send;
mod shutdown;
mod verify;

pub(crate) mod event;
pub(crate) mod status;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::base::clock::UnixNanos;
use crate::base::signal::Signal;
use crate::config::receivers::ExportDirConfig;
use crate::converter::Converter;
use crate::exporter::Exporter;
use crate::fs::blocking::FsByReceiver;
use crate::fs::carried;
use crate::fs::root::Roots;
use crate::queue::{Destination, Exporters, Location, OpenError, Queue, Ready};
use crate::receiver::baseline::Baseline;
use crate::receiver::config::WatchConfig;
use crate::receiver::scan::Tidy;
use crate::receiver::select::Selection;
use crate::receiver::{self, Candidate, ReceiverStatus};
use crate::writeback;
pub(crate) use addition::Addition;
pub(crate) use build::PipelineError;
use event::{Event, Observer};
use exports::Exports;
use gate_results::{GateResults, Traces};
use ingest::Ingester;
use locks::LockRegistry;
use memory::MemoryBudget;
use quarantine::Quarantine;
pub(crate) use shutdown::StageDied;
use shutdown::{Shutdown, guarded, join_all};

/// Capacity of the channel between receiver and ingestion.
const MAX_WAITING: usize = 64;

/// How long a run that ends waits for optional exporters after all others are done. Exports that
/// they have not delivered by then stay in the queue.
const OPTIONAL_GRACE: Duration = Duration::from_secs(5);

/// When the pipelines end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Watch until stopped.
    Watch,
    /// Process the existing files and end.
    Once,
    /// Watch while a job runs. Then process the existing files and end.
    Job,
}

impl Mode {
    /// Whether the run ends by itself when all work is done.
    pub(crate) fn ends(self) -> bool {
        self != Mode::Watch
    }
}

/// A receiver of gate results.
#[derive(Debug)]
struct Gates {
    /// The id of the receiver, as configured.
    id: String,
    /// How its files are found, and when they are stable.
    config: WatchConfig,
    destinations: Vec<Destination>,
    watching: Arc<ReceiverStatus>,
    baseline: Baseline,
}

/// The signals that end a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunControl {
    /// Start nothing new, and give requests in flight the shutdown timeout.
    pub(crate) stop: CancellationToken,
    /// Abort requests in flight, too.
    pub(crate) abort: CancellationToken,
    /// The time limit for delivery is over. Only verifications in progress continue.
    pub(crate) deadline: CancellationToken,
    /// The job is over: scan once more, deliver what is there, and end.
    pub(crate) finish: CancellationToken,
}

/// Everything that the stages of a run share.
#[derive(Clone)]
struct RunContext {
    queue: Queue,
    locks: LockRegistry,
    memory: MemoryBudget,
    quarantine: Quarantine,
    fs: FsByReceiver,
    observer: Observer,
    mode: Mode,
    shutdown: Shutdown,
}

/// Pipelines that are built but not started. All share one queue, in which every exporter has a
/// part.
#[derive(Debug)]
pub(crate) struct Pipelines {
    receivers: Vec<ReceiverPipeline>,
    gates: Vec<Gates>,
    exporters: Vec<Exporter>,
    /// The `queue_size` of each exporter.
    capacities: Exporters,
    /// How long requests in flight may take to finish.
    shutdown_timeout: Duration,
    memory: MemoryBudget,
    quarantine: Quarantine,
}

/// A receiver with the converters and exporters for its exports.
#[derive(Debug)]
struct ReceiverPipeline {
    /// The id of the receiver, as configured.
    id: String,
    config: ExportDirConfig,
    converter: Converter,
    /// The converter for log records, if the receiver feeds a logs pipeline.
    logs: Option<Converter>,
    /// The exporters of all its pipelines.
    destinations: Vec<Destination>,
    watching: Arc<ReceiverStatus>,
    baseline: Baseline,
}

impl Pipelines {
    /// Makes every receiver ignore the files that were last changed before `start` until they change,
    /// because a job that started then did not write them. Blocks on disk I/O.
    pub(crate) fn pass_over(&mut self, start: UnixNanos) {
        for receiver in &mut self.receivers {
            receiver.baseline =
                Baseline::take(selection(&receiver.config.watching())).before(start);
        }
        for gates in &mut self.gates {
            gates.baseline = Baseline::take(selection(&gates.config)).before(start);
        }
    }

    /// Returns the files that are ignored, per receiver.
    pub(crate) fn baselines(&self) -> Vec<Baseline> {
        self.receivers.iter().map(|receiver| receiver.baseline.clone()).collect()
    }

    /// Notes in this directory which files are being read, and reads the notes of earlier processes.
    /// Call this when the queue in this directory is open. Blocks on disk I/O.
    pub(crate) fn note_work_in(&mut self, state: &Path) {
        self.quarantine = Quarantine::open(state);
    }

    /// Returns the notes of what is read.
    pub(crate) fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// Returns the destinations of all pipelines, for log lines.
    pub(crate) fn destinations(&self) -> Vec<String> {
        self.exporters.iter().map(Exporter::destination).collect()
    }

    /// Returns the destinations of the pipelines of one signal, for log lines.
    pub(crate) fn destinations_of(&self, signal: Signal) -> Vec<String> {
        let exporters = self.exporters.iter().filter(|exporter| exporter.signal == signal);
        exporters.map(Exporter::destination).collect()
    }

    /// Returns every endpoint: as text for people, and as `host:port`.
    pub(crate) fn addresses(&self) -> Vec<(String, String)> {
        self.exporters.iter().flat_map(Exporter::addresses).collect()
    }

    /// Returns the status of each receiver of the run.
    pub(crate) fn watching(&self) -> Vec<Arc<ReceiverStatus>> {
        let exports = self.receivers.iter().map(|source| &source.watching);
        exports.chain(self.gates.iter().map(|gates| &gates.watching)).cloned().collect()
    }

    /// Opens the queue for these exporters.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open_queue(&self, location: Location, mode: Mode) -> Result<Ready, OpenError> {
        // A job is only responsible for its own directories, and not for older entries of other
        // directories.
        let exports = self.receivers.iter().map(|source| &source.config.directories);
        let results = self.gates.iter().map(|gates| &gates.config.directories);
        let directories = exports.chain(results).flatten().cloned();
        let scope = mode.ends().then(|| directories.collect());
        Queue::open(location, &self.capacities, scope)
    }

    /// Runs until the work is done, or until `control` ends it.
    ///
    /// # Errors
    /// Returns an error if a stage ended on its own.
    pub(crate) async fn run(
        self,
        queue: Queue,
        mode: Mode,
        observer: Observer,
        orders: RunControl,
    ) -> Result<(), StageDied> {
        let shutdown = Shutdown::new(&orders, self.shutdown_timeout);
        let finish = orders.finish;
        let exports = self.receivers.iter().map(|it| (it.id.as_str(), &*it.config.directories));
        let results = self.gates.iter().map(|it| (it.id.as_str(), &*it.config.directories));
        let fs = FsByReceiver::new(exports.chain(results));
        let locks = LockRegistry::new(fs.clone());
        let (memory, quarantine) = (self.memory.clone(), self.quarantine.clone());
        let common = RunContext { queue, locks, memory, quarantine, fs, observer, mode, shutdown };
        let RunContext { queue, observer, shutdown, .. } = common.clone();

        let delivered = CancellationToken::new();
        let mut downstream = JoinSet::new();
        let settler = finalize::Finalizer::new(&common, &self.receivers).run(delivered.clone());
        downstream.spawn(guarded(settler, shutdown.stop.clone()));
        let health = watch_health(queue.clone(), observer.clone(), shutdown.finished.clone());
        downstream.spawn(health);

        let expected = self.exporters.iter().filter(|exporter| exporter.required);
        let expected: Vec<String> = expected.map(|exporter| exporter.id.clone()).collect();
        queue.expect(&expected);
        let (mut required, mut optional) = (JoinSet::new(), JoinSet::new());
        for exporter in self.exporters {
            let set = if exporter.required { &mut required } else { &mut optional };
            let deliverer = deliver::Deliverer::new(exporter, &common);
            set.spawn(guarded(deliverer.run(), shutdown.stop.clone()));
        }
        let mut upstream = JoinSet::new();
        let traces = Traces::of(&self.receivers, &common.fs);
        for Gates { id, config, destinations, watching, baseline } in self.gates {
            let fs = common.fs.get(&id);
            let kind = (id, fs.roots.clone(), config.max_file_size.0);
            let kind = GateResults::new(kind, Arc::clone(&traces), destinations, &common);
            let settings = (&config, gate_results::AT_A_TIME);
            let ingester = Ingester::new(kind, settings, fs.calls, &common, finish.clone());
            let ingest = |incoming, stop| ingester.run(incoming, stop);
            start((&config, watching, baseline), ingest, &common, &finish, &mut upstream);
        }
        for receiver in self.receivers {
            let (config, watching) = (receiver.config.watching(), Arc::clone(&receiver.watching));
            let (baseline, fs) = (receiver.baseline.clone(), common.fs.get(&receiver.id));
            let at_a_time = receiver.config.max_concurrent_exports;
            let kind = Exports::new(receiver, fs.clone(), &common);
            let ingester =
                Ingester::new(kind, (&config, at_a_time), fs.calls, &common, finish.clone());
            let ingest = |incoming, stop| ingester.run(incoming, stop);
            start((&config, watching, baseline), ingest, &common, &finish, &mut upstream);
        }

        let taken_in = join_all(upstream, &shutdown).await;
        queue.close();
        let sent = join_all(required, &shutdown).await;
        let waiver = waive(&common);
        let sent = sent.and(join_all(optional, &shutdown).await);
        waiver.abort();
        delivered.cancel();
        shutdown.finished.cancel();
        let ended = join_all(downstream, &shutdown).await;
        for (path, reason) in queue.waiting_for(&expected) {
            observer(&Event::Undelivered { path, reason });
        }
        taken_in.and(sent).and(ended)
    }
}

/// Stops optional exporters `OPTIONAL_GRACE` after all others are done.
fn waive(common: &RunContext) -> AbortHandle {
    let (ends, stop) = (common.mode.ends(), common.shutdown.stop.clone());
    let waiver = tokio::spawn(async move {
        if ends {
            tokio::time::sleep(OPTIONAL_GRACE).await;
            stop.cancel();
        }
    });
    waiver.abort_handle()
}

/// Starts a receiver and the ingestion of its files.
fn start<F>(
    (config, watching, baseline): (&WatchConfig, Arc<ReceiverStatus>, Baseline),
    ingest: impl FnOnce(mpsc::Receiver<Candidate>, CancellationToken) -> F,
    common: &RunContext,
    finish: &CancellationToken,
    stages: &mut JoinSet<Result<(), StageDied>>,
) where
    F: Future<Output = Result<(), StageDied>> + Send + 'static,
{
    let (candidates, incoming) = mpsc::channel::<Candidate>(MAX_WAITING);
    let Shutdown { stop, closing, .. } = common.shutdown.clone();
    stages.spawn(guarded(ingest(incoming, closing.clone()), stop));

    let (roots, max_bytes) = (Roots::new(&config.directories), config.max_file_size.0);
    let exports = selection(config);
    let tidy = Tidy {
        is_leftover: |name| writeback::is_temp_name(name),
        tidy: Arc::new(move |directory: &Path| tidy((&roots, &exports), directory, max_bytes)),
    };
    let (config, selection) = (config.clone(), selection(config));
    let (mode, finish, restarts) = (common.mode, finish.clone(), common.queue.store_resets());
    let observer = common.observer.clone();
    stages.spawn(async move {
        match mode {
            Mode::Once => {
                let scan = (tidy, Arc::clone(&watching));
                receiver::scan_once(selection, &candidates, scan).await;
                for path in watching.unreadable() {
                    observer(&Event::Unreadable { path });
                }
            }
            Mode::Watch | Mode::Job => {
                let until = receiver::Until { stop: closing, finish };
                let incoming = (candidates, tidy, restarts);
                receiver::run(&config, (selection, baseline), incoming, (until, watching)).await;
            }
        }
        Ok(())
    });
}

/// Returns the selection of a receiver. It never includes files that taskspan writes.
pub(crate) fn selection(config: &WatchConfig) -> Selection {
    Selection::new(config, |name| writeback::is_temp_name(name) || carried::is_beside_name(name))
}

/// Removes temp files that a killed run left in the middle of a write-back.
fn tidy((roots, exports): (&Roots, &Selection), directory: &Path, max_bytes: u64) {
    let path = directory.display();
    let is_target = |path: &Path| {
        exports.is_export(path) || path.file_name().is_some_and(carried::is_beside_name)
    };
    match writeback::remove_stale(roots, directory, &is_target, max_bytes) {
        Ok(0) => {}
        Ok(count) => tracing::info!(%path, count, "temporary files of an earlier run removed"),
        Err(error) => tracing::debug!(%path, %error, "temporary files were not looked for"),
    }
}

/// Reports when the queue stops accepting exports, and when it accepts them again.
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

/// Wraps a function that stages call with each event.
pub(crate) fn observer(observe: impl Fn(&Event) + Send + Sync + 'static) -> Observer {
    Arc::new(observe)
}
