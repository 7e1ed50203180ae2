//! Turns file events into hints where to scan. Only this file uses `notify`.

#![expect(clippy::disallowed_methods, reason = "a scan runs on a blocking thread of its own")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::select::Selection;

/// Capacity of the hint channel. If it is full, one full scan replaces the hints.
const MAX_WAITING: usize = 1_024;

/// What to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    Everything,
    Directories(BTreeSet<PathBuf>),
}

/// The sending half, fed by notify's thread.
pub(crate) struct Sender {
    directories: mpsc::Sender<PathBuf>,
    /// Whether a hint was dropped, or the kernel lost events.
    overflow: Arc<AtomicBool>,
    selection: Arc<Selection>,
}

/// The receiving half.
pub(crate) struct Hints {
    directories: mpsc::Receiver<PathBuf>,
    overflow: Arc<AtomicBool>,
}

pub(crate) fn channel(selection: Arc<Selection>) -> (Sender, Hints) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let overflow = Arc::new(AtomicBool::new(false));
    (
        Sender { directories: sender, overflow: Arc::clone(&overflow), selection },
        Hints { directories: receiver, overflow },
    )
}

impl Hints {
    /// Waits for hints, and returns all of them as one. Pending forever if there is no watcher.
    pub(crate) async fn next(&mut self) -> Hint {
        let Some(first) = self.directories.recv().await else {
            return std::future::pending().await;
        };
        let mut directories = BTreeSet::from([first]);
        while let Ok(next) = self.directories.try_recv() {
            directories.insert(next);
        }
        if self.overflow.swap(false, Ordering::AcqRel) {
            return Hint::Everything;
        }
        Hint::Directories(directories)
    }
}

impl Sender {
    fn send(&self, directory: PathBuf) {
        if self.directories.try_send(directory).is_err() {
            self.everything();
        }
    }

    fn everything(&self) {
        self.overflow.store(true, Ordering::Release);
        // Any hint wakes the receiver. If the channel is full, the receiver is awake anyway and
        // sees the flag.
        let _ = self.directories.try_send(PathBuf::new());
    }

    fn take(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.everything(),
            Ok(event) => {
                for directory in concerned(&event, &self.selection) {
                    self.send(directory);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "file events were lost; looking at everything");
                self.everything();
            }
        }
    }
}

/// Returns the directories in which an event may have created, changed or removed an export.
fn concerned(event: &Event, selection: &Selection) -> Vec<PathBuf> {
    let structural = matches!(
        event.kind,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    // Reads are events too, including our own.
    let content = matches!(
        event.kind,
        EventKind::Modify(_) | EventKind::Access(AccessKind::Close(AccessMode::Write))
    );
    let concerns = |path: &&PathBuf| {
        let ours = selection.is_export(path);
        // A file with another name cannot be an export, a directory, or a link to one. If its kind
        // can no longer be queried, assume that it is.
        let directory =
            || structural && fs::symlink_metadata(path).map_or(true, |it| !it.is_file());
        (ours && (structural || content)) || directory()
    };
    event
        .paths
        .iter()
        .filter(concerns)
        .map(|path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        })
        .collect()
}

/// The outcome of watching a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    New,
    Before,
    Missing,
}

/// The watches on single directories.
#[derive(Debug)]
pub(crate) struct Watcher {
    inner: RecommendedWatcher,
    /// Device and inode of each directory when it was watched, to detect a directory that was
    /// replaced.
    watched: HashMap<PathBuf, (u64, u64)>,
}

impl Watcher {
    /// Makes a watcher.
    ///
    /// # Errors
    /// Returns an error if the system cannot send file events.
    pub(crate) fn new(hints: Sender) -> Result<Watcher, WatchError> {
        let handler = move |event| hints.take(event);
        let mut inner = RecommendedWatcher::new(handler, Config::default()).map_err(WatchError)?;
        // If its thread could not be started, notify panics at every later call, and when it is
        // dropped.
        if let Err(error) = inner.configure(Config::default()) {
            std::mem::forget(inner);
            return Err(WatchError(error));
        }
        Ok(Watcher { inner, watched: HashMap::new() })
    }

