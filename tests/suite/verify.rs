//! Guarantees:
//!
//! - The id is written when the backend has every span, not when it acknowledges them.
//! - Missing spans are sent once more. If they are still missing, the export is `incomplete`,
//!   without an id.
//! - A backend that does not answer has not lost anything: there is neither an id nor a resend.
//! - Verification of one export delays no other, and has a time limit of its own.
//! - Of the exporter's headers, only the tenant is sent to the backend's API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Protocol, spans_of};
use crate::support::fake_tempo::{Api, FakeTempo, Storage};
use crate::support::program::{Output, PATIENCE};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// How long the sidecar looks for the spans.
const LOOK: &str = "1s";

/// One export, and a backend that can be queried.
struct Proof {
    workspace: Workspace,
    snapshot: Snapshot,
    otlp: Arc<FakeOtlp>,
    tempo: FakeTempo,
    pipeline: Value,
}

impl Proof {
    async fn new(protocol: Protocol, api: Api, storage: Storage) -> Self {
        let workspace = Workspace::new();
        let snapshot = workspace.export("a", &presets::typical()).snapshot;
        let otlp = Arc::new(FakeOtlp::builder().start().await);
        let tempo = FakeTempo::start(&otlp, api, storage).await;
        let verify = json!({"verify": {"endpoint": tempo.endpoint(), "timeout": LOOK}});
        let pipeline = workspace.pipeline(otlp.endpoint(), protocol, verify);
        Self { workspace, snapshot, otlp, tempo, pipeline }
    }

    fn once(&self) -> Output {
        self.workspace.configured("once", &self.pipeline).run()
    }

    fn listed(&self) -> Value {
        let list = self.workspace.program("queue").args(&["list", "--format", "json"]);
        serde_json::from_str(&list.run().expect_code(0).stdout).unwrap()
    }

    #[track_caller]
    fn assert_written_back(&self) {
        assert_eq!(self.snapshot.check_written_back(), [""; 0]);
        assert_eq!(self.listed(), json!([]));
    }
}

fn span_ids(request: &ExportTraceServiceRequest) -> Vec<Vec<u8>> {
    let spans = spans_of(std::slice::from_ref(request));
    spans.into_iter().map(|span| span.span_id).collect()
}

/// The backend has every span, and shows it in one version of its API or the other. The id is
/// written, and nothing is sent again.
#[tokio::test]
async fn a_complete_trace_gets_its_id() {
    for (protocol, api) in [(Protocol::Grpc, Api::V2), (Protocol::Http, Api::V1)] {
        let proof = Proof::new(protocol, api, Storage::All).await;
        proof.once().expect_code(0);
        proof.assert_written_back();
        assert_eq!(proof.snapshot.check(&proof.otlp.accepted()), [""; 0]);
        let paths: Vec<String> = proof.tempo.queries().into_iter().map(|it| it.path).collect();
        let trace_id = proof.snapshot.trace_id();
        let v2 = format!("/api/v2/traces/{trace_id}");
        let v1 = format!("/api/traces/{trace_id}");
        match api {
            Api::V2 => assert_eq!(paths, [v2]),
            Api::V1 => assert_eq!(paths, [v2, v1]),
        }
    }
}

/// The backend acknowledges, and then lacks some spans, also after the second time. There is no id;
/// the export is `incomplete`; the log and the queue have the number of missing spans; the exit
/// code is 3. Only the missing spans were sent once more.
#[tokio::test]
async fn a_trace_lost_after_the_acknowledgement_gets_no_id() {
    for api in [Api::V2, Api::V1] {
        let proof = Proof::new(Protocol::Grpc, api, Storage::Loses(3)).await;
        let output = proof.once().expect_code(3);
        assert!(proof.snapshot.is_untouched());
        let requests = proof.otlp.accepted();
        assert_eq!(requests.len(), 2);
        let sent = span_ids(&requests[0]);
        assert_eq!(span_ids(&requests[1]), sent[..3]);
        let numbers = format!("{} of {}", sent.len() - 3, sent.len());
        output.expect_log(&[numbers.as_str()]);
        let listed = proof.listed();
        assert_eq!(listed[0]["state"], "incomplete");
        let error = listed[0]["exporters"][0]["last_error"].as_str().unwrap();
        assert!(error.contains(&numbers), "{error}");
    }
}

/// The backend lost the whole trace, or is the wrong one. The trace is sent once more, and is then
/// incomplete, with a hint at the URL.
#[tokio::test]
async fn a_trace_that_was_lost_completely_is_sent_once_more() {
    let proof = Proof::new(Protocol::Grpc, Api::V2, Storage::Loses(usize::MAX)).await;
    let output = proof.once().expect_code(3);
    output.expect_log(&["is it the right address and tenant?"]);
    assert!(proof.snapshot.is_untouched());
    let requests = proof.otlp.accepted();
    assert_eq!(requests.len(), 2);
    assert_eq!(span_ids(&requests[0]), span_ids(&requests[1]));
}

