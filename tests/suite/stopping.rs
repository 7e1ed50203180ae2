//! Guarantees:
//!
//! - SIGTERM lets requests in flight finish, and their ids are written.
//! - A second signal ends the program at once; undelivered exports stay in the queue.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{PATIENCE, Running};
use crate::support::workspace::Workspace;

async fn sending(server: &FakeOtlp, workspace: &Workspace, shutdown_timeout: &str) -> Running {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["service"]["shutdown_timeout"] = json!(shutdown_timeout);
    pipeline["exporters"]["otlp_grpc"]["timeout"] = json!("10m");
    let running = workspace.configured("run", &pipeline).spawn();
    server.wait_for(|state| !state.attempts.is_empty(), PATIENCE).await;
    running
}

/// SIGTERM while the server is slow to answer. The request is finished, and its id written, before
/// the program ends.
#[tokio::test]
async fn a_request_in_flight_is_finished() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let server = FakeOtlp::builder().forever(Fault::Slow(Duration::from_secs(1))).start().await;
    let mut running = sending(&server, &workspace, "30s").await;
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
    assert_eq!(server.attempts().len(), 1);
}

/// SIGTERM while the server never answers, and then a second one. The second one ends the program
/// at once, and the export stays in the queue.
#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let server = FakeOtlp::builder().forever(Fault::Stall).start().await;
    let mut running = sending(&server, &workspace, "10m").await;
    running.signal(Signal::TERM);
    running.wait_for_line("a second signal ends at once", PATIENCE);
    // A signal soon after the first is the same wish; only a later one ends the program.
    running.signal(Signal::INT);
    tokio::time::sleep(Duration::from_millis(600)).await;
    running.signal(Signal::TERM);
    assert_eq!(running.wait(PATIENCE), 128 + 15, "not 130, of the earlier signal");
    assert!(snapshot.is_untouched());
    let list = workspace.program("queue").args(&["list", "--format", "json"]).run().expect_code(0);
    let held: Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(held[0]["trace_id"], json!(snapshot.trace_id()));
}

/// Opening a FIFO in a watched directory waits for its other end, like a hung mount for its server.
/// A command with a time limit ends all the same.
#[tokio::test]
async fn a_blocked_command_ends_after_its_time_limit() {
    let workspace = Workspace::new();
    let fifo = workspace.root().join("ca.pem");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut pipeline = workspace.pipeline("https://127.0.0.1:9", Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_grpc"]["tls"] = json!({"ca_file": fifo});
    let run = workspace.configured("once", &pipeline).args(&["--timeout", "100ms"]).run();
    run.expect_code(1).expect_log(&["it did not end in time"]);
}
