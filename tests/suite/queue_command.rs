//! Guarantees:
//!
//! - `taskspan queue` has the same results with a running sidecar (over its control socket) and
//!   without one (from the store).
//! - `retry` delivers a dead letter as soon as the server accepts it.
//! - `drop` forgets an export and leaves its file unchanged; it does not come back after a restart.
//! - A wrong number, a missing queue and a corrupt store are errors, never an empty list.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::conventions::of_trace;
use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{Output, PATIENCE, Running};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// The server's reason for its refusal.
const REASON: &str = "no entry for shops";

/// A queue with one refused export, and one that waits for an endpoint that is down.
struct Held {
    workspace: Workspace,
    pipeline: Value,
    address: SocketAddr,
    refused: Snapshot,
    waiting: Snapshot,
    /// `None` after the sidecar was stopped.
    running: Option<Running>,
}

impl Held {
    async fn new(sidecar: Sidecar) -> Self {
        let workspace = Workspace::new();
        let refusal = Fault::invalid(Protocol::Grpc).with_message(REASON);
        let server = FakeOtlp::builder().forever(refusal).start().await;
        let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
        let running = workspace.configured("run", &pipeline).spawn();
        let refused = workspace.export("refused", &presets::typical()).snapshot;
        running.wait_for_line("export rejected", PATIENCE);
        let address = server.stop();
        let waiting = workspace.export("waiting", &presets::one()).snapshot;
        running.wait_for_line("endpoint is down", PATIENCE);
        let mut held =
            Self { workspace, pipeline, address, refused, waiting, running: Some(running) };
        if sidecar == Sidecar::Stopped {
            held.stop();
        }
        held
    }

    fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.signal(Signal::TERM);
        let code = running.wait(PATIENCE);
        running.output(code).expect_code(0);
    }

    /// Starts the sidecar again with a working endpoint, until nothing is left to deliver.
    async fn deliver_what_is_left(&mut self, sidecar: Sidecar) -> FakeOtlp {
        if sidecar == Sidecar::Running {
            self.stop();
        }
        let server = FakeOtlp::builder().at(self.address).start().await;
        // The first scan finds this export last.
        let last = self.workspace.export("z", &presets::one()).snapshot;
        self.running = Some(self.workspace.configured("run", &self.pipeline).spawn());
        last.wait_for_trace_id(PATIENCE).await;
        self.stop();
        server
    }

    fn queue(&self, args: &[&str]) -> Output {
        self.workspace.program("queue").args(args).run()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.queue(&[args, &["--format", "json"]].concat());
        serde_json::from_str(&output.expect_code(0).stdout).unwrap()
    }

    /// Returns the trace ids and states of all entries, in the order of the list.
    fn states(&self) -> Vec<(String, String)> {
        let listed = self.json(&["list"]);
        let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
        let listed = listed.as_array().unwrap().iter();
        listed.map(|one| (text(one, "trace_id"), text(one, "state"))).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecar {
    Running,
    Stopped,
}

const EITHER_WAY: [Sidecar; 2] = [Sidecar::Running, Sidecar::Stopped];

/// `list` has every export in order of arrival, with its state, as a table and as JSON.
#[tokio::test]
async fn list_shows_every_entry() {
    for sidecar in EITHER_WAY {
        let held = Held::new(sidecar).await;
        let traces = [held.refused.trace_id(), held.waiting.trace_id()];
        let states = held.states();
        assert_eq!(states[0], (traces[0].clone(), "rejected".to_owned()));
        assert_eq!(states[1].0, traces[1]);
        let in_between = ["accepted", "delivering"];
        assert!(in_between.contains(&states[1].1.as_str()), "{states:?}");
        assert_eq!(states.len(), 2);

        let listed = held.json(&["list"]);
        assert_eq!(listed[0]["path"], json!(held.refused.path));
        assert_eq!(listed[0]["project_id"], "shop");
        assert_eq!(listed[0]["written_back"], false);
        let table = held.queue(&["list"]).expect_code(0).stdout;
        let lines: Vec<&str> = table.lines().collect();
        for column in ["ID", "STATE", "TRACE", "SPANS", "PATH"] {
            assert!(lines[0].contains(column), "{table}");
        }
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].contains("rejected") && lines[1].contains(&traces[0]));
        assert!(lines[2].contains(&traces[1]));
        assert!(lines[2].ends_with(held.waiting.path.to_str().unwrap()));
    }
}

