//! The identity of one version of one file, and why a file cannot be read.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::io;
use std::num::NonZeroI64;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::base::path;

/// The identity of one version of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// The path under which the file was found.
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    /// The path without links, if it differs from `path`.
    #[serde(
        rename = "canonical",
        with = "path::optional",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) elsewhere: Option<PathBuf>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i128,
    /// Time of the last change to the inode before the file was read. Programs cannot set this
    /// time. `None` on file systems with a resolution of seconds, where two changes may have the
    /// same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ctime_ns: Option<NonZeroI64>,
    pub(crate) sha256: [u8; 32],
}

impl FileVersion {
    /// Returns the path without links, for opening the file again.
    pub(crate) fn canonical(&self) -> &Path {
        self.elsewhere.as_deref().unwrap_or(&self.path)
    }

    /// Whether both are the same version of an export. Compares the data that the trace id is
    /// computed from, and not the inode.
    pub(crate) fn same_version(&self, other: &FileVersion) -> bool {
        let looks = |it: &FileVersion| (it.size, it.mtime_ns);
        looks(self) == looks(other) && self.sha256 == other.sha256
    }

    /// Returns the part of the identity that `stat` returns.
    pub(crate) fn stamp(&self) -> Stamp {
        let FileVersion { device, inode, size, mtime_ns, .. } = *self;
        Stamp { device, inode, size, mtime_ns }
    }
}

/// The identity of a file as far as `stat` returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i128,
}

impl Stamp {
    /// Whether `stat` returned the same values as for the version that was read.
    pub(crate) fn same_stat(&self, source: &FileVersion) -> bool {
        (self.size, self.mtime_ns) == (source.size, source.mtime_ns)
    }
}

impl From<&Stat> for Stamp {
    // The widths of these fields differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: &Stat) -> Self {
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + stat.st_mtime_nsec as i128,
        }
    }
}

/// Returns the time of the last change to the inode, in nanoseconds since 1970. `None` if it is a
/// whole second, which means that the file system has a resolution of seconds.
// The widths of these fields differ between platforms.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn ctime_ns(stat: &Stat) -> Option<NonZeroI64> {
    let nanos = NonZeroI64::new(stat.st_ctime_nsec as i64)?.get();
    NonZeroI64::new((stat.st_ctime as i64).checked_mul(1_000_000_000)?.checked_add(nanos)?)
}

/// A file that was read completely, with the identity of these bytes.
#[derive(Debug)]
pub struct Loaded {
    pub source: FileVersion,
    pub(crate) bytes: Vec<u8>,
}

/// The reason why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{}: there is no such file", path.display())]
    Missing { path: PathBuf },
    #[error("{}: {what}; only a regular file is read", path.display())]
    NotRegular { path: PathBuf, what: &'static str },
    #[error("{}: {size} bytes or more, over the limit of {limit} (max_file_size)", path.display())]
    TooLarge { path: PathBuf, size: u64, limit: u64 },
    #[error("{}: changed while being read", path.display())]
    Changed { path: PathBuf },
    #[error("{}: cannot be read: {source}{hint}", path.display())]
    Unreadable { path: PathBuf, source: io::Error, hint: String },
    #[error("{}: refused, {why}", path.display())]
    Escapes { path: PathBuf, why: &'static str },
}

impl SourceError {
    /// Names this limit as the one that the file is over. It was read with a lower one, because less
    /// memory was free.
    pub(crate) fn over(self, limit: u64) -> SourceError {
        match self {
            SourceError::TooLarge { path, size, .. } => SourceError::TooLarge { path, size, limit },
            other => other,
        }
    }

    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, SourceError::Missing { .. })
    }

    /// Whether the same call may succeed soon without an action by the user.
    pub(crate) fn is_transient(&self) -> bool {
        const PASSING: [Errno; 8] = [
            Errno::INTR,
            Errno::AGAIN,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::IO,
            Errno::STALE,
            Errno::TIMEDOUT,
        ];
        match self {
            SourceError::Changed { .. } => true,
            SourceError::Unreadable { source, .. } => {
                Errno::from_io_error(source).is_some_and(|errno| PASSING.contains(&errno))
            }
            _ => false,
        }
    }

    /// Makes an error from a failed call on `path`.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR) => SourceError::Missing { path },
            Some(Errno::ACCESS | Errno::PERM) => {
                let hint = ownership(&path);
                SourceError::Unreadable { path, source, hint }
            }
            _ => SourceError::Unreadable { path, source, hint: String::new() },
        }
    }
}

/// Describes the owner of a file and the current user, to help with "permission denied".
fn ownership(path: &Path) -> String {
    let me = rustix::process::geteuid();
    match rustix::fs::lstat(path) {
        Ok(stat) => format!(
            " (it belongs to uid {}, mode {:04o}; taskspan runs as uid {me})",
            stat.st_uid,
            stat.st_mode & 0o7777
        ),
        Err(_) => format!(" (its directory is closed to taskspan, which runs as uid {me})"),
    }
}
