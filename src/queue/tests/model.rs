//! Compares the queue with a model in memory, with restarts and crashes in between.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::disk::Disk;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    /// Lease the oldest entry, acknowledge up to this many requests, and drop the lease.
    Acknowledge(u8),
    /// Lease the oldest entry and deliver it.
    Deliver,
    Reject,
    Settle,
    /// The write-back of the oldest delivered entry fails, and may be retried at once.
    FailWriteBack,
    /// The request in flight fails.
    Fail,
    /// The next request is split into two.
    Split,
    Retry,
    /// An operator drops one of the entries, in any state.
    Drop(u8),
    /// Close regularly, and open again.
    Reopen,
    /// A crash with a request in flight: everything that was not fsynced is lost.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..12).prop_map(Step::Accept),
        3 => (1_u8..4).prop_map(Step::Acknowledge),
        3 => Just(Step::Deliver),
        1 => Just(Step::Reject),
        2 => Just(Step::Settle),
        1 => Just(Step::FailWriteBack),
        1 => Just(Step::Fail),
        1 => Just(Step::Split),
        1 => Just(Step::Retry),
        1 => any::<u8>().prop_map(Step::Drop),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..25)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Modelled {
    number: u8,
    /// Pending requests, in order.
    pending: Vec<&'static str>,
    may_have_arrived: bool,
    delivered: bool,
    rejected: bool,
}

const REQUESTS: [&str; 3] = ["r0", "r1", "r2"];

/// The expected entries, in order of arrival.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    held: BTreeMap<u64, Modelled>,
    delivered_in_this_run: Vec<u8>,
    dropped: Vec<u8>,
}

