//! Replaces the export that was read, and no other version, with the spliced one.
//!
//! ```text
//! load ─▶ as read? ─▶ splice ─▶ temp file ─▶ exchange ─▶ check ─▶ fsync dir ─▶ check ─▶ unlink
//!  │ none    │ no                              │ none      └─ not as read ──────┘
//!  ▼         ▼                                 ▼                    ▼
//! Gone   Superseded                           Gone    exchange back: Superseded
//! ```
//!
//! The target's name always refers to a complete file. Races:
//!
//! - A newer export before the exchange: the check finds it in the temp file, and it is put back.
//! - Mode, owner, ACL or attributes change after they were copied: both checks read them from the
//!   displaced file again and copy the changes to the new file.
//! - A newer export arrives during the restore: the exchange returns a file other than the one last
//!   placed, so it is repeated until it returns that one (`put_back`). The target never reverts to
//!   an older version.
//! - A process truncates and rewrites the file in place: size, time or digest differ at one of the
//!   checks. If the process opened the file before the exchange and first writes after the second
//!   check, `GRACE` later, it writes into a file without a name. Only a lock could prevent this; the
//!   settle time before reading makes it unlikely.
//! - Another process deletes the directory's files meanwhile: no deleted file is put back.
//! - A crash before the exchange: the target is unchanged. A crash after it: both versions are
//!   complete on disk. The next attempt finds its own id and returns `Written`, and `stale` cleans
//!   up by the name of the temp file, putting back a newer export that was not checked yet.
//! - Where names cannot be exchanged (NFS, 9p, some FUSE), the file is read again and the temp file
//!   renamed over it. A newer export that arrives between these two calls is lost.
//!
//! System calls of one write-back (`strace -f -e trace=file,fsync,fchmod,utimensat`). W and T are
//! the temp file's two names. The `readlink` calls that resolve the directory are omitted.
//!
//! ```text
//! openat(AT_FDCWD, "/out", O_RDONLY|O_NOFOLLOW|O_CLOEXEC|O_DIRECTORY) = 9
//! newfstatat(9, "onboarding-metadata.json", …, AT_SYMLINK_NOFOLLOW) = 0
//! openat(9, "onboarding-metadata.json", O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC) = 12
//! openat(9, W, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600) = 13
//! flock(13, LOCK_EX|LOCK_NB)                               = 0
//! fchmod(13, 0644)                                         = 0
//! utimensat(13, NULL, [UTIME_OMIT, task_emission_timestamp], 0) = 0
//! fsync(13)                                                = 0
//! renameat(9, W, 9, T)                                     = 0
//! renameat2(9, T, 9, "onboarding-metadata.json", RENAME_EXCHANGE) = 0
//! newfstatat(9, T, …, AT_SYMLINK_NOFOLLOW)                 = 0
//! openat(9, T, O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC)   = 12
//! fsync(9)                                                 = 0
//! newfstatat(9, T, …, AT_SYMLINK_NOFOLLOW)                 = 0
//! openat(9, T, O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC)   = 12
//! unlinkat(9, T, 0)                                        = 0
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustix::fs::{RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::WriteBackError;
use super::error::failed;
use super::file_metadata::FileMetadata;
use super::splice::splice_into;
use super::temp;
use crate::fs::carried::{EMITTED_AT, TRACE_ID};
use crate::fs::directory::Directory;
use crate::fs::file::{FileVersion, SourceError, Stamp};
use crate::fs::members::parse;
use crate::fs::root::Roots;
use crate::fs::stamp;
use crate::fs::temp::TempFile;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The file has the trace id, from now or from an interrupted attempt.
    Written,
    /// Another version is in place, and was left unchanged.
    Superseded,
    /// The file does not exist any more, and none was created.
    Gone,
}

/// Pause between the two checks of the displaced version. The second check detects a late write.
const GRACE: Duration = Duration::from_millis(10);

/// Adds `task_trace_id` and `task_emission_timestamp` to the export that `source` identifies.
pub(crate) fn write_back(
    roots: &Roots,
    source: &FileVersion,
    task_trace_id: &str,
    task_emission_timestamp: &str,
    max_bytes: u64,
) -> Result<Outcome, WriteBackError> {
    let _alone = alone(source.canonical());
    write_back_with(roots, source, task_trace_id, task_emission_timestamp, max_bytes, &mut |_| {
        Ok(())
    })
}

/// Number of locks for paths. Two paths rarely share one.
const STRIPES: usize = 64;

/// Locks a path within this process. Two write-backs of one path that restore each other's versions
/// could end with the older version in place. Blocks.
pub(super) fn alone(path: &Path) -> MutexGuard<'static, ()> {
    stripe(path).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a path within this process. `None` if a write-back of it is in progress.
