//! The transactional store on disk. It and its `error` are the only files that name `redb`.
//!
//! ```text
//! heads     seq         ─▶ the export, as JSON
//! items     (seq, n)    ─▶ its way to the n-th exporter, as JSON: each is written by one lease alone
//! blobs     (seq, blob) ─▶ one encoded request, compressed: what a disk takes longest with is bytes
//! tombstones trace id: dropped by a person
//! ```
//!
//! A transaction is on disk, fsynced, before `apply` returns. A file that cannot be opened is set
//! aside and a new one begun: what it held lies in the directories still, without an id.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, or on the store's thread"
)]

mod error;
mod files;
mod packed;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{Blob, Change, Head, Item, Record, STATE_FILES, Seq};
use crate::base::ids::TraceId;
use error::Refusal;
pub use error::{OpenError, StoreError};
pub(super) use files::Files;
pub use files::is_there;
use packed::{packed, unpacked};

const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
const ITEMS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("items");
const TOMBSTONES: TableDefinition<'_, &str, ()> = TableDefinition::new("forgotten");
const BLOBS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("blobs");

/// The store's own cache in bytes. Requests are read once and sent, so there is little to keep.
const CACHE_BYTES: usize = 1 << 20;

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
    /// All requests of the export, which no exporter needs any more. State files stay.
    RemoveBlobs {
        seq: Seq,
    },
    /// The export, all its items and all its requests.
    Remove {
        seq: Seq,
    },
    /// A person does not want this trace any more, though its file may still be there.
    Tombstone {
        trace_id: TraceId,
    },
}

impl Op {
    /// The operations for the rows that changed. `record` is the record after the change.
    ///
    /// # Errors
    /// Returns [`StoreError::Encoding`] if a path is not UTF-8; the entry cannot be recorded then.
    pub fn of(seq: Seq, record: &Record, changes: Vec<Change>) -> Result<Vec<Op>, StoreError> {
        let op = |change| {
            Ok(match change {
                Change::Head => Op::PutHead { seq, json: encode(&record.head)? },
                Change::Item(index) => {
                    let json = encode(&record.items.get(index))?;
                    Op::PutItem { seq, index: item_key(index), json }
                }
                Change::PutBlob(blob, bytes) => Op::PutBlob { seq, blob, bytes },
                Change::RemoveBlob(blob) => Op::RemoveBlob { seq, blob },
                Change::RemoveBlobs => Op::RemoveBlobs { seq },
                Change::Remove => Op::Remove { seq },
                Change::Tombstone(trace_id) => Op::Tombstone { trace_id },
            })
        };
        changes.into_iter().map(op).collect()
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Encoding(error.to_string()))
}

fn item_key(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// How the database is opened, again and again if need be.
type Open = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;

pub struct Store {
    /// None: it is in memory.
    files: Option<Files>,
    open: Open,
    /// None after a failure, until it is open again.
    database: Option<Database>,
    /// Set by writes, cleared by compaction.
    needs_compaction: bool,
}

/// A store and what it held.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub records: Vec<(Seq, Box<Record>)>,
    /// Traces that a person dropped.
    pub tombstones: Vec<TraceId>,
    /// Where a corrupt file was put, and what was wrong with it.
    pub quarantined: Option<(PathBuf, String)>,
}

impl Store {
    /// # Errors
    /// The directory cannot be used, or another process holds the store.
    pub fn open(location: Location) -> Result<Opened, OpenError> {
        match location {
            Location::Directory(directory) => Store::open_or_make(&directory),
            Location::Existing(directory) => {
                let files = Files::look_at(&directory)?;
                let path = files.store();
                let file = path.clone();
                Store::open_with(Some(files), Box::new(move || checked().open(&file)))
                    .map_err(|(refusal, _)| refusal.into_error(&path))
            }
            Location::Memory => {
                let open = || unchecked().create_with_backend(InMemoryBackend::new());
                Store::open_with(None, Box::new(open))
                    .map_err(|(refusal, _)| refusal.into_error(Path::new("(memory)")))
            }
        }
    }

    fn open_or_make(directory: &Path) -> Result<Opened, OpenError> {
        let files = Files::take(directory)?;
        let path = files.store();
        // What it says is checked once; after a failure it is only opened again.
        let open = |files| {
            let (file, mut was_checked) = (path.clone(), false);
            Store::open_with(
                Some(files),
                Box::new(move || {
                    files::private().open(&file).map_err(redb::StorageError::from)?;
                    let builder = if std::mem::replace(&mut was_checked, true) {
                        unchecked()
                    } else {
                        checked()
                    };
                    builder.create(&file)
                }),
            )
        };
        match open(files) {
            // After a kill it is mended first, which takes room that was kept for such a case.
            Err((Refusal::Other(_), Some(files))) if files.release_stale_reserve() => {
                open(files).map_err(|(refusal, _)| refusal.into_error(&path))
            }
            Err((Refusal::Corrupt(reason), Some(files))) => {
                let aside = files
                    .quarantined()
                    .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
                let opened = open(files).map_err(|(refusal, _)| refusal.into_error(&path))?;
                Ok(Opened { quarantined: Some((aside, reason)), ..opened })
            }
            opened => opened.map_err(|(refusal, _)| refusal.into_error(&path)),
        }
    }

