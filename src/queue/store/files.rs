//! The files of a store: the database, the lock against other processes, and the reserved space.
//!
//! ```text
//! queue.lock     held from start to end, even while the store is replaced
//! queue.redb.new the store while it is made ─▶ queue.redb
//! queue.redb     the store ─▶ queue.redb.corrupt-TIME when it is corrupt
//! queue.reserve  space for recording deliveries when the disk is full
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, or on the store's thread"
)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::OpenError;
use crate::base::clock::UnixNanos;

const STORE: &str = "queue.redb";
/// The name of a store that is being made. After a kill it is made again.
const NEW: &str = "queue.redb.new";
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
    /// Device and inode of the store that is open.
    opened: Option<(u64, u64)>,
}

/// What happened to the file of an open store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    InPlace,
    Removed,
    Replaced,
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
        let mode = directory.metadata().map_err(unusable)?.mode() & 0o7777;
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(OpenError::Exposed { path: directory.to_owned(), mode });
        }
        Files::lock(directory, &private())
    }

    /// Locks an existing directory without changing it.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be used, or another process holds it.
    pub(crate) fn open_existing(directory: &Path) -> Result<Files, OpenError> {
        Files::lock(directory, not_followed(OpenOptions::new().read(true).write(true)))
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
        Ok(Files { directory: directory.to_owned(), _lock: lock, has_reserve: false, opened: None })
    }

    /// Returns the path of the store.
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join(STORE)
    }

    /// Remembers the file of the store that was opened.
    pub(crate) fn remember_store(&mut self) {
        self.opened = self.store().metadata().ok().map(|it| (it.dev(), it.ino()));
    }

    /// Whether the store that was opened still has its name. Otherwise nothing that is written into
    /// it survives this process.
    ///
    /// # Errors
    /// Returns an error if the file system does not say.
    pub(crate) fn presence(&self) -> io::Result<Presence> {
        if self.opened.is_none() {
            return Ok(Presence::InPlace);
        }
        match self.store().metadata() {
            Ok(metadata) if self.opened == Some((metadata.dev(), metadata.ino())) => {
                Ok(Presence::InPlace)
            }
            Ok(_) => Ok(Presence::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Presence::Removed),
            Err(error) => Err(error),
        }
    }

    /// Renames a corrupt store, so that an operator can examine it. Returns the new path. `None` if
    /// the store was removed; its directory is made and locked again then.
    ///
    /// # Errors
    /// Returns an error if the file cannot be renamed, or the directory not be used.
    pub(crate) fn quarantined(&mut self) -> io::Result<Option<PathBuf>> {
        if !self.store().try_exists()? {
            self._lock = None;
            let again = Files::take(&self.directory).map_err(io::Error::other)?;
            *self = Files { opened: self.opened, ..again };
            return Ok(None);
        }
        let name = format!("{STORE}.corrupt-{}", UnixNanos::now().compact());
        let mut aside = self.directory.join(&name);
        let mut number = 1;
        while aside.exists() {
            number += 1;
            aside = self.directory.join(format!("{name}-{number}"));
        }
        fs::rename(self.store(), &aside)?;
        Ok(Some(aside))
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

/// Makes the store of a directory if there is none. `make` creates a complete one at a path, so that
/// a kill leaves none that is incomplete.
///
/// # Errors
/// Returns an error if the file cannot be made.
pub(crate) fn make_store(
    directory: &Path,
    make: impl FnOnce(&Path) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let (store, new) = (directory.join(STORE), directory.join(NEW));
    if store.try_exists()? {
        return Ok(());
    }
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    private().open(&new)?;
    make(&new)?;
    Ok(fs::rename(&new, store)?)
}

/// Whether this directory has a store.
pub(crate) fn is_there(directory: &Path) -> bool {
    directory.join(STORE).exists()
}

/// The mode bit of a directory in which every user can create files.
const WRITABLE_BY_OTHERS: u32 = 0o002;

/// Makes opening fail for a link, and not wait for a FIFO.
fn not_followed(options: &mut OpenOptions) -> &mut OpenOptions {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed())
}

/// Returns options for a file that only this user can read, and that is created if missing.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    not_followed(&mut options);
    options
}
