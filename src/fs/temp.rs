//! Writes a complete file under a temporary name, and renames it over its target.
//!
//! ```text
//! create, lock ─▶ write, dress, fsync ─▶ TempFile ─▶ rename over the target │ dropped: removed
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, renameat, unlinkat};

use super::directory::Directory;
use super::file::Stamp;

/// A temp file. Dropping it removes the file, if it is disposable.
#[derive(Debug)]
pub(crate) struct TempFile<'a> {
    dir: &'a Directory,
    pub(crate) name: PathBuf,
    /// Whether the file may be removed.
    pub(crate) disposable: bool,
}

impl<'a> TempFile<'a> {
    /// Writes a complete file and fsyncs it. The file is created with `mode`, less the process's
    /// umask. `dress` can set mode, owner and times. `failed` makes an error from the name of a
    /// step and its cause.
    ///
    /// # Errors
    /// Returns the errors of `dress` and `failed`. No file is left then.
    pub(crate) fn create<E>(
        dir: &'a Directory,
        (name, mode): (PathBuf, Mode),
        text: &[Cow<'_, [u8]>],
        dress: impl FnOnce(&File) -> Result<(), E>,
        failed: impl Fn(&'static str, io::Error) -> E,
    ) -> Result<(Self, Stamp), E> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&dir.fd, &name, flags, mode)
            .map_err(|errno| failed("create a file beside it", errno.into()))?;
        let temp = TempFile::adopt(dir, name);
        let mut file = File::from(fd);
        // Shows that the file is being written. Not every file system has locks.
        let _ = file.try_lock();
        for part in text {
            file.write_all(part).map_err(|error| failed("write the new file", error))?;
        }
        dress(&file)?;
        file.sync_all().map_err(|error| failed("bring the new file to the disk", error))?;
        let stat = fstat(&file).map_err(|errno| failed("look at the new file", errno.into()))?;
        Ok((temp, Stamp::from(&stat)))
    }

    /// Wraps a temp file that exists.
    pub(crate) fn adopt(dir: &'a Directory, name: PathBuf) -> Self {
        TempFile { dir, name, disposable: true }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.canonical.join(&self.name)
    }

    /// Gives the temp file another name.
    pub(crate) fn rename_to(&mut self, name: PathBuf) -> rustix::io::Result<()> {
        renameat(&self.dir.fd, &self.name, &self.dir.fd, &name)?;
        self.name = name;
        Ok(())
    }

    /// Renames the file over the target.
    pub(crate) fn persist(&mut self, target: &Path) -> rustix::io::Result<()> {
        renameat(&self.dir.fd, &self.name, &self.dir.fd, target)?;
        self.disposable = false;
        Ok(())
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if self.disposable {
            // If this fails, the clean-up finds the file later.
            let _ = unlinkat(&self.dir.fd, &self.name, AtFlags::empty());
        }
    }
}
