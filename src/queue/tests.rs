//! Guarantees:
//!
//! - Entries are leased in order, and each transition survives a restart and a crash.
//! - A request is in doubt after a restart only if it may have been sent.
//! - A full or failing disk loses nothing; a corrupt store is quarantined once.
//! - The queue never exceeds its limit, and accepts entries again when it has room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::store::StoreError;
use super::writer::Epoch;
use super::*;
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::base::signal::Signal;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::FileVersion;

fn delivery(number: u8, requests: &[&'static str]) -> NewEntry {
    let source = FileVersion {
        path: format!("/x/{number}").into(),
        elsewhere: None,
        device: 0,
        inode: 0,
        size: 0,
        mtime_ns: 0,
        ctime_ns: None,
        sha256: [number; 32],
    };
    NewEntry {
        trace_id: TraceId::of_export(Path::new("/x"), 0, &[number]),
        addition: None,
        receiver: "export_dir".into(),
        source,
        project_id: "p".into(),
        span_count: 1,
        made_at: UnixNanos(1),
        requests: requests.iter().map(|text| Bytes::from_static(text.as_bytes())).collect(),
        logs: Vec::new(),
        write_back: WriteBackMode::InPlace,
        state_files: None,
    }
}

fn exporters(capacity: u64) -> Exporters {
    ["a", "b"].map(|id| (id.to_owned(), capacity)).into()
}

fn to(exporters: &[&str]) -> Vec<Destination> {
    let destination = |id: &&str| Destination {
        exporter: (*id).to_owned(),
        signal: Signal::Traces,
        required: true,
    };
    exporters.iter().map(destination).collect()
}

fn in_memory(capacity: u64) -> Queue {
    Queue::open(Location::Memory, &exporters(capacity), None).expect("memory").queue
}

fn at(directory: &Path) -> Ready {
    Queue::open(Location::Directory(directory.to_owned()), &exporters(u64::MAX), None)
        .expect("a store")
}

/// Ends a queue regularly: everything is on disk.
fn end(ready: Ready) {
    drop(ready.queue);
    ready.thread.join().expect("the thread");
}

const AT: UnixNanos = UnixNanos(7);

fn no() -> Rejection {
    Rejection { reason: "no".into(), kind: RejectionKind::Refused }
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + std::time::Duration::from_secs(5)
}

#[tokio::test]
async fn all_required_exporters_settle_an_export() {
    let queue = in_memory(100);
    assert_eq!(queue.enqueue(&delivery(1, &["x"]), &to(&["a", "b"])).await, Enqueued::New);
    assert_eq!(queue.enqueue(&delivery(1, &["x"]), &to(&["a", "b"])).await, Enqueued::Known);
    queue
        .lease("a")
        .await
        .expect("waiting")
        .complete(UnixNanos(9))
        .await
        .durable()
        .await
        .expect("held");
    assert!(at_once(queue.completion()).await.is_none(), "b is not done");
    queue.lease("b").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    let settlement = queue.completion().await.expect("done");
    assert_eq!(settlement.outcome, Outcome::Delivered { at: UnixNanos(9) });
    settlement.written_back(None).await;
    assert_eq!(queue.list(), []);
    let again = queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    assert_eq!(again, Enqueued::Delivered);
}

#[tokio::test]
async fn the_export_that_waits_is_found_by_its_file() {
    let path = Path::new("/x/file");
    let from_file = |number| {
        let it = delivery(number, &["x"]);
        NewEntry { source: FileVersion { path: path.into(), ..it.source.clone() }, ..it }
    };
    let queue = in_memory(100);
    let waiting = || queue.waiting_from(path).map(|head| head.trace_id);
    let trace_id = |number| Some(delivery(number, &[]).trace_id);
    assert_eq!(waiting(), None);
    queue.enqueue(&from_file(1), &to(&["a"])).await;
    assert_eq!(waiting(), trace_id(1));
    assert!(queue.waiting_from(Path::new("/x/other")).is_none());

    queue.lease("a").await.expect("waiting").dead_letter(no()).await.durable().await.expect("held");
    assert_eq!(waiting(), None, "its refusal is reported to the next reader");
    queue.drop_entry(queue.list()[0].id, true, soon()).await.expect("dropped");
    queue.enqueue(&from_file(2), &to(&["a", "b"])).await;
    queue.enqueue(&from_file(3), &to(&["a", "b"])).await;
    assert_eq!(waiting(), trace_id(3));
    for exporter in ["a", "b"] {
        queue
            .lease(exporter)
            .await
            .expect("waiting")
            .complete(AT)
            .await
            .durable()
            .await
            .expect("held");
    }
    queue.completion().await.expect("done").written_back(None).await;
    assert_eq!(waiting(), trace_id(3), "the older one went");

    let mut destinations = to(&["a", "b"]);
    destinations[1].required = false;
    let optional = NewEntry { source: delivery(4, &[]).source, ..delivery(4, &["x"]) };
    queue.enqueue(&optional, &destinations).await;
    for _ in 0..2 {
        queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    }
    queue.completion().await.expect("done").written_back(None).await;
    assert_eq!(queue.list().len(), 2, "b has still to deliver");
    assert!(queue.waiting_from(Path::new("/x/4")).is_none(), "its id is written");
    let addition = NewEntry { addition: trace_id(9), ..delivery(5, &["x"]) };
    queue.enqueue(&addition, &to(&["a"])).await;
    assert!(queue.waiting_from(Path::new("/x/5")).is_none(), "it is not the export");
}

#[tokio::test]
async fn an_exporter_that_is_not_required_holds_nothing_back() {
    let queue = in_memory(100);
    let mut destinations = to(&["a", "b"]);
    destinations[1].required = false;
    queue.enqueue(&delivery(1, &["x"]), &destinations).await;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    queue.completion().await.expect("a is enough").written_back(None).await;
    assert_eq!(queue.list().len(), 1, "b has still to deliver");
    queue.lease("b").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    assert_eq!(queue.list(), []);
}

#[tokio::test]
async fn a_dropped_lease_is_deferred_and_keeps_what_was_acknowledged() {
    let queue = in_memory(100);
    queue.enqueue(&delivery(1, &["x", "y"]), &to(&["a"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.mark_in_flight().await.expect("held");
    lease.acknowledge(None).await.expect("held");
    drop(lease);
    let mut lease = queue.lease("a").await.expect("deferred");
    assert_eq!(lease.next_request().await.expect("held").as_deref(), Some(b"y".as_slice()));
}

/// The drop command was cancelled, or its time limit passed.
#[tokio::test]
async fn a_drop_that_times_out_leaves_the_entry_unchanged() {
    let queue = in_memory(100);
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    let lease = queue.lease("a").await.expect("waiting");
    assert!(at_once(queue.drop_entry(0, true, soon())).await.is_none(), "it is leased");
    assert_eq!(queue.drop_entry(0, true, tokio::time::Instant::now()).await, Ok(false));
    drop(lease);
    let lease = at_once(queue.lease("a")).await.flatten().expect("deferred");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drop_entry(0, true, soon()).await }
    });
    lease.revocation().await;
    drop(lease);
    assert_eq!(waiting.await.expect("no panic"), Ok(true));
    assert!(at_once(queue.lease("a")).await.is_none(), "it is gone");
}

#[tokio::test]
async fn a_refusal_is_a_dead_letter_that_can_be_retried_or_dropped() {
    let queue = in_memory(100);
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    queue.lease("a").await.expect("waiting").dead_letter(no()).await.durable().await.expect("held");
    let settlement = queue.completion().await.expect("done");
    let expected = Outcome::Rejected { exporter: "a".into(), rejection: no() };
    assert_eq!(settlement.outcome, expected);
    settlement.reported();
    assert!(at_once(queue.completion()).await.is_none(), "it is told once");
    let known = queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    assert_eq!(known, Enqueued::DeadLetter { id: 0, reason: "no".into(), may_be_retried: true });

    assert_eq!(queue.retry(0).await, Ok(true));
    let mut lease = queue.lease("a").await.expect("another chance");
    assert!(lease.next_request().await.expect("held").is_some());
    lease.dead_letter(no()).await.durable().await.expect("held");
    assert!(queue.completion().await.is_some(), "it is told again");

    assert_eq!(
        (queue.drop_entry(0, false, soon()).await, queue.drop_entry(0, false, soon()).await),
        (Ok(true), Ok(false))
    );
    assert_eq!(queue.list(), []);
}

#[tokio::test]
async fn a_full_queue_makes_the_next_export_wait() {
    let queue = in_memory(3);
    queue.enqueue(&delivery(1, &["xyz"]), &to(&["a"])).await;
    let next = delivery(2, &["q"]);
    assert!(at_once(queue.enqueue(&next, &to(&["a"]))).await.is_none());
    assert!(matches!(&*queue.health().borrow(), Health::Full(why) if why.contains("`a`")));
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    queue.completion().await.expect("done").written_back(None).await;
    assert_eq!(queue.enqueue(&next, &to(&["a"])).await, Enqueued::New);
    assert_eq!(*queue.health().borrow(), Health::Good);
}

#[tokio::test]
async fn a_closed_queue_is_worked_off() {
    let queue = in_memory(100);
    for number in 1..=2 {
        queue.enqueue(&delivery(number, &["x"]), &to(&["a", "b"])).await;
    }
    queue.close();
    assert_eq!(queue.enqueue(&delivery(3, &["z"]), &to(&["a"])).await, Enqueued::Closed);
    for exporter in ["a", "b"] {
        while let Some(lease) = queue.lease(exporter).await {
            lease.complete(AT).await.durable().await.expect("held");
        }
    }
    let mut settled = 0;
    while let Some(settlement) = queue.completion().await {
        settled += 1;
        settlement.written_back(None).await;
    }
    assert_eq!(settled, 2);
}

#[tokio::test]
async fn requests_that_one_exporter_splits_or_rewrites_are_unchanged_for_the_others() {
    let queue = in_memory(100);
    queue.enqueue(&delivery(1, &["xy", "z"]), &to(&["a", "b"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.split_next(Bytes::from_static(b"x"), Bytes::from_static(b"y")).await.expect("held");
    assert_eq!(lease.pending_requests().await.expect("held"), ["x", "y", "z"]);
    let renewed = vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")];
    lease.replace_pending(renewed, AT).await.expect("held");
    assert_eq!(lease.pending_requests().await.expect("held"), ["1", "2"]);
    assert_eq!(lease.all_requests().await.expect("held"), ["xy", "z"]);
    let mut other = queue.lease("b").await.expect("waiting");
    assert_eq!(other.pending_requests().await.expect("held"), ["xy", "z"]);
}

/// The program ends between any two steps. The next run continues after the last step, and marks
/// what is in doubt.
#[tokio::test]
async fn a_reopened_queue_goes_on_where_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    ready.queue.enqueue(&delivery(1, &["x", "y"]), &to(&["a"])).await;
    ready.queue.enqueue(&delivery(2, &["z"]), &to(&["a"])).await;
    let mut lease = ready.queue.lease("a").await.expect("waiting");
    lease.mark_in_flight().await.expect("held");
    lease.acknowledge(None).await.expect("held");
    drop(lease);
    end(ready);

    let ready = at(directory.path());
    assert_eq!((ready.waiting, ready.dead_letters, ready.orphaned), (2, 0, 0));
    let mut lease = ready.queue.lease("a").await.expect("the older one");
    assert_eq!(lease.pending_requests().await.expect("held"), ["y"]);
    assert!(lease.item().may_have_arrived);
    lease.complete(AT).await.durable().await.expect("held");
    let lease = ready.queue.lease("a").await.expect("the newer one");
    assert!(!lease.item().may_have_arrived);
    lease.dead_letter(no()).await.durable().await.expect("held");
    end(ready);

    let ready = at(directory.path());
    assert_eq!((ready.waiting, ready.dead_letters), (1, 1));
    assert!(at_once(ready.queue.lease("a")).await.is_none());
    let settlement = ready.queue.completion().await.expect("delivered, not written back");
    settlement.written_back(None).await;
    end(ready);
    assert_eq!(at(directory.path()).waiting, 0);
}

#[tokio::test]
async fn items_of_a_removed_exporter_are_parked() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    ready.queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    end(ready);
    let others = Exporters::from([("c".to_owned(), 100)]);
    let location = Location::Directory(directory.path().to_owned());
    let ready = Queue::open(location, &others, None).expect("a store");
    assert_eq!(ready.orphaned, 1);
    assert!(ready.queue.waiting().is_empty());
    let again = ready.queue.enqueue(&delivery(1, &["x"]), &to(&["c"])).await;
    assert_eq!(again, Enqueued::New, "a file that is still there goes to the new exporter");
}

#[tokio::test]
async fn an_exporter_that_is_gone_keeps_no_id_from_being_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    ready.queue.enqueue(&delivery(1, &["x"]), &to(&["a", "b"])).await;
    ready
        .queue
        .lease("a")
        .await
        .expect("waiting")
        .complete(AT)
        .await
        .durable()
        .await
        .expect("held");
    assert!(at_once(ready.queue.completion()).await.is_none(), "b is required");
    end(ready);
    let location = Location::Directory(directory.path().to_owned());
    let only_a = Exporters::from([("a".to_owned(), 100)]);
    let ready = Queue::open(location, &only_a, None).expect("a store");
    assert_eq!(ready.orphaned, 1);
    ready.queue.completion().await.expect("a is all there is").written_back(None).await;
    end(ready);
    let ready = at(directory.path());
    let mut lease = ready.queue.lease("b").await.expect("back again");
    assert_eq!(lease.next_request().await.expect("held").as_deref(), Some(b"x".as_slice()));
    drop(lease);
    assert_eq!(ready.queue.drop_entry(0, false, soon()).await, Ok(false), "it was not refused");
    assert_eq!(ready.queue.drop_entry(0, true, soon()).await, Ok(true));
    assert_eq!(ready.queue.list(), []);
}

#[tokio::test]
async fn delivered_entries_that_await_their_write_back_take_no_room() {
    let queue = in_memory(3);
    queue.enqueue(&delivery(1, &["xyz"]), &to(&["a"])).await;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    let unwritten = queue.completion().await.expect("done");
    assert_eq!(queue.enqueue(&delivery(2, &["xyz"]), &to(&["a"])).await, Enqueued::New);
    let verified = queue.verify().await.expect("readable");
    assert_eq!((verified.exports, verified.requests), (2, 1));
    unwritten.written_back(None).await;
}

#[tokio::test]
async fn a_full_exporter_is_named_and_concurrent_offers_stay_within_the_bound() {
    let queue = in_memory(4);
    queue.enqueue(&delivery(1, &["xyz"]), &to(&["b"])).await;
    // There is room for one of them, whichever comes first.
    let (two, three) = (delivery(2, &["xyz"]), delivery(3, &["xyz"]));
    let a = to(&["a"]);
    let both = async { tokio::join!(queue.enqueue(&two, &a), queue.enqueue(&three, &a)) };
    assert!(at_once(both).await.is_none());
    assert!(matches!(&*queue.health().borrow(), Health::Full(why) if why.contains("`a`")));
    assert_eq!(queue.list().len(), 2);
}

#[tokio::test]
async fn transitions_of_an_earlier_epoch_are_not_applied() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    let queue = &ready.queue;
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    let corrupt = StoreError::Corrupt("a test says so".into());
    assert!(queue.store_failed(corrupt.clone(), queue.epoch()).await.is_err());
    assert!(lease.mark_in_flight().await.is_err(), "its store is gone");
    drop(lease);
    assert_eq!(queue.waiting(), [PathBuf::from("/x/1")], "accounted for, though not held");
    // A late failure of the first store does not quarantine the second one.
    assert!(queue.store_failed(corrupt, Epoch::default()).await.is_err());
    assert_eq!(*queue.store_resets().borrow(), 1);
    assert_eq!(queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await, Enqueued::New);
    end(ready);
    assert_eq!(at(directory.path()).waiting, 1);
}