    /// Forgets directories that no longer exist.
    pub(crate) fn forget_what_is_gone(&mut self) {
        let gone: Vec<PathBuf> =
            self.watched.keys().filter(|it| it.try_exists().is_ok_and(|it| !it)).cloned().collect();
        for directory in gone {
            self.watched.remove(&directory);
            let _ = self.inner.unwatch(&directory);
        }
    }

    /// Watches a directory, unless it is watched already. A directory that does not exist is not an
    /// error.
    ///
    /// # Errors
    /// Returns an error if a limit of the system was reached. There will be no events from this
    /// directory.
    pub(crate) fn watch(&mut self, directory: &Path) -> Result<Watched, WatchError> {
        let Ok(metadata) = fs::metadata(directory) else {
            if self.watched.remove(directory).is_some() {
                let _ = self.inner.unwatch(directory);
            }
            return Ok(Watched::Missing);
        };
        let identity = (metadata.dev(), metadata.ino());
        let known = self.watched.get(directory).copied();
        // Another directory has this name now; the kernel still watches the old one.
        if known.is_some_and(|known| known != identity) {
            let _ = self.inner.unwatch(directory);
        }
        // A replaced directory can have the inode of the old one, which the kernel no longer
        // watches. Watching a directory twice changes nothing.
        match self.inner.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(directory.to_owned(), identity);
                Ok(if known == Some(identity) { Watched::Before } else { Watched::New })
            }
            Err(error) if is_gone(&error) => Ok(Watched::Missing),
            Err(error) => Err(WatchError(error)),
        }
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound | notify::ErrorKind::WatchNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

/// The system sends no events. Contains advice for the user.
#[derive(Debug)]
pub(crate) struct WatchError(notify::Error);

impl std::fmt::Display for WatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = match &self.0.kind {
            notify::ErrorKind::MaxFilesWatch => Some("fs.inotify.max_user_watches"),
            notify::ErrorKind::Io(error) => match error.raw_os_error() {
                Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => {
                    Some("fs.inotify.max_user_watches")
                }
                Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
                    Some("fs.inotify.max_user_instances")
                }
                _ => None,
            },
            _ => None,
        };
        match limit {
            Some(limit) => write!(f, "{} (raise the sysctl {limit})", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for WatchError {}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag};

    use super::super::config::WatchConfig;
    use super::*;

    fn both() -> (Sender, Hints) {
        let config = WatchConfig { directories: vec!["/out".into()], ..Default::default() };
        channel(Arc::new(Selection::new(&config, |_| false)))
    }

    fn created(path: &str) -> notify::Result<Event> {
        Ok(Event::new(EventKind::Create(CreateKind::File)).add_path(path.into()))
    }

    #[tokio::test]
    async fn an_export_is_a_hint_at_its_directory() {
        let (sender, mut hints) = both();
        sender.take(created("/out/a/onboarding-metadata.json"));
        sender.take(created("/out/b/onboarding-metadata.json"));
        let expected = BTreeSet::from(["/out/a".into(), "/out/b".into()]);
        assert_eq!(hints.next().await, Hint::Directories(expected));
    }

    #[tokio::test]
    async fn an_overflow_of_events_scans_everything() {
        let (sender, mut hints) = both();
        sender.take(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(hints.next().await, Hint::Everything);
        for n in 0..=MAX_WAITING {
            sender.take(created(&format!("/out/{n}/onboarding-metadata.json")));
        }
        assert_eq!(hints.next().await, Hint::Everything);
        sender.take(Err(notify::Error::generic("lost")));
        assert_eq!(hints.next().await, Hint::Everything);
    }

    #[test]
    fn a_limit_is_named_with_its_sysctl() {
        let of = |error: notify::Error| WatchError(error).to_string();
        let io = |errno: rustix::io::Errno| of(notify::Error::io(errno.into()));
        let watches = of(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        assert!(watches.contains("fs.inotify.max_user_watches"), "{watches}");
        assert!(io(rustix::io::Errno::NOSPC).contains("fs.inotify.max_user_watches"));
        assert!(io(rustix::io::Errno::MFILE).contains("fs.inotify.max_user_instances"));
    }
}