impl Model {
    fn waiting(&mut self) -> Option<&mut Modelled> {
        self.held.values_mut().find(|one| !one.delivered && !one.rejected)
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut disk = Disk::default();
    let mut ready = disk.queue();
    let mut model = Model::default();
    for step in steps {
        let queue = ready.queue.clone();
        match step {
            Step::Accept(number) => {
                let known = model.held.values().any(|one| one.number == number)
                    || model.delivered_in_this_run.contains(&number)
                    || model.dropped.contains(&number);
                let accepted = queue.enqueue(&delivery(number, &REQUESTS), &to(&["a"])).await;
                prop_assert_eq!(accepted == Enqueued::New, !known);
                if !known {
                    let pending = REQUESTS.to_vec();
                    let one = Modelled { number, pending, ..Modelled::default() };
                    model.held.insert(model.next, one);
                    model.next += 1;
                }
            }
            Step::Acknowledge(count) => {
                let Some(one) = model.waiting() else { continue };
                let mut lease = queue.lease("a").await.expect("the model has one");
                lease.mark_in_flight().await.expect("held");
                one.may_have_arrived = true;
                for _ in 0..count {
                    if lease.next_request().await.expect("held").is_none() {
                        break;
                    }
                    lease.acknowledge(None).await.expect("held");
                    one.pending.remove(0);
                }
            }
            Step::Deliver => {
                let Some(one) = model.waiting() else { continue };
                let mut lease = queue.lease("a").await.expect("the model has one");
                let left = lease.pending_requests().await.expect("held");
                let expected: Vec<Bytes> =
                    one.pending.iter().map(|text| Bytes::from(*text)).collect();
                prop_assert_eq!(left, expected);
                prop_assert_eq!(lease.head().source.sha256[0], one.number);
                prop_assert_eq!(lease.item().may_have_arrived, one.may_have_arrived);
                one.delivered = true;
                lease.complete(AT).await.durable().await.expect("held");
            }
            Step::Reject => {
                let Some(one) = model.waiting() else { continue };
                one.rejected = true;
                let lease = queue.lease("a").await.expect("the model has one");
                lease.dead_letter(no()).await.durable().await.expect("held");
            }
            Step::Settle => {
                let first = model.held.iter().find(|(_, one)| one.delivered);
                let Some((seq, number)) = first.map(|(seq, one)| (*seq, one.number)) else {
                    continue;
                };
                loop {
                    let settlement = queue.completion().await.expect("the model has one");
                    if matches!(settlement.outcome, Outcome::Delivered { .. }) {
                        prop_assert_eq!(settlement.head.source.sha256[0], number);
                        settlement.written_back(None).await;
                        break;
                    }
                    settlement.reported();
                }
                model.held.remove(&seq);
                model.delivered_in_this_run.push(number);
            }
            Step::FailWriteBack => {
                let first = model.held.iter().find(|(_, one)| one.delivered);
                let Some(number) = first.map(|(_, one)| one.number) else { continue };
                loop {
                    let completion = queue.completion().await.expect("the model has one");
                    if matches!(completion.outcome, Outcome::Delivered { .. }) {
                        prop_assert_eq!(completion.head.source.sha256[0], number);
                        let now = tokio::time::Instant::now();
                        completion.write_back_failed("read-only", now, false).await;
                        break;
                    }
                    completion.reported();
                }
            }
            Step::Fail => {
                let Some(one) = model.waiting() else { continue };
                let mut lease = queue.lease("a").await.expect("the model has one");
                lease.mark_in_flight().await.expect("held");
                lease.fail("away", false, UnixNanos(1)).await.expect("held");
                prop_assert_eq!(lease.item().may_have_arrived, one.may_have_arrived);
            }
            Step::Split => {
                let Some(one) = model.waiting() else { continue };
                if one.pending.is_empty() {
                    continue;
                }
                let mut lease = queue.lease("a").await.expect("the model has one");
                let (first, second) = (Bytes::from_static(b"h0"), Bytes::from_static(b"h1"));
                lease.split_next(first, second).await.expect("held");
                one.pending.splice(..1, ["h0", "h1"]);
            }
            Step::Drop(index) => {
                let held: Vec<u64> = model.held.keys().copied().collect();
                let Some(&seq) = held.get(usize::from(index) % held.len().max(1)) else { continue };
                prop_assert_eq!(queue.drop_entry(seq, true, soon()).await, Ok(true));
                let one = model.held.remove(&seq).expect("held");
                model.dropped.push(one.number);
            }
            Step::Retry => {
                let Some((seq, one)) = model.held.iter_mut().find(|(_, one)| one.rejected) else {
                    continue;
                };
                one.rejected = false;
                prop_assert_eq!(queue.retry(*seq).await, Ok(true));
            }
            Step::Reopen | Step::Crash => {
                let mut found = disk.clone();
                if matches!(step, Step::Crash) {
                    if let Some(one) = model.waiting() {
                        let mut lease = queue.lease("a").await.expect("the model has one");
                        lease.mark_in_flight().await.expect("held");
                        one.may_have_arrived = true;
                        found = disk.after_a_crash();
                        drop(lease);
                    } else {
                        found = disk.after_a_crash();
                    }
                    // Closing the store writes to the disk. After a crash these writes must not
                    // exist.
                }
                drop(queue);
                end(ready);
                disk = found;
                ready = disk.queue();
                model.delivered_in_this_run.clear();
                model.next = model.held.keys().last().map_or(0, |last| last + 1);
                let dead = model.held.values().filter(|one| one.rejected).count();
                prop_assert_eq!(ready.dead_letters, dead);
                prop_assert_eq!(ready.waiting, model.held.len() - dead);
                prop_assert!(ready.quarantined.is_none());
            }
        }
    }
    let listed: Vec<u64> = ready.queue.list().iter().map(|one| one.id).collect();
    prop_assert_eq!(listed, model.held.keys().copied().collect::<Vec<_>>());
    let verified = ready.queue.verify().await.expect("readable");
    prop_assert_eq!(verified.missing, Vec::<String>::new());
    end(ready);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_queue_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(run(steps))?;
    }
}
