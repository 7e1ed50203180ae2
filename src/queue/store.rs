//! The transactional store on disk. Only this folder uses `redb`.
//!
//! ```text
//! heads     seq         ─▶ the export, as JSON
//! items     (seq, n)    ─▶ the part for the n-th exporter, as JSON; only its lease writes it
//! blobs     (seq, blob) ─▶ one encoded request, compressed
//! tombstones trace id    ─▶ nothing: it must not be enqueued again
//! meta      "format"    ─▶ the version of these rows; version 0.1 writes none
//! ```
//!
//! A transaction is fsynced before `apply` returns. A corrupt file is quarantined and replaced by
//! an empty one. Its exports are not lost: their files have no id, so the next scan finds them.

mod error;
mod files;
mod packed;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{Blob, Change, Head, Item, Record, STATE_FILES, Seq};
use crate::base::ids::TraceId;
pub(super) use error::Refusal;
pub(crate) use error::{OpenError, StoreError};
pub(super) use files::Files;
use files::Presence;
pub(crate) use files::is_there;
use packed::{packed, unpacked};

const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
const ITEMS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("items");
const TOMBSTONES: TableDefinition<'_, &str, ()> = TableDefinition::new("forgotten");
/// Properties of the store itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const BLOBS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("blobs");

/// The key of the format in `META`, and the format that this version writes. A reader of an earlier
/// format would misread the rows of a later one, so it refuses them.
const FORMAT_KEY: &str = "format";
const FORMAT: u64 = 2;

/// The store's cache in bytes. Small, because requests are read only once.
const CACHE_BYTES: usize = 1 << 20;

/// Where a store is.
#[derive(Clone, Debug)]
pub enum Location {
    /// In this directory.
    Directory(PathBuf),
    /// In this directory, which must have a store. Nothing is created or quarantined.
    Existing(PathBuf),
    /// In memory; lost when the process ends.
    Memory,
}

/// One write to the store. Several writes form a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Op {
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
    /// Removes all requests of the entry, but not the state files.
    RemoveBlobs {
        seq: Seq,
    },
    /// Removes the entry with all its rows.
    Remove {
        seq: Seq,
    },
    /// Records that this key must not be enqueued again, although its file may still exist.
    Tombstone {
        trace_id: TraceId,
    },
}

impl Op {
    /// Returns the writes for the rows that changed. `record` is the record after the change.
    ///
    /// # Errors
    /// Returns [`StoreError::Encoding`] if a row cannot be encoded; the entry cannot be recorded then.
    pub(crate) fn of(
        seq: Seq,
        record: &Record,
        changes: Vec<Change>,
    ) -> Result<Vec<Op>, StoreError> {
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

/// Opens the database. May be called again after a failure.
type Open = Box<dyn FnMut() -> Result<Database, redb::Error> + Send>;

/// An opened store. All its functions block.
pub(crate) struct Store {
    /// `None` for a store in memory.
    files: Option<Files>,
    open: Open,
    /// `None` after a failure, until the database is opened again.
    database: Option<Database>,
    /// Set by writes, cleared by compaction.
    needs_compaction: bool,
}

/// A store and its contents.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) records: Vec<(Seq, Box<Record>)>,
    /// Keys that must not be enqueued again.
    pub(crate) tombstones: Vec<TraceId>,
    /// Where a corrupt file was moved to, and what was wrong with it.
    pub(crate) quarantined: Option<(PathBuf, String)>,
}

impl Store {
    /// Opens a store.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be used, or if another process holds the store.
    pub(crate) fn open(location: Location) -> Result<Opened, OpenError> {
        match location {
            Location::Directory(directory) => Store::open_or_make(&directory),
            Location::Existing(directory) => {
                let files = Files::open_existing(&directory)?;
                let path = files.store();
                let file = path.clone();
                Store::open_with(Some(files), Box::new(move || Ok(checked().open(&file)?)))
                    .map_err(|(refusal, _)| refusal.into_error(&path))
            }
            Location::Memory => {
                let open = || unchecked().create_with_backend(InMemoryBackend::new());
                Store::open_with(None, Box::new(move || Ok(open()?)))
                    .map_err(|(refusal, _)| refusal.into_error(Path::new("(memory)")))
            }
        }
    }

    fn open_or_make(directory: &Path) -> Result<Opened, OpenError> {
        let files = Files::take(directory)?;
        let path = files.store();
        // The contents are checked once. After a failure the database is only opened again.
        let open = |files: Files| {
            let (directory, file) = (directory.to_owned(), path.clone());
            let mut was_checked = false;
            Store::open_with(
                Some(files),
                Box::new(move || {
                    files::make_store(&directory, make)?;
                    let builder = if std::mem::replace(&mut was_checked, true) {
                        unchecked()
                    } else {
                        checked()
                    };
                    Ok(builder.open(&file)?)
                }),
            )
        };
        match open(files) {
            // After a kill the database is repaired first, for which the reserved space may be
            // needed.
            Err((Refusal::Other(_), Some(files))) if files.release_stale_reserve() => {
                open(files).map_err(|(refusal, _)| refusal.into_error(&path))
            }
            Err((Refusal::Corrupt(reason), Some(files))) => {
                let mut files = files;
                let aside = files
                    .quarantined()
                    .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
                let opened = open(files).map_err(|(refusal, _)| refusal.into_error(&path))?;
                Ok(Opened { quarantined: aside.map(|aside| (aside, reason)), ..opened })
            }
            opened => opened.map_err(|(refusal, _)| refusal.into_error(&path)),
        }
    }

