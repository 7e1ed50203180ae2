//! Why a write-back failed, and how to fix it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::splice::SpliceError;
use crate::fs::file::SourceError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteBackError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{}: {source}", path.display())]
    Splice { path: PathBuf, source: SpliceError },
    #[error("{}: cannot {action}: {source}{}", path.display(), advice(source))]
    System { path: PathBuf, action: &'static str, source: io::Error },
    #[error(
        "{}: cannot give the new file to uid {uid}, gid {gid}, who own the present one: {source}; \
         run taskspan as that user, or give it CAP_CHOWN and CAP_FOWNER",
        path.display()
    )]
    Owner { path: PathBuf, uid: u32, gid: u32, source: io::Error },
    #[error(
        "{}: a newer version came in meanwhile, lies in {} and could not be put back: {source}; \
         the next clean-up of this directory tries again",
        path.display(),
        kept.display()
    )]
    Stranded { path: PathBuf, kept: PathBuf, source: io::Error },
}

fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::ROFS) => "; the directory is mounted read-only: mount it writable",
        Some(Errno::ACCESS | Errno::PERM) => {
            "; taskspan needs write permission on the directory, and in a sticky one must own the file"
        }
        Some(Errno::BUSY) => {
            "; the file is a mount of its own and cannot be replaced: mount its directory instead"
        }
        Some(Errno::NOSPC | Errno::DQUOT) => "; make room on that file system",
        _ => "",
    }
}

/// Makes the error of a system call.
pub(super) fn failed(path: &Path, action: &'static str, errno: Errno) -> WriteBackError {
    WriteBackError::System { path: path.to_path_buf(), action, source: errno.into() }
}
