//! Guarantees:
//!
//! - A gate result and a task update become spans in the trace of the export, below their task.
//! - Each result is sent once, however often its file grows or is found again.
//! - A result waits for its export, and never goes to another one.
//! - An invalid file or id is refused with the valid choices, and sends nothing.
//! - A command that cannot deliver exits after its time limit, and leaves nothing in a queue.

use std::fs;
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::exports::{ExportBuilder, presets};
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::{Output, PATIENCE, Program, Running};
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

fn gate(id: &str) -> Value {
    json!({
        "schema_version": "v1", "gate_id": id, "phase": "TEST_VALIDATE", "result": "pass",
        "severity": "info", "checked_at": "2026-11-23T06:15:00Z",
    })
}

fn failing(id: &str, task: &str) -> Value {
    let mut gate = gate(id);
    for (key, value) in [
        ("result", json!("fail")),
        ("severity", json!("critical")),
        ("blocking", json!(true)),
        ("reason", json!("it is empty")),
        ("task_id", json!(task)),
    ] {
        gate[key] = value;
    }
    gate
}

/// An emitted export, and the endpoint that received it.
pub struct Emitted {
    pub workspace: Workspace,
    pub server: FakeOtlp,
    pub snapshot: Snapshot,
}

impl Emitted {
    pub async fn new() -> Emitted {
        Emitted::by(Protocol::Grpc).await
    }

    async fn by(protocol: Protocol) -> Emitted {
        Emitted::of(&presets::typical(), protocol).await
    }

    pub async fn of(export: &ExportBuilder, protocol: Protocol) -> Emitted {
        let workspace = Workspace::new();
        let server = FakeOtlp::builder().start().await;
        let snapshot = workspace.export("out", export).snapshot;
        workspace.once(&server, protocol).run().expect_code(0);
        Emitted { workspace, server, snapshot }
    }

    pub fn command(&self, subcommand: &str) -> Program {
        let onto = ["--metadata", self.snapshot.path.to_str().unwrap()];
        let to = ["--endpoint", self.server.endpoint()];
        self.workspace.program(subcommand).args(&onto).args(&to)
    }

    pub fn file(&self, name: &str, content: &Value) -> PathBuf {
        write(&self.workspace.root().join(name), content)
    }

    pub fn gate(&self, content: &Value) -> Output {
        self.command("gate").arg(self.file("gate.json", content)).run()
    }

    /// Returns the spans that were added after the export.
    pub fn added(&self) -> Vec<Span> {
        let added = |span: &Span| ["gate.result", "task.update"].contains(&span.name.as_str());
        self.server.spans().into_iter().filter(added).collect()
    }

    pub fn of_export(&self, task_id: &str) -> Span {
        let is =
            |span: &Span| text(&span.attributes, "task.id") == task_id && !span.name.contains('.');
        self.server.spans().into_iter().find(is).unwrap()
    }
}

pub fn write(path: &Path, content: &Value) -> PathBuf {
    fs::write(path, content.to_string()).unwrap();
    path.to_owned()
}

pub fn value(attributes: &[KeyValue], key: &str) -> Option<any_value::Value> {
    attributes.iter().find(|it| it.key == key)?.value.clone()?.value
}

pub fn text(attributes: &[KeyValue], key: &str) -> String {
    match value(attributes, key) {
        Some(any_value::Value::StringValue(text)) => text,
        None => String::new(),
        other => panic!("{key} is {other:?}"),
    }
}

const EPIC: &str = "shop-artifact-generation";

/// Asserts that a span is below `parent`, in its trace, and linked to it.
#[track_caller]
pub fn assert_added(span: &Span, parent: &Span, link_type: &str) {
    assert_eq!(span.trace_id, parent.trace_id);
    assert_eq!(span.parent_span_id, parent.span_id);
    assert_eq!(span.links.len(), 1);
    assert_eq!(span.links[0].span_id, parent.span_id);
    assert_eq!(span.links[0].trace_id, parent.trace_id);
    assert_eq!(text(&span.links[0].attributes, "link.type"), link_type);
    assert!(span.start_time_unix_nano > parent.start_time_unix_nano);
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(text(&span.attributes, "project.id"), "shop");
    assert_eq!(text(&span.attributes, "task.id"), text(&parent.attributes, "task.id"));
}

