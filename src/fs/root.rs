//! Keeps watched directories open and confines paths to them.
//!
//! ```text
//! path ─▶ its root ─▶ still the same directory? ─▶ openat2(root, relative, BENEATH) ─▶ Directory
//!                        │ replaced: opened again     │ an absolute link: resolved, must be below the root
//! ```
//!
//! Resolving a path twice can give two different files, because another process can replace a
//! directory with a symbolic link between the check and the open. So an export's directory is
//! opened relative to its open root, and its files relative to that directory. `openat2` refuses
//! paths out of the root. If `openat2` is missing or forbidden, the path is canonicalized and then
//! opened component by component, and a symbolic link is an error.

#![expect(
    clippy::disallowed_methods,
    reason = "every function here blocks; callers run it through `fs::blocking`"
)]

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::directory::{DIRECTORY, Directory, Located};
use super::file::{FileVersion, Loaded, SourceError};

/// The directories that the files of one receiver are in.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    roots: Arc<Vec<Root>>,
}

/// One watched directory.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// The open directory and its identity. `None` until it is first used.
    open: Mutex<Option<(Arc<OwnedFd>, Identity)>>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Roots {
    /// Makes the roots of a receiver. They are opened when first used.
    pub fn new(directories: &[PathBuf]) -> Roots {
        let root = |path: &PathBuf| Root { path: path.clone(), open: Mutex::default() };
        Roots { roots: Arc::new(directories.iter().map(root).collect()) }
    }

    /// Makes a root of the directory of a file that the user named.
    pub fn of_file(path: &Path) -> Roots {
        Roots::new(&[path.parent().unwrap_or(Path::new("")).to_owned()])
    }

    /// Opens the directory of a file.
    ///
    /// # Errors
    /// Returns [`SourceError::Escapes`] if the path resolves to one out of the root, or is not below a root.
    pub(crate) fn locate(&self, path: &Path) -> Result<Located, SourceError> {
        let directory = || SourceError::NotRegular { path: path.to_owned(), what: DIRECTORY };
        let name = path.file_name().ok_or_else(directory)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Located::new(self.directory(parent, path)?, Path::new(name), path))
    }

    /// Opens the directory of a file version, if its path still resolves to the same canonical path.
    ///
    /// # Errors
    /// Returns [`SourceError::Missing`] if the path now resolves elsewhere, and the errors of
    /// [`Roots::locate`].
    pub(crate) fn locate_version(&self, source: &FileVersion) -> Result<Located, SourceError> {
        let located = self.locate(&source.path)?;
        match located.canonical() == source.canonical() {
            true => Ok(located),
            false => Err(SourceError::Missing { path: source.path.clone() }),
        }
    }

    /// Returns the names in a directory that are not directories.
    ///
    /// # Errors
    /// Fails if the directory cannot be read. Retry later if the error
    /// [is transient](SourceError::is_transient).
    pub(crate) fn files_of(&self, directory: &Path) -> Result<Vec<OsString>, SourceError> {
        let entries = self.open(directory)?.entries()?.into_iter();
        let files = entries.filter(|(_, kind)| *kind != FileType::Directory);
        Ok(files.map(|(name, _)| name).collect())
    }

    /// Whether a path is below a root.
    pub(crate) fn contain(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(&root.path))
    }

    /// Opens a directory below a root, or the directory of a root that is a file.
    ///
    /// # Errors
    /// Returns [`SourceError::Escapes`] if the path resolves to one out of the root, or is not below a root.
    pub(crate) fn open(&self, directory: &Path) -> Result<Directory, SourceError> {
        self.directory(directory, directory)
    }

    /// Opens `directory`. `of` is the path that the caller asked for: `directory` itself or a file
    /// in it. Errors name `of`. If `of` is a watched file, its directory need not be below a root.
    fn directory(&self, directory: &Path, of: &Path) -> Result<Directory, SourceError> {
        // The user may watch a file instead of a directory.
        if self.roots.iter().any(|root| root.path == of && root.path != directory) {
            return Directory::open(directory);
        }
        let mut within = self.roots.iter().filter_map(|root| {
            directory.strip_prefix(&root.path).ok().map(|relative| (root, relative))
        });
        let Some((root, relative)) = within.next() else {
            let why = "it does not lie in a watched directory";
            return Err(SourceError::Escapes { path: of.to_owned(), why });
        };
        root.directory(relative).map_err(|errno| match errno {
            Errno::XDEV | Errno::LOOP => {
                let why = "a symbolic link leads out of the watched directory";
                SourceError::Escapes { path: of.to_owned(), why }
            }
            errno => SourceError::from_io(of, errno.into()),
        })
    }
}