    /// Opens the database. A refusal returns the files, whose lock is still held.
    pub(super) fn open_with(
        files: Option<Files>,
        mut open: Open,
    ) -> Result<Opened, (Refusal, Option<Files>)> {
        // redb checks what it reads, but some corrupt files still trigger an assertion.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let database = open()?;
            check_format(&database)?;
            let held = (records(&database)?, tombstones(&database)?);
            Ok((database, held))
        }));
        match read.unwrap_or_else(|_| Err(Refusal::Corrupt("it cannot be read".to_owned()))) {
            Ok((database, (records, tombstones))) => {
                let mut store = Store { files, open, database: None, needs_compaction: true };
                store.put_in(database);
                Ok(Opened { store, records, tombstones, quarantined: None })
            }
            Err(refusal) => Err((refusal, files)),
        }
    }

    /// Opens the database again after a failure: redb refuses all work after an I/O error.
    ///
    /// # Errors
    /// Returns an error if the store still cannot be opened; call again later.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        self.database = None;
        let database = (self.open)()?;
        self.put_in(database);
        Ok(())
    }

    fn put_in(&mut self, database: Database) {
        self.database = Some(database);
        if let Some(files) = &mut self.files {
            files.remember_store();
        }
    }

    /// Checks that what is written is written to the file that the next run opens.
    fn check_presence(&self) -> Result<(), StoreError> {
        let Some(files) = &self.files else { return Ok(()) };
        match files.presence() {
            Ok(Presence::InPlace) => Ok(()),
            // Its exports are found again, as after a corruption.
            Ok(Presence::Removed) => Err(StoreError::Corrupt("its file was removed".to_owned())),
            Ok(Presence::Replaced) => {
                Err(StoreError::Failing("its file was replaced by another; restart".to_owned()))
            }
            Err(error) => Err(StoreError::Failing(error.to_string())),
        }
    }

    /// Quarantines the corrupt file and creates a new one. Returns where the corrupt file is now,
    /// `None` in memory.
    ///
    /// # Errors
    /// Returns an error if the disk fails; call again later.
    pub(crate) fn start_over(&mut self) -> Result<Option<PathBuf>, StoreError> {
        // Closing a corrupt database may panic or block, so it is leaked together with its file.
        std::mem::forget(self.database.take());
        let aside = self.files.as_mut().map(Files::quarantined).transpose();
        let aside = aside.map_err(failing)?.flatten();
        self.reopen()?;
        Ok(aside)
    }

    /// Allocates the reserved space. Without it no entries are accepted.
    ///
    /// # Errors
    /// Returns an error if there is no room for it, even after compaction. Try again later.
    pub(crate) fn ensure_reserve_space(&mut self) -> Result<(), StoreError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let no_room = |error: io::Error| StoreError::Failing(format!("no room is left: {error}"));
        match files.ensure_reserve_space() {
            Ok(()) => return Ok(()),
            Err(error) if !self.needs_compaction => return Err(no_room(error)),
            Err(_) => {}
        }
        // Delivered entries left free space in the file. Compaction returns it to the disk.
        self.needs_compaction = false;
        if let Some(database) = &mut self.database {
            database.compact().map_err(|error| StoreError::Failing(error.to_string()))?;
        }
        files.ensure_reserve_space().map_err(no_room)
    }

    /// Frees the reserved space. Returns false if there is none.
    pub(crate) fn release_reserve(&mut self) -> bool {
        self.files.as_mut().is_some_and(Files::release_reserve)
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Makes all changes or none.
    ///
    /// # Errors
    /// Returns an error if the disk failed. Nothing was changed.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> Result<(), StoreError> {
        self.check_presence()?;
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

    /// Returns one request. `None` if there is none with this number.
    ///
    /// # Errors
    /// Returns an error if the disk failed or the request is damaged.
    pub(crate) fn blob(&self, seq: Seq, blob: Blob) -> Result<Option<Bytes>, StoreError> {
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

fn failing(error: io::Error) -> StoreError {
    StoreError::Failing(error.to_string())
}

/// Creates a database of this version's format.
fn make(path: &Path) -> Result<(), redb::Error> {
    let database = unchecked().create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    Ok(transaction.commit()?)
}

/// Checks that this version can read the rows.
fn check_format(database: &Database) -> Result<(), Refusal> {
    let failed = |error: redb::Error| Refusal::from(error);
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    let format = meta.get(FORMAT_KEY).map_err(|error| failed(error.into()))?;
    match format.map(|it| it.value()) {
        Some(format) if format > FORMAT => Err(Refusal::Other(format!(
            "a later version wrote it (format {format}, this version reads up to {FORMAT}); use that \
             version, or name another directory with --state-dir"
        ))),
        _ => Ok(()),
    }
}

/// Returns everything except the requests, in order of arrival.
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
        // There may be very many items, and a list reserves more memory than it needs.
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
