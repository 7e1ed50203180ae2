//! Scans the directories for exports and their versions.

#![expect(clippy::disallowed_methods, reason = "a scan runs on a blocking thread of its own")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::mount;
use super::select::Selection;
use super::watch::{Hint, Watched, Watcher};
use crate::fs::directory::Directory;
use crate::fs::file::SourceError;
use crate::fs::root::Roots;

/// Distinguishes versions of a file without reading it. The change time is part of it, so that a
/// `chmod` that makes a file readable counts as a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the time of the last change to the file or its metadata, in nanoseconds since the
    /// epoch.
    pub(crate) fn changed_at(&self) -> i128 {
        let (seconds, nanos) = self.changed;
        i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
    }
}

impl From<&Stat> for Stamp {
    // The widths of these fields differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The result of a scan.
#[derive(Debug, Default)]
pub(crate) struct ScanResult {
    pub(crate) exports: BTreeMap<PathBuf, Stamp>,
    /// The directories that were scanned, including everything below them.
    pub(crate) scanned: Vec<PathBuf>,
}

/// A directory to scan. Its parent is open, unless it is a root.
struct Pending {
    path: PathBuf,
    parent: Option<Rc<Directory>>,
}

/// Scans the directories, and keeps watches on them.
pub(crate) struct Scanner {
    selection: Arc<Selection>,
    roots: Roots,
    watcher: Option<Watcher>,
    tidy: Option<Tidy>,
    /// Returns the name of a file system that sends no events.
    without_events: fn(&Path) -> Option<&'static str>,
    /// Whether some directory is on such a file system.
    has_silent: bool,
    /// Directories and exports that cannot be looked at. Each is reported once.
    closed: BTreeSet<PathBuf>,
}

/// Removes files that a killed run left behind.
#[derive(Clone)]
pub(crate) struct Tidy {
    pub(crate) is_leftover: fn(&OsStr) -> bool,
    /// Called with a directory that has such files.
    pub(crate) tidy: Arc<dyn Fn(&Path) + Send + Sync>,
}

impl Scanner {
    /// Makes a scanner without watches.
    pub(crate) fn new(selection: Selection) -> Scanner {
        Scanner::watching(Arc::new(selection), None, None)
    }

    pub(super) fn watching(
        selection: Arc<Selection>,
        watcher: Option<Watcher>,
        tidy: Option<Tidy>,
    ) -> Scanner {
        let without_events = mount::without_events;
        let closed = BTreeSet::new();
        let roots = Roots::new(selection.roots());
        Scanner { selection, roots, watcher, tidy, without_events, has_silent: false, closed }
    }

    /// Whether every directory sends events.
    pub(crate) fn hears_all(&self) -> bool {
        self.watcher.is_some() && !self.has_silent
    }

    /// Returns the directories and exports that could not be looked at.
    pub(crate) fn closed(&self) -> &BTreeSet<PathBuf> {
        &self.closed
    }

    /// Scans all directories.
    pub(crate) fn scan_all(&mut self) -> ScanResult {
        self.scan(&Hint::Everything)
    }

    pub(super) fn scan(&mut self, hint: &Hint) -> ScanResult {
        let mut found = ScanResult::default();
        let selection = Arc::clone(&self.selection);
        let roots = selection.roots();
        match hint {
            Hint::Everything => {
                self.closed.retain(|path| !is_gone(&fs::symlink_metadata(path)));
                for root in roots {
                    self.scan_root(root, &mut found);
                }
                if let Some(watcher) = &mut self.watcher {
                    watcher.forget_what_is_gone();
                }
            }
            Hint::Directories(directories) => {
                for root in roots {
                    for directory in directories {
                        if directory.starts_with(root) {
                            if selection.is_entered(directory) && !is_behind_a_link(root, directory)
                            {
                                self.scan_tree(directory, &mut found);
                            }
                        } else if root.starts_with(directory) {
                            // Something changed above the root, so it may have appeared or
                            // disappeared.
                            self.scan_root(root, &mut found);
                        }
                    }
                }
            }
        }
        found
    }

