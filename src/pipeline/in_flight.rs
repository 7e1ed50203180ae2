//! Tracks the paths that are being ingested, and the refusals that were reported.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::StageDied;
use crate::receiver::Candidate;
use crate::receiver::stability::ContentVersion;

/// The refused file versions that were reported. Each version is reported once, however many events
/// it causes.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    reported: Mutex<HashMap<PathBuf, (Option<ContentVersion>, String)>>,
}

impl Refusals {
    /// Above this count all of them are forgotten, which bounds memory. Their next refusal is
    /// reported again.
    const MAX: usize = 1_024;

    /// Records a refusal. Returns whether it has not been reported yet for this file version.
    pub(crate) fn is_new(
        &self,
        path: &Path,
        version: Option<ContentVersion>,
        reason: &str,
    ) -> bool {
        let refusal = (version, reason.to_owned());
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.get(path) == Some(&refusal) {
            return false;
        }
        if reported.len() >= Refusals::MAX {
            reported.clear();
        }
        reported.insert(path.to_owned(), refusal);
        true
    }
}

/// The paths that are being ingested.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// `true` means that the file changed since ingestion began, and must be ingested again.
    paths: Mutex<HashMap<PathBuf, bool>>,
}

impl InFlight {
    /// Runs `ingest` for each candidate that passes `prefilter`, at most `at_a_time` concurrently,
    /// until the channel is closed. Filtering and ingestion run concurrently.
    pub(crate) async fn process_all<P, W>(
        &self,
        mut candidates: mpsc::Receiver<Candidate>,
        at_a_time: usize,
        prefilter: impl Fn(Vec<Candidate>) -> P,
        ingest: impl Fn(PathBuf) -> W,
    ) -> Result<(), StageDied>
    where
        P: Future<Output = Vec<Candidate>> + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let (mut filtering, mut ingesting) = (JoinSet::new(), JoinSet::new());
        let mut is_open = true;
        while is_open || !filtering.is_empty() || !ingesting.is_empty() {
            let room = at_a_time.saturating_sub(ingesting.len());
            let may_take = is_open && room > 0 && filtering.is_empty();
            let mut some = Vec::new();
            tokio::select! {
                biased;
                Some(ended) = ingesting.join_next() => ended.map_err(StageDied::from)?,
                Some(filtered) = filtering.join_next() => {
                    for Candidate { path } in filtered.map_err(StageDied::from)? {
                        if self.is_new(&path) {
                            ingesting.spawn(ingest(path));
                        }
                    }
                }
                received = candidates.recv_many(&mut some, room.max(1)), if may_take => {
                    is_open = received > 0;
                    if is_open {
                        filtering.spawn(prefilter(some));
                    }
                }
            }
        }
        Ok(())
    }

    /// Records a path. If it is being ingested already, it will be ingested again afterwards.
    fn is_new(&self, path: &Path) -> bool {
        let mut in_flight = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_flight.entry(path.to_owned()) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                false
            }
            Entry::Vacant(new) => {
                new.insert(false);
                true
            }
        }
    }

    /// Removes a path. Returns `false` if the file changed during ingestion, so that it must be
    /// ingested again.
    pub(crate) fn is_done(&self, path: &Path) -> bool {
        let mut in_flight = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        match in_flight.get_mut(path) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                in_flight.remove(path);
                true
            }
        }
    }
}
