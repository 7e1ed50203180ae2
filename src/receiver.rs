//! The receivers: which exports, or results of gates, are there to be read.
//!
//! ```text
//! directories ─▶ scan ─▶ new or changed? ─▶ candidates
//!                 ▲
//!      watch ─────┴── every rescan_interval
//! ```
//!
//! The scan is the truth; events only make it fast.

pub mod baseline;
pub mod config;
pub mod scan;
pub mod select;
pub mod stability;

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
use scan::{Found, Scanner, Stamp, Tidy};
use select::Selection;
use watch::{Hint, Watcher};

/// The name of the file that an export is known by.
pub const METADATA_FILE: &str = "onboarding-metadata.json";

/// When no events come from the system, this is how often it is looked instead.
const FALLBACK_POLL: Duration = Duration::from_secs(1);

/// A metadata file that has not been seen in this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub path: PathBuf,
}

/// Looks once, and hands over everything that is there.
pub async fn scan_once(selection: Selection, candidates: &mpsc::Sender<Candidate>, tidy: Tidy) {
    let mut receiver = Receiver::new(Arc::new(selection), None, tidy, Arc::default());
    receiver.look(Hint::Everything, candidates).await;
}

/// The state of a receiver, for health and metrics.
#[derive(Debug, Default)]
pub struct ReceiverStatus {
    pub scans: AtomicU64,
    /// Times that events were lost, which a scan of everything makes up for.
    pub overflows: AtomicU64,
    /// It looks by itself, because no events come.
    pub is_polling: AtomicBool,
    /// Directories that cannot be looked into.
    pub unreadable: Mutex<BTreeSet<PathBuf>>,
    /// Since when it has been looking, while it is. On a mount whose server is gone, that is for ever.
    looking: Mutex<Option<Instant>>,
}

impl ReceiverStatus {
    /// For how long it has been looking by now, if it is.
    pub fn looking_for(&self) -> Option<Duration> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    fn begins_to_look(&self) {
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_looked(&self, closed: BTreeSet<PathBuf>) {
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = closed;
    }
}

/// How long to watch.
#[derive(Clone, Debug)]
pub struct Until {
    pub stop: CancellationToken,
    /// Look once more, then end.
    pub finish: CancellationToken,
}

/// Watches until told otherwise. Files that still are in the version of the `baseline` are passed over.
/// `restarts` changes when everything else must be scanned again.
pub async fn run(
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
            // The queue lost what it held: every export without an id is new again.
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

    /// Scans what the hint speaks of and hands over what is new there.
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
            // A receiver that has lost its scanner would watch nothing. The pipeline ends visibly instead.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is going down.
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

    /// An export that was removed and made again is new, whatever its times say.
    fn forget_what_is_gone(&mut self, found: &Found) {
        self.seen.retain(|path, _| {
            found.exports.contains_key(path)
                || !found.scanned.iter().any(|directory| path.starts_with(directory))
        });
    }

    /// How often to look when events cannot be relied upon.
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

    /// A look that does not come back, as on a mount whose server is gone, shows while it lasts.
    #[tokio::test]
    async fn a_look_that_hangs_shows() {
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
