//! The files of a store: the database, the lock against other processes, and the reserved space.
//!
//! ```text
//! queue.lock     held from start to end, even while the store is replaced
//! queue.redb     the store ─▶ queue.redb.corrupt-TIME when it is corrupt
//! queue.reserve  space for recording deliveries when the disk is full
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, or on the store's thread"
)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::OpenError;
use crate::base::clock::UnixNanos;

const STORE: &str = "queue.redb";
const LOCK: &str = "queue.lock";

/// A file that only occupies space, and is removed when the disk is full. Recording that an export
/// is in flight, delivered or removed needs some space itself. Without this reserve, a disk that
/// the queue has filled could never be emptied.
const RESERVE: &str = "queue.reserve";
const RESERVE_BYTES: u64 = 1 << 20;

/// The queue's directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    /// Released when the file is closed. `None` if there is no lock file.
    _lock: Option<File>,
    has_reserve: bool,
}

impl Files {
    /// Creates the directory, readable for this user only, and locks it against other processes.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be used, or another process holds it.
    pub(crate) fn take(directory: &Path) -> Result<Files, OpenError> {
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        // Queued exports may be confidential.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        Files::lock(directory, &private())
    }

    /// Locks an existing directory without changing it.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be used, or another process holds it.
    pub(crate) fn open_existing(directory: &Path) -> Result<Files, OpenError> {
        Files::lock(directory, OpenOptions::new().read(true).write(true))
    }

    fn lock(directory: &Path, options: &OpenOptions) -> Result<Files, OpenError> {
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        let lock = match options.open(directory.join(LOCK)) {
            Ok(lock) => Some(lock),
            // There never was a queue here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        match lock.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => {
                return Err(OpenError::Locked { path: directory.join(STORE) });
            }
            // On a file system without locks, only the store's own lock protects it.
            Some(Err(TryLockError::Error(error))) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(unusable(error));
            }
            _ => {}
        }
        Ok(Files { directory: directory.to_owned(), _lock: lock, has_reserve: false })
    }

    /// Returns the path of the store.
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join(STORE)
    }

    /// Renames a corrupt store, so that an operator can examine it. Returns the new path.
    ///
    /// # Errors
    /// Returns an error if the file cannot be renamed.
    pub(crate) fn quarantined(&self) -> io::Result<PathBuf> {
        let name = format!("{STORE}.corrupt-{}", UnixNanos::now().compact());
        let mut aside = self.directory.join(&name);
        let mut number = 1;
        while aside.exists() {
            number += 1;
            aside = self.directory.join(format!("{name}-{number}"));
        }
        fs::rename(self.store(), &aside)?;
        Ok(aside)
    }

    /// Allocates the reserved space.
    ///
    /// # Errors
    /// Returns an error if there is no room for it.
    pub(crate) fn ensure_reserve_space(&mut self) -> io::Result<()> {
        if self.has_reserve {
            return Ok(());
        }
        let reserve = self.directory.join(RESERVE);
        let made = private().open(&reserve).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES) {
                // The file system cannot allocate space, so there is no reserve.
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                result => result.map_err(io::Error::from),
            }
        });
        self.has_reserve = made.is_ok();
        if made.is_err() {
            let _ = fs::remove_file(&reserve);
        }
        made
    }

    /// Removes the reserve of an earlier run. Returns false if there is none.
    pub(crate) fn release_stale_reserve(&self) -> bool {
        fs::remove_file(self.directory.join(RESERVE)).is_ok()
    }

    /// Removes the reserve. Returns false if there is none.
    pub(crate) fn release_reserve(&mut self) -> bool {
        let had = std::mem::take(&mut self.has_reserve);
        had && fs::remove_file(self.directory.join(RESERVE)).is_ok()
    }
}

/// Whether this directory has a store.
pub(crate) fn is_there(directory: &Path) -> bool {
    directory.join(STORE).exists()
}

/// Returns options for a file that only this user can read, and that is created if missing.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}
