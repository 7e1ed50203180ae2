//! The transactional store on disk. The only file that names `redb`.
//!
//! ```text
//! records  seq         ─▶ Record as JSON
//! blobs    (seq, blob) ─▶ one encoded request
//! ```
//!
//! A transaction is on disk, fsynced, before `apply` returns. A file that cannot be opened is set
//! aside and a new one begun: what it held lies in the directories still, without an id.

use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition,
};

use super::record::{Blob, Record, Seq};
use crate::clock::UnixNanos;

const FILE: &str = "queue.redb";
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const BLOBS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("blobs");

/// The store's own cache in bytes. Requests are read once and sent, so there is little to keep.
const CACHE_BYTES: usize = 4 << 20;

/// Where a store lives.
#[derive(Debug)]
pub enum Location {
    /// In a file of this directory.
    Directory(PathBuf),
    /// In memory: gone with the process.
    Memory,
    /// On a device of a test's making.
    Backend(Box<dyn StorageBackend>),
}

/// One change. Several make a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Put { seq: Seq, record: Vec<u8> },
    PutBlob { seq: Seq, blob: Blob, bytes: Bytes },
    /// The record and all its requests.
    Remove { seq: Seq },
}

impl Op {
    pub fn put(seq: Seq, record: &Record) -> Result<Op, StoreError> {
        let record =
            serde_json::to_vec(record).map_err(|error| StoreError::Encoding(error.to_string()))?;
        Ok(Op::Put { seq, record })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full or broken; another try may do.
    #[error("the queue's store failed: {0}")]
    Failing(String),
    /// What is on disk is not what was written.
    #[error("the queue's store is corrupt: {0}")]
    Corrupt(String),
    #[error("an export cannot be recorded: {0}")]
    Encoding(String),
    #[error("the queue is closed")]
    Closed,
}

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
    #[error("{}: the queue cannot be opened: {reason}", path.display())]
    Other { path: PathBuf, reason: String },
}

#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
    database: Database,
}

/// A store and what it held.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub records: Vec<(Seq, Record)>,
    /// Where a corrupt file was put, and what was wrong with it.
    pub set_aside: Option<(PathBuf, String)>,
}

impl Store {
    /// # Errors
    /// The directory cannot be used, or another process holds the store.
    pub fn open(location: Location) -> Result<Opened, OpenError> {
        let directory = match location {
            Location::Directory(directory) => directory,
            Location::Memory => return Store::with_backend(Box::new(InMemoryBackend::new())),
            Location::Backend(backend) => return Store::with_backend(backend),
        };
        // What waits in the queue may be confidential.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
        let path = directory.join(FILE);
        match Store::open_file(&path) {
            Ok((store, records)) => Ok(Opened { store, records, set_aside: None }),
            Err(Refusal::Open(error)) => Err(error),
            Err(Refusal::Corrupt(reason)) => {
                let aside = set_aside(&path)
                    .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
                let (store, records) = Store::open_file(&path).map_err(|refusal| match refusal {
                    Refusal::Open(error) => error,
                    Refusal::Corrupt(reason) => OpenError::Other { path, reason },
                })?;
                Ok(Opened { store, records, set_aside: Some((aside, reason)) })
            }
        }
    }

    fn with_backend(backend: Box<dyn StorageBackend>) -> Result<Opened, OpenError> {
        let path = PathBuf::from("(memory)");
        let other = |reason: String| OpenError::Other { path: path.clone(), reason };
        let database = builder()
            .create_with_backend(Erased(backend))
            .map_err(|error| other(error.to_string()))?;
        let store = Store { path: None, database };
        let records = store.records().map_err(|error| other(error.to_string()))?;
        Ok(Opened { store, records, set_aside: None })
    }

