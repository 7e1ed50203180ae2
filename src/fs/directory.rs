//! An open directory, and the files in it.
//!
//! ```text
//! name ─▶ lstat ─▶ open ─▶ fstat ─▶ read up to max ─▶ fstat ─▶ Loaded { source, bytes }
//!         a file?  no link   └───── unchanged? ─────┘
//!                  no wait               └─ changed: retry once, then `Changed`
//! ```
//!
//! Every name is opened relative to an open directory, and without following links. If a name is
//! swapped at the same time, the result is an error and never a file outside the directory.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroI64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, lstat, openat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::file::{FileVersion, Loaded, SourceError, Stamp, ctime_ns};

/// The content of a file, with the data that identifies its version.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    stamp: Stamp,
    ctime_ns: Option<NonZeroI64>,
    file: File,
}

/// An open directory. Renaming its path or a parent does not change which directory it is.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    pub(crate) canonical: PathBuf,
}

impl Directory {
    /// Opens a directory that the user named, or whose path is in the queue.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        // The parent of a bare file name is the empty path.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let failed = |errno: Errno| SourceError::from_io(path, errno.into());
        let canonical = path.canonicalize().map_err(|error| SourceError::from_io(path, error))?;
        let fd = openat(CWD, &canonical, dir_flags(), Mode::empty()).map_err(failed)?;
        Directory::of(fd, path).map_err(failed)
    }

    /// Wraps an open directory. `path` is one of its paths.
    pub(crate) fn of(fd: OwnedFd, path: &Path) -> rustix::io::Result<Self> {
        // The kernel returns the path without links. Resolving the path again could lead elsewhere.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let known = std::fs::read_link(link).ok().filter(|it| is_linked(it, &fd));
        let canonical = match known {
            Some(canonical) => canonical,
            None => path
                .canonicalize()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?,
        };
        Ok(Directory { fd, canonical })
    }

    /// Returns the names in this directory with their kinds. If the file system does not return
    /// kinds, they are read with `lstat`.
    pub(crate) fn entries(&self) -> Result<Vec<(OsString, FileType)>, SourceError> {
        let failed = |errno: Errno| SourceError::from_io(&self.canonical, errno.into());
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |it| FileType::from_raw_mode(it.st_mode)),
                kind => kind,
            };
            entries.push((name, kind));
        }
        Ok(entries)
    }

    /// Opens a sub-directory, which must not be a link.
    pub(crate) fn child(&self, name: &Path) -> Result<Directory, SourceError> {
        let path = self.canonical.join(name);
        match openat(&self.fd, name, dir_flags(), Mode::empty()) {
            Ok(fd) => Ok(Directory { fd, canonical: path }),
            Err(Errno::LOOP) => Err(SourceError::Missing { path }),
            Err(errno) => Err(SourceError::from_io(&path, errno.into())),
        }
    }

    /// Returns the result of `lstat` for a name in this directory.
    pub(crate) fn stat(&self, name: &Path) -> rustix::io::Result<Stat> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Reads a file that an export in this directory names. Links are followed if they end below
    /// this directory.
    pub(crate) fn load_sibling(&self, relative: &str, max: u64) -> Result<Loaded, SourceError> {
        let path = self.canonical.join(relative);
        let refused = |why| Err(SourceError::Escapes { path: path.clone(), why });
        for part in Path::new(relative).components() {
            match part {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return refused("the path has a `..` in it"),
                _ => return refused("the path is absolute"),
            }
        }
        // The path is confined by opening it again, below this directory and without links.
        let real = path.canonicalize().map_err(|error| SourceError::from_io(&path, error))?;
        let Ok(inside) = real.strip_prefix(&self.canonical) else {
            return refused("a symbolic link leads out of the export's directory");
        };
        self.load(inside, max).map(|(loaded, _)| loaded)
    }

    /// Returns the stamp of a name in this directory. Links are not followed.
    pub(crate) fn stamp(&self, name: &Path) -> rustix::io::Result<Stamp> {
        Ok(Stamp::from(&self.stat(name)?))
    }

    /// Reads a file by a path without links below this directory, and returns the open file as
    /// well.
    pub(crate) fn load(&self, name: &Path, max: u64) -> Result<(Loaded, File), SourceError> {
        let Content { bytes, stamp, ctime_ns, file } = match self.read_once(name, max) {
            Err(SourceError::Changed { .. }) => self.read_once(name, max),
            done => done,
        }?;
        let Stamp { device, inode, size, mtime_ns } = stamp;
        let path = self.canonical.join(name);
        let sha256 = Sha256::digest(&bytes).into();
        let elsewhere = None;
        let source =
            FileVersion { path, elsewhere, device, inode, size, mtime_ns, ctime_ns, sha256 };
        Ok((Loaded { source, bytes }, file))
    }

    /// Opens a regular file in this directory.
    pub(crate) fn open_file(&self, name: &Path) -> Result<File, SourceError> {
        self.open_regular(name).map(|(file, _)| file)
    }

    /// Whether a file is still the version with these bytes. Reads the file in parts, so memory is
    /// bounded.
    pub(crate) fn is_still(
        &self,
        name: &Path,
        version: &FileVersion,
        read: &[u8],
    ) -> Result<bool, SourceError> {
        let (file, before) = self.open_regular(name)?;
        let stamp = Stamp::from(&before);
        if !stamp.same_stat(version) {
            return Ok(false);
        }
        let failed = |error| SourceError::from_io(&self.canonical.join(name), error);
        let (mut left, mut part) = (read, vec![0; 64 * 1024]);
        loop {
            let count = match (&file).read(&mut part) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            match left.split_at_checked(count) {
                Some((expected, rest)) if *expected == part[..count] => left = rest,
                _ => return Ok(false),
            }
            if count == 0 {
                let after = fstat(&file).map_err(|errno| failed(errno.into()))?;
                return Ok(left.is_empty() && Stamp::from(&after) == stamp);
            }
        }
    }

    fn read_once(&self, relative: &Path, max: u64) -> Result<Content, SourceError> {
        let path = self.canonical.join(relative);
        let (file, before) = self.open_regular(relative)?;
        let stamp = Stamp::from(&before);
        if stamp.size > max {
            return Err(SourceError::TooLarge { path, size: stamp.size, limit: max });
        }
        // One byte more, so that the end of the file is found without growing the buffer.
        let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0) + 1);
        (&file)
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| SourceError::from_io(&path, error))?;
        let size = bytes.len() as u64;
        if size > max {
            return Err(SourceError::TooLarge { path, size, limit: max });
        }
        let after = fstat(&file).map_err(|errno| SourceError::from_io(&path, errno.into()))?;
        if Stamp::from(&after) != stamp || stamp.size != size {
            return Err(SourceError::Changed { path });
        }
        // The times are those from before the read: a write during the read makes another version.
        Ok(Content { bytes, stamp, ctime_ns: ctime_ns(&before), file })
    }

    /// Opens a regular file by a path without links.
    fn open_regular(&self, relative: &Path) -> Result<(File, Stat), SourceError> {
        let path = self.canonical.join(relative);
        let failed = |errno: Errno| SourceError::from_io(&path, errno.into());
        let Some(name) = relative.file_name() else {
            return Err(SourceError::NotRegular { path, what: DIRECTORY });
        };

        let mut inner: Option<OwnedFd> = None;
        for part in relative.parent().into_iter().flat_map(Path::components) {
            let outer = inner.as_ref().unwrap_or(&self.fd);
            let next = openat(outer, part.as_os_str(), dir_flags(), Mode::empty());
            inner = Some(next.map_err(failed)?);
        }
        let dir = inner.as_ref().unwrap_or(&self.fd);

        // Opening a device can have side effects, so check the kind first.
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        require_regular(&path, &stat)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
            // The file was replaced by a link or a socket.
            Errno::LOOP | Errno::NXIO => SourceError::Changed { path: path.clone() },
            _ => failed(errno),
        })?;
        let before = fstat(&fd).map_err(failed)?;
        require_regular(&path, &before)?;
        Ok((File::from(fd), before))
    }
}