    /// A refusal gives the files back: the lock on them is still held.
    pub(super) fn open_with(
        files: Option<Files>,
        mut open: Open,
    ) -> Result<Opened, (Refusal, Option<Files>)> {
        // The library checks what it reads, but a file that lies well enough can still trip an
        // assertion in it. That is one more way to be corrupt.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let database = open()?;
            let held = (records(&database)?, tombstones(&database)?);
            Ok((database, held))
        }));
        match read.unwrap_or_else(|_| Err(Refusal::Corrupt("it cannot be read".to_owned()))) {
            Ok((database, (records, tombstones))) => {
                let store = Store { files, open, database: Some(database), needs_compaction: true };
                Ok(Opened { store, records, tombstones, quarantined: None })
            }
            Err(refusal) => Err((refusal, files)),
        }
    }

    /// Opens it again after it failed: redb refuses all work on a database that had an I/O error.
    ///
    /// # Errors
    /// The store still cannot be opened; call again later.
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
        // What tripped over a corrupt file may trip again, or wait for itself, when it is closed. It
        // is left alone instead, with the file that goes out of the way.
        std::mem::forget(self.database.take());
        let aside = self.files.as_ref().map(Files::quarantined).transpose();
        let aside = aside.map_err(redb::Error::from)?;
        self.reopen()?;
        Ok(aside)
    }

    /// Sees to it that the reserve is there; nothing is taken in without it.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn ensure_reserve_space(&mut self) -> Result<(), StoreError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let no_room = |error: io::Error| StoreError::Failing(format!("no room is left: {error}"));
        match files.ensure_reserve_space() {
            Ok(()) => return Ok(()),
            Err(error) if !self.needs_compaction => return Err(no_room(error)),
            Err(_) => {}
        }
        // What was delivered left room within the file, which the disk does not have back yet.
        self.needs_compaction = false;
        if let Some(database) = &mut self.database {
            database.compact().map_err(|error| StoreError::Failing(error.to_string()))?;
        }
        files.ensure_reserve_space().map_err(no_room)
    }

    /// Gives the reserve up. False when there is none.
    pub fn release_reserve(&mut self) -> bool {
        self.files.as_mut().is_some_and(Files::release_reserve)
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
            let mut tombstones = transaction.open_table(TOMBSTONES).map_err(redb::Error::from)?;
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
                        blobs.insert(key, packed(bytes).as_slice()).map_err(redb::Error::from)?;
                    }
                    Op::RemoveBlob { seq, blob } => {
                        blobs.remove((seq.0, blob.0)).map_err(redb::Error::from)?;
                    }
                    Op::RemoveBlobs { seq } => {
                        let requests = (seq.0, u32::MIN)..(seq.0, STATE_FILES.0);
                        blobs.retain_in(requests, |_, _| false).map_err(redb::Error::from)?;
                    }
                    Op::Tombstone { trace_id } => {
                        let name = trace_id.to_string();
                        tombstones.insert(name.as_str(), ()).map_err(redb::Error::from)?;
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
        self.needs_compaction = true;
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
        let unpacked = found.map(|packed| unpacked(packed.value())).transpose();
        Ok(unpacked.map_err(redb::Error::Corrupted)?)
    }
}

/// Everything but the requests, in order of arrival.
fn records(database: &Database) -> Result<Vec<(Seq, Box<Record>)>, redb::Error> {
    let transaction = database.begin_read()?;
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
        // There may be very many, and a list has room for more than it holds.
        own.shrink_to_fit();
        records.push((Seq(seq), Box::new(Record { head, items: own })));
    }
    Ok(records)
}

fn tombstones(database: &Database) -> Result<Vec<TraceId>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(TOMBSTONES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut tombstones = Vec::new();
    for entry in table.iter()? {
        tombstones.extend(TraceId::from_hex(entry?.0.value()));
    }
    Ok(tombstones)
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(json).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn unchecked() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn checked() -> Builder {
    let mut builder = unchecked();
    builder.set_check_integrity_on_open(true);
    builder
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("files", &self.files).finish_non_exhaustive()
    }
}