    fn open_file(path: &Path) -> Result<(Store, Vec<(Seq, Record)>), Refusal> {
        // The reader checks what it reads, but a file that lies well enough can still trip an
        // assertion in it. That is one more way to be corrupt.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder().create(path)?;
            let store = Store { path: Some(path.to_owned()), database };
            let records = store.records()?;
            Ok((store, records))
        }));
        opened.unwrap_or_else(|_| Err(Refusal::Corrupt("it cannot be read".to_owned()))).map_err(
            |refusal| match refusal {
                Refusal::Open(OpenError::Locked { .. }) => {
                    Refusal::Open(OpenError::Locked { path: path.to_owned() })
                }
                Refusal::Open(OpenError::Other { reason, .. }) => {
                    Refusal::Open(OpenError::Other { path: path.to_owned(), reason })
                }
                other => other,
            },
        )
    }

    /// Opens it again, after it failed.
    ///
    /// # Errors
    /// It fails still.
    pub fn reopen(self) -> Result<Store, (Store, StoreError)> {
        let Some(path) = self.path.clone() else {
            return Ok(self);
        };
        let Store { path: kept, database } = self;
        drop(database);
        match builder().create(&path) {
            Ok(database) => Ok(Store { path: kept, database }),
            Err(error) => {
                let error = StoreError::from(redb::Error::from(error));
                // A placeholder that fails in the same way: nothing may be lost in silence.
                match builder().create_with_backend(InMemoryBackend::new()) {
                    Ok(database) => Err((Store { path: kept, database }, error)),
                    Err(_) => unreachable_memory(),
                }
            }
        }
    }

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(redb::Error::from)?;
        {
            let mut records = transaction.open_table(RECORDS).map_err(redb::Error::from)?;
            let mut blobs = transaction.open_table(BLOBS).map_err(redb::Error::from)?;
            for op in ops {
                match op {
                    Op::Put { seq, record } => {
                        records.insert(seq.0, record.as_slice()).map_err(redb::Error::from)?;
                    }
                    Op::PutBlob { seq, blob, bytes } => {
                        let key = (seq.0, blob.0);
                        blobs.insert(key, bytes.as_ref()).map_err(redb::Error::from)?;
                    }
                    Op::Remove { seq } => {
                        records.remove(seq.0).map_err(redb::Error::from)?;
                        let all = (
                            Bound::Included((seq.0, u32::MIN)),
                            Bound::Included((seq.0, u32::MAX)),
                        );
                        blobs
                            .retain_in::<(u64, u32), _>(all, |_, _| false)
                            .map_err(redb::Error::from)?;
                    }
                }
            }
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// One request; none when there is none of that name.
    ///
    /// # Errors
    /// The disk failed.
    pub fn blob(&self, seq: Seq, blob: Blob) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.database.begin_read().map_err(redb::Error::from)?;
        let blobs = match transaction.open_table(BLOBS) {
            Ok(blobs) => blobs,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(redb::Error::from(error).into()),
        };
        let found = blobs.get((seq.0, blob.0)).map_err(redb::Error::from)?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(bytes.value())))
    }

    fn records(&self) -> Result<Vec<(Seq, Record)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut records = Vec::new();
        for entry in table.iter()? {
            let (seq, bytes) = entry?;
            let record = serde_json::from_slice(bytes.value()).map_err(|error| {
                redb::Error::Corrupted(format!("record {}: {error}", seq.value()))
            })?;
            records.push((Seq(seq.value()), record));
        }
        Ok(records)
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Moves a file that cannot be read out of the way, for a person to look at.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = format!("{FILE}.corrupt-{}", UnixNanos::now().compact());
    let mut aside = path.with_file_name(&name);
    let mut number = 1;
    while aside.exists() {
        number += 1;
        aside = path.with_file_name(format!("{name}-{number}"));
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Why a file was not opened.
enum Refusal {
    Open(OpenError),
    Corrupt(String),
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Refusal {
        Refusal::from(redb::Error::from(error))
    }
}

impl From<redb::Error> for Refusal {
    fn from(error: redb::Error) -> Refusal {
        match error {
            redb::Error::DatabaseAlreadyOpen => {
                Refusal::Open(OpenError::Locked { path: PathBuf::new() })
            }
            // No room or no right is nothing that a new file would have.
            redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                let reason = error.to_string();
                Refusal::Open(OpenError::Other { path: PathBuf::new(), reason })
            }
            error => Refusal::Corrupt(error.to_string()),
        }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(reason) => StoreError::Corrupt(reason),
            error => StoreError::Failing(error.to_string()),
        }
    }
}
