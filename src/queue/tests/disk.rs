//! Disks that are full, broken, or torn by a crash, and recover.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Builder, StorageBackend};

use super::*;
use crate::queue::store::{Files, Opened, Store};

/// A disk in memory that survives closing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// The contents after a crash: everything up to the last fsync.
    synced: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
    read_only: Arc<AtomicBool>,
    /// While this file exists it occupies the space that would be needed.
    reserve: Option<PathBuf>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        let taken = self.reserve.as_ref().is_none_or(|reserve| reserve.exists());
        if self.full.load(Ordering::Acquire) && taken {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        if self.read_only.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        Ok(())
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no panic under the lock")
    }

    /// Returns the disk as it is after a power failure.
    pub(crate) fn after_a_crash(&self) -> Disk {
        let synced = self.synced.lock().expect("no panic under the lock").clone();
        let bytes = Arc::new(Mutex::new(synced.clone()));
        Disk { bytes, synced: Arc::new(Mutex::new(synced)), ..Disk::default() }
    }

    /// Opens a store on this disk.
    pub(crate) fn open(&self, files: Option<Files>) -> Opened {
        let backend = self.clone();
        let open = move || Ok(Builder::new().create_with_backend(backend.clone())?);
        Store::open_with(files, Box::new(open)).map_err(|(refusal, _)| refusal).expect("a store")
    }

    /// Opens a queue on this disk, with exporters of unlimited capacity.
    pub(crate) fn queue(&self) -> Ready {
        Queue::from_opened(self.open(None), &exporters(u64::MAX), None).expect("a queue")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("small");
        let bytes = self.bytes();
        let found = bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.bytes().resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.synced.lock().expect("no panic under the lock").clone_from(&self.bytes());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let at = usize::try_from(offset).expect("small");
        let mut bytes = self.bytes();
        let end = bytes.len().max(at + data.len());
        bytes.resize(end, 0);
        bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// While the disk is full, no entry is accepted and the state is reported. As soon as there is
/// room, the offered entry is accepted.
#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_intake_until_there_is_room() {
    let disk = Disk::default();
    let queue = disk.queue().queue;
    assert_eq!(queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await, Enqueued::New);

    disk.full.store(true, Ordering::Release);
    let mut health = queue.health();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.enqueue(&delivery(2, &["y"]), &to(&["a"])).await }
    });
    drop(health.wait_for(|health| matches!(health, Health::Failing(_))).await.expect("a queue"));
    assert_eq!(queue.list().len(), 1);

    disk.full.store(false, Ordering::Release);
    assert_eq!(waiting.await.expect("no panic"), Enqueued::New);
    assert_eq!(*queue.health().borrow(), Health::Good);
    assert_eq!(queue.list().len(), 2);
}

/// The disk becomes read-only while a request is acknowledged. The next request is not sent before
/// the acknowledgement is on disk.
#[tokio::test(start_paused = true)]
async fn a_disk_that_turns_read_only_stops_the_sending_until_it_takes_the_acknowledgement() {
    let disk = Disk::default();
    let queue = disk.queue().queue;
    queue.enqueue(&delivery(1, &["x", "y"]), &to(&["a"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.mark_in_flight().await.expect("held");
    disk.read_only.store(true, Ordering::Release);
    let mut health = queue.health();
    let waiting = tokio::spawn(async move { lease.acknowledge(None).await.map(|()| lease) });
    drop(health.wait_for(|health| matches!(health, Health::Failing(_))).await.expect("a queue"));
    assert!(!waiting.is_finished());

    disk.read_only.store(false, Ordering::Release);
    let mut lease = waiting.await.expect("no panic").expect("held");
    assert_eq!(lease.next_request().await.expect("held").as_deref(), Some(b"y".as_slice()));
    assert_eq!(*queue.health().borrow(), Health::Good);
    let found = disk.after_a_crash().queue();
    assert_eq!(found.queue.list()[0].exporters[0].requests_waiting, 1, "it is on disk");
}

/// The queue itself has filled the disk. Its entries are still delivered, with the reserved space,
/// and then there is room again.
#[tokio::test(start_paused = true)]
async fn a_disk_that_the_queue_has_filled_is_emptied_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let reserve = directory.path().join("queue.reserve");
    let disk = Disk { reserve: Some(reserve.clone()), ..Disk::default() };
    let files = Files::take(directory.path()).expect("a directory");
    let opened = disk.open(Some(files));
    let queue = Queue::from_opened(opened, &exporters(u64::MAX), None).expect("a queue").queue;
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    assert_eq!(std::fs::metadata(&reserve).expect("the reserve").len(), 1 << 20);

    disk.full.store(true, Ordering::Release);
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.mark_in_flight().await.expect("held");
    lease.acknowledge(None).await.expect("on the room that was kept");
    assert!(!reserve.exists());
    lease.complete(AT).await.durable().await.expect("held");
    queue.completion().await.expect("done").written_back(None).await;
    assert_eq!(queue.list(), []);

    disk.full.store(false, Ordering::Release);
    assert_eq!(queue.enqueue(&delivery(2, &["y"]), &to(&["a"])).await, Enqueued::New);
    assert!(reserve.exists(), "kept for the next time");
}

/// The file is truncated while the queue uses it. The store is replaced, and receivers are notified
/// to scan again.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_truncated_while_it_runs_is_replaced() {
    let disk = Disk::default();
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("queue.redb"), "stands for the file").expect("written");
    let files = Files::take(directory.path()).expect("a directory");
    // Quarantining the file leaves a new, empty disk.
    let (backend, path) = (disk.clone(), directory.path().join("queue.redb"));
    let open = move || {
        if !path.exists() {
            backend.bytes().clear();
            std::fs::write(&path, "the next").map_err(redb::StorageError::from)?;
        }
        Ok(Builder::new().set_cache_size(0).create_with_backend(backend.clone())?)
    };
    let opened = Store::open_with(Some(files), Box::new(open));
    let opened = opened.map_err(|(refusal, _)| refusal).expect("a store");
    let queue = Queue::from_opened(opened, &exporters(u64::MAX), None).expect("a queue").queue;
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    let mut restarts = queue.store_resets();

    let mut lease = queue.lease("a").await.expect("waiting");
    disk.bytes().truncate(100);
    assert!(lease.next_request().await.is_err(), "it is lost with its store");
    drop(lease);
    let offered = delivery(2, &["y"]);
    assert_eq!(queue.enqueue(&offered, &to(&["a"])).await, Enqueued::New);
    restarts.changed().await.expect("a queue");
    let held: Vec<PathBuf> = queue.list().into_iter().map(|one| one.path).collect();
    assert_eq!(held, [PathBuf::from("/x/2")]);
    let again = queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    assert_eq!(again, Enqueued::New, "a scan finds its file without an id");
    assert_eq!(queue.waiting().len(), 2);
    let names = std::fs::read_dir(directory.path()).expect("a directory");
    let aside = |name: &std::ffi::OsString| name.to_string_lossy().contains(".corrupt-");
    let aside: Vec<_> = names.flatten().map(|it| it.file_name()).filter(aside).collect();
    assert_eq!(aside.len(), 1);
}