/// `show` accepts a number or the start of a trace id, and has the server's exact reason.
#[tokio::test]
async fn show_gives_the_reason() {
    for sidecar in EITHER_WAY {
        let held = Held::new(sidecar).await;
        let number = held.json(&["list"])[0]["id"].to_string();
        for id in [number.as_str(), &held.refused.trace_id()[..12]] {
            let shown = held.json(&["show", id]);
            assert_eq!(shown["trace_id"], json!(held.refused.trace_id()));
            assert_eq!(shown["exporters"][0]["exporter"], "otlp_grpc");
            assert_eq!(shown["exporters"][0]["state"], "rejected");
            let error = shown["exporters"][0]["last_error"].as_str().unwrap();
            assert!(error.contains(REASON), "{error}");
            let text = held.queue(&["show", id]).expect_code(0).stdout;
            assert!(text.contains(REASON) && text.contains("rejected"), "{text}");
        }
    }
}

/// `verify` reads every queued request.
#[tokio::test]
async fn verify_reads_everything_back() {
    for sidecar in EITHER_WAY {
        let held = Held::new(sidecar).await;
        let verified = held.json(&["verify"]);
        let expected = (&json!(2), &json!(2), &json!([]));
        let found = (&verified["exports"], &verified["requests"], &verified["missing"]);
        assert_eq!(found, expected);
        let sizes = held.json(&["list"]);
        let sizes = sizes.as_array().unwrap().iter();
        let bytes: u64 = sizes.map(|one| one["bytes"].as_u64().unwrap()).sum();
        assert_eq!(verified["bytes"], bytes);
        let text = held.queue(&["verify"]).expect_code(0).stdout;
        assert!(text.contains("2 export(s), 2 request(s)"), "{text}");
    }
}

/// `retry` after the server was repaired: the export is delivered and gets its id.
#[tokio::test]
async fn a_retried_dead_letter_is_delivered() {
    for sidecar in EITHER_WAY {
        for which in [["retry", "--all"], ["retry", "ID"]] {
            let mut held = Held::new(sidecar).await;
            let server = FakeOtlp::builder().at(held.address).start().await;
            let number = held.json(&["list"])[0]["id"].to_string();
            let args = which.map(|arg| if arg == "ID" { number.as_str() } else { arg });
            let said = held.queue(&args).expect_code(0).stdout;
            assert!(said.contains("1 export(s)"), "{said}");
            if sidecar == Sidecar::Stopped {
                assert!(held.states().iter().all(|(_, state)| state == "accepted"));
                held.running = Some(held.workspace.configured("run", &held.pipeline).spawn());
            }
            for snapshot in [&held.refused, &held.waiting] {
                snapshot.wait_for_trace_id(PATIENCE).await;
                assert_eq!(snapshot.check_written_back(), [""; 0]);
            }
            held.stop();
            assert_eq!(server.accepted().len(), 2);
            assert_eq!(held.states(), []);
            let text = held.queue(&["list"]).expect_code(0).stdout;
            assert_eq!(text, "the queue is empty\n");
        }
    }
}

/// `drop` forgets a refused export. Its file is unchanged, and waiting exports are not affected.
#[tokio::test]
async fn a_dropped_dead_letter_leaves_its_file_unchanged() {
    for sidecar in EITHER_WAY {
        let held = Held::new(sidecar).await;
        let dropped = held.json(&["drop", &held.refused.trace_id()]);
        assert_eq!(dropped.as_array().unwrap().len(), 1);
        assert!(held.refused.is_untouched());
        let states = held.states();
        assert_eq!(states.len(), 1, "{states:?}");
        assert_eq!(states[0].0, held.waiting.trace_id());
    }
}

