//! The errors of opening and of using the store.

use std::io;
use std::path::{Path, PathBuf};

use redb::DatabaseError;

/// Why an operation of an open store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk is full or broken. A later attempt may succeed.
    #[error("the queue's store failed: {0}")]
    Failing(String),
    /// The stored data is not what was written.
    #[error("the queue's store is corrupt: {0}")]
    Corrupt(String),
    #[error("an export cannot be recorded: {0}")]
    Encoding(String),
    #[error("the queue is closed")]
    Closed,
    /// The store that the command was meant for was replaced; see [`Epoch`].
    ///
    /// [`Epoch`]: super::super::writer::Epoch
    #[error("the queue's store was begun anew")]
    Replaced,
}

/// Why the queue cannot be opened. An operator must act.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{}: another taskspan holds this queue; stop it, or give this one a directory of its own \
         with --state-dir", path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "{}: the directory for the queue cannot be used: {source}; name another with --state-dir",
        path.display()
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "{}: every user may write to the directory for the queue (mode {mode:04o}); name a directory \
         below it with --state-dir, or take the permission away", path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{}: the queue cannot be opened: {reason}", path.display())]
    Other { path: PathBuf, reason: String },
}

/// Why a file cannot be opened. Only a corrupt file is quarantined.
#[derive(Debug)]
pub(crate) enum Refusal {
    Locked,
    Corrupt(String),
    Other(String),
}

impl Refusal {
    /// Returns the error to report for the store at `path`.
    pub(crate) fn into_error(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Refusal::Locked => OpenError::Locked { path },
            Refusal::Corrupt(reason) => {
                let reason = format!(
                    "it is corrupt ({reason}); the next run sets it aside and looks every export \
                     without an id up again"
                );
                OpenError::Other { path, reason }
            }
            Refusal::Other(reason) => OpenError::Other { path, reason },
        }
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Refusal {
        Refusal::from(redb::Error::from(error))
    }
}

impl From<redb::Error> for Refusal {
    fn from(error: redb::Error) -> Refusal {
        match error {
            redb::Error::DatabaseAlreadyOpen => Refusal::Locked,
            redb::Error::Io(error) if is_corruption(&error) => Refusal::Corrupt(error.to_string()),
            // The format is that of a later version. An operator must decide.
            redb::Error::Corrupted(reason) if is_newer(&reason) => Refusal::Other(reason),
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_)) => Refusal::Corrupt(error.to_string()),
            // A failure of the disk, a lack of space or of rights. The contents may be intact.
            error => Refusal::Other(error.to_string()),
        }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(reason) => StoreError::Corrupt(reason),
            redb::Error::Io(error) if is_corruption(&error) => {
                StoreError::Corrupt(error.to_string())
            }
            error => StoreError::Failing(error.to_string()),
        }
    }
}

/// Whether the error of the database means that a later version of it wrote the file. A number far
/// from the present one is damage.
fn is_newer(reason: &str) -> bool {
    let found = reason.strip_prefix("Expected file format version <= ");
    let found = found.and_then(|it| it.rsplit_once(' ')?.1.parse::<u8>().ok());
    found.is_some_and(|version| version < 16)
}

/// Whether the error means that the file does not contain what was written.
fn is_corruption(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
