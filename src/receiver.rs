//! Finds exports and gate results in the watched directories.
//!
//! ```text
//! directories ─▶ scan ─▶ new or changed? ─▶ candidates
//!                 ▲
//!      watch ─────┴── every rescan_interval
//! ```
//!
//! Scans are authoritative; events only make them happen sooner.

pub(crate) mod baseline;
pub(crate) mod config;
pub(crate) mod scan;
pub(crate) mod select;
pub(crate) mod stability;

mod mount;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch as watch_channel};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use baseline::Baseline;
use config::WatchConfig;
use scan::{ScanResult, Scanner, Stamp, Tidy};
use select::Selection;
use watch::{Hint, Watcher};

/// The usual file name of an export.
pub(crate) const METADATA_FILE: &str = "onboarding-metadata.json";

/// Poll interval if the system sends no events.
const FALLBACK_POLL: Duration = Duration::from_secs(1);

/// A file that is new, or changed since it was last reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
}

/// Scans once and passes on everything that is there. Scans again, a few times, while something
/// cannot be looked at; `watching` knows what is left.
pub(crate) async fn scan_once(
    selection: Selection,
    candidates: &mpsc::Sender<Candidate>,
    (tidy, watching): (Tidy, Arc<ReceiverStatus>),
) {
    let mut receiver = Receiver::new(Arc::new(selection), None, tidy, Arc::clone(&watching));
    receiver.look(Hint::Everything, candidates).await;
    for pause in SCANS_AGAIN_AFTER {
        if watching.unreadable().is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        receiver.look(Hint::Everything, candidates).await;
    }
}

/// Pauses before further scans, for a failure that passes.
const SCANS_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// The state of a receiver, for health and metrics.
#[derive(Debug, Default)]
pub(crate) struct ReceiverStatus {
    pub(crate) scans: AtomicU64,
    /// Number of times that events were lost. A full scan makes up for each.
    pub(crate) overflows: AtomicU64,
    /// Whether it polls because there are no events.
    pub(crate) is_polling: AtomicBool,
    /// Directories and exports that cannot be looked at.
    unreadable: Mutex<BTreeSet<PathBuf>>,
    /// When the current scan began. On a mount whose server is down, a scan never ends.
    looking: Mutex<Option<Instant>>,
}

impl ReceiverStatus {
    /// Returns how long the current scan has been running, if there is one.
    pub(crate) fn looking_for(&self) -> Option<Duration> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// Returns the directories and exports that cannot be looked at.
    pub(crate) fn unreadable(&self) -> BTreeSet<PathBuf> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begins_to_look(&self) {
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_looked(&self, closed: BTreeSet<PathBuf>) {
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = closed;
    }
}

/// When to stop watching.
#[derive(Clone, Debug)]
pub(crate) struct Until {
    pub(crate) stop: CancellationToken,
    /// Scan once more, then end.
    pub(crate) finish: CancellationToken,
}

/// Watches until told to stop. Files that are unchanged since the `baseline` are ignored. A change
/// of `restarts` means that everything else must be reported again.
pub(crate) async fn run(
    config: &WatchConfig,
    (selection, baseline): (Selection, Baseline),
    (candidates, tidy, mut restarts): (mpsc::Sender<Candidate>, Tidy, watch_channel::Receiver<u64>),
    (until, watching): (Until, Arc<ReceiverStatus>),
) {
    let Until { stop, finish } = until;
    let selection = Arc::new(selection);
    let (hints, mut incoming) = watch::channel(Arc::clone(&selection));
    let watcher = match config.poll_interval {
        Some(_) => None,
        None => Watcher::new(hints)
            .inspect_err(|error| tracing::warn!(%error, "no file events; polling instead"))
            .ok(),
    };
    let mut receiver = Receiver::new(selection, watcher, tidy, Arc::clone(&watching));
    receiver.seen.extend(baseline.versions());
    let mut hint = Hint::Everything;
    let mut rescan = tokio::time::interval(config.rescan_interval.0);
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rescan.tick().await;
    loop {
        receiver.look(hint, &candidates).await;
        let poll = receiver.poll_interval(config);
        watching.scans.fetch_add(1, Ordering::Relaxed);
        watching.is_polling.store(poll.is_some(), Ordering::Relaxed);
        hint = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = finish.cancelled() => {
                receiver.look(Hint::Everything, &candidates).await;
                return;
            }
            hint = incoming.next() => {
                if hint == Hint::Everything {
                    watching.overflows.fetch_add(1, Ordering::Relaxed);
                }
                hint
            }
            // The queue lost its entries, so every export without an id is new again.
            Ok(()) = restarts.changed() => {
                receiver.seen = baseline.versions().collect();
                Hint::Everything
            }
            _ = rescan.tick() => Hint::Everything,
            () = tokio::time::sleep(poll.unwrap_or(Duration::MAX)), if poll.is_some() => {
                Hint::Everything
            }
        };
    }
}

