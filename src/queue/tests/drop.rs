//! Guarantees:
//!
//! - `queue drop --force` works in every state of an entry. The entry does not come back after a
//!   restart.
//! - A drop revokes the lease or completion of the entry. Calls on either after the drop change
//!   nothing.
//! - An entry whose write-back failed and is retried later is dropped at once.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

/// A queue on disk with one entry for `a` (required) and `b` (optional), in one of the states.
struct Case {
    directory: tempfile::TempDir,
    ready: Ready,
}

impl Case {
    async fn new() -> Case {
        let directory = tempfile::tempdir().expect("a directory");
        let ready = at(directory.path());
        let mut destinations = to(&["a", "b"]);
        destinations[1].required = false;
        ready.queue.enqueue(&delivery(1, &["x"]), &destinations).await;
        Case { directory, ready }
    }

    async fn drop_is_final(self) {
        let Case { directory, ready } = self;
        assert_eq!(ready.queue.drop_entry(0, true, soon()).await, Ok(true));
        assert_eq!(ready.queue.list(), []);
        end(ready);
        let ready = at(directory.path());
        assert_eq!(ready.queue.list(), []);
        assert_eq!(ready.waiting, 0);
        let again = ready.queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
        assert_eq!(again, Enqueued::Known, "an operator does not want it");
        end(ready);
    }
}

#[tokio::test]
async fn an_entry_is_dropped_in_every_state() {
    let case = Case::new().await;
    case.drop_is_final().await;

    let case = Case::new().await;
    let queue = &case.ready.queue;
    queue.lease("a").await.expect("waiting").defer(Instant::now() + Duration::from_secs(60), true);
    case.drop_is_final().await;

    let case = Case::new().await;
    let lease = case.ready.queue.lease("b").await.expect("waiting");
    lease.dead_letter(no()).await.durable().await.expect("held");
    case.drop_is_final().await;

    let case = Case::new().await;
    let queue = &case.ready.queue;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    case.drop_is_final().await;

    let case = Case::new().await;
    let queue = &case.ready.queue;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    queue.completion().await.expect("delivered").written_back(None).await;
    case.drop_is_final().await;
}

#[tokio::test]
async fn an_entry_whose_write_back_is_tried_again_later_is_dropped_at_once() {
    let case = Case::new().await;
    let queue = &case.ready.queue;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    let later = Instant::now() + Duration::from_secs(60);
    queue.completion().await.expect("delivered").write_back_failed("full", later, false).await;
    assert!(at_once(queue.completion()).await.is_none(), "it is not due");
    case.drop_is_final().await;
}

#[tokio::test]
async fn a_holder_is_asked_to_give_the_entry_back() {
    let case = Case::new().await;
    let queue = case.ready.queue.clone();
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.mark_in_flight().await.expect("held");
    assert!(!lease.is_revoked());
    let dropping = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drop_entry(0, true, soon()).await }
    });
    lease.revocation().await;
    assert!(lease.is_revoked());
    // A response that arrived before the lease was given back is still recorded.
    lease.acknowledge(None).await.expect("held");
    drop(lease);
    assert_eq!(dropping.await.expect("no panic"), Ok(true));

    queue.enqueue(&delivery(2, &["x"]), &to(&["a"])).await;
    queue.lease("a").await.expect("waiting").complete(AT).await.durable().await.expect("held");
    let completion = queue.completion().await.expect("delivered");
    let dropping = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drop_entry(1, true, soon()).await }
    });
    // The write-back fails while the entry is revoked: nothing of the entry is left, in memory or
    // on disk.
    completion.write_back_failed("full", Instant::now(), false).await;
    assert_eq!(dropping.await.expect("no panic"), Ok(true));
    assert_eq!(queue.list(), []);
    drop(queue);
    end(case.ready);
    let ready = at(case.directory.path());
    assert_eq!(ready.queue.list(), []);
    end(ready);
}

/// An operator retries an entry while its rejection is being reported. The delivery that follows is
/// finalized.
#[tokio::test]
async fn a_retry_while_the_rejection_is_reported_is_not_lost() {
    let queue = in_memory(100);
    queue.enqueue(&delivery(1, &["x"]), &to(&["a"])).await;
    queue.lease("a").await.expect("waiting").dead_letter(no()).await.durable().await.expect("held");
    let completion = queue.completion().await.expect("rejected");
    assert_eq!(queue.retry(0).await, Ok(true));
    completion.reported();
    queue.lease("a").await.expect("retried").complete(AT).await.durable().await.expect("held");
    let completion = at_once(queue.completion()).await.flatten().expect("delivered");
    completion.written_back(None).await;
    assert_eq!(queue.list(), []);
}