/// A dropped export does not come back after a restart, although its file still has no id.
#[tokio::test]
async fn dropped_exports_stay_dropped() {
    for sidecar in EITHER_WAY {
        let mut held = Held::new(sidecar).await;
        held.queue(&["drop", "--all"]).expect_code(0);
        let server = held.deliver_what_is_left(sidecar).await;
        assert!(of_trace(&server.accepted(), &held.refused.trace_id()).is_empty());
        assert!(held.refused.is_untouched());
    }
}

/// An export that waits for an endpoint is dropped at once, also while the sidecar runs, and never
/// sent.
#[tokio::test]
async fn waiting_entries_can_be_dropped_by_force() {
    for sidecar in EITHER_WAY {
        let mut held = Held::new(sidecar).await;
        let output = held.queue(&["drop", "--force", &held.waiting.trace_id()]).expect_code(0);
        assert_eq!(output.stdout, "1 export(s) forgotten\n");
        assert_eq!(held.states().len(), 1);
        let server = held.deliver_what_is_left(sidecar).await;
        assert!(of_trace(&server.accepted(), &held.waiting.trace_id()).is_empty());
        assert!(held.waiting.is_untouched());
    }
}

/// An unknown number, an export that was not refused, and a directory without a queue are errors
/// with exit code 1. Nothing is changed.
#[tokio::test]
async fn an_impossible_command_is_an_error() {
    for sidecar in EITHER_WAY {
        let held = Held::new(sidecar).await;
        let before = held.states();
        for action in ["show", "retry", "drop"] {
            let output = held.queue(&[action, "4711"]).expect_code(1);
            output.expect_log(&["no export `4711`"]);
        }
        for action in ["retry", "drop"] {
            let output = held.queue(&[action, &held.waiting.trace_id()]);
            output.expect_code(1).expect_log(&["was not refused"]);
        }
        assert_eq!(before.len(), held.states().len());

        let nowhere = held.workspace.root().join("nowhere");
        let output = held.queue(&["list", "--state-dir", nowhere.to_str().unwrap()]);
        output.expect_code(1).expect_log(&["no queue here"]);
        assert!(!nowhere.exists());
    }
}

/// A killed sidecar left its socket. The store is opened directly.
#[tokio::test]
async fn a_socket_that_a_killed_sidecar_left_is_no_obstacle() {
    let mut held = Held::new(Sidecar::Running).await;
    held.running.take().unwrap().kill9();
    let socket = held.workspace.root().join("state/taskspan/control.sock");
    assert!(socket.exists());
    assert_eq!(held.states().len(), 2);
}

/// `queue -c` finds the queue's directory in the configuration.
#[tokio::test]
async fn the_configuration_says_where_the_queue_is() {
    let mut held = Held::new(Sidecar::Stopped).await;
    let state = held.workspace.root().join("state/taskspan");
    let elsewhere = held.workspace.root().join("elsewhere");
    fs::rename(state, &elsewhere).unwrap();
    held.pipeline["extensions"] = json!({"file_storage": {"directory": elsewhere}});
    held.pipeline["service"]["extensions"] = json!(["file_storage"]);
    let list = held.workspace.configured("queue", &held.pipeline);
    let output = list.args(&["list", "--format", "json"]).run().expect_code(0);
    let listed: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

/// `queue list` reports a corrupt store; an empty list would be wrong.
#[tokio::test]
async fn a_corrupt_store_is_not_an_empty_queue() {
    let held = Held::new(Sidecar::Stopped).await;
    let store = held.workspace.root().join("state/taskspan/queue.redb");
    fs::write(&store, b"this is no store").unwrap();
    let output = held.queue(&["list"]);
    output.expect_log(&["corrupt"]);
}
