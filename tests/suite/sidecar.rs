//! Guarantees:
//!
//! - `taskspan run` delivers every export of the jobs next to it, once, and writes its id.
//! - A file that is still being written is not read, and a version that is replaced is not sent.
//! - A restart resumes where the last run ended, after a kill too.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use notify::event::AccessKind;
use notify::{EventKind, RecursiveMode, Watcher};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::conventions::of_trace;

use crate::support::exports::presets;

use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};

use crate::support::program::{PATIENCE, Program, Running};

use crate::support::snapshot::Snapshot;

use crate::support::workspace::Workspace;

fn sidecar(workspace: &Workspace, server: &FakeOtlp) -> Program {
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    workspace.configured("run", &pipeline)
}

fn terminate(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}

/// Asserts that each export was sent once, as the conventions require, and has its id.
#[track_caller]
fn assert_delivered(server: &FakeOtlp, snapshots: &[Snapshot]) {
    for snapshot in snapshots {
        let own = of_trace(&server.accepted(), &snapshot.trace_id());
        assert_eq!(snapshot.check(&own), [""; 0], "{}", snapshot.path.display());
    }
}

#[tokio::test]
async fn exports_written_over_each_other_each_get_their_id() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let running = sidecar(&workspace, &server).spawn();
    let mut snapshots = Vec::new();
    for round in 0..8 {
        let presets = presets::all();
        let (_, export) = &presets[round % presets.len()];
        let snapshot = workspace.export("out", export).snapshot;
        let id = snapshot.wait_for_trace_id(PATIENCE).await;
        assert_eq!(id, snapshot.trace_id());
        assert_eq!(snapshot.check_written_back(), [""; 0]);
        let own = of_trace(&server.accepted(), &id);
        assert_eq!(snapshot.check(&own), [""; 0], "round {round}");
        snapshots.push(snapshot);
    }
    terminate(running);
    assert_eq!(server.attempts().len(), server.accepted().len());
}

#[tokio::test]
async fn exports_that_come_all_at_once_each_get_their_id() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let running = sidecar(&workspace, &server).spawn();
    let snapshots: Vec<_> = (0..40)
        .map(|n| workspace.export(&format!("job-{n}/deep/er"), &presets::typical()).snapshot)
        .collect();
    for snapshot in &snapshots {
        snapshot.wait_for_trace_id(PATIENCE).await;
        assert_eq!(snapshot.check_written_back(), [""; 0]);
    }
    terminate(running);
    assert_delivered(&server, &snapshots);
}

#[tokio::test]
async fn exports_from_before_the_start_are_found() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("early", &presets::one()).snapshot;
    let running = sidecar(&workspace, &server).spawn();
    snapshot.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_delivered(&server, &[snapshot]);
}

#[tokio::test]
async fn a_directory_may_appear_later_and_again() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let later = workspace.root().join("not/yet/there");
    pipeline["receivers"]["export_dir"]["directories"] = json!([later]);
    let running = workspace.configured("run", &pipeline).spawn();
    let mut snapshots = Vec::new();
    for _ in 0..2 {
        let snapshot = presets::one().write_into(&later).snapshot;
        snapshot.wait_for_trace_id(PATIENCE).await;
        snapshots.push(snapshot);
        fs::remove_dir_all(&later).unwrap();
    }
    terminate(running);
    for snapshot in &snapshots {
        assert!(!of_trace(&server.accepted(), &snapshot.trace_id()).is_empty());
    }
}

#[tokio::test]
async fn a_partial_file_is_read_when_it_is_complete() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    // Enough time to note the file's new mtime before it is delivered.
    pipeline["receivers"]["export_dir"]["settle"] = json!("1s");
    let whole = workspace.export("slow", &presets::typical()).snapshot;
    fs::write(&whole.path, &whole.bytes[..whole.bytes.len() / 2]).unwrap();
    let running = workspace.configured("run", &pipeline).spawn();
    // When this export is done, the partial file was checked as well.
    let beside = workspace.export("beside", &presets::one()).snapshot;
    beside.wait_for_trace_id(PATIENCE).await;
    assert!(of_trace(&server.accepted(), &whole.trace_id()).is_empty());

    fs::write(&whole.path, &whole.bytes).unwrap();
    let snapshot = Snapshot::of(&whole.path);
    snapshot.wait_for_trace_id(PATIENCE).await;
    assert_eq!(snapshot.check_written_back(), [""; 0]);
    terminate(running);
    assert_delivered(&server, &[beside, snapshot]);
}

