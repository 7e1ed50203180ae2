//! The transactional store on disk. The only file that names `redb`.
//!
//! ```text
//! heads  seq         ─▶ the export, as JSON
//! items  (seq, n)    ─▶ its way to the n-th exporter, as JSON: each is written by one lease alone
//! blobs  (seq, blob) ─▶ one encoded request
//! forgotten  trace id: dropped by a person
//! ```
//!
//! A transaction is on disk, fsynced, before `apply` returns. A file that cannot be opened is set
//! aside and a new one begun: what it held lies in the directories still, without an id.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{Blob, Head, Item, Record, Seq};
use crate::clock::UnixNanos;
use crate::ids::TraceId;

const FILE: &str = "queue.redb";

/// A file that does nothing but take up room, to be given up when the disk is full: noting that
/// an export is on its way, arrived or can go needs a little room itself, and without it a disk
/// that the queue has filled would never be emptied.
const RESERVE: &str = "queue.reserve";
const RESERVE_BYTES: u64 = 1 << 20;
const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
const ITEMS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("items");
const FORGOTTEN: TableDefinition<'_, &str, ()> = TableDefinition::new("forgotten");
const BLOBS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("blobs");

/// The store's own cache in bytes. Requests are read once and sent, so there is little to keep.
const CACHE_BYTES: usize = 4 << 20;

/// Where a store lives.
#[derive(Clone, Debug)]
pub enum Location {
    /// In a file of this directory.
    Directory(PathBuf),
    /// The same, to be looked at: nothing is made anew or set aside.
    Existing(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

/// One change. Several make a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    PutHead {
        seq: Seq,
        json: Vec<u8>,
    },
    PutItem {
        seq: Seq,
        index: u32,
        json: Vec<u8>,
    },
    PutBlob {
        seq: Seq,
        blob: Blob,
        bytes: Bytes,
    },
    RemoveBlob {
        seq: Seq,
        blob: Blob,
    },
    /// The export, all its items and all its requests.
    Remove {
        seq: Seq,
    },
    /// A person does not want this trace any more, though its file may still be there.
    Forget {
        trace_id: TraceId,
    },
}

impl Op {
    /// # Errors
    /// A path that is not UTF-8 cannot be recorded.
    pub fn put_head(seq: Seq, head: &Head) -> Result<Op, StoreError> {
        Ok(Op::PutHead { seq, json: encode(head)? })
    }

    /// # Errors
    /// None that is known of.
    pub fn put_item(seq: Seq, index: usize, item: &Item) -> Result<Op, StoreError> {
        Ok(Op::PutItem { seq, index: item_key(index), json: encode(item)? })
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Encoding(error.to_string()))
}

fn item_key(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
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

/// How the database is opened, again and again if need be.
type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

pub struct Store {
    /// None: it is not in a file.
    path: Option<PathBuf>,
    open: Open,
    /// None after a failure, until it is open again.
    database: Option<Database>,
    /// The reserve is there.
    has_reserve: bool,
    /// Something was written since the file was last made as small as it can be.
    may_shrink: bool,
}

/// A store and what it held.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub records: Vec<(Seq, Record)>,
    /// Traces that a person dropped.
    pub forgotten: Vec<TraceId>,
    /// Where a corrupt file was put, and what was wrong with it.
    pub set_aside: Option<(PathBuf, String)>,
}

impl Store {
    /// # Errors
    /// The directory cannot be used, or another process holds the store.
    pub fn open(location: Location) -> Result<Opened, OpenError> {
        let directory = match location {
            Location::Directory(directory) => directory,
            Location::Existing(directory) => {
                let path = directory.join(FILE);
                let file = path.clone();
                return Store::open_with(None, Box::new(move || builder().open(&file)))
                    .map_err(|refusal| refusal.into_error(&path));
            }
            Location::Memory => {
                let open = || builder().create_with_backend(InMemoryBackend::new());
                return Store::open_with(None, Box::new(open))
                    .map_err(|refusal| refusal.into_error(Path::new("(memory)")));
            }
        };
        // What waits in the queue may be confidential.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
        let path = directory.join(FILE);
        let open = || {
            let path = path.clone();
            Store::open_with(Some(path.clone()), Box::new(move || create(&path)))
        };
        match open() {
            Err(Refusal::Corrupt(reason)) => {
                let aside = set_aside(&path)
                    .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
                let opened = open().map_err(|refusal| refusal.into_error(&path))?;
                Ok(Opened { set_aside: Some((aside, reason)), ..opened })
            }
            opened => opened.map_err(|refusal| refusal.into_error(&path)),
        }
    }

    pub(super) fn open_with(path: Option<PathBuf>, open: Open) -> Result<Opened, Refusal> {
        // The library checks what it reads, but a file that lies well enough can still trip an
        // assertion in it. That is one more way to be corrupt.
        let opened = catch_unwind(AssertUnwindSafe(move || {
            let database = open()?;
            let store = Store {
                path,
                open,
                database: Some(database),
                has_reserve: false,
                may_shrink: true,
            };
            let (records, forgotten) = (store.records()?, store.forgotten()?);
            Ok(Opened { store, records, forgotten, set_aside: None })
        }));
        opened.unwrap_or_else(|_| Err(Refusal::Corrupt("it cannot be read".to_owned())))
    }

    /// Opens it again after it failed: the library takes no more orders from a file that did.
    ///
    /// # Errors
    /// It fails still.
    pub fn reopen(&mut self) -> Result<(), StoreError> {
        self.database = None;
        self.database = Some((self.open)().map_err(redb::Error::from)?);
        Ok(())
    }