/// A task of the export whose artifact is needed.
const TASK: &str = "cart-rules";

#[tokio::test]
async fn a_gate_result_is_below_its_task() {
    for protocol in Protocol::BOTH {
        let emitted = Emitted::by(protocol).await;
        let task = TASK;
        let failed = failing("complete", task);
        emitted.gate(&json!([gate("intact"), failed])).expect_code(0);
        let [passed, fail] = &emitted.added()[..] else { panic!("{:?}", emitted.added()) };
        assert_added(passed, &emitted.of_export(EPIC), "validates");
        assert_added(fail, &emitted.of_export(task), "validates");
        let all = |span: &Span| {
            ["task.phase", "gate.id", "gate.phase", "gate.result", "gate.severity", "gate.reason"]
                .map(|key| text(&span.attributes, key))
        };
        let phase = "TEST_VALIDATE";
        assert_eq!(all(passed), [phase, "intact", phase, "pass", "info", ""]);
        assert_eq!(all(fail), [phase, "complete", phase, "fail", "critical", "it is empty"]);
        let blocking = |span: &Span| value(&span.attributes, "gate.blocking");
        assert_eq!(blocking(passed), Some(any_value::Value::BoolValue(false)));
        assert_eq!(blocking(fail), Some(any_value::Value::BoolValue(true)));
        let code = |span: &Span| span.status.as_ref().unwrap().code;
        assert_eq!((code(passed), code(fail)), (1, 2));
        assert_eq!(fail.events.len(), 1);
        assert_eq!(fail.events[0].name, "gate.result");
        let whole = text(&fail.events[0].attributes, "contract");
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), failed);
        assert_eq!(emitted.snapshot.check_written_back(), [""; 0]);
    }
}

#[tokio::test]
async fn a_report_of_the_project_is_taken_and_one_of_another_is_not() {
    let emitted = Emitted::new().await;
    let mut entry = gate("g");
    for key in ["severity", "checked_at"] {
        entry.as_object_mut().unwrap().remove(key);
    }
    let report = |project: &str| json!({"project_id": project, "gates": [entry]});
    emitted.gate(&report("elsewhere")).expect_code(3).expect_log(&["`elsewhere`", "`shop`"]);
    assert_eq!(emitted.added(), []);
    emitted.gate(&report("shop")).expect_code(0);
    assert_eq!(text(&emitted.added()[0].attributes, "gate.severity"), "info");

    let mut other = gate("g");
    other["trace_id"] = json!("0af7651916cd43dd8448eb211c80319c");
    emitted.gate(&other).expect_code(3).expect_log(&["0af7651916cd43dd8448eb211c80319c"]);
    assert_eq!(emitted.added().len(), 1);
}

