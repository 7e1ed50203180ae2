//! Measures the time of each step by itself:
//!
//! ```text
//! cargo bench --bench pure -- convert
//! ```
//!
//! benches/README.md explains each row.

#![allow(clippy::disallowed_methods, reason = "tests, benches and examples may block")]
// A bench may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/cases.rs"]
#[allow(dead_code)]
mod cases;

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;

use divan::counter::BytesCount;
use divan::{Bencher, bench};
use taskspan::base::ids::TraceId;
use taskspan::internals::Signal;
use taskspan::internals::WriteBackMode;
use taskspan::internals::load;
use taskspan::internals::{Destination, Enqueued, Location, NewEntry, Queue};
use tempfile::TempDir;

use cases::export::Language;
use cases::{Case, NOW};

/// The artifacts of a small and of a large project.
const SIZES: [usize; 2] = [15, 7_001];

fn main() {
    divan::main();
}

#[bench(args = SIZES)]
fn read_metadata(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let bencher = bencher.counter(BytesCount::new(case.files.metadata.len()));
    bencher.bench_local(|| case.onboarding());
}

#[bench(args = SIZES)]
fn read_manifest_yaml(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let bencher = bencher.counter(BytesCount::new(case.files.manifest.len()));
    bencher.bench_local(|| case.manifest());
}

#[bench(args = SIZES)]
fn read_manifest_json(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Json);
    let bencher = bencher.counter(BytesCount::new(case.files.manifest.len()));
    bencher.bench_local(|| case.manifest());
}

/// Parses both files with the libraries alone. No reader that uses them can be faster.
#[bench(args = SIZES)]
fn floor_yaml(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    bencher.bench_local(|| case.floor());
}

#[bench(args = SIZES)]
fn floor_json(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Json);
    bencher.bench_local(|| case.floor());
}

#[bench(args = SIZES)]
fn join(bencher: Bencher<'_, '_>, artifacts: usize) {
    let parsed = Case::new(artifacts, Language::Yaml).parsed();
    bencher.with_inputs(|| parsed.clone()).bench_local_values(cases::joined);
}

#[bench(args = SIZES)]
fn convert(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let plan = cases::joined(case.parsed());
    let (converter, trace_id) = (cases::converter(), case.trace_id());
    bencher.bench_local(|| cases::converted(&converter, black_box(&plan), trace_id));
}

/// Compare with `floor_yaml` and `floor_json`.
#[bench(args = SIZES)]
fn join_convert_encode(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let (parsed, trace_id) = (case.parsed(), case.trace_id());
    let converter = cases::converter();
    bencher.with_inputs(|| parsed.clone()).bench_local_values(|parsed| {
        let plan = cases::joined(parsed);
        cases::converted(&converter, &plan, trace_id)
    });
}

#[bench(args = SIZES)]
fn splice(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let bencher = bencher.counter(BytesCount::new(case.files.metadata.len()));
    bencher.bench_local(|| case.spliced());
}

/// Enqueues one export into a queue on disk, with fsync. Each sample has a new trace id.
#[bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn queue_commit(bencher: Bencher<'_, '_>, artifacts: usize) {
    let case = Case::new(artifacts, Language::Yaml);
    let plan = cases::joined(case.parsed());
    let conversion = cases::converted(&cases::converter(), &plan, case.trace_id());
    let requests = conversion.requests;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("any");
    std::fs::write(&path, "x").unwrap();
    let source = load(&path, 1_024).unwrap().source;
    let mut number = 0_u64;
    let mut next = || {
        number += 1;
        NewEntry {
            trace_id: TraceId::of_export(Path::new("/x"), 0, &number.to_be_bytes()),
            addition: None,
            receiver: "export_dir".to_owned(),
            source: source.clone(),
            project_id: plan.project.id.clone(),
            span_count: conversion.span_count,
            made_at: NOW,
            requests: requests.clone(),
            logs: Vec::new(),
            write_back: WriteBackMode::Off,
            state_files: None,
        }
    };
    let exporters = HashMap::from([("otlp".to_owned(), u64::MAX)]);
    let destinations =
        [Destination { exporter: "otlp".to_owned(), signal: Signal::Traces, required: true }];
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let queue = Queue::open(Location::Directory(state), &exporters, None).unwrap().queue;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bencher.with_inputs(&mut next).bench_local_values(|delivery| {
        let accepted = runtime.block_on(queue.enqueue(&delivery, &destinations));
        assert_eq!(accepted, Enqueued::New);
    });
}
