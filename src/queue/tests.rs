use std::path::Path;

use super::*;

fn delivery(number: u8, requests: &[&'static str]) -> Delivery {
    let source = Source {
        path: "/x".into(),
        canonical: "/x".into(),
        device: 0,
        inode: 0,
        size: 0,
        mtime_ns: 0,
        sha256: [number; 32],
    };
    Delivery {
        trace_id: TraceId::of_export(Path::new("/x"), 0, &[number]),
        source,
        project_id: "p".into(),
        span_count: 1,
        requests: requests
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect(),
    }
}

fn queue(capacity: u64) -> Queue {
    Queue::new(vec!["a".into(), "b".into()], capacity)
}

const AT: UnixNanos = UnixNanos(7);

fn no() -> Rejection {
    Rejection {
        reason: "no".into(),
        permanent: true,
    }
}

#[tokio::test]
async fn all_exporters_settle_an_export() {
    let queue = queue(100);
    assert_eq!(queue.accept(delivery(1, &["x"])).await, Accepted::New);
    assert_eq!(queue.accept(delivery(1, &["x"])).await, Accepted::Known);
    queue
        .lease("a")
        .await
        .expect("waiting")
        .delivered(UnixNanos(9));
    assert!(
        futures_ready(queue.settlement()).await.is_none(),
        "b is not done"
    );
    queue.lease("b").await.expect("waiting").delivered(AT);
    let settlement = queue.settlement().await.expect("done");
    assert_eq!(settlement.outcome, Outcome::Delivered { at: UnixNanos(9) });
    assert_eq!(queue.len(), 1);
    drop(settlement);
    assert!(queue.is_empty());
}

#[tokio::test]
async fn a_dropped_lease_is_deferred_and_keeps_what_was_acknowledged() {
    let queue = queue(100);
    queue.accept(delivery(1, &["x", "y"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.acknowledged();
    drop(lease);
    let lease = queue.lease("a").await.expect("deferred");
    assert_eq!(lease.next_request().as_deref(), Some(b"y".as_slice()));
    drop(lease);
}

#[tokio::test]
async fn one_refusal_decides() {
    let queue = queue(100);
    queue.accept(delivery(1, &["x"])).await;
    queue.lease("a").await.expect("waiting").rejected(no());
    queue.lease("b").await.expect("waiting").delivered(AT);
    let settlement = queue.settlement().await.expect("done");
    let expected = Outcome::Rejected {
        exporter: "a".into(),
        rejection: no(),
    };
    assert_eq!(settlement.outcome, expected);
}

#[tokio::test]
async fn a_full_queue_makes_the_next_export_wait() {
    let queue = queue(3);
    queue.accept(delivery(1, &["xyz"])).await;
    assert!(
        futures_ready(queue.accept(delivery(2, &["q"])))
            .await
            .is_none()
    );
    for exporter in ["a", "b"] {
        queue.lease(exporter).await.expect("waiting").delivered(AT);
    }
    drop(queue.settlement().await);
    assert_eq!(queue.accept(delivery(2, &["q"])).await, Accepted::New);
}

#[tokio::test]
async fn a_closed_queue_is_worked_off() {
    let queue = queue(100);
    queue.accept(delivery(1, &["x"])).await;
    queue.accept(delivery(2, &["y"])).await;
    queue.close();
    assert_eq!(queue.accept(delivery(3, &["z"])).await, Accepted::Closed);
    for exporter in ["a", "b"] {
        while let Some(lease) = queue.lease(exporter).await {
            lease.delivered(AT);
        }
    }
    let mut settled = 0;
    while let Some(settlement) = queue.settlement().await {
        settled += 1;
        drop(settlement);
    }
    assert_eq!(settled, 2);
}

#[tokio::test]
async fn a_split_request_goes_in_two_in_its_place() {
    let queue = queue(100);
    queue.accept(delivery(1, &["xy", "z"])).await;
    let mut lease = queue.lease("a").await.expect("waiting");
    lease.split_next(Bytes::from_static(b"x"), Bytes::from_static(b"y"));
    let mut sent = Vec::new();
    while let Some(request) = lease.next_request() {
        sent.push(request);
        lease.acknowledged();
    }
    assert_eq!(sent, ["x", "y", "z"]);
    lease.delivered(AT);
}

/// Polls once: some when ready, none when it would wait.
async fn futures_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
