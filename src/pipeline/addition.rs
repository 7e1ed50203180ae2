//! Adds spans to the trace of an export, for the commands `gate` and `task`.
//!
//! ```text
//! metadata file ─▶ read the emitted export ─▶ spans, log records ─▶ a queue in memory ─▶ exporters
//! ```

use std::path::Path;

use bytes::Bytes;

use super::{Event, Mode, Observer, Pipelines, ReceiverPipeline, RunControl, StageDied};
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::config::receivers::ExportDirConfig;
use crate::converter::additions::Trace;
use crate::converter::split;
use crate::fs::carried::WriteBackMode;
use crate::fs::root::Roots;
use crate::plan::{Emitted, NotEmitted, read_emitted};
use crate::queue::{Enqueued, Location, NewEntry, OpenError, Queue};

/// The requests of one addition, all of one trace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addition {
    pub(crate) traces: Vec<Bytes>,
    pub(crate) logs: Vec<Bytes>,
    pub(crate) spans: usize,
}

impl Pipelines {
    /// Returns the settings and the converter for the export with this metadata file: those of the
    /// receiver that finds it, else of the first one.
    fn source_of(&self, metadata: &Path) -> Option<&ReceiverPipeline> {
        let path = std::path::absolute(metadata).unwrap_or_else(|_| metadata.to_owned());
        let finds = |source: &&ReceiverPipeline| {
            super::selection(&source.config.watching()).is_export(&path)
        };
        self.receivers.iter().find(finds).or(self.receivers.first())
    }

    /// Reads the emitted export with this metadata file. Blocks on disk I/O.
    ///
    /// # Errors
    /// See [`NotEmitted`].
    pub(crate) fn emitted(&self, metadata: &Path) -> Result<Emitted, NotEmitted> {
        let unwatched = ExportDirConfig::default();
        let config = self.source_of(metadata).map_or(&unwatched, |source| &source.config);
        read_emitted(
            &Roots::of_file(metadata),
            metadata,
            &config.read_options(),
            config.write_back.mode,
        )
    }

    /// Makes an addition like the export's own pipelines would: spans, and log records if the
    /// export feeds a logs pipeline.
    ///
    /// # Errors
    /// Returns the errors of `make` and `make_logs`.
    pub(crate) fn addition<E>(
        &self,
        metadata: &Path,
        emitted: &Emitted,
        make: impl FnOnce(&Trace<'_>) -> Result<Vec<Bytes>, E>,
        make_logs: impl FnOnce(&Trace<'_>) -> Result<Vec<Bytes>, E>,
    ) -> Result<Addition, E> {
        let Some(source) = self.source_of(metadata) else { return Ok(Addition::default()) };
        let now = UnixNanos::now();
        let trace = source.converter.trace(&emitted.plan, emitted.trace_id, now);
        let traces = make(&trace)?;
        let logs = match &source.logs {
            Some(logs) => make_logs(&logs.trace(&emitted.plan, emitted.trace_id, now))?,
            None => Vec::new(),
        };
        let spans: u64 = traces.iter().map(|request| split::count(request)).sum();
        let spans = usize::try_from(spans).unwrap_or(usize::MAX);
        Ok(Addition { traces, logs, spans })
    }

    /// Sends the addition. Returns when it is delivered or refused, or when the command is stopped.
    /// Nothing stays in a queue, so the command can be repeated.
    ///
    /// # Errors
    /// Returns an error if a stage ended on its own.
    pub(crate) async fn send(
        mut self,
        metadata: &Path,
        emitted: Emitted,
        addition: Addition,
        observer: Observer,
        orders: RunControl,
    ) -> Result<(), SendError> {
        let destinations = self.source_of(metadata).map(|source| source.destinations.clone());
        let destinations = destinations.unwrap_or_default();
        let ready = Queue::open(Location::Memory, &self.capacities, None)?;
        let requests = addition.traces;
        let delivery = NewEntry {
            trace_id: emitted.trace_id,
            addition: Some(key(emitted.trace_id, &requests)),
            receiver: String::new(),
            source: emitted.source,
            project_id: emitted.plan.project.id,
            span_count: addition.spans,
            made_at: UnixNanos::now(),
            requests,
            logs: addition.logs,
            write_back: WriteBackMode::Off,
            state_files: None,
        };
        // The queue in memory is empty, so it accepts one entry.
        if let Enqueued::Impossible(reason) = ready.queue.enqueue(&delivery, &destinations).await {
            observer(&Event::Refused { path: metadata.to_owned(), reason });
        }
        self.receivers.clear();
        self.gates.clear();
        Ok(self.run(ready.queue, Mode::Once, observer, orders).await?)
    }
}

/// Why an addition could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Queue(#[from] OpenError),
    #[error(transparent)]
    Died(#[from] StageDied),
}

fn key(trace_id: TraceId, requests: &[Bytes]) -> TraceId {
    trace_id.addition("command", &requests.concat())
}