pub(super) fn try_alone(path: &Path) -> Option<MutexGuard<'static, ()>> {
    match stripe(path).try_lock() {
        Ok(alone) => Some(alone),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn stripe(path: &Path) -> &'static Mutex<()> {
    static PATHS: [Mutex<()>; STRIPES] = [const { Mutex::new(()) }; STRIPES];
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    &PATHS[usize::try_from(hasher.finish()).unwrap_or_default() % STRIPES]
}

/// A system call about to be made. Tests use it to change files just before, or to make it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Exchange,
    Look,
    LookAgain,
    PutBack,
    Rename,
}

type Hook<'a> = &'a mut dyn FnMut(Step) -> rustix::io::Result<()>;

fn write_back_with(
    roots: &Roots,
    source: &FileVersion,
    trace_id: &str,
    emitted_at: &str,
    max_bytes: u64,
    before: Hook,
) -> Result<Outcome, WriteBackError> {
    let path = source.canonical();
    let export = match roots.locate_version(source) {
        Err(SourceError::Missing { .. }) => return Ok(Outcome::Gone),
        export => export?,
    };
    let (dir, name) = (&export.dir, export.name.as_os_str());
    let (current, original) = match dir.load(Path::new(name), max_bytes) {
        Err(SourceError::Missing { .. }) => return Ok(Outcome::Gone),
        loaded => loaded?,
    };
    let members = parse(&current.bytes);
    let id = members.as_ref().ok().and_then(|it| it.text(TRACE_ID));
    if id.as_deref() == Some(trace_id) {
        return Ok(Outcome::Written);
    }
    if !current.source.same_version(source) {
        return Ok(Outcome::Superseded);
    }
    let members = members.map_err(|source| WriteBackError::Splice {
        path: path.to_path_buf(),
        source: source.into(),
    })?;
    let entries = [(TRACE_ID, trace_id), (EMITTED_AT, emitted_at)];
    let text = splice_into(&current.bytes, &members, &entries);

    if let Ok(stat) = rustix::fs::fstat(&original)
        && stat.st_nlink > 1
    {
        let (path, links) = (path.display(), stat.st_nlink - 1);
        tracing::warn!(%path, links, "its other hard links stay without the trace id");
    }
    before(Step::Create).map_err(|errno| failed(path, "create a file beside it", errno))?;
    let metadata = FileMetadata::of(&original, path)?;
    let (temp, placed) = temp::create(dir, name, &source.sha256, &text, |new, path| {
        metadata.apply(new, path)?;
        // The time distinguishes our version of the file from later ones.
        stamp::time_of(emitted_at).map_or(Ok(()), |at| {
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: omit, last_modification: at };
            rustix::fs::futimens(new, &times).map_err(|errno| failed(path, "set its time", errno))
        })
    })?;
    drop(original); // NFS would keep a replaced file that is open under yet another name
    Swap { dir, name, temp, placed, before }.replace(source, &current.bytes, metadata, max_bytes)
}

/// A temp file that is about to be exchanged with the file `name`.
pub(super) struct Swap<'a> {
    pub(super) dir: &'a Directory,
    pub(super) name: &'a OsStr,
    pub(super) temp: TempFile<'a>,
    /// The file that was, or is about to be, placed under `name`.
    pub(super) placed: Stamp,
    pub(super) before: Hook<'a>,
}

