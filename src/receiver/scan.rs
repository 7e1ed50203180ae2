//! One look at the directories: which exports are there, in which version.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::METADATA_FILE;
use super::watch::{Hint, Watcher};

/// Directories that hold no exports but very many files.
const SKIPPED: [&str; 3] = [".git", "node_modules", "target"];

/// What tells one version of a file from another without reading it. The change time is part of
/// it so that a `chmod` that makes a file readable counts as a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
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

/// What a scan came upon.
#[derive(Debug, Default)]
pub struct Found {
    pub exports: BTreeMap<PathBuf, Stamp>,
    /// The directories that were scanned, with all below them.
    pub scanned: Vec<PathBuf>,
}

/// Walks the directories and keeps the watches on them.
pub struct Scanner {
    recursive: bool,
    watcher: Option<Watcher>,
    tidy: Option<Tidy>,
}

/// What is done about files that a killed run left behind.
#[derive(Clone)]
pub struct Tidy {
    pub is_leftover: fn(&OsStr) -> bool,
    /// Called with a directory that holds some.
    pub tidy: Arc<dyn Fn(&Path) + Send + Sync>,
}

impl Scanner {
    /// A scanner for a single look.
    pub fn new(recursive: bool) -> Scanner {
        Scanner::watching(recursive, None, None)
    }

    pub(super) fn watching(
        recursive: bool,
        watcher: Option<Watcher>,
        tidy: Option<Tidy>,
    ) -> Scanner {
        Scanner { recursive, watcher, tidy }
    }

    pub fn is_watching(&self) -> bool {
        self.watcher.is_some()
    }

    /// One look at everything below some directories.
    pub fn scan_all(&mut self, roots: &[PathBuf]) -> Found {
        self.scan(roots, &Hint::Everything)
    }

    pub(super) fn scan(&mut self, roots: &[PathBuf], hint: &Hint) -> Found {
        let mut found = Found::default();
        match hint {
            Hint::Everything => {
                for root in roots {
                    self.scan_root(root, &mut found);
                }
            }
            Hint::Directories(directories) => {
                for root in roots {
                    for directory in directories {
                        if directory.starts_with(root) {
                            self.scan_tree(directory, &mut found);
                        } else if root.starts_with(directory) {
                            // Something happened above the root: it may have come or gone.
                            self.scan_root(root, &mut found);
                        }
                    }
                }
            }
        }
        found
    }

    /// A root may not exist yet; then its nearest parent that does is watched in its place. It is
    /// watched in any case, since only the parent tells that a root was made anew.
    fn scan_root(&mut self, root: &Path, found: &mut Found) {
        let above = root.ancestors().skip(1).find(|above| above.is_dir());
        self.watch(above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        self.scan_tree(root, found);
    }

    fn scan_tree(&mut self, top: &Path, found: &mut Found) {
        // A user may name the file itself.
        if let Ok(metadata) = fs::symlink_metadata(top)
            && metadata.is_file()
        {
            found.exports.insert(top.to_owned(), Stamp::from(&metadata));
            return;
        }
        found.scanned.push(top.to_owned());
        let mut directories = vec![top.to_owned()];
        while let Some(directory) = directories.pop() {
            // First the watch, then the look: what comes in between is seen twice, not never.
            self.watch(&directory);
            let mut has_leftover = false;
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(path = %directory.display(), %error, "cannot look into it");
                    continue;
                }
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                has_leftover |= self.tidy.as_ref().is_some_and(|tidy| (tidy.is_leftover)(&name));
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if name == METADATA_FILE {
                    // What is no regular file is refused by name when it is read.
                    if let Ok(metadata) = entry.metadata() {
                        found.exports.insert(entry.path(), Stamp::from(&metadata));
                    }
                } else if is_directory
                    && self.recursive
                    && !SKIPPED.iter().any(|skip| name == *skip)
                {
                    directories.push(entry.path());
                }
            }
            if let Some(tidy) = self.tidy.as_ref().filter(|_| has_leftover) {
                (tidy.tidy)(&directory);
            }
        }
    }

    fn watch(&mut self, directory: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        if let Err(error) = watcher.watch(directory) {
            tracing::warn!(path = %directory.display(), %error, "no file events; polling instead");
            self.watcher = None;
        }
    }
}

impl std::fmt::Debug for Tidy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tidy").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("recursive", &self.recursive).finish_non_exhaustive()
    }
}