/// Spans are lost the first time only. They alone are sent again, once, and then the id is written.
#[tokio::test]
async fn spans_that_were_lost_once_are_sent_once_more() {
    for protocol in Protocol::BOTH {
        let proof = Proof::new(protocol, Api::V2, Storage::LosesAtFirst(2)).await;
        proof.once().expect_code(0);
        proof.assert_written_back();
        let requests = proof.otlp.accepted();
        assert_eq!(requests.len(), 2, "{protocol:?}");
        assert_eq!(proof.snapshot.check(&requests[..1]), [""; 0]);
        assert_eq!(span_ids(&requests[1]), span_ids(&requests[0])[..2]);
        // The resent spans are the same, ids included.
        let first = spans_of(&requests[..1]);
        assert_eq!(spans_of(&requests[1..]), first[..2]);
    }
}

/// An operator repairs the backend and retries an incomplete export. It is verified again, not sent
/// again, and gets its id.
#[tokio::test]
async fn an_incomplete_export_can_be_read_again() {
    let proof = Proof::new(Protocol::Grpc, Api::V2, Storage::Loses(1)).await;
    proof.once().expect_code(3);
    let sent = proof.otlp.accepted().len();
    proof.tempo.set_storage(Storage::All);
    let retry = proof.workspace.program("queue").args(&["retry", "--all"]);
    retry.run().expect_code(0);
    proof.once().expect_code(0);
    proof.assert_written_back();
    assert_eq!(proof.otlp.accepted().len(), sent);
}

/// The exporter's headers have a tenant and a password. Only the tenant is sent to the backend's
/// API.
#[tokio::test]
async fn only_the_tenant_is_passed_on() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
    proof.pipeline["exporters"]["otlp_grpc"]["headers"] =
        json!({"X-Scope-OrgID": "shop", "authorization": "Bearer hunter2", "x-other": "1"});
    proof.once().expect_code(0);
    let sent = &proof.otlp.attempts()[0].headers;
    assert_eq!(sent["authorization"], "Bearer hunter2");
    for query in proof.tempo.queries() {
        assert_eq!(query.headers["x-scope-orgid"], "shop");
        let names: Vec<&str> = query.headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["accept", "host", "user-agent", "x-scope-orgid"]);
    }
}

/// The backend cannot be reached for longer than the time limit, and the sidecar is stopped or
/// killed meanwhile. There is no id and no resend; the id is written as soon as the backend
/// answers.
#[tokio::test]
async fn an_unreachable_backend_has_lost_nothing_yet() {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
        // A server that closes connections, so that the attempts can be counted.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        proof.pipeline["exporters"]["otlp_grpc"]["verify"]["endpoint"] =
            json!(format!("http://{address}"));
        let mut running = proof.workspace.configured("run", &proof.pipeline).spawn();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            let question = timeout(PATIENCE, listener.accept()).await;
            drop(question.expect("it keeps asking").unwrap());
        }
        running.wait_for_line("cannot read the trace back", PATIENCE);
        running.signal(signal);
        let code = running.wait(PATIENCE);
        assert_eq!(code, if signal == Signal::TERM { 0 } else { -9 });
        assert!(proof.snapshot.is_untouched());
        assert_eq!(proof.otlp.attempts().len(), 1);

        let tempo = FakeTempo::on(listener, &proof.otlp, Api::V2, Storage::All);
        proof.once().expect_code(0);
        proof.assert_written_back();
        assert_eq!(proof.otlp.attempts().len(), 1);
        drop(tempo);
    }
}

/// `once --verify URL` with flags only: the trace is verified there before the id is written.
#[tokio::test]
async fn once_takes_the_address_as_a_flag() {
    let proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
    let once = proof.workspace.once(&proof.otlp, Protocol::Grpc);
    once.args(&["--verify", &proof.tempo.endpoint()]).run().expect_code(0);
    proof.assert_written_back();
    assert_eq!(proof.tempo.queries().len(), 1);
}

/// The flag overrides the URL in the configuration. The configured time limit stays, and a loss
/// leads to exit code 3.
#[tokio::test]
async fn the_flag_beats_the_file() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::Loses(1)).await;
    proof.pipeline["exporters"]["otlp_grpc"]["verify"]["endpoint"] = json!("http://127.0.0.1:1");
    let once = proof.workspace.configured("once", &proof.pipeline);
    once.args(&["--verify", &proof.tempo.endpoint()]).run().expect_code(3);
    assert!(proof.snapshot.is_untouched());
}

