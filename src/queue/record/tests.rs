use super::*;

fn head() -> Head {
    let source = FileVersion {
        path: "/x".into(),
        elsewhere: None,
        device: 0,
        inode: 0,
        size: 0,
        mtime_ns: 0,
        ctime_ns: None,
        sha256: [0; 32],
    };
    Head {
        trace_id: TraceId::of_export(std::path::Path::new("/x"), 0, b""),
        addition: None,
        receiver: String::new(),
        source,
        project_id: "p".into(),
        span_count: 1,
        requests: 3,
        bytes: 1,
        log_requests: 2,
        log_bytes: 1,
        first_seen: UnixNanos(1),
        written: false,
        write_back: WriteBackMode::InPlace,
        has_state_files: false,
        not_written: None,
    }
}

fn record(items: Vec<Item>) -> Record {
    Record { head: head(), items }
}

fn item(exporter: &str, required: bool, state: ItemState) -> Item {
    let to = Destination { exporter: exporter.into(), signal: Signal::Traces, required };
    Item { state, ..Item::new(&to, 0, &head()) }
}

fn delivered(at: u64) -> ItemState {
    ItemState::Delivered { at: UnixNanos(at) }
}

fn refused() -> ItemState {
    ItemState::Rejected(Rejection { reason: "no".into(), kind: RejectionKind::Refused })
}

#[test]
fn the_outcome_waits_for_the_required_exporters_only() {
    let outcome = |items| record(items).outcome(|exporter| exporter != "gone");
    let a = |state| item("a", true, state);
    let b = |state| item("b", false, state);
    assert_eq!(outcome(vec![a(ItemState::Waiting), b(delivered(5))]), None);
    assert_eq!(
        outcome(vec![a(delivered(5)), b(ItemState::Waiting)]),
        Some(Outcome::Delivered { at: UnixNanos(5) })
    );
    assert_eq!(
        outcome(vec![a(delivered(5)), item("c", true, delivered(9))]),
        Some(Outcome::Delivered { at: UnixNanos(9) })
    );
    assert!(matches!(
        outcome(vec![a(delivered(5)), item("c", true, refused())]),
        Some(Outcome::Rejected { exporter, .. }) if exporter == "c"
    ));
    assert_eq!(
        outcome(vec![a(delivered(5)), item("gone", true, ItemState::Waiting)]),
        Some(Outcome::Delivered { at: UnixNanos(5) }),
        "an exporter that is not configured any more holds nothing up"
    );
    assert_eq!(outcome(vec![b(delivered(5))]), None);
}

#[test]
fn a_dead_letter_is_never_removed() {
    let mut refused = record(vec![item("a", true, delivered(1)), item("b", false, refused())]);
    refused.head.written = true;
    assert!(refused.is_dead_letter() && !refused.is_over());
    let mut done = record(vec![item("a", true, delivered(1))]);
    assert!(!done.is_over());
    done.head.written = true;
    assert!(done.is_over());
}

#[test]
fn a_retry_does_not_recover_lost_spans() {
    let refused = |pending: Vec<Blob>, lost: Option<&str>, kind| {
        let rejection = Rejection { reason: "no".into(), kind };
        let rejected_spans = lost.map(str::to_owned);
        Item { pending, rejected_spans, ..item("a", true, ItemState::Rejected(rejection)) }
    };
    let again = |item: Item| {
        let item = item.again(&head());
        (item.pending.iter().map(|blob| blob.0).collect::<Vec<_>>(), item.rejected_spans)
    };
    use RejectionKind::{Incomplete, Refused};
    assert_eq!(again(refused(vec![Blob(2)], None, Refused)), (vec![2], None));
    let partly = refused(vec![Blob(2)], Some("3 spans"), Refused);
    assert_eq!(again(partly), (vec![0, 1, 2], None), "it is not known which spans are there");
    assert_eq!(again(refused(vec![], Some("3 spans"), Refused)), (vec![0, 1, 2], None));
    assert_eq!(again(refused(vec![], None, Incomplete)), (vec![], Some("no".into())));
}

#[test]
fn each_signal_has_its_own_requests() {
    let to = |signal| Destination { exporter: "a".into(), signal, required: true };
    let pending = |signal| Item::new(&to(signal), 0, &head()).pending;
    assert_eq!(pending(Signal::Traces), [Blob(0), Blob(1), Blob(2)]);
    assert_eq!(pending(Signal::Logs), [Blob(3), Blob(4)]);
}

#[test]
fn requests_in_flight_at_a_crash_are_in_doubt() {
    let mut sent = item("a", true, ItemState::InFlight);
    sent.recover();
    assert_eq!((sent.state, sent.may_have_arrived), (ItemState::Waiting, true));
    let mut waiting = item("a", true, ItemState::Waiting);
    waiting.recover();
    assert!(!waiting.may_have_arrived);
}

/// A queue of version 0.1 must still be readable, so the names on disk must not change.
#[test]
fn the_names_on_disk_are_those_of_version_0_1() {
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let json = |item: &Item| serde_json::to_value(item).expect("JSON");
    let waiting = json(&item("a", true, ItemState::Waiting));
    let names = [
        "exporter",
        "signal",
        "required",
        "pending",
        "next_blob",
        "made_at",
        "state",
        "touched",
        "resent",
        "attempts",
        "last_error",
        "next_attempt",
        "lost_spans",
    ];
    let mut sorted = names.map(str::to_owned).to_vec();
    let mut found = keys(&waiting);
    sorted.sort();
    found.sort();
    assert_eq!(found, sorted);
    assert_eq!(waiting["state"]["is"], "accepted");
    assert_eq!(json(&item("a", true, ItemState::InFlight))["state"]["is"], "delivering");
    assert_eq!(json(&item("a", true, delivered(1)))["state"]["is"], "delivered");
    assert_eq!(json(&item("a", true, refused()))["state"]["is"], "rejected");

    // Version 0.1 has no receiver and no state files.
    let head = serde_json::to_value(head()).expect("JSON");
    assert!(head.get("receiver").is_none() && head.get("has_state_files").is_none());
    let read: Head = serde_json::from_value(head).expect("a head");
    assert_eq!((read.receiver.as_str(), read.has_state_files), ("", false));
}

#[test]
fn records_survive_their_encoding() {
    let Record { head, items } = record(vec![item("a", true, refused())]);
    let json = serde_json::to_vec(&head).expect("JSON");
    assert_eq!(serde_json::from_slice::<Head>(&json).expect("a head"), head);
    let json = serde_json::to_vec(&items).expect("JSON");
    assert_eq!(serde_json::from_slice::<Vec<Item>>(&json).expect("items"), items);
}
