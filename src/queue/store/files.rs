//! The files of a store: the lock that keeps other processes out, and the room that is kept.
//!
//! ```text
//! queue.lock     held from the start to the end, whatever becomes of the store in between
//! queue.redb     the store ─▶ queue.redb.corrupt-TIME when it cannot be read
//! queue.reserve  room to note that an export arrived, when the disk is full
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

/// A file that does nothing but take up room, to be given up when the disk is full: noting that
/// an export is on its way, arrived or can go needs a little room itself, and without it a disk
/// that the queue has filled would never be emptied.
const RESERVE: &str = "queue.reserve";
const RESERVE_BYTES: u64 = 1 << 20;

/// A directory that this process holds.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    /// Let go of when it is closed.
    _lock: Option<File>,
    has_reserve: bool,
}

impl Files {
    /// Makes the directory, readable for this user only, and keeps other processes out.
    ///
    /// # Errors
    /// The directory cannot be used, or another process holds it.
    pub fn take(directory: &Path) -> Result<Files, OpenError> {
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        // What waits in the queue may be confidential.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        Files::lock(directory, &private())
    }

    /// The same for a directory that is to be left as it is.
    ///
    /// # Errors
    /// The directory cannot be used, or another process holds it.
    pub fn look_at(directory: &Path) -> Result<Files, OpenError> {
        Files::lock(directory, OpenOptions::new().read(true).write(true))
    }

    fn lock(directory: &Path, options: &OpenOptions) -> Result<Files, OpenError> {
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        let lock = match options.open(directory.join(LOCK)) {
            Ok(lock) => Some(lock),
            // There was never a queue here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        match lock.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => {
                return Err(OpenError::Locked { path: directory.join(STORE) });
            }
            // A file system without locks: the store's own is all there is then.
            Some(Err(TryLockError::Error(error))) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(unusable(error));
            }
            _ => {}
        }
        Ok(Files { directory: directory.to_owned(), _lock: lock, has_reserve: false })
    }

    pub fn store(&self) -> PathBuf {
        self.directory.join(STORE)
    }

    /// Moves a store that cannot be read out of the way, for a person to look at.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn quarantined(&self) -> io::Result<PathBuf> {
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

    /// # Errors
    /// There is no room for it.
    pub fn ensure_reserve_space(&mut self) -> io::Result<()> {
        if self.has_reserve {
            return Ok(());
        }
        let reserve = self.directory.join(RESERVE);
        let made = private().open(&reserve).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES) {
                // A file system without it gets by without a reserve.
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

    /// Gives up what an earlier run kept. False when it kept nothing.
    pub fn release_stale_reserve(&self) -> bool {
        fs::remove_file(self.directory.join(RESERVE)).is_ok()
    }

    /// Gives the reserve up. False when there is none.
    pub fn release_reserve(&mut self) -> bool {
        let had = std::mem::take(&mut self.has_reserve);
        had && fs::remove_file(self.directory.join(RESERVE)).is_ok()
    }
}

/// Returns whether there is, or was, a queue in this directory.
pub fn is_there(directory: &Path) -> bool {
    directory.join(STORE).exists()
}

/// For a file that only this user can read, and that need not exist.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}
