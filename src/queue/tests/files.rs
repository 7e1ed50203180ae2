//! The files of the queue: made at once, private, noticed when they are taken away.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};

use redb::{Database, TableDefinition};

use super::*;

fn refusal(directory: &Path) -> String {
    let location = Location::Directory(directory.to_owned());
    Queue::open(location, &exporters(1), None).expect_err("refused").to_string()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_kill_while_the_store_is_made_leaves_no_corrupt_store() {
    for left in [&b""[..], &[0; 4_096], b"redb"] {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("queue.redb.new"), left).expect("written");
        let ready = at(directory.path());
        assert!(ready.quarantined.is_none());
        end(ready);
        assert!(!names(directory.path()).contains(&"queue.redb.new".to_owned()));
    }
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    end(at(directory.path()));
    let file = directory.path().join("queue.redb");
    let database = Database::open(&file).expect("a store");
    let transaction = database.begin_write().expect("a transaction");
    let meta = TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).expect("a table").insert("format", 99).expect("written");
    transaction.commit().expect("committed");
    drop(database);
    let (before, listed) = (fs::read(&file).expect("the store"), names(directory.path()));
    let refusal = refusal(directory.path());
    assert!(refusal.contains("a later version wrote it (format 99"), "{refusal}");
    assert_eq!(names(directory.path()), listed);
    // The database itself records that it was open.
    assert_eq!(fs::read(&file).expect("the store").len(), before.len());
}

#[test]
fn a_store_that_cannot_be_read_is_not_corrupt() {
    use crate::queue::store::Refusal;
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::StorageFull, io::ErrorKind::Other]
    {
        let refusal = Refusal::from(redb::Error::Io(kind.into()));
        assert!(matches!(refusal, Refusal::Other(_)), "{kind:?}");
    }
    assert!(matches!(Refusal::from(redb::Error::PreviousIo), Refusal::Other(_)));
    let corrupt = Refusal::from(redb::Error::Corrupted("a checksum".to_owned()));
    assert!(matches!(corrupt, Refusal::Corrupt(_)));
}

#[test]
fn a_directory_that_every_user_may_write_to_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for (mode, is_refused) in [(0o777, true), (0o1777, true), (0o770, false), (0o755, false)] {
        fs::set_permissions(directory.path(), Permissions::from_mode(mode)).expect("set");
        if is_refused {
            let refusal = refusal(directory.path());
            assert!(refusal.contains(&format!("(mode {mode:04o})")), "{refusal}");
            assert!(names(directory.path()).is_empty());
        } else {
            end(at(directory.path()));
            fs::remove_file(directory.path().join("queue.redb")).expect("removed");
            fs::remove_file(directory.path().join("queue.lock")).expect("removed");
        }
    }
}

#[test]
fn links_in_the_directory_are_not_followed() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = elsewhere.path().join("other");
    fs::write(&other, "unchanged").expect("written");
    for name in ["queue.lock", "queue.redb.new"] {
        let directory = tempfile::tempdir().expect("a directory");
        symlink(&other, directory.path().join(name)).expect("a link");
        let location = Location::Directory(directory.path().to_owned());
        if let Ok(ready) = Queue::open(location, &exporters(1), None) {
            end(ready);
        }
        assert_eq!(fs::read(&other).expect("the file"), b"unchanged", "{name}");
    }
}

/// The exports of the lost queue have no id, so a scan finds them again.
#[tokio::test]
async fn a_queue_that_is_removed_while_it_is_used_is_made_again() {
    for with_directory in [false, true] {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("state");
        let ready = at(&directory);
        let queue = ready.queue.clone();
        assert_eq!(queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await, Enqueued::New);
        match with_directory {
            true => fs::remove_dir_all(&directory).expect("removed"),
            false => fs::remove_file(directory.join("queue.redb")).expect("removed"),
        }
        let mut resets = queue.store_resets();
        // The caller offers it again when the queue has recovered.
        while queue.enqueue(&delivery(2, &["y"]), &to(&["a"])).await != Enqueued::New {
            resets.changed().await.expect("the queue lives");
        }
        assert_eq!(*queue.store_resets().borrow(), 1);
        drop(queue);
        end(ready);
        assert_eq!(at(&directory).waiting, 1, "what was accepted later is kept");
    }
}