    /// Moves the corrupt file out of the way and begins a new one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn start_over(&mut self) -> Result<Option<PathBuf>, StoreError> {
        self.database = None;
        let aside = self.path.as_deref().map(set_aside).transpose().map_err(redb::Error::from)?;
        self.reopen()?;
        Ok(aside)
    }

    /// Sees to it that the reserve is there; nothing is taken in without it.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn keep_reserve(&mut self) -> Result<(), StoreError> {
        if self.has_reserve {
            return Ok(());
        }
        let made = self.make_reserve();
        if made.is_ok() || !self.may_shrink {
            return made;
        }
        // What was delivered left room within the file, which the disk does not have back yet.
        self.may_shrink = false;
        if let Some(database) = &mut self.database {
            database.compact().map_err(|error| StoreError::Failing(error.to_string()))?;
        }
        self.make_reserve()
    }

    fn make_reserve(&mut self) -> Result<(), StoreError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let reserve = path.with_file_name(RESERVE);
        let made = options.open(&reserve).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES) {
                // A file system without it gets by without a reserve.
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                result => result.map_err(io::Error::from),
            }
        });
        self.has_reserve = made.is_ok();
        made.map_err(|error| {
            let _ = fs::remove_file(&reserve);
            StoreError::Failing(format!("no room for {}: {error}", reserve.display()))
        })
    }

    /// Gives the reserve up. False when there is none.
    pub fn release_reserve(&mut self) -> bool {
        let Some(path) = self.path.as_ref().filter(|_| self.has_reserve) else { return false };
        self.has_reserve = false;
        fs::remove_file(path.with_file_name(RESERVE)).is_ok()
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), StoreError> {
        let transaction = self.database()?.begin_write().map_err(redb::Error::from)?;
        {
            let mut heads = transaction.open_table(HEADS).map_err(redb::Error::from)?;
            let mut items = transaction.open_table(ITEMS).map_err(redb::Error::from)?;
            let mut blobs = transaction.open_table(BLOBS).map_err(redb::Error::from)?;
            let mut forgotten = transaction.open_table(FORGOTTEN).map_err(redb::Error::from)?;
            for op in ops {
                match op {
                    Op::PutHead { seq, json } => {
                        heads.insert(seq.0, json.as_slice()).map_err(redb::Error::from)?;
                    }
                    Op::PutItem { seq, index, json } => {
                        let key = (seq.0, *index);
                        items.insert(key, json.as_slice()).map_err(redb::Error::from)?;
                    }
                    Op::PutBlob { seq, blob, bytes } => {
                        let key = (seq.0, blob.0);
                        blobs.insert(key, bytes.as_ref()).map_err(redb::Error::from)?;
                    }
                    Op::RemoveBlob { seq, blob } => {
                        blobs.remove((seq.0, blob.0)).map_err(redb::Error::from)?;
                    }
                    Op::Forget { trace_id } => {
                        let name = trace_id.to_string();
                        forgotten.insert(name.as_str(), ()).map_err(redb::Error::from)?;
                    }
                    Op::Remove { seq } => {
                        heads.remove(seq.0).map_err(redb::Error::from)?;
                        let all = || (seq.0, u32::MIN)..=(seq.0, u32::MAX);
                        items.retain_in(all(), |_, _| false).map_err(redb::Error::from)?;
                        blobs.retain_in(all(), |_, _| false).map_err(redb::Error::from)?;
                    }
                }
            }
        }
        transaction.commit().map_err(redb::Error::from)?;
        self.may_shrink = true;
        Ok(())
    }

    /// One request; none when there is none of that name.
    ///
    /// # Errors
    /// The disk failed.
    pub fn blob(&self, seq: Seq, blob: Blob) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.database()?.begin_read().map_err(redb::Error::from)?;
        let blobs = match transaction.open_table(BLOBS) {
            Ok(blobs) => blobs,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(redb::Error::from(error).into()),
        };
        let found = blobs.get((seq.0, blob.0)).map_err(redb::Error::from)?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(bytes.value())))
    }

    /// Everything but the requests, in order of arrival.
    fn records(&self) -> Result<Vec<(Seq, Record)>, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        let heads = match transaction.open_table(HEADS) {
            Ok(heads) => heads,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let items = transaction.open_table(ITEMS)?;
        let mut records = Vec::new();
        for entry in heads.iter()? {
            let (seq, json) = entry?;
            let seq = seq.value();
            let head: Head = decode(json.value())?;
            let mut own = Vec::new();
            for entry in items.range((seq, u32::MIN)..=(seq, u32::MAX))? {
                own.push(decode::<Item>(entry?.1.value())?);
            }
            records.push((Seq(seq), Record { head, items: own }));
        }
        Ok(records)
    }
}

impl Store {
    fn forgotten(&self) -> Result<Vec<TraceId>, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        let table = match transaction.open_table(FORGOTTEN) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut forgotten = Vec::new();
        for entry in table.iter()? {
            forgotten.extend(TraceId::from_hex(entry?.0.value()));
        }
        Ok(forgotten)
    }
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(json).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

/// Opens the file, or makes one that nobody else can read.
fn create(path: &Path) -> Result<Database, DatabaseError> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(redb::StorageError::from)?;
    builder().create(path)
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

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    Locked,
    Corrupt(String),
    Other(String),
}

impl Refusal {
    fn into_error(self, path: &Path) -> OpenError {
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
            // Sound, and not for this version to read: a person has to decide.
            error @ redb::Error::UpgradeRequired(_) => Refusal::Other(error.to_string()),
            // No room or no right is nothing that a new file would have.
            redb::Error::Io(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Refusal::Other(error.to_string())
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
