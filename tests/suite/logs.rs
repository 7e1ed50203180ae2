//! Guarantees:
//!
//! - Each fact about an export is one log record, with the ids of its span.
//! - Log records never delay a trace or its id. Undelivered ones stay in the queue.
//! - Records that Loki refuses in part are never sent again.
//! - A logs pipeline without a traces pipeline is an error in the configuration.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol, State};
use crate::support::program::PATIENCE;
use crate::support::workspace::Workspace;

/// Sends traces to one server and logs to another.
fn pipeline(workspace: &Workspace, tempo: &FakeOtlp, loki: &FakeOtlp) -> Value {
    let mut pipeline = workspace.pipeline(tempo.endpoint(), Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_http/loki"] = json!({
        "endpoint": format!("{}/otlp", loki.endpoint()),
        "retry_on_failure": {"initial_interval": "20ms", "max_interval": "200ms"},
    });
    pipeline["service"]["pipelines"]["logs"] =
        json!({"receivers": ["export_dir"], "exporters": ["otlp_http/loki"]});
    pipeline
}

fn json_of(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::IntValue(value)) => json!(value),
        Some(any_value::Value::DoubleValue(value)) => json!(value),
        other => panic!("an attribute of a log record is {other:?}"),
    }
}

fn fields(attributes: &[KeyValue]) -> BTreeMap<String, Value> {
    attributes.iter().map(|it| (it.key.clone(), json_of(it.value.as_ref()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the records that the conventions require for a span.
fn expected(span: &Span) -> Vec<BTreeMap<String, Value>> {
    let attribute = |key: &str| {
        let found = span.attributes.iter().find(|it| it.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => Some(json!(text)),
            any_value::Value::IntValue(value) => Some(json!(value)),
            any_value::Value::DoubleValue(value) => Some(json!(value)),
            _ => None,
        }
    };
    let known = |fields: &[(&str, &str)]| -> Vec<(String, Value)> {
        let known =
            fields.iter().filter_map(|(to, from)| Some(((*to).to_owned(), attribute(from)?)));
        known.collect()
    };
    let fact = |event: &str, own: &[(&str, &str)]| {
        let mut all = BTreeMap::from([
            ("event".to_owned(), json!(event)),
            ("service".to_owned(), json!("contextcore-export")),
            ("trigger".to_owned(), json!("export")),
            ("trace_id".to_owned(), json!(hex(&span.trace_id))),
            ("span_id".to_owned(), json!(hex(&span.span_id))),
        ]);
        all.extend(known(&[
            ("project_id", "project.id"),
            ("task_id", "task.id"),
            ("task_type", "task.type"),
            ("task_title", "task.title"),
            ("parent_id", "task.parent_id"),
            ("priority", "artifact.priority"),
        ]));
        all.extend(known(own));
        all
    };
    let mut facts = vec![fact("task.created", &[("task_status", "task.status")])];
    match attribute("artifact.status") {
        Some(status) if status == "exists" => facts.push(fact("task.completed", &[])),
        Some(_) => {}
        None => facts.push(fact(
            "task.progress_updated",
            &[
                ("percent_complete", "task.percent_complete"),
                ("subtask_count", "task.subtask_count"),
                ("subtask_completed", "task.subtask_completed"),
            ],
        )),
    }
    facts
}

fn check(record: &LogRecord, spans: &HashMap<&[u8], &Span>) {
    let fields = fields(&record.attributes);
    let span = spans[record.span_id.as_slice()];
    assert!(expected(span).contains(&fields), "{fields:#?} of {}", span.name);
    let Some(any_value::Value::StringValue(body)) = record.body.as_ref().unwrap().value.as_ref()
    else {
        panic!("the body is no text");
    };
    let body: BTreeMap<String, Value> = serde_json::from_str(body).unwrap();
    assert_eq!(body, fields);
    assert_eq!(record.trace_id, span.trace_id);
    assert_eq!(json!(record.event_name), fields["event"]);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert!(record.time_unix_nano <= span.start_time_unix_nano);
    assert_eq!(record.time_unix_nano, record.observed_time_unix_nano);
}

fn check_all(traces: &State, logs: &State) {
    let (spans, records) = (traces.spans(), logs.log_records());
    let by_id = spans.iter().map(|span| (span.span_id.as_slice(), span)).collect();
    records.iter().for_each(|record| check(record, &by_id));
    let text = |fields: &BTreeMap<String, Value>| serde_json::to_string(fields).unwrap();
    let mut found: Vec<String> = records.iter().map(|it| text(&fields(&it.attributes))).collect();
    let mut wanted: Vec<String> = spans.iter().flat_map(expected).map(|it| text(&it)).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "each fact once");
    let resource = |state: &State| state.logs[0].resource_logs[0].resource.clone();
    assert_eq!(resource(logs), traces.accepted[0].resource_spans[0].resource);
}

#[tokio::test]
async fn every_fact_is_a_record_beside_its_span() {
    for protocol in Protocol::BOTH {
        for (name, export) in presets::all() {
            let workspace = Workspace::new();
            let server = FakeOtlp::builder().start().await;
            workspace.export("out", &export);
            let mut pipeline = workspace.pipeline(server.endpoint(), protocol, Value::Null);
            let pipelines = &mut pipeline["service"]["pipelines"];
            pipelines["logs"] = pipelines["traces"].clone();
            workspace.configured("once", &pipeline).run().expect_code(0);
            let state = server.state();
            // Truncated texts are marked with an array.
            if name != "long_strings" {
                check_all(&state, &state);
            }
            assert!(!state.logs.is_empty(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_loki_that_says_no_content_has_them() {
    let workspace = Workspace::new();
    let tempo = FakeOtlp::builder().start().await;
    let loki = FakeOtlp::builder().log_forever(Fault::http(204)).start().await;
    let snapshot = workspace.export("out", &presets::every_status()).snapshot;
    let pipeline = pipeline(&workspace, &tempo, &loki);
    workspace.configured("once", &pipeline).run().expect_code(0);
    assert_eq!(loki.state().log_attempts, 1);
    assert_eq!(snapshot.check_written_back(), [""; 0]);
    workspace.configured("once", &pipeline).run().expect_code(0);
    assert_eq!(loki.state().log_attempts, 1, "once is enough");
}

#[tokio::test]
async fn undeliverable_logs_delay_nothing_and_arrive_later() {
    let workspace = Workspace::new();
    let tempo = FakeOtlp::builder().start().await;
    let loki = FakeOtlp::builder().log_forever(Fault::http(503)).start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let first = pipeline(&workspace, &tempo, &loki);
    let run = workspace.configured("once", &first).args(&["--timeout", "1s"]).run();
    run.expect_code(1).expect_log(&["otlp_http/loki (logs)", "not everything was delivered"]);
    assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()), "nobody waits for logs");
    assert!(loki.state().logs.is_empty() && loki.state().log_attempts > 1);

    let healthy = FakeOtlp::builder().start().await;
    let second = pipeline(&workspace, &tempo, &healthy);
    workspace.configured("once", &second).run().expect_code(0);
    check_all(&tempo.state(), &healthy.state());
    assert_eq!(tempo.attempts().len(), 1, "the trace had arrived");
}

#[tokio::test]
async fn optional_logs_cost_a_moment_and_no_failure() {
    let workspace = Workspace::new();
    let tempo = FakeOtlp::builder().start().await;
    let loki = FakeOtlp::builder().log_forever(Fault::http(503)).start().await;
    workspace.export("out", &presets::typical());
    let mut pipeline = pipeline(&workspace, &tempo, &loki);
    pipeline["exporters"]["otlp_http/loki"]["required"] = json!(false);
    workspace.configured("once", &pipeline).run().expect_code(0);
}

#[tokio::test]
async fn requests_that_loki_refuses_in_part_are_not_resent() {
    let workspace = Workspace::new();
    let tempo = FakeOtlp::builder().start().await;
    let refusal = Fault::http(400).with_message("entry too large: the rest was stored");
    let loki = FakeOtlp::builder().log_forever(refusal).start().await;
    let snapshot = workspace.export("out", &presets::typical()).snapshot;
    let pipeline = pipeline(&workspace, &tempo, &loki);
    let run = workspace.configured("once", &pipeline).run();
    run.expect_code(3).expect_log(&["otlp_http/loki (logs)", "entry too large"]);
    assert_eq!(loki.state().log_attempts, 1);
    assert_eq!(snapshot.written_trace_id(), Some(snapshot.trace_id()));
    let listed = workspace.program("queue").args(&["show", "0"]).run().expect_code(0);
    assert!(listed.stdout.contains("otlp_http/loki (logs)"), "{}", listed.stdout);
}

#[tokio::test]
async fn a_sidecar_sends_both() {
    let workspace = Workspace::new();
    let tempo = FakeOtlp::builder().start().await;
    let loki = FakeOtlp::builder().log_script([Fault::http(503), Fault::Reset]).start().await;
    let pipeline = pipeline(&workspace, &tempo, &loki);
    let mut running = workspace.configured("run", &pipeline).spawn();
    for n in 0..5 {
        workspace.export(&format!("job-{n}"), &presets::typical());
    }
    loki.wait_for(|state| state.logs.len() >= 5, PATIENCE).await;
    tempo.wait_for(|state| state.accepted.len() >= 5, PATIENCE).await;
    running.signal(rustix::process::Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
    check_all(&tempo.state(), &loki.state());
}

#[test]
fn logs_without_traces_are_a_fault() {
    let workspace = Workspace::new();
    let mut pipeline = workspace.pipeline("http://127.0.0.1:9", Protocol::Http, Value::Null);
    let pipelines = pipeline["service"]["pipelines"].as_object_mut().unwrap();
    let traces = pipelines.remove("traces").unwrap();
    pipelines.insert("logs".to_owned(), traces);
    let run = workspace.configured("validate", &pipeline).run().expect_code(2);
    run.expect_log(&["`export_dir` feeds a logs pipeline and no traces pipeline"]);
}
