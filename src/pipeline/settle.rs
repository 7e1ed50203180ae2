//! What every exporter is done with: write the id back, or say why not.

use std::path::Path;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Mode;
use super::event::{Event, Observer};
use crate::clock::UnixNanos;
use crate::queue::{Outcome, Queue, Settlement};
use crate::receiver::config::ExportDirConfig;
use crate::writeback::config::WriteBackMode;
use crate::writeback::{self, write_back};

pub struct Settler {
    pub queue: Queue,
    pub observer: Observer,
    pub configs: Vec<ExportDirConfig>,
    pub mode: Mode,
}

impl Settler {
    /// Settles until nothing more can come: the queue is closed and empty, or delivery has ended.
    pub async fn run(self, stop: CancellationToken, delivered: CancellationToken) {
        // Delivered, but not written back for now. They stay in the queue, so that a scan that
        // comes upon the file again does not send it again.
        let mut unwritten: Vec<(Settlement, UnixNanos)> = Vec::new();
        let interval = self
            .configs
            .iter()
            .map(|config| config.rescan_interval.0)
            .min();
        let mut again = tokio::time::interval(interval.unwrap_or(Duration::from_secs(30)));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                settlement = self.queue.settlement() => match settlement {
                    Some(settlement) => unwritten.extend(self.settle(settlement).await),
                    None => return,
                },
                () = stop.cancelled(), if !unwritten.is_empty() => unwritten.clear(),
                () = delivered.cancelled() => return,
                _ = again.tick(), if !unwritten.is_empty() => {
                    for (settlement, at) in std::mem::take(&mut unwritten) {
                        unwritten.extend(self.write(settlement, at, true).await);
                    }
                }
            }
        }
    }

    async fn settle(&self, settlement: Settlement) -> Option<(Settlement, UnixNanos)> {
        match settlement.outcome.clone() {
            Outcome::Delivered { at } => self.write(settlement, at, false).await,
            Outcome::Rejected {
                exporter,
                rejection,
            } => {
                (self.observer)(&Event::Rejected {
                    path: settlement.delivery.source.path.clone(),
                    exporter,
                    reason: rejection.reason,
                    permanent: rejection.permanent,
                });
                None
            }
        }
    }

    /// Gives the settlement back when it is worth another try.
    async fn write(
        &self,
        settlement: Settlement,
        at: UnixNanos,
        is_retry: bool,
    ) -> Option<(Settlement, UnixNanos)> {
        let delivery = &settlement.delivery;
        let (path, trace_id) = (delivery.source.path.clone(), delivery.trace_id);
        let config = self.config_of(&path);
        let done = |written| Event::Done {
            path: path.clone(),
            trace_id,
            project_id: delivery.project_id.clone(),
            spans: delivery.span_count,
            written,
        };
        if config.is_some_and(|config| config.write_back.mode == WriteBackMode::Off) {
            (self.observer)(&done(false));
            return None;
        }
        let source = delivery.source.clone();
        let max_bytes = config.map_or(u64::MAX, |config| config.max_file_size.0);
        let written = tokio::task::spawn_blocking(move || {
            write_back(&source, &trace_id.to_string(), &at.rfc3339(), max_bytes)
        });
        let failure = match written.await {
            Ok(Ok(writeback::Outcome::Written)) => {
                (self.observer)(&done(true));
                return None;
            }
            Ok(Ok(outcome)) => {
                let gone = outcome == writeback::Outcome::Gone;
                (self.observer)(&Event::Superseded {
                    path,
                    trace_id,
                    gone,
                });
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !is_retry {
            (self.observer)(&Event::NotWritten {
                path,
                trace_id,
                reason: failure,
            });
        }
        (self.mode == Mode::Watch).then_some((settlement, at))
    }

    fn config_of(&self, path: &Path) -> Option<&ExportDirConfig> {
        let holds = |config: &&ExportDirConfig| {
            config
                .directories
                .iter()
                .any(|directory| path.starts_with(directory))
        };
        self.configs.iter().find(holds)
    }
}