#[tokio::test]
async fn gate_files_that_are_none_send_nothing() {
    let emitted = Emitted::new().await;
    let good = emitted.file("good.json", &gate("g"));
    for (content, words) in [
        (r#"{"schema_version": "v1", "gate_"#, "not JSON"),
        ("", "not JSON"),
        ("[1]", "an object"),
        (r#"{"schema_version": "v2"}"#, "schema_version: must be v1"),
    ] {
        let bad = emitted.workspace.root().join("bad.json");
        fs::write(&bad, content).unwrap();
        let run = emitted.command("gate").arg(&good).arg(&bad).run();
        run.expect_code(3).expect_log(&["bad.json", words]);
    }
    emitted.command("gate").arg("missing.json").run().expect_code(3).expect_log(&["missing.json"]);
    assert_eq!(emitted.added(), []);
}

#[tokio::test]
async fn a_task_has_each_status_in_turn() {
    let emitted = Emitted::new().await;
    let id = TASK;
    let update = |args: &[&str]| {
        emitted.command("task").args(&["--id", id]).args(args).run().expect_code(0);
        emitted.added().pop().unwrap()
    };
    let parent = emitted.of_export(id);
    let described = |span: &Span| {
        let event = &span.events[0];
        let of_span = ["task.type", "task.status", "task.phase"];
        let of_event = ["from", "to", "reason", "note"];
        let code = span.status.as_ref().unwrap().code;
        let of_span = of_span.map(|key| text(&span.attributes, key)).join(" ");
        let of_event = of_event.map(|key| text(&event.attributes, key)).join(" ");
        format!("{of_span} {code} | {} {}", event.name, of_event.trim_end())
    };
    let mut said = Vec::new();
    for args in [
        &["--status", "in_progress", "--phase", "ARTISAN_DESIGN"][..],
        &["--status", "blocked", "--from", "in_progress", "--reason", "no data"],
        &["--status", "in_progress", "--event", "review.asked", "--attr", "note=a=b"],
        &["--status", "failed", "--phase", "TEST_VALIDATE"],
        &["--status", "completed", "--phase", "FINALIZE_VERIFY", "--attr", "api_token=hunter2"],
    ] {
        let span = update(args);
        assert_eq!(span.name, "task.update");
        assert_added(&span, &parent, "implements_task");
        assert!(!format!("{span:?}").contains("hunter2"));
        said.push(described(&span));
    }
    assert_eq!(
        said,
        [
            "task in_progress ARTISAN_DESIGN 0 | task.status_changed todo in_progress",
            "task blocked OTHER 2 | task.status_changed in_progress blocked no data",
            "task in_progress OTHER 0 | review.asked    a=b",
            "task failed TEST_VALIDATE 2 | task.status_changed todo failed",
            "task done FINALIZE_VERIFY 1 | task.status_changed todo done",
        ]
    );
    let ids: std::collections::HashSet<_> =
        emitted.added().into_iter().map(|span| span.span_id).collect();
    assert_eq!(ids.len(), 5);
}

#[tokio::test]
async fn an_update_is_a_log_record_as_well() {
    let emitted = Emitted::new().await;
    let id = TASK;
    let mut pipeline =
        emitted.workspace.pipeline(emitted.server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["service"]["pipelines"]["logs"] = pipeline["service"]["pipelines"]["traces"].clone();
    let onto = ["--metadata", emitted.snapshot.path.to_str().unwrap(), "--id", id];
    for status in ["blocked", "completed", "in_progress"] {
        let run = emitted.workspace.configured("task", &pipeline);
        run.args(&onto).args(&["--status", status]).run().expect_code(0);
    }
    let records = emitted.server.state().log_records();
    let events: Vec<&str> = records.iter().map(|record| record.event_name.as_str()).collect();
    assert_eq!(
        events,
        [
            "task.status_changed",
            "task.blocked",
            "task.status_changed",
            "task.completed",
            "task.status_changed",
        ]
    );
    let task = emitted.of_export(id);
    for record in &records {
        assert_eq!((&record.span_id, &record.trace_id), (&task.span_id, &task.trace_id));
        let Some(any_value::Value::StringValue(body)) = record.body.clone().unwrap().value else {
            panic!("no text");
        };
        let body: Value = serde_json::from_str(&body).unwrap();
        let attributes = &record.attributes;
        assert_eq!(body.as_object().unwrap().len(), attributes.len());
        assert!(attributes.iter().all(|it| body[&it.key] == json!(text(attributes, &it.key))));
        assert_eq!(body["task_id"], json!(id));
    }
}

#[tokio::test]
async fn unknown_tasks_are_refused_with_a_list_of_known_ones() {
    let emitted = Emitted::new().await;
    let id = TASK;
    let task = |args: &[&str]| emitted.command("task").args(args).run();
    let run = task(&["--id", id, "--status", "finished"]).expect_code(2);
    run.expect_log(&["not_started", "in_progress", "blocked", "completed", "failed"]);
    let run = task(&["--id", id, "--status", "failed", "--phase", "DESIGN"]).expect_code(2);
    run.expect_log(&["ARTISAN_DESIGN", "FINALIZE_VERIFY"]);
    let near = format!("{}x", &id[..id.len() - 1]);
    let run = task(&["--id", &near, "--status", "failed"]).expect_code(3);
    run.expect_log(&["no task", id]);
    assert_eq!(emitted.added(), []);
}

#[tokio::test]
async fn an_export_without_an_id_has_no_trace_to_add_to() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let metadata = snapshot.path.to_str().unwrap();
    for command in ["gate", "task"] {
        let mut program = workspace.program(command);
        program = program.args(&["--metadata", metadata, "--endpoint", server.endpoint()]);
        if command == "task" {
            program = program.args(&["--id", "x", "--status", "failed"]);
        }
        program.run().expect_code(3).expect_log(&["not emitted yet: ", "taskspan once "]);
    }
    assert_eq!(server.attempts().len(), 0);
    assert!(snapshot.is_untouched());
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_the_timeout_and_keeps_nothing() {
    let emitted = Emitted::new().await;
    let dead = FakeOtlp::builder().forever(Fault::http(503)).start().await;
    let onto = ["--metadata", emitted.snapshot.path.to_str().unwrap()];
    let run = |program: Program| {
        program.args(&onto).args(&["--endpoint", dead.endpoint(), "--timeout", "300ms"]).run()
    };
    let program = emitted.workspace.program("task");
    let update = run(program.args(&["--id", TASK, "--status", "failed"]));
    update.expect_code(1).expect_log(&["run it again"]);
    let listed = emitted.workspace.program("queue").arg("list").run().expect_code(0);
    assert!(!listed.stdout.contains("shop"), "{}", listed.stdout);
    assert_eq!(emitted.snapshot.check_written_back(), [""; 0]);
}

/// Starts a sidecar that watches exports and gate results.
pub fn watching(workspace: &Workspace, server: &FakeOtlp) -> Running {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["gate_results"] = json!({"directories": [workspace.exports()], "include": ["**/*gate*.json"],
            "settle": "20ms", "settle_timeout": "1s"});
    pipeline["service"]["pipelines"]["traces"]["receivers"] = json!(["export_dir", "gate_results"]);
    workspace.configured("run", &pipeline).spawn()
}

pub fn stop(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}

fn gates(spans: &[Span]) -> Vec<String> {
    let gates = spans.iter().filter(|span| span.name == "gate.result");
    let mut ids: Vec<_> = gates.map(|span| text(&span.attributes, "gate.id")).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn results_wait_for_their_export_and_are_sent_once() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let running = watching(&workspace, &server);
    let out = workspace.exports().join("out");
    fs::create_dir(&out).unwrap();
    let report = json!({"project_id": "shop", "gates": [gate("a"), gate("b")]});
    write(&out.join("gate-report.json"), &report);
    running.wait_for_line("wait for their export", PATIENCE);
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    server.wait_for(|state| gates(&state.spans()).len() == 2, PATIENCE).await;
    // A result that names its trace may be in any directory.
    let mut elsewhere = gate("c");
    elsewhere["trace_id"] = json!(snapshot.trace_id());
    write(&workspace.exports().join("my-gate.json"), &elsewhere);
    server.wait_for(|state| gates(&state.spans()).len() == 3, PATIENCE).await;
    // The same content is not sent again, by any run.
    write(&out.join("gate-report.json"), &report);
    stop(running);
    let running = watching(&workspace, &server);
    write(&out.join("gate-more.json"), &gate("d"));
    server.wait_for(|state| gates(&state.spans()).len() == 4, PATIENCE).await;
    stop(running);
    assert_eq!(gates(&server.spans()), ["a", "b", "c", "d"]);
    let epic = |span: &Span| text(&span.attributes, "task.id") == EPIC;
    let known: Vec<Span> = server.spans().into_iter().filter(epic).collect();
    assert!(known.iter().all(|span| span.trace_id == known[0].trace_id));
    assert_eq!(snapshot.check_written_back(), [""; 0]);
}

#[tokio::test]
async fn partial_and_foreign_results_are_reported_and_change_nothing() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let running = watching(&workspace, &server);
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    let out = workspace.exports().join("out");
    let half = out.join("half-gate.json");
    fs::write(&half, r#"{"schema_version": "v1", "ga"#).unwrap();
    running.wait_for_line("not JSON", PATIENCE);
    write(&out.join("other-gate.json"), &json!({"project_id": "other", "gates": [gate("x")]}));
    running.wait_for_line("the report is of project `other`", PATIENCE);
    let mut wrong = gate("x");
    wrong["phase"] = json!("DESIGN");
    write(&out.join("wrong-gate.json"), &wrong);
    running.wait_for_line("unknown phase `DESIGN`", PATIENCE);
    write(&half, &gate("whole"));
    server.wait_for(|state| gates(&state.spans()) == ["whole"], PATIENCE).await;
    stop(running);
    assert_eq!(gates(&server.spans()), ["whole"]);
}

/// Runs `once` with both receivers.
fn once_with_gates(workspace: &Workspace, server: &FakeOtlp) -> Program {
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["gate_results"] = json!({
        "directories": [workspace.exports()], "include": ["**/*gate*.json"],
        "settle": "20ms", "settle_timeout": "1s",
    });
    pipeline["service"]["pipelines"]["traces"]["receivers"] = json!(["export_dir", "gate_results"]);
    workspace.configured("once", &pipeline)
}

#[tokio::test]
async fn a_report_that_grows_sends_each_result_once() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    workspace.export("out", &presets::typical());
    let file = workspace.exports().join("out/gate-report.json");
    for known in [&["a"][..], &["a", "b"], &["a", "b", "c", "c"]] {
        let results: Vec<Value> = known.iter().map(|id| gate(id)).collect();
        write(&file, &Value::Array(results));
        once_with_gates(&workspace, &server).run().expect_code(0);
        let mut ids = known.to_vec();
        ids.dedup();
        assert_eq!(gates(&server.spans()), ids);
    }
    let twice = Emitted::new().await;
    twice.gate(&json!([gate("a"), gate("a")])).expect_code(0);
    assert_eq!(gates(&twice.server.spans()), ["a"]);
}

#[tokio::test]
async fn a_verdict_stays_with_its_export() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let out = workspace.exports().join("out");
    let first = workspace.export("out", &presets::typical()).snapshot;
    let report = out.join("gate-report.json");
    write(&report, &gate("a"));
    once_with_gates(&workspace, &server).run().expect_code(0);
    assert_eq!(gates(&server.spans()), ["a"]);
    // After a new export in the same place, the report still belongs to the first one.
    let second = workspace.export("out", &presets::typical()).snapshot;
    for _ in 0..2 {
        once_with_gates(&workspace, &server).run().expect_code(0);
    }
    assert_ne!(first.trace_id(), second.trace_id());
    assert_eq!(gates(&server.spans()), ["a"]);
    // The same result in a new file belongs to the second export.
    fs::remove_file(&report).unwrap();
    write(&report, &gate("a"));
    for _ in 0..2 {
        once_with_gates(&workspace, &server).run().expect_code(0);
    }
    assert_eq!(gates(&server.spans()), ["a", "a"]);
    let spans = server.spans();
    let traces: std::collections::HashSet<_> = spans.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 2);
}