#[test]
fn a_second_process_is_told_who_holds_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = at(directory.path());
    let location = Location::Directory(directory.path().to_owned());
    let error = Queue::open(location, &exporters(1), None).expect_err("held");
    assert!(error.to_string().contains("another taskspan holds this queue"), "{error}");
    end(first);
    end(at(directory.path()));
}

/// The receiver and the state files of an export survive a restart, and the removal of its
/// requests.
#[tokio::test]
async fn the_receiver_and_the_state_files_reach_the_write_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    let state_files = Some(Bytes::from_static(b"[]"));
    let with = NewEntry { receiver: "export_dir/x".into(), state_files, ..delivery(1, &["r"]) };
    ready.queue.enqueue(&with, &to(&["a"])).await;
    ready
        .queue
        .lease("a")
        .await
        .expect("waiting")
        .complete(AT)
        .await
        .durable()
        .await
        .expect("held");
    end(ready);
    let ready = at(directory.path());
    let completion = ready.queue.completion().await.expect("delivered");
    assert_eq!(completion.head.receiver, "export_dir/x");
    assert_eq!(completion.state_files().await, Ok(with.state_files));
    completion.written_back(None).await;
    assert_eq!(ready.queue.list(), []);
    end(ready);
}

/// An item is in doubt after a restart only if a request of it may have been sent.
#[tokio::test]
async fn only_what_was_marked_in_flight_is_in_doubt_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    for number in [1, 2] {
        let accepted = ready.queue.enqueue(&delivery(number, &["x"]), &to(&["a", "b"])).await;
        assert_eq!(accepted, Enqueued::New);
    }
    ready.queue.lease("a").await.expect("waiting").mark_in_flight().await.expect("held");
    drop(ready.queue.lease("b").await);
    end(ready);
    let ready = at(directory.path());
    let state = ready.queue.index();
    let items = state.iter().flat_map(|(_, entry)| &entry.record.items);
    let found: Vec<_> = items.map(|item| (item.exporter.as_str(), item.may_have_arrived)).collect();
    assert_eq!(found, [("a", true), ("b", false), ("a", false), ("b", false)]);
    drop(state);
    end(ready);
}