/// An export is replaced while it is read. Only a stable version is delivered; nothing of the
/// former version is sent.
#[tokio::test]
async fn an_export_that_changes_while_it_is_read_is_not_ingested() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    // Reading takes a while, even if the machine is busy.
    let former = workspace.export("out", &presets::many(4_000)).snapshot;
    fs::remove_file(&former.path).unwrap();
    let (opened, is_opened) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let event = event.unwrap();
        let is_open = matches!(event.kind, EventKind::Access(AccessKind::Open(_)));
        let is_manifest = |path: &PathBuf| path.to_string_lossy().contains("-artifact-manifest.");
        if is_open && event.paths.iter().any(is_manifest) {
            let _ = opened.send(());
        }
    })
    .unwrap();
    watcher.watch(former.path.parent().unwrap(), RecursiveMode::NonRecursive).unwrap();
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["settle"] = json!("1s");
    let running = workspace.configured("run", &pipeline).spawn();
    // The sidecar is running and idle.
    workspace.export("beside", &presets::one()).snapshot.wait_for_trace_id(PATIENCE).await;

    let aside = former.path.with_extension("aside");
    fs::write(&aside, &former.bytes).unwrap();
    fs::rename(&aside, &former.path).unwrap();
    let quiet = Instant::now();
    tokio::task::spawn_blocking(move || is_opened.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    let former = Snapshot::of(&former.path);
    let latter = workspace.export("out", &presets::typical()).snapshot;
    let was_quiet = quiet.elapsed() >= Duration::from_secs(1);
    let id = latter.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_eq!(id, latter.trace_id());
    // On a machine so slow that the file was stable, it is delivered rightly.
    assert!(was_quiet || of_trace(&server.accepted(), &former.trace_id()).is_empty());
    assert_delivered(&server, &[latter]);
}

#[tokio::test]
async fn an_interrupted_delivery_is_finished_by_the_next_run() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().forever(Fault::unavailable(Protocol::Grpc)).start().await;
    let snapshot = workspace.export("a", &presets::typical()).snapshot;
    let running = sidecar(&workspace, &server).spawn();
    server.wait_for(|state| state.attempts.len() > 1, PATIENCE).await;
    terminate(running);
    assert!(snapshot.is_untouched());

    let address = server.stop();
    let server = FakeOtlp::builder().at(address).start().await;
    let running = sidecar(&workspace, &server).spawn();
    snapshot.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_delivered(&server, &[snapshot]);
}

#[tokio::test]
async fn a_stalled_delivery_does_not_hold_the_shutdown_up() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().forever(Fault::Stall).start().await;
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let running = sidecar(&workspace, &server).spawn();
    server.wait_for(|state| !state.attempts.is_empty(), PATIENCE).await;
    terminate(running);
    assert!(snapshot.is_untouched());
}
#[tokio::test]
async fn a_killed_sidecar_loses_nothing_and_repeats_nothing_acknowledged() {
    let workspace = Workspace::new();
    // The first request of the trace is acknowledged; the second one hangs when the kill comes.
    let server = FakeOtlp::builder().script([Fault::Ok]).forever(Fault::Stall).start().await;
    let snapshot = workspace.export("a", &presets::many(2500)).snapshot;
    let mut running = sidecar(&workspace, &server).spawn();
    server.wait_for(|state| state.attempts.len() == 2, PATIENCE).await;
    running.kill9();
    assert!(snapshot.is_untouched());

    let mut accepted = server.accepted();
    let address = server.stop();
    let server = FakeOtlp::builder().at(address).start().await;
    let running = sidecar(&workspace, &server).spawn();
    snapshot.wait_for_trace_id(Duration::from_secs(120)).await;
    terminate(running);
    accepted.extend(server.accepted());
    let mut ids: Vec<_> = crate::support::fake_otlp::spans_of(&accepted)
        .into_iter()
        .map(|span| (span.trace_id, span.span_id))
        .collect();
    let sent = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), sent, "spans were sent twice");
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}
