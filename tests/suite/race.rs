//! Guarantees, with writers and several readers at the same time:
//!
//! - No older export replaces a newer one, and no partial file is ever visible.
//! - Each export is sent once, by one of several processes.
//! - A lock that another process holds delays no other export.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::conventions::of_trace;
use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::program::{PATIENCE, Program, Running};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

const NO_FILES: [PathBuf; 0] = [];

const ROUNDS: u32 = 2_000;

/// Pseudo-random numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Prepares a sidecar with a queue of its own.
fn sidecar(workspace: &Workspace, server: &FakeOtlp, name: &str) -> Program {
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let state = workspace.root().join(name);
    workspace.configured("run", &pipeline).arg("--state-dir").arg(state)
}

fn terminate(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}

fn round_of(path: &Path) -> Option<u64> {
    serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok()?.get("round")?.as_u64()
}

/// Writes exports into the same place many times, by rename or in place.
async fn write_over_and_over(workspace: &Workspace, in_place: bool) -> Snapshot {
    let directory = workspace.exports().join("out");
    let snapshot = workspace.export("out", &presets::one()).snapshot;
    let (path, aside) = (snapshot.path, directory.join(".onboarding-metadata.json.exporter"));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        let bytes = presets::one().with("round", json!(round)).metadata();
        if in_place {
            // Without a rename the file is incomplete for a while.
            let mut file = fs::File::create(&path).unwrap();
            for part in bytes.chunks(bytes.len() / 3 + 1) {
                file.write_all(part).unwrap();
            }
        } else {
            fs::write(&aside, &bytes).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
        // Usually the next export comes before the last one is stable. Sometimes there is time for
        // a write-back, and for a displaced file to be put back.
        let pause = if round % 50 == 49 { 150 } else { numbers.below(6) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if pause == 150 {
            assert_eq!(
                round_of(&path),
                Some(u64::from(round)),
                "an older export came back to stay"
            );
        } else if !in_place {
            assert!(round_of(&path).is_some(), "the file is torn in round {round}");
        }
    }
    // Take the identity of the last export before any process changes it.
    let mut last = presets::one().with("round", json!(ROUNDS)).metadata();
    last.push(b'\n');
    fs::write(&aside, &last).unwrap();
    let mut snapshot = Snapshot::of(&aside);
    fs::rename(&aside, &path).unwrap();
    snapshot.canonical = directory.canonicalize().unwrap().join(path.file_name().unwrap());
    snapshot.path = path;
    snapshot
}

fn strays(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains(".taskspan-")).collect()
}

/// A job writes thousands of exports into one place, faster than they can be sent. No older export
/// stays, no partial file is seen, the last export gets its own id, and no temp file is left.
#[tokio::test]
async fn an_export_that_is_replaced_continually_ends_with_its_own_id() {
    for in_place in [false, true] {
        let workspace = Workspace::new();
        let server = FakeOtlp::builder().start().await;
        let running = sidecar(&workspace, &server, "state-a").spawn();
        let last = write_over_and_over(&workspace, in_place).await;
        last.wait_for_trace_id(PATIENCE).await;
        terminate(running);
        assert_eq!(last.check_written_back(), [""; 0]);
        assert_eq!(last.check(&of_trace(&server.accepted(), &last.trace_id())), [""; 0]);
        assert_eq!(strays(&workspace.exports().join("out")), NO_FILES);
    }
}

/// The same with two sidecars and a sequence of `once`. In addition, the last export is sent once.
#[tokio::test]
async fn several_processes_give_each_export_one_id() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let sidecars = ["state-a", "state-b"].map(|name| sidecar(&workspace, &server, name).spawn());
    let last = write_over_and_over(&workspace, false).await;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    last.wait_for_trace_id(PATIENCE).await;
    sidecars.into_iter().for_each(terminate);
    assert_eq!(last.check_written_back(), [""; 0]);
    assert_eq!(last.check(&of_trace(&server.accepted(), &last.trace_id())), [""; 0]);
    assert_eq!(strays(&workspace.exports().join("out")), NO_FILES);
}

/// Two sidecars and `once`, each with its own queue, over the same exports. Each export is sent
/// once.
#[tokio::test]
async fn each_export_is_sent_by_one_of_them() {
    for mode in ["in_place", "beside"] {
        let workspace = Workspace::new();
        let server = FakeOtlp::builder().start().await;
        let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
        pipeline["receivers"]["export_dir"]["write_back"] = json!({"mode": mode});
        let run = |command: &str, name: &str| {
            let state = workspace.root().join(name);
            workspace.configured(command, &pipeline).arg("--state-dir").arg(state)
        };
        let sidecars = ["state-a", "state-b"].map(|name| run("run", name).spawn());
        let export = |n| workspace.export(&format!("{n:02}"), &presets::one()).snapshot;
        let snapshots: Vec<Snapshot> = (0..20).map(export).collect();
        run("once", "state-c").run().expect_code(0);
        let trace_ids: HashSet<String> = snapshots.iter().map(Snapshot::trace_id).collect();
        server.wait_for(|state| state.accepted.len() >= trace_ids.len(), PATIENCE).await;
        sidecars.into_iter().for_each(terminate);
        // Entries that are still queued have nothing left to do.
        for name in ["state-a", "state-b", "state-c"] {
            run("once", name).run().expect_code(0);
        }
        assert_eq!(server.accepted().len(), snapshots.len(), "{mode}");
        for snapshot in &snapshots {
            let own = of_trace(&server.accepted(), &snapshot.trace_id());
            assert_eq!(snapshot.check(&own), [""; 0]);
            assert_eq!(snapshot.is_untouched(), mode == "beside");
        }
    }
}

/// Another process holds the lock of one export. All others are delivered meanwhile, and this one
/// as soon as the lock is released.
#[tokio::test]
async fn an_export_that_another_process_holds_keeps_no_other_waiting() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let held = workspace.export("a", &presets::one()).snapshot;
    let lock = fs::File::open(&held.path).unwrap();
    lock.lock().unwrap();
    let running = sidecar(&workspace, &server, "state-a").spawn();
    for name in ["b", "c"] {
        workspace.export(name, &presets::one()).snapshot.wait_for_trace_id(PATIENCE).await;
    }
    assert!(held.is_untouched());
    drop(lock);
    held.wait_for_trace_id(PATIENCE).await;
    terminate(running);
    assert_eq!(server.accepted().len(), 3);
}

/// `rm -rf out && mkdir out && export`, a hundred times in a row, under two sidecars: a hundred
/// ids, each of a trace that was sent once.
#[tokio::test]
async fn a_directory_recreated_a_hundred_times_gives_a_hundred_ids() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let out = workspace.exports().join("out");
    pipeline["receivers"]["export_dir"]["directories"] = json!([out]);
    let sidecars = ["state-a", "state-b"].map(|name| {
        let state = workspace.root().join(name);
        workspace.configured("run", &pipeline).arg("--state-dir").arg(state).spawn()
    });
    let mut ids = HashSet::new();
    for _ in 0..100 {
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        fs::create_dir(&out).unwrap();
        let snapshot = workspace.export("out", &presets::one()).snapshot;
        ids.insert(snapshot.wait_for_trace_id(PATIENCE).await);
    }
    sidecars.into_iter().for_each(terminate);
    assert_eq!(ids.len(), 100);
    assert_eq!(server.accepted().len(), 100);
}
