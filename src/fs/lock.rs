//! Locks an export with an advisory lock on its inode, so that only one process works on it.
//!
//! ```text
//! open ─▶ still the version that was read? ─▶ flock ─▶ still under this name? ─▶ Acquired
//!            │ no: does it carry the id?        │ held        └─ no: retry
//!            └─▶ AlreadyEmitted or Superseded   └─▶ HeldElsewhere
//! ```
//!
//! Ids are computed from the export, so a second process finds the id that it would have written
//! itself, and skips the export. The lock is advisory, so it does not block the export job.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::fs::{File, TryLockError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::carried::{WriteBackMode, carries, carries_by_content};
use crate::base::ids::TraceId;
use crate::fs::file::{FileVersion, SourceError, Stamp};
use crate::fs::root::Roots;

/// Maximum number of attempts. An attempt fails if the file is replaced at the same time.
const LOOKS: usize = 8;

/// The result of [`try_lock`].
#[derive(Debug)]
pub(crate) enum LockAttempt {
    /// This process may work on the export. The lock is held until this is dropped. `None` if there
    /// is nothing to lock.
    Acquired(Option<File>),
    /// Another process holds the lock.
    HeldElsewhere,
    /// Another process finished: the id is written.
    AlreadyEmitted,
    /// The version that was read is gone, so there is nothing to lock.
    Superseded,
}

/// Tries to lock the export for this process. Performs blocking I/O; never waits for the lock.
///
/// # Errors
/// Returns an error if the file system fails. Nothing is known about the export then; try again.
pub(crate) fn try_lock(
    roots: &Roots,
    source: &FileVersion,
    trace_id: TraceId,
    mode: WriteBackMode,
) -> Result<LockAttempt, SourceError> {
    let failed = |errno: Errno| SourceError::from_io(&source.path, errno.into());
    for _ in 0..LOOKS {
        let export = match roots.locate_version(source) {
            Ok(export) => export,
            Err(error @ SourceError::Unreadable { .. }) => return Err(error),
            Err(_) => return Ok(LockAttempt::Superseded),
        };
        if carries(&export, source, trace_id, mode)? {
            return Ok(LockAttempt::AlreadyEmitted);
        }
        let (dir, name) = (&export.dir, &export.name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&dir.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            // The file may still exist, but can no longer be opened.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(LockAttempt::Acquired(None)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
                return Ok(LockAttempt::Superseded);
            }
            Err(errno) => return Err(failed(errno)),
        };
        let opened = rustix::fs::fstat(&fd).map(|stat| Stamp::from(&stat)).map_err(failed)?;
        let Some(opened) = Some(opened).filter(|stamp| stamp.same_stat(source)) else {
            // After a write-back the file is another version, too. On a network file system the
            // result of `stat` may be cached, but opening the file revalidates it.
            return Ok(match carries_by_content(&export, source, trace_id, mode)? {
                true => LockAttempt::AlreadyEmitted,
                false => LockAttempt::Superseded,
            });
        };
        let mut file = File::from(fd);
        let mut locked = file.try_lock();
        // NFS allows a lock only on a file that is open for writing. Elsewhere the file is opened
        // for reading, because closing a writable file triggers an event that other programs may
        // watch for.
        if let Err(TryLockError::Error(error)) = &locked
            && Errno::from_io_error(error) == Some(Errno::BADF)
            && let Ok(fd) = rustix::fs::openat(&dir.fd, name, flags | OFlags::RDWR, Mode::empty())
        {
            file = File::from(fd);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(LockAttempt::HeldElsewhere),
            // The file system has no locks.
            Err(TryLockError::Error(_)) => return Ok(LockAttempt::Acquired(None)),
        }
        // The previous holder of the lock may have replaced the file, or written an id next to it.
        let present = rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_present = match present {
            Ok(stat) => Stamp::from(&stat) == opened,
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(failed(errno)),
        };
        if is_present && !carries(&export, source, trace_id, mode)? {
            return Ok(LockAttempt::Acquired(Some(file)));
        }
    }
    Ok(LockAttempt::Superseded)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fs::root;
    use crate::writeback::{write_back, write_beside};

    const MAX: u64 = 1 << 20;
    const AT: &str = "2026-01-02T03:04:05Z";

    fn export() -> (tempfile::TempDir, FileVersion, TraceId) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("onboarding-metadata.json");
        fs::write(&path, "{}").unwrap();
        let source = root::load(&path, MAX).unwrap().source;
        let trace_id = TraceId::of_export(&path, source.mtime_ns, b"{}");
        (dir, source, trace_id)
    }

    #[test]
    fn a_lock_is_held_by_one_until_the_id_is_there() {
        for mode in [WriteBackMode::InPlace, WriteBackMode::Beside] {
            let (_dir, source, trace_id) = export();
            let roots = Roots::of_file(&source.path);
            let try_again = || try_lock(&roots, &source, trace_id, mode).unwrap();
            let LockAttempt::Acquired(Some(lock)) = try_again() else {
                panic!("no other process is there")
            };
            assert!(matches!(try_again(), LockAttempt::HeldElsewhere));
            let id = trace_id.to_string();
            match mode {
                WriteBackMode::Beside => write_beside(&roots, &source, &id, AT, MAX).unwrap(),
                _ => write_back(&roots, &source, &id, AT, MAX).unwrap(),
            };
            assert!(matches!(try_again(), LockAttempt::AlreadyEmitted), "{mode:?}");
            drop(lock);
            assert!(matches!(try_again(), LockAttempt::AlreadyEmitted), "{mode:?}");
        }
    }

    #[test]
    fn another_version_cannot_be_locked() {
        let (_dir, source, trace_id) = export();
        fs::write(&source.path, "{ }").unwrap();
        let roots = Roots::of_file(&source.path);
        let lock = |source| try_lock(&roots, source, trace_id, WriteBackMode::InPlace).unwrap();
        assert!(matches!(lock(&source), LockAttempt::Superseded));
        fs::remove_file(&source.path).unwrap();
        assert!(matches!(lock(&source), LockAttempt::Superseded));
    }
}