#[tokio::test]
async fn a_result_between_two_exports_waits_for_the_right_one() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let out = workspace.exports().join("out");
    workspace.export("out", &presets::typical());
    once_with_gates(&workspace, &server).run().expect_code(0);
    // The other export has no id, and no run here writes one.
    let other = out.join("other-onboarding-metadata.json");
    fs::write(&other, presets::one().metadata()).unwrap();
    write(&out.join("plain-gate.json"), &gate("plain"));
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["include"] = json!(["**/*onboarding-metadata.json"]);
    pipeline["receivers"]["gate_results"] = json!({
        "directories": [workspace.exports()], "include": ["**/*gate*.json"],
        "settle": "20ms", "settle_timeout": "1s",
    });
    pipeline["service"]["pipelines"]["traces"]["receivers"] = json!(["export_dir", "gate_results"]);
    let run = workspace.configured("once", &pipeline).run().expect_code(3);
    run.expect_log(&["several exports are beside it"]);
    assert_eq!(gates(&server.spans()), Vec::<String>::new());
    let mut named = json!({"project_id": "elsewhere", "gates": [gate("x")]});
    named["gates"][0]["trace_id"] =
        json!(Snapshot::of(&out.join("onboarding-metadata.json")).written_trace_id());
    write(&out.join("plain-gate.json"), &named);
    let run = workspace.configured("once", &pipeline).run().expect_code(3);
    run.expect_log(&["the report is of project `elsewhere`"]);
}

