//! Guarantees:
//!
//! - Each transition applies in the states of the table, and changes nothing in others.
//! - The rows that a transition returns are exactly those that changed: a store that writes them
//!   has the record and every pending request.
//! - An entry is removed when it is dropped, or when it is written back and every exporter has
//!   delivered it.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::super::entry::{Destination, NewEntry};
use super::super::record::{Head, RejectionKind};
use super::*;
use crate::base::signal::Signal;
use crate::fs::carried::WriteBackMode;
use crate::fs::file::FileVersion;

/// Two exporters, of which the first is required; two requests.
fn record() -> (Record, Vec<Change>) {
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
    let entry = NewEntry {
        trace_id: TraceId::of_export(Path::new("/x"), 0, b""),
        addition: None,
        receiver: "export_dir".into(),
        source,
        project_id: "p".into(),
        span_count: 1,
        made_at: UnixNanos(1),
        requests: vec![Bytes::from_static(b"0"), Bytes::from_static(b"1")],
        logs: Vec::new(),
        write_back: WriteBackMode::InPlace,
        state_files: Some(Bytes::from_static(b"[]")),
    };
    let to = |exporter: &str, required| {
        let (exporter, signal) = (exporter.to_owned(), Signal::Traces);
        Destination { exporter, signal, required }
    };
    Record::of_new(&entry, &[to("a", true), to("b", false)])
}

fn rejection() -> Rejection {
    Rejection { reason: "no".into(), kind: RejectionKind::Refused }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn item_transitions() -> Vec<ItemTransition> {
    let now = Instant::now();
    vec![
        ItemTransition::MarkInFlight,
        ItemTransition::Acknowledge { rejected: None },
        ItemTransition::Acknowledge { rejected: Some("1 span".into()) },
        ItemTransition::Fail {
            reason: "away".into(),
            in_doubt: true,
            next_attempt: UnixNanos(9),
            now,
        },
        ItemTransition::Split([bytes("h"), bytes("i")]),
        ItemTransition::Replace { requests: vec![bytes("r")], made_at: UnixNanos(5) },
        ItemTransition::Resend(vec![bytes("s")]),
        ItemTransition::Deliver { at: UnixNanos(7) },
        ItemTransition::Reject(rejection()),
    ]
}

fn transitions() -> Vec<Transition> {
    let of_items = [0, 1, 2].into_iter().flat_map(|index| {
        item_transitions().into_iter().map(move |change| Transition::Item(index, change))
    });
    let tombstone = Some(TraceId::of_export(Path::new("/x"), 1, b""));
    let of_entry = [
        Transition::WriteBackFailed("read-only".into()),
        Transition::WrittenBack { tombstone: None },
        Transition::WrittenBack { tombstone },
        Transition::Retry(Retry::All),
        Transition::Retry(Retry::Required),
        Transition::Drop,
    ];
    of_items.chain(of_entry).collect()
}

#[test]
fn each_transition_applies_in_the_states_of_the_table() {
    let states = [
        (ItemState::Waiting, true),
        (ItemState::InFlight, true),
        (ItemState::Delivered { at: UnixNanos(7) }, false),
        (ItemState::Rejected(rejection()), false),
    ];
    for (state, is_open) in states {
        for transition in transitions() {
            let (mut record, _) = record();
            record.items[0].state = state.clone();
            record.items[1].state = state.clone();
            let before = record.clone();
            let is_rejected = matches!(state, ItemState::Rejected(_));
            let applies = match &transition {
                Transition::Item(index, _) => is_open && *index < 2,
                Transition::Retry(_) => is_rejected,
                _ => true,
            };
            let applied = record.apply(&transition);
            assert_eq!(applied.is_ok(), applies, "{state:?} {transition:?}");
            if !applies {
                assert_eq!(record, before, "{state:?} {transition:?}");
            }
        }
    }
}

#[test]
fn a_retry_of_required_exporters_leaves_the_others_alone() {
    let (mut record, _) = record();
    for item in &mut record.items {
        item.state = ItemState::Rejected(rejection());
    }
    assert_eq!(record.apply(&Transition::Retry(Retry::Required)), Ok(vec![Change::Item(0)]));
    assert!(!record.items[0].is_rejected() && record.items[1].is_rejected());
    assert_eq!(record.apply(&Transition::Retry(Retry::Required)), Err(NotApplicable));
    assert_eq!(record.apply(&Transition::Retry(Retry::All)), Ok(vec![Change::Item(1)]));
}

#[test]
fn an_entry_is_removed_when_nothing_is_left_to_do() {
    let (mut record, _) = record();
    let deliver = |index| Transition::Item(index, ItemTransition::Deliver { at: UnixNanos(7) });
    assert_eq!(record.apply(&deliver(0)), Ok(vec![Change::Item(0)]));
    let written = Transition::WrittenBack { tombstone: None };
    assert_eq!(record.apply(&written), Ok(vec![Change::Head]), "b has still to deliver");
    assert_eq!(record.apply(&deliver(1)), Ok(vec![Change::Remove]));

    let (mut record, _) = self::record();
    assert_eq!(record.apply(&deliver(1)), Ok(vec![Change::Item(1)]));
    let no_requests = vec![Change::Item(0), Change::RemoveBlobs];
    assert_eq!(record.apply(&deliver(0)), Ok(no_requests));
    assert_eq!(record.apply(&written), Ok(vec![Change::Remove]));
}

/// The rows that a store has of one entry.
#[derive(Debug, Default)]
struct Rows {
    head: Option<Head>,
    items: BTreeMap<usize, Item>,
    blobs: BTreeMap<Blob, Bytes>,
}

impl Rows {
    fn write(&mut self, record: &Record, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Head => self.head = Some(record.head.clone()),
                Change::Item(index) => {
                    self.items.insert(index, record.items[index].clone());
                }
                Change::PutBlob(blob, bytes) => drop(self.blobs.insert(blob, bytes)),
                Change::RemoveBlob(blob) => drop(self.blobs.remove(&blob)),
                Change::RemoveBlobs => {
                    self.blobs.retain(|blob, _| *blob == super::super::record::STATE_FILES);
                }
                Change::Remove => *self = Rows::default(),
                Change::Tombstone(_) => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn the_rows_that_are_written_are_the_record(steps in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let (mut record, created) = record();
        let mut rows = Rows::default();
        rows.write(&record, created);
        for step in steps {
            let all = transitions();
            let Ok(changes) = record.apply(step.get(&all)) else { continue };
            let is_removed = changes.contains(&Change::Remove);
            rows.write(&record, changes);
            if is_removed {
                prop_assert!(rows.head.is_none() && rows.items.is_empty() && rows.blobs.is_empty());
                break;
            }
            prop_assert_eq!(rows.head.as_ref(), Some(&record.head));
            prop_assert_eq!(rows.items.values().collect::<Vec<_>>(), record.items.iter().collect::<Vec<_>>());
            for blob in record.items.iter().flat_map(|item| &item.pending) {
                prop_assert!(rows.blobs.contains_key(blob), "{:?} is pending and not stored", blob);
            }
        }
    }
}
