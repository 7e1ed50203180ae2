//! Guarantees:
//!
//! - A sidecar that is killed at any moment loses no export, and repeats a request only if its
//!   acknowledgement was not recorded.
//! - An export that the process died of twice is delivered after the others.
//! - An export that a kill left under the name of a temp file is put back and delivered.
//!
//! `cargo run --release --example soak` runs the same for longer.

#[path = "../../examples/soak/harness.rs"]
mod harness;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::support::exports::{METADATA, presets};
use crate::support::fake_otlp::{FakeOtlp, Protocol};
use crate::support::program::PATIENCE;
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// Exports appear, change and vanish. The endpoint accepts, delays, refuses or is down. The sidecar
/// is killed and restarted at random. In the end every export has its id and its whole trace
/// arrived; no other trace arrived; a request that arrived twice was not acknowledged before, or
/// the kill came before the acknowledgement was recorded.
#[tokio::test]
async fn kills_lose_nothing_and_repeat_nothing_without_an_excuse() {
    let report = harness::run(&harness::Options {
        binary: env!("CARGO_BIN_EXE_taskspan").into(),
        seed: 1,
        kills: 24,
    })
    .await;
    println!("{report}");
    assert_eq!(report.faults, [""; 0], "\n{}", report.end_of_log());
}

/// A job writes a newer export while the id of an older one is written back, and the sidecar is
/// killed at that moment, `ago`. The newer export is left under the name of a temp file. Returns
/// whether the next sidecar delivers it.
async fn displaced_export_is_delivered(ago: Duration) -> bool {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let older = workspace.export("job", &presets::one()).snapshot;
    workspace.once(&server, Protocol::Grpc).run().expect_code(0);

    let digest = |bytes: &[u8]| -> String {
        Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let born = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - ago;
    let (original, prepared) = (digest(&older.bytes), digest(&fs::read(&older.path).unwrap()));
    let born = born.as_secs();
    let aside = format!(".{METADATA}.taskspan-{born:x}-{original}-{prepared}-00000001.tmp");
    let newer = presets::typical().write_into(&workspace.root().join("newer"));
    for sibling in [&newer.manifest, &newer.context].into_iter().flatten() {
        fs::rename(sibling, older.path.with_file_name(sibling.file_name().unwrap())).unwrap();
    }
    fs::rename(&newer.metadata, older.path.with_file_name(aside)).unwrap();
    let newer = Snapshot { path: older.path, canonical: older.canonical, ..newer.snapshot };

    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, serde_json::Value::Null);
    let running = workspace.configured("run", &pipeline).spawn();
    // When this export is done, the other one was checked as well.
    let beside = workspace.export("beside", &presets::one()).snapshot;
    beside.wait_for_trace_id(PATIENCE).await;
    let arrived = server.wait_for(|state| state.accepted.len() == 3, PATIENCE);
    if tokio::time::timeout(Duration::from_secs(5), arrived).await.is_err() {
        return false;
    }
    running.wait_for_line(&newer.trace_id(), PATIENCE);
    newer.check_written_back().is_empty()
}

/// The kill was long ago. The newer export is put back, delivered, and gets its id.
#[tokio::test]
async fn an_export_that_a_kill_displaced_is_put_back() {
    assert!(displaced_export_is_delivered(Duration::from_secs(660)).await);
}

/// The kill was seconds ago. A file younger than that may belong to a write-back in progress, so it
/// is put back by a later scan.
#[tokio::test]
async fn an_export_that_a_kill_displaced_just_now_is_put_back() {
    assert!(displaced_export_is_delivered(Duration::from_secs(7)).await);
}

/// Leaves the note of a process that died while it read this export, after an earlier one did.
fn died_twice_of(export: &Path, state: &Path) {
    let name: String = Sha256::digest(export.as_os_str().as_encoded_bytes())[..16]
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    fs::create_dir_all(state.join("in-work")).unwrap();
    let note = serde_json::json!({"path": export, "deaths": 1, "in_work": true});
    fs::write(state.join("in-work").join(name), note.to_string()).unwrap();
}

#[tokio::test]
async fn an_export_that_the_process_died_of_twice_is_delivered_last() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let deadly = workspace.export("a-deadly", &presets::one()).snapshot;
    let good = workspace.export("good", &presets::typical()).snapshot;
    let state = workspace.root().join("state/taskspan");
    died_twice_of(&deadly.path, &state);
    let reason = "the process died 2 times while it read this file";
    let status = workspace.program("status").arg(workspace.exports()).run().expect_code(0);
    assert!(
        status.stdout.contains("quarantined") && status.stdout.contains(reason),
        "{}",
        status.stdout
    );

    let once = workspace.once(&server, Protocol::Grpc).run().expect_code(0);
    once.expect_log(&[reason, "it is read last, alone, after 1s"]);
    let spans = server.spans();
    let last = spans.last().unwrap().trace_id.iter().map(|byte| format!("{byte:02x}"));
    assert_eq!(last.collect::<String>(), deadly.trace_id(), "it comes first by name");
    assert_eq!(deadly.written_trace_id(), Some(deadly.trace_id()));
    assert_eq!(good.written_trace_id(), Some(good.trace_id()));
    assert_eq!(fs::read_dir(state.join("in-work")).unwrap().count(), 0);
}
