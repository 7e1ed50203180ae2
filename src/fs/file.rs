//! One file of an export as it lay on disk: its bytes, and what tells this version from any other.
//!
//! ```text
//! path ─▶ lstat ─▶ open ─▶ fstat ─▶ read up to max ─▶ fstat ─▶ Loaded { source, bytes }
//!         a file?  no link   └───── nothing moved? ─────┘
//!                  no wait               └─ moved: once more, then `Changed`
//! ```
//!
//! Every name is opened relative to a directory that is already open, and no open follows a link,
//! so a name that is swapped under our feet yields an error and never a file from elsewhere.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroI64;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The identity of one version of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// The path as it was found.
    pub path: PathBuf,
    /// The directory without links, and the name in it, where that is another path.
    #[serde(rename = "canonical", default, skip_serializing_if = "Option::is_none")]
    pub(crate) elsewhere: Option<PathBuf>,
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub mtime_ns: i128,
    /// When anything about the file changed last, before it was read. No program can set this time; where
    /// the file system has but seconds, two changes may have the same, and it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ctime_ns: Option<NonZeroI64>,
    pub sha256: [u8; 32],
}

impl FileVersion {
    /// The directory without links, and the name in it; for opening it again.
    pub fn canonical(&self) -> &Path {
        self.elsewhere.as_deref().unwrap_or(&self.path)
    }

    /// Whether both are the same version of an export: what its trace id is made of, whatever inode
    /// it lies in.
    pub fn same_version(&self, other: &FileVersion) -> bool {
        let looks = |it: &FileVersion| (it.size, it.mtime_ns);
        looks(self) == looks(other) && self.sha256 == other.sha256
    }

    /// Whether its path still leads to the file that was read, where that was, and nothing about it
    /// changed.
    pub fn is_untouched(&self) -> bool {
        let canonical = self.canonical();
        let directory = self.path.parent().and_then(|it| it.canonicalize().ok());
        directory.as_deref() == canonical.parent()
            && rustix::fs::lstat(canonical).is_ok_and(|stat| {
                Stamp::from(&stat) == self.stamp()
                    && self.ctime_ns.is_some()
                    && ctime_ns(&stat) == self.ctime_ns
            })
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let FileVersion { device, inode, size, mtime_ns, .. } = *self;
        Stamp { device, inode, size, mtime_ns }
    }
}

/// A file's identity as far as `stat` knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i128,
}

impl Stamp {
    /// As far as `stat` can tell, the version that was read.
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

// The widths of these fields differ between platforms.
#[allow(clippy::unnecessary_cast)]
fn ctime_ns(stat: &Stat) -> Option<NonZeroI64> {
    let nanos = NonZeroI64::new(stat.st_ctime_nsec as i64)?.get();
    NonZeroI64::new((stat.st_ctime as i64).checked_mul(1_000_000_000)?.checked_add(nanos)?)
}

/// A file that was read whole, with the identity of exactly these bytes.
#[derive(Debug)]
pub struct Loaded {
    pub source: FileVersion,
    pub bytes: Vec<u8>,
}

/// The same without an identity that outlasts it.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    stamp: Stamp,
    ctime_ns: Option<NonZeroI64>,
    file: File,
}

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
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, SourceError::Missing { .. })
    }

    /// Returns whether the same call may succeed soon without an action by the user.
    pub fn is_transient(&self) -> bool {
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

/// Whose file it is and who we are: all that is needed to repair a "permission denied".
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

/// Reads one export file. The file itself must not be a link; its directory may be reached by one.
pub fn load(path: &Path, max_bytes: u64) -> Result<Loaded, SourceError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = Path::new(path.file_name().unwrap_or_default());
    let (mut loaded, _) = Directory::open(parent)?.load(name, max_bytes)?;
    if loaded.source.path != path {
        let canonical = std::mem::replace(&mut loaded.source.path, path.to_path_buf());
        loaded.source.elsewhere = Some(canonical);
    }
    Ok(loaded)
}

/// Reads a file that an export names, relative to the export's own directory. Links are followed
/// as long as they end below `dir`.
pub fn load_sibling(dir: &Path, relative: &str, max_bytes: u64) -> Result<Loaded, SourceError> {
    let path = dir.join(relative);
    let refused = |why| Err(SourceError::Escapes { path: path.clone(), why });
    for part in Path::new(relative).components() {
        match part {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return refused("the path has a `..` in it"),
            _ => return refused("the path is absolute"),
        }
    }
    let dir = Directory::open(dir)?;
    let real = dir
        .canonical
        .join(relative)
        .canonicalize()
        .map_err(|error| SourceError::from_io(&path, error))?;
    let Ok(inside) = real.strip_prefix(&dir.canonical) else {
        return refused("a symbolic link leads out of the export's directory");
    };
    let (loaded, _) = dir.load(inside, max_bytes)?;
    Ok(loaded)
}

/// A directory held open: what is named below it cannot be diverted by renaming what is above.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    pub(crate) canonical: PathBuf,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        // The parent of a bare file name is the empty path.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let canonical = path.canonicalize().map_err(|error| SourceError::from_io(path, error))?;
        let fd = rustix::fs::openat(CWD, &canonical, dir_flags(), Mode::empty())
            .map_err(|errno| SourceError::from_io(path, errno.into()))?;
        Ok(Directory { fd, canonical })
    }

    /// What `lstat` says of a name in this directory.
    pub(crate) fn stamp(&self, name: &Path) -> rustix::io::Result<Stamp> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stamp::from(&stat))
    }

    /// Reads a file below this directory, by a path without links, and leaves it open.
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

    /// Whether a file is this version, of which these bytes were read. Holds but a part of it.
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
                let after = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
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
        // One more, so that the end is found without growing.
        let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0) + 1);
        (&file)
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| SourceError::from_io(&path, error))?;
        let size = bytes.len() as u64;
        if size > max {
            return Err(SourceError::TooLarge { path, size, limit: max });
        }
        let after =
            rustix::fs::fstat(&file).map_err(|errno| SourceError::from_io(&path, errno.into()))?;
        if Stamp::from(&after) != stamp || stamp.size != size {
            return Err(SourceError::Changed { path });
        }
        // As it was before: what came while it was read makes it another.
        Ok(Content { bytes, stamp, ctime_ns: ctime_ns(&before), file })
    }

    /// Opens a file by a path without links, if it is one.
    fn open_regular(&self, relative: &Path) -> Result<(File, Stat), SourceError> {
        let path = self.canonical.join(relative);
        let failed = |errno: Errno| SourceError::from_io(&path, errno.into());
        let Some(name) = relative.file_name() else {
            return Err(SourceError::NotRegular { path, what: DIRECTORY });
        };

        let mut inner: Option<OwnedFd> = None;
        for part in relative.parent().into_iter().flat_map(Path::components) {
            let outer = inner.as_ref().unwrap_or(&self.fd);
            let next = rustix::fs::openat(outer, part.as_os_str(), dir_flags(), Mode::empty());
            inner = Some(next.map_err(failed)?);
        }
        let dir = inner.as_ref().unwrap_or(&self.fd);

        // Merely opening a device can do something, so its kind is asked for first.
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        require_regular(&path, &stat)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
                // A link or a socket, where a file was a moment ago.
                Errno::LOOP | Errno::NXIO => SourceError::Changed { path: path.clone() },
                _ => failed(errno),
            })?;
        let before = rustix::fs::fstat(&fd).map_err(failed)?;
        require_regular(&path, &before)?;
        Ok((File::from(fd), before))
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

const DIRECTORY: &str = "a directory";

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