/// Of two exports, the backend lost spans of the first. The second one is sent, verified and
/// written back meanwhile.
#[tokio::test]
async fn a_search_for_one_export_delays_no_other() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::LosesOfFirstTrace).await;
    proof.pipeline["exporters"]["otlp_grpc"]["verify"]["timeout"] = json!("10m");
    let running = proof.workspace.configured("run", &proof.pipeline).spawn();
    proof.otlp.wait_for(|it| it.accepted.len() == 1, PATIENCE).await;
    let second = proof.workspace.export("b", &presets::typical()).snapshot;
    second.wait_for_trace_id(PATIENCE).await;
    assert!(proof.snapshot.is_untouched());
    drop(running);
}

/// `once` has less time for the delivery than the verification takes. The verification has its own
/// time limit, and is completed.
#[tokio::test]
async fn verification_has_its_own_time() {
    let proof = Proof::new(Protocol::Grpc, Api::V2, Storage::Loses(3)).await;
    let once = proof.workspace.configured("once", &proof.pipeline);
    let run = once.args(&["--timeout", "500ms"]).run().expect_code(3);
    run.expect_log(&["the backend has 7 of 10, after the missing ones were sent again"]);
}

/// One of two endpoints is down, and verification may take ten minutes. `once --timeout` limits the
/// delivery; time for verification is added only while something is verified.
#[tokio::test]
async fn nothing_is_verified_that_was_not_delivered() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
    proof.pipeline["exporters"]["otlp_grpc"]["verify"]["timeout"] = json!("10m");
    proof.pipeline["exporters"]["otlp_grpc/away"] = json!({"endpoint": "http://127.0.0.1:1"});
    proof.pipeline["service"]["pipelines"]["traces"]["exporters"] =
        json!(["otlp_grpc", "otlp_grpc/away"]);
    let once = proof.workspace.configured("once", &proof.pipeline);
    let mut running = once.args(&["--timeout", "300ms"]).spawn();
    assert_eq!(running.wait(PATIENCE), 1);
    assert!(proof.snapshot.is_untouched());
}

/// Nothing answers at `verify.endpoint` for the time of `once`. There is no id, the exit code is 1,
/// and the result has the reason of the last attempt.
#[tokio::test]
async fn the_reason_of_the_last_look_is_in_the_result() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
    proof.pipeline["exporters"]["otlp_grpc"]["verify"] =
        json!({"endpoint": "http://127.0.0.1:1", "timeout": "200ms"});
    let once = proof.workspace.configured("once", &proof.pipeline);
    let run = once.args(&["--timeout", "300ms"]).run().expect_code(1);
    run.expect_log(&["export still pending (waits for otlp_grpc: cannot read the trace back"]);
    assert!(proof.snapshot.is_untouched());
}

/// The backend shows every span, and loses one a moment later. With `verify.after` the second
/// attempt finds this, and no id is written.
#[tokio::test]
async fn a_second_verification_finds_what_was_lost_since() {
    let mut proof = Proof::new(Protocol::Grpc, Api::V2, Storage::All).await;
    proof.pipeline["exporters"]["otlp_grpc"]["verify"]["after"] = json!("1s");
    let mut running = proof.workspace.configured("once", &proof.pipeline).spawn();
    let deadline = Instant::now() + PATIENCE;
    while proof.tempo.queries().is_empty() {
        assert!(Instant::now() < deadline, "nothing was looked for");
        tokio::task::yield_now().await;
    }
    proof.tempo.set_storage(Storage::Loses(1));
    assert_eq!(running.wait(PATIENCE), 3);
    assert!(proof.snapshot.is_untouched());

    proof.tempo.set_storage(Storage::All);
    proof.workspace.program("queue").args(&["retry", "--all"]).run().expect_code(0);
    proof.once().expect_code(0);
    proof.assert_written_back();
}

/// The backend for verification is down, and an operator drops the export. The verification gives
/// the export back at once; nothing is written and nothing is left.
#[tokio::test]
async fn an_export_that_is_being_verified_can_be_dropped_by_force() {
    let workspace = Workspace::new();
    let otlp = FakeOtlp::builder().start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = format!("http://{closed}");
    let verify = json!({"verify": {"endpoint": endpoint, "timeout": "60s"}});
    let pipeline = workspace.pipeline(otlp.endpoint(), Protocol::Grpc, verify);
    let mut running = workspace.configured("run", &pipeline).spawn();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    otlp.wait_for(|state| !state.spans().is_empty(), PATIENCE).await;
    running.wait_for_line("cannot read the trace back", PATIENCE);
    let queue = |args: &[&str]| workspace.program("queue").args(args).run();
    let trace_id = snapshot.trace_id();
    queue(&["drop", "--force", &trace_id]).expect_code(0);
    assert_eq!(queue(&["list", "--format", "json"]).expect_code(0).stdout.trim(), "[]");
    assert!(snapshot.is_untouched());
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}