    /// Scans a root. If it does not exist, the nearest existing parent is watched. The parent is
    /// always watched, because only its events show that a root was replaced.
    fn scan_root(&mut self, root: &Path, found: &mut ScanResult) {
        let above = root.ancestors().skip(1).find(|above| above.is_dir());
        self.watch(above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        self.scan_tree(root, found);
    }

    fn scan_tree(&mut self, top: &Path, found: &mut ScanResult) {
        // The user may watch a file instead of a directory.
        if let Ok(metadata) = fs::symlink_metadata(top)
            && metadata.is_file()
        {
            if self.selection.is_export(top) {
                found.exports.insert(top.to_owned(), Stamp::from(&metadata));
            }
            return;
        }
        found.scanned.push(top.to_owned());
        let mut pending = vec![Pending { path: top.to_owned(), parent: None }];
        while let Some(Pending { path: directory, parent }) = pending.pop() {
            // Watch before scanning: a change in between is then seen twice instead of never.
            self.watch(&directory);
            let Some((open, entries)) = self.entries(&directory, parent.as_deref()) else {
                continue;
            };
            let open = Rc::new(open);
            let mut has_leftover = false;
            for (name, kind) in entries {
                let path = directory.join(&name);
                has_leftover |= self.tidy.as_ref().is_some_and(|tidy| (tidy.is_leftover)(&name));
                if self.selection.is_export_here(&path) {
                    let is_link = kind == FileType::Symlink;
                    let path = if is_link { self.resolved(path) } else { path };
                    // A file that is not regular is refused, with its name, when it is read.
                    let stat = match is_link {
                        true => self.roots.locate(&path).map(|it| it.stat()),
                        false => Ok(open.stat(Path::new(&name))),
                    };
                    let unreadable = |errno: Errno| SourceError::from_io(&path, errno.into());
                    match stat.and_then(|stat| stat.map_err(unreadable)) {
                        Ok(stat) => {
                            self.closed.remove(&path);
                            found.exports.insert(path, Stamp::from(&stat));
                        }
                        Err(error) => self.report_unreadable(&path, &error),
                    }
                } else if kind == FileType::Directory && self.selection.is_entered_from_here(&path)
                {
                    pending.push(Pending { path, parent: Some(Rc::clone(&open)) });
                }
            }
            if let Some(tidy) = self.tidy.as_ref().filter(|_| has_leftover) {
                (tidy.tidy)(&directory);
            }
        }
    }

    /// Opens a directory, relative to its parent if that is open, and reads it. `None` if it is
    /// gone, or if it cannot be read, which is reported once.
    fn entries(
        &mut self,
        path: &Path,
        parent: Option<&Directory>,
    ) -> Option<(Directory, Vec<(OsString, FileType)>)> {
        let open = match (parent, path.file_name()) {
            (Some(parent), Some(name)) => parent.child(Path::new(name)),
            _ => self.roots.open(path),
        };
        match open.and_then(|open| Ok((open.entries()?, open))) {
            Ok((entries, open)) => {
                self.closed.remove(path);
                Some((open, entries))
            }
            Err(error) => {
                self.report_unreadable(path, &error);
                None
            }
        }
    }

    /// Reports, once, what cannot be looked at. What was removed since its directory was read, or
    /// replaced by a link that leads out, is not there.
    fn report_unreadable(&mut self, path: &Path, error: &SourceError) {
        let is_absent = matches!(error, SourceError::Missing { .. } | SourceError::Escapes { .. });
        if !is_absent && self.closed.insert(path.to_owned()) {
            tracing::warn!(path = %path.display(), %error, "cannot look into it");
        }
    }

    /// Returns the target of a link, if it is below the same directories. In a mounted volume,
    /// files are links to the current version. A link that leads elsewhere is returned unchanged,
    /// and refused with its name later.
    fn resolved(&self, link: PathBuf) -> PathBuf {
        let Ok(real) = link.canonicalize() else { return link };
        let real_roots = self.selection.roots().iter().map(|root| (root, root.canonicalize()));
        let mut within = real_roots.filter_map(|(root, real_root)| {
            Some(root.join(real.strip_prefix(real_root.ok()?).ok()?))
        });
        within.next().unwrap_or(link)
    }

    fn watch(&mut self, directory: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        match watcher.watch(directory) {
            Ok(Watched::New) => {
                let Some(kind) = (self.without_events)(directory) else { return };
                if !std::mem::replace(&mut self.has_silent, true) {
                    let path = directory.display();
                    tracing::info!(%path, kind, "this file system gives no events; polling");
                }
            }
            Ok(Watched::Before | Watched::Missing) => {}
            Err(error) => {
                let path = directory.display();
                tracing::warn!(%path, %error, "no file events; polling instead");
                self.watcher = None;
            }
        }
    }
}

/// Whether a look says that nothing has this name. Any other failure says nothing.
fn is_gone(look: &io::Result<Metadata>) -> bool {
    let gone = [ErrorKind::NotFound, ErrorKind::NotADirectory];
    look.as_ref().is_err_and(|error| gone.contains(&error.kind()))
}

/// Whether a directory, or a parent below the root, has become a link. The root itself may be a
/// link.
fn is_behind_a_link(root: &Path, directory: &Path) -> bool {
    let below = directory.ancestors().take_while(|it| *it != root);
    below.into_iter().any(Path::is_symlink)
}

impl std::fmt::Debug for Tidy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tidy").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("selection", &self.selection).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::WatchConfig;
    use super::super::watch;
    use super::*;

    fn scanner(directory: &Path, watched: bool) -> Scanner {
        let config = WatchConfig { directories: vec![directory.to_owned()], ..Default::default() };
        let selection = Arc::new(Selection::new(&config, |_| false));
        let (hints, _) = watch::channel(Arc::clone(&selection));
        let watcher = watched.then(|| Watcher::new(hints).expect("file events"));
        Scanner::watching(selection, watcher, None)
    }

    #[test]
    fn a_directory_without_events_makes_it_poll() {
        let directory = tempfile::tempdir().unwrap();
        let mut scanner = scanner(directory.path(), true);
        scanner.scan_all();
        assert!(scanner.hears_all());
        let mounted = directory.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        scanner.without_events = |path| path.ends_with("mounted").then_some("nfs");
        fs::write(mounted.join("onboarding-metadata.json"), "{}").unwrap();
        let found = scanner.scan_all();
        assert!(!scanner.hears_all());
        assert!(found.exports.contains_key(&mounted.join("onboarding-metadata.json")));
    }

    #[test]
    fn without_a_watcher_it_polls() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!scanner(directory.path(), false).hears_all());
    }
}