#[tokio::test]
async fn a_corrupt_store_is_set_aside_and_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let ready = at(directory.path());
    ready.queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    end(ready);
    let file = directory.path().join("queue.redb");
    let sound = std::fs::read(&file).expect("the store");
    for damage in [0_usize, 64, 4_096, 9_000, sound.len() / 2] {
        let mut bytes = sound.clone();
        for byte in bytes.iter_mut().skip(damage).take(512) {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, &bytes).expect("written");
        // Damage where nothing is stored may stay unnoticed. Damage that is noticed is quarantined.
        let ready = at(directory.path());
        let held = ready.queue.list().len();
        assert_eq!(held == 0, ready.quarantined.is_some(), "damage at {damage}");
        assert_eq!(ready.queue.enqueue(&delivery(2, &["y"]), &to(&["a"])).await, Enqueued::New);
        end(ready);
    }
    for torn in [&sound[..sound.len() / 3], b"not a store".as_slice()] {
        std::fs::write(&file, torn).expect("written");
        let ready = at(directory.path());
        let (aside, _) = ready.quarantined.as_ref().expect("set aside");
        assert_eq!(std::fs::read(aside).expect("kept"), torn);
        end(ready);
    }
}

mod disk;
mod drop;
mod files;
mod model;

/// Polls a future for a moment. Returns `None` if it would wait.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    // The writer answers from its own thread, which takes a moment.
    tokio::time::timeout(Duration::from_millis(100), future).await.ok()
}