impl Swap<'_> {
    /// Replaces the file. `read` are the bytes of this version.
    fn replace(
        mut self,
        source: &FileVersion,
        read: &[u8],
        mut metadata: FileMetadata,
        max_bytes: u64,
    ) -> Result<Outcome, WriteBackError> {
        match self.exchange(Step::Exchange) {
            Ok(()) => {}
            Err(Errno::NOENT) if self.target_is_gone() => return Ok(Outcome::Gone),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return self.rename(source, metadata, max_bytes);
            }
            Err(errno) => return Err(failed(source.canonical(), "replace it", errno)),
        }
        // From here on the temp file may be a newer export.
        self.temp.disposable = false;
        let untouched = match self.came_out_as_read(Step::Look, source, read, &mut metadata) {
            Ok(true) => {
                self.sync();
                grace();
                self.came_out_as_read(Step::LookAgain, source, read, &mut metadata)
            }
            other => other,
        };
        match untouched {
            Ok(true) => {
                self.temp.disposable = true;
                Ok(Outcome::Written)
            }
            Ok(false) => self.put_back(),
            Err(error) => self.put_back().and(Err(error)),
        }
    }

    /// Returns whether the displaced file is still the version that was read, or is gone. If it is
    /// unchanged, copies to the new file the metadata that changed on it since `metadata` was read.
    fn came_out_as_read(
        &mut self,
        step: Step,
        source: &FileVersion,
        read: &[u8],
        metadata: &mut FileMetadata,
    ) -> Result<bool, WriteBackError> {
        let unreadable = |errno: Errno| SourceError::from_io(&self.temp.path(), errno.into());
        (self.before)(step).map_err(unreadable)?;
        match self.dir.is_still(&self.temp.name, source, read) {
            Ok(true) => {
                self.carry_over(&self.temp.name, Path::new(self.name), metadata).map(|()| true)
            }
            Ok(false) => Ok(false),
            Err(error @ SourceError::Unreadable { .. }) => Err(error.into()),
            // Another process is deleting files here. Nothing is left to restore.
            Err(SourceError::Missing { .. }) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    /// Gives the file `to`, if it is ours, the metadata that the file `from` got since `known` was
    /// read.
    fn carry_over(
        &self,
        from: &Path,
        to: &Path,
        known: &mut FileMetadata,
    ) -> Result<(), WriteBackError> {
        let path = self.dir.canonical.join(self.name);
        let (from, to) = match (self.dir.open_file(from), self.dir.open_file(to)) {
            (Ok(from), Ok(to)) => (from, to),
            // Another process replaces or deletes these files; the next check decides.
            (Err(SourceError::Missing { .. }), _) | (_, Err(_)) => return Ok(()),
            (Err(error), _) => return Err(error.into()),
        };
        let now = FileMetadata::of(&from, &path)?;
        let stat = rustix::fs::fstat(&to).map_err(|errno| failed(&path, "look at it", errno))?;
        if now != *known && Stamp::from(&stat) == self.placed {
            now.apply_changes(known, &to, &path)?;
        }
        *known = now;
        Ok(())
    }

    /// Exchanges until the file that comes out is the one that was put in before. Any other file
    /// was placed later by another process, so it must be put back.
    pub(super) fn put_back(mut self) -> Result<Outcome, WriteBackError> {
        self.temp.disposable = false;
        let mut held = match self.dir.stamp(&self.temp.name) {
            Ok(held) => held,
            Err(errno) => return self.not_put_back(errno),
        };
        loop {
            if let Err(errno) = self.exchange(Step::PutBack) {
                return self.not_put_back(errno);
            }
            let out = match self.dir.stamp(&self.temp.name) {
                Ok(out) => out,
                Err(errno) => return self.not_put_back(errno),
            };
            if out == self.placed {
                self.temp.disposable = true;
                self.sync();
                return Ok(Outcome::Superseded);
            }
            self.placed = std::mem::replace(&mut held, out);
        }
    }

    fn not_put_back(mut self, errno: Errno) -> Result<Outcome, WriteBackError> {
        if errno != Errno::NOENT {
            return Err(self.stranded(errno));
        }
        // Another process is deleting files here. It deleted our file, so it would have deleted the
        // newer one; nothing is restored.
        self.temp.disposable = true;
        Ok(if self.target_is_gone() { Outcome::Gone } else { Outcome::Superseded })
    }

    fn rename(
        mut self,
        source: &FileVersion,
        mut metadata: FileMetadata,
        max_bytes: u64,
    ) -> Result<Outcome, WriteBackError> {
        match self.dir.load(Path::new(self.name), max_bytes) {
            Ok((current, _)) if current.source.same_version(source) => {}
            Ok(_) | Err(SourceError::Changed { .. }) => return Ok(Outcome::Superseded),
            Err(SourceError::Missing { .. }) => return Ok(Outcome::Gone),
            Err(error) => return Err(error.into()),
        }
        let renamed = |errno| failed(source.canonical(), "replace it", errno);
        (self.before)(Step::Rename).map_err(renamed)?;
        self.carry_over(Path::new(self.name), &self.temp.name, &mut metadata)?;
        self.temp.persist(Path::new(self.name)).map_err(renamed)?;
        self.sync();
        Ok(Outcome::Written)
    }

    fn exchange(&mut self, step: Step) -> rustix::io::Result<()> {
        (self.before)(step)?;
        let fd = &self.dir.fd;
        rustix::fs::renameat_with(fd, &self.temp.name, fd, self.name, RenameFlags::EXCHANGE)
    }

    fn target_is_gone(&self) -> bool {
        self.dir.stamp(Path::new(self.name)) == Err(Errno::NOENT)
    }

    /// Makes the exchange durable. If this fails, a power failure may restore the former version,
    /// which is complete and was delivered.
    fn sync(&self) {
        sync(self.dir);
    }

    fn stranded(&self, errno: Errno) -> WriteBackError {
        WriteBackError::Stranded {
            path: self.dir.canonical.join(self.name),
            kept: self.temp.path(),
            source: errno.into(),
        }
    }
}

/// Waits for a writer that opened the file before the exchange and writes now. Nothing would show
/// that there is one.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for")]
fn grace() {
    std::thread::sleep(GRACE);
}

/// Makes a change of names durable.
pub(super) fn sync(dir: &Directory) {
    if let Err(error) = rustix::fs::fsync(&dir.fd) {
        let path = dir.canonical.display();
        tracing::debug!(%path, %error, "the directory could not be brought to the disk");
    }
}

#[cfg(test)]
mod tests;