struct Receiver {
    scanner: Option<Scanner>,
    seen: HashMap<PathBuf, Stamp>,
    watching: Arc<ReceiverStatus>,
}

impl Receiver {
    fn new(
        selection: Arc<Selection>,
        watcher: Option<Watcher>,
        tidy: Tidy,
        watching: Arc<ReceiverStatus>,
    ) -> Receiver {
        let scanner = Scanner::watching(selection, watcher, Some(tidy));
        Receiver { scanner: Some(scanner), seen: HashMap::new(), watching }
    }

    /// Scans the directories of a hint and reports the files that are new or changed.
    async fn look(&mut self, hint: Hint, candidates: &mpsc::Sender<Candidate>) {
        let Some(mut scanner) = self.scanner.take() else {
            return;
        };
        let watching = Arc::clone(&self.watching);
        let scan = tokio::task::spawn_blocking(move || {
            watching.begins_to_look();
            let found = scanner.scan(&hint);
            watching.has_looked(scanner.closed().clone());
            (scanner, found)
        });
        let (scanner, found) = match scan.await {
            Ok(done) => done,
            // A receiver without its scanner would watch nothing. Propagate the panic, so that the
            // pipeline ends visibly.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => return,
        };
        self.scanner = Some(scanner);
        self.forget_what_is_gone(&found);
        for (path, stamp) in found.exports {
            if self.seen.insert(path.clone(), stamp) != Some(stamp)
                && candidates.send(Candidate { path }).await.is_err()
            {
                return;
            }
        }
    }

    /// Forgets removed files: one that is created again is new, whatever its times are.
    fn forget_what_is_gone(&mut self, found: &ScanResult) {
        self.seen.retain(|path, _| {
            found.exports.contains_key(path)
                || !found.scanned.iter().any(|directory| path.starts_with(directory))
        });
    }

    /// Returns how often to scan if events are not reliable.
    fn poll_interval(&self, config: &WatchConfig) -> Option<Duration> {
        let watching = self.scanner.as_ref().is_some_and(Scanner::hears_all);
        match config.poll_interval {
            Some(interval) => Some(interval.0),
            None if watching => None,
            None => Some(FALLBACK_POLL.min(config.rescan_interval.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    /// A scan that blocks, as on a dead mount, must be visible while it lasts.
    #[tokio::test]
    async fn a_scan_that_hangs_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("left-behind"), "").unwrap();
        let (reached, is_reached) = std_mpsc::channel();
        let (go_on, may_go_on) = std_mpsc::channel::<()>();
        let may_go_on = Mutex::new(may_go_on);
        let hang = move |_: &std::path::Path| {
            reached.send(()).unwrap();
            let _ = may_go_on.lock().unwrap().recv();
        };
        let tidy = Tidy { is_leftover: |_| true, tidy: Arc::new(hang) };
        let config =
            WatchConfig { directories: vec![directory.path().into()], ..Default::default() };
        let selection = Arc::new(Selection::new(&config, |_| false));
        let watching = Arc::<ReceiverStatus>::default();
        let mut receiver = Receiver::new(selection, None, tidy, Arc::clone(&watching));
        assert_eq!(watching.looking_for(), None);
        let (candidates, _incoming) = mpsc::channel(1);
        let look = tokio::spawn(async move { receiver.look(Hint::Everything, &candidates).await });
        tokio::task::spawn_blocking(move || is_reached.recv().unwrap()).await.unwrap();
        assert!(watching.looking_for().is_some());
        drop(go_on);
        look.await.unwrap();
        assert_eq!(watching.looking_for(), None);
    }
}
