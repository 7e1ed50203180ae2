//! A disk that fills up, and has room again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, StorageBackend};

use super::*;

/// A disk in memory that survives being closed, and can be full.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no panic under the lock")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("small");
        out.copy_from_slice(&self.bytes()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.bytes().resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let at = usize::try_from(offset).expect("small");
        self.bytes()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Scenario: the disk is full for a while. Guarantees: nothing is taken in, the state says so, and
/// what was offered goes in as soon as there is room.
#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_intake_until_there_is_room() {
    let disk = Disk::default();
    let backend = disk.clone();
    let open = move || Builder::new().create_with_backend(backend.clone());
    let opened = Store::open_with(None, Box::new(open)).expect("an empty disk");
    let (journal, _thread) = Journal::start(opened.store).expect("a thread");
    let queue = Queue::new(journal, State::new(&exporters(100), None));
    assert_eq!(queue.accept(&delivery(1, &["x"]), &to(&["a"])).await, Accepted::New);

    disk.full.store(true, Ordering::Release);
    let mut health = queue.health();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.accept(&delivery(2, &["y"]), &to(&["a"])).await }
    });
    drop(health.wait_for(|health| matches!(health, Health::Failing(_))).await.expect("a queue"));
    assert_eq!(queue.list().len(), 1);

    disk.full.store(false, Ordering::Release);
    assert_eq!(waiting.await.expect("no panic"), Accepted::New);
    assert_eq!(*queue.health().borrow(), Health::Good);
    assert_eq!(queue.list().len(), 2);
}