impl Root {
    fn directory(&self, relative: &Path) -> rustix::io::Result<Directory> {
        let root = self.open()?;
        let path = self.path.join(relative);
        if relative.as_os_str().is_empty() {
            let fd = rustix::io::fcntl_dupfd_cloexec(&*root, 0)?;
            return Directory::of(fd, &path);
        }
        let fd = match open_beneath(&*root, relative, ResolveFlags::BENEATH) {
            // An absolute link, which may lead below the root.
            Err(Errno::XDEV) => {
                let inside = self.resolved(&path)?;
                open_beneath(&*root, &inside, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?
            }
            Err(Errno::NOSYS | Errno::PERM) => walk(&*root, &self.resolved(&path)?)?,
            opened => opened?,
        };
        Directory::of(fd, &path)
    }

    /// Returns the path relative to the root, without links.
    fn resolved(&self, path: &Path) -> rustix::io::Result<PathBuf> {
        let canonical = |path: &Path| path.canonicalize().map_err(|error| errno_of(&error));
        let (root, path) = (canonical(nonempty(&self.path))?, canonical(path)?);
        path.strip_prefix(root).map(Path::to_owned).map_err(|_| Errno::XDEV)
    }

    /// Opens the root, or returns the open one. If another directory took its place, that one is
    /// opened.
    fn open(&self) -> rustix::io::Result<Arc<OwnedFd>> {
        let path = nonempty(&self.path);
        let stat = rustix::fs::stat(path)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((fd, identity)) = &*open
            && *identity == identity_of(&stat)
        {
            return Ok(Arc::clone(fd));
        }
        let fd = rustix::fs::openat(CWD, path, flags(), Mode::empty())?;
        let identity = identity_of(&rustix::fs::fstat(&fd)?);
        let fd = Arc::new(fd);
        *open = Some((Arc::clone(&fd), identity));
        Ok(fd)
    }
}

/// Reads a file that the user named. The file itself must not be a link; its directory may be.
///
/// # Errors
/// Fails if the file cannot be read completely.
pub fn load(path: &Path, max_bytes: u64) -> Result<Loaded, SourceError> {
    Roots::of_file(path).locate(path)?.load(max_bytes)
}

/// Opens a directory with the kernel's resolution. Retries if a parent is renamed at the same time.
fn open_beneath(
    root: impl AsFd,
    relative: &Path,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    const TRIES: usize = 16;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        opened = rustix::fs::openat2(&root, nonempty(relative), flags(), Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    opened
}

/// Opens a directory without `openat2`: one component after another, none of which may be a link.
fn walk(root: impl AsFd, relative: &Path) -> rustix::io::Result<OwnedFd> {
    let mut directory = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for part in relative.components() {
        let flags = flags() | OFlags::NOFOLLOW;
        directory = rustix::fs::openat(&directory, part.as_os_str(), flags, Mode::empty())?;
    }
    Ok(directory)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Replaces the empty path, which is the parent of a bare file name.
fn nonempty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

// The widths of these fields differ between platforms.
#[allow(clippy::unnecessary_cast)]
fn identity_of(stat: &rustix::fs::Stat) -> Identity {
    (stat.st_dev as u64, stat.st_ino as u64)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