#[tokio::test]
async fn refused_results_are_reported_and_tried_again() {
    let emitted = Emitted::new().await;
    let refusal = Fault::grpc(tonic::Code::Unauthenticated);
    let refusing = FakeOtlp::builder().forever(refusal).start().await;
    let file = emitted.snapshot.path.with_file_name("gate-report.json");
    write(&file, &gate("a"));
    for _ in 0..2 {
        once_with_gates(&emitted.workspace, &refusing).run().expect_code(3);
    }
    assert_eq!(refusing.attempts().len(), 2);
    let listed = emitted.workspace.program("queue").args(&["drop", "0"]).run();
    listed.expect_code(0);
    once_with_gates(&emitted.workspace, &refusing).run().expect_code(0);
    assert_eq!(refusing.attempts().len(), 2, "dropped is dropped");
}

#[tokio::test]
async fn a_result_without_an_export_is_no_success() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    write(&workspace.exports().join("gate-report.json"), &gate("a"));
    once_with_gates(&workspace, &server).args(&["--timeout", "200ms"]).run().expect_code(1);
    let run = once_with_gates(&workspace, &server).run().expect_code(3);
    run.expect_log(&["gate results refused", "no export is beside it"]);
}

#[tokio::test]
async fn with_the_id_in_another_file_a_copy_has_the_same_trace() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["receivers"]["export_dir"]["write_back"] = json!({"mode": "beside"});
    workspace.configured("once", &pipeline).run().expect_code(0);
    let copy = workspace.root().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(snapshot.path.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let metadata = copy.join("onboarding-metadata.json");
    let task = workspace.program("task").arg("--metadata").arg(&metadata);
    let task = task.args(&["--endpoint", server.endpoint(), "--id", TASK, "--status", "failed"]);
    task.run().expect_code(0);
    let update = server.spans().into_iter().find(|span| span.name == "task.update").unwrap();
    let hex: String = update.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, snapshot.trace_id());

    pipeline["receivers"]["export_dir"]["write_back"] = json!({"mode": "off"});
    pipeline["receivers"]["gate_results"] = json!({"directories": [workspace.exports()]});
    pipeline["service"]["pipelines"]["traces"]["receivers"] = json!(["export_dir", "gate_results"]);
    let run = workspace.configured("validate", &pipeline).run().expect_code(2);
    run.expect_log(&["`write_back: {mode: off}` nothing says which trace"]);
}

#[tokio::test]
async fn an_update_whose_log_records_are_refused_is_made_all_the_same() {
    let emitted = Emitted::new().await;
    let loki = FakeOtlp::builder().log_forever(Fault::http(503)).start().await;
    let mut pipeline =
        emitted.workspace.pipeline(emitted.server.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_http/loki"] = json!({"endpoint": loki.endpoint()});
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    let onto = ["--metadata", emitted.snapshot.path.to_str().unwrap()];
    let update = ["--id", TASK, "--status", "failed", "--timeout", "500ms"];
    let run = emitted.workspace.configured("task", &pipeline).args(&onto).args(&update).run();
    run.expect_code(0).expect_log(&["the span is delivered, its log records are not"]);
    assert_eq!(emitted.added().len(), 1);
}
