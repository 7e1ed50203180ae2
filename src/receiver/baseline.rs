//! The files that exist before a job starts. The job did not write those that are unchanged after
//! it.

#![expect(clippy::disallowed_methods, reason = "a scan runs on a blocking thread of its own")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::scan::{Scanner, Stamp};
use super::select::Selection;
use crate::base::clock::UnixNanos;

/// The version of every file that a receiver finds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Baseline {
    files: BTreeMap<PathBuf, Stamp>,
}

impl Baseline {
    /// Scans now. Blocks on disk I/O.
    pub(crate) fn take(selection: Selection) -> Baseline {
        Baseline { files: Scanner::new(selection).scan_all().exports }
    }

    /// Returns the files of a later baseline that are new or have another version.
    pub(crate) fn written_since<'a>(&self, later: &'a Baseline) -> Vec<&'a Path> {
        let is_new = |(path, stamp): &(&PathBuf, &Stamp)| self.files.get(*path) != Some(stamp);
        later.files.iter().filter(is_new).map(|(path, _)| path.as_path()).collect()
    }

    /// Returns the files that still have this version. Blocks on disk I/O.
    pub(crate) fn unchanged(&self) -> Vec<&Path> {
        let is_same = |(path, stamp): &(&PathBuf, &Stamp)| {
            fs::symlink_metadata(path).is_ok_and(|it| Stamp::from(&it) == **stamp)
        };
        self.files.iter().filter(is_same).map(|(path, _)| path.as_path()).collect()
    }

    /// Removes the files that were changed at `start` or later.
    #[must_use]
    pub(crate) fn before(mut self, start: UnixNanos) -> Baseline {
        self.files.retain(|_, stamp| stamp.changed_at() < i128::from(start.0));
        self
    }

    /// Removes the files for which `is_known` holds.
    #[must_use]
    pub(crate) fn without(mut self, is_known: impl Fn(&Path) -> bool) -> Baseline {
        self.files.retain(|path, _| !is_known(path));
        self
    }

    pub(super) fn versions(&self) -> impl Iterator<Item = (PathBuf, Stamp)> + '_ {
        self.files.iter().map(|(path, stamp)| (path.clone(), *stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::WatchConfig;
    use super::*;

    #[test]
    fn a_file_that_was_written_again_is_new_and_another_is_unchanged() {
        let root = tempfile::tempdir().unwrap();
        let file = |directory: &str| root.path().join(directory).join("onboarding-metadata.json");
        for directory in ["same", "replaced", "removed"] {
            fs::create_dir(root.path().join(directory)).unwrap();
            fs::write(file(directory), "{}").unwrap();
        }
        let config = WatchConfig { directories: vec![root.path().into()], ..Default::default() };
        let take = || Baseline::take(Selection::new(&config, |_| false));
        let before = take();
        assert!(before.written_since(&take()).is_empty());

        // The same bytes, by rename, as an exporter writes them.
        let modified = fs::metadata(file("replaced")).unwrap().modified().unwrap();
        let temp = root.path().join("temp");
        fs::write(&temp, "{}").unwrap();
        fs::File::options().write(true).open(&temp).unwrap().set_modified(modified).unwrap();
        fs::rename(&temp, file("replaced")).unwrap();
        fs::remove_file(file("removed")).unwrap();
        fs::create_dir(root.path().join("new")).unwrap();
        fs::write(file("new"), "{}").unwrap();
        assert_eq!(before.written_since(&take()), [file("new"), file("replaced")]);
        assert_eq!(before.unchanged(), [file("same")]);
    }
}