/// Whether an open directory still has this path. False if the directory was removed, or if the
/// path is not visible to this process.
fn is_linked(path: &Path, fd: &OwnedFd) -> bool {
    let same = |stat: &Stat, open: &Stat| (stat.st_dev, stat.st_ino) == (open.st_dev, open.st_ino);
    path.is_absolute()
        && matches!((lstat(path), fstat(fd)), (Ok(stat), Ok(open)) if same(&stat, &open))
}

/// A file, identified by its open directory and its name.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) dir: Directory,
    pub(crate) name: PathBuf,
    /// The path under which the file was found.
    path: PathBuf,
}

impl Located {
    /// Makes the location of a name in an open directory. `path` is the path of the file.
    pub(crate) fn new(dir: Directory, name: &Path, path: &Path) -> Located {
        Located { dir, name: name.to_owned(), path: path.to_owned() }
    }

    /// Returns the path under which the file was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path without links.
    pub(crate) fn canonical(&self) -> PathBuf {
        self.dir.canonical.join(&self.name)
    }

    /// Returns another file in the same directory.
    pub(crate) fn with_name(&self, name: &Path) -> rustix::io::Result<Located> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.dir.fd, 0)?;
        let dir = Directory { fd, canonical: self.dir.canonical.clone() };
        Ok(Located { dir, name: name.to_owned(), path: self.path.with_file_name(name) })
    }

    /// Reads the file, which must not be a link.
    ///
    /// # Errors
    /// Fails if the file cannot be read completely. Retry later if the error
    /// [is transient](SourceError::is_transient).
    pub(crate) fn load(&self, max_bytes: u64) -> Result<Loaded, SourceError> {
        let (mut loaded, _) = self.dir.load(&self.name, max_bytes)?;
        if loaded.source.path != self.path {
            let canonical = std::mem::replace(&mut loaded.source.path, self.path.clone());
            loaded.source.elsewhere = Some(canonical);
        }
        Ok(loaded)
    }

    /// Returns the result of `lstat` for the file.
    pub(crate) fn stat(&self) -> rustix::io::Result<Stat> {
        self.dir.stat(&self.name)
    }

    /// Whether the name still leads to the file that was read, unchanged.
    pub(crate) fn is_untouched(&self, source: &FileVersion) -> bool {
        self.canonical() == source.canonical()
            && source.ctime_ns.is_some()
            && statat(&self.dir.fd, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                Stamp::from(&stat) == source.stamp() && ctime_ns(&stat) == source.ctime_ns
            })
    }

    /// Whether the file still has the size, the times and the inode of the version that was read.
    pub(crate) fn is_as_read(&self, source: &FileVersion) -> bool {
        self.dir.stamp(&self.name).is_ok_and(|stamp| stamp == source.stamp())
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// What a [`SourceError::NotRegular`] says about a directory.
pub(crate) const DIRECTORY: &str = "a directory";

fn require_regular(path: &Path, stat: &Stat) -> Result<(), SourceError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link, which is not followed",
        FileType::Directory => DIRECTORY,
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "a file of a kind unknown here",
    };
    Err(SourceError::NotRegular { path: path.to_path_buf(), what })
}

#[cfg(test)]
mod tests;
