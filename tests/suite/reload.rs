//! Guarantees:
//!
//! - SIGHUP loads a new configuration without losing an export. An invalid one changes nothing.
//! - A reload that fails late returns to the old configuration.
//! - `validate` shows the effective configuration, and reports whatever would keep `run` from
//!   starting.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol};
use crate::support::program::PATIENCE;
use crate::support::workspace::Workspace;

#[tokio::test]
async fn a_hang_up_reloads_and_a_bad_configuration_changes_nothing() {
    let workspace = Workspace::new();
    let first = FakeOtlp::builder().start().await;
    let second = FakeOtlp::builder().start().await;
    let pipeline = |server: &FakeOtlp| {
        workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null).to_string()
    };
    let config = workspace.config("pipeline.yaml", &pipeline(&first));
    let mut running = workspace.program("run").arg("-c").arg(&config).spawn();
    let snapshot = workspace.export("one", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;

    fs::write(&config, "exporters: {unheard_of: }\n").unwrap();
    running.signal(Signal::HUP);
    running.wait_for_line("unknown exporter `unheard_of`", PATIENCE);
    let snapshot = workspace.export("two", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    assert_eq!(first.accepted().len(), 2, "the first is in force");

    fs::write(&config, pipeline(&second)).unwrap();
    running.signal(Signal::HUP);
    running.wait_for_line("the new configuration is in force", PATIENCE);
    let snapshot = workspace.export("three", &presets::typical()).snapshot;
    snapshot.wait_for_trace_id(PATIENCE).await;
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
    assert_eq!((first.accepted().len(), second.accepted().len()), (2, 1));
}

/// Queued exports are delivered under the new configuration.
#[tokio::test]
async fn a_reload_loses_nothing() {
    let workspace = Workspace::new();
    let away = FakeOtlp::builder().forever(Fault::http(503)).start().await;
    let there = FakeOtlp::builder().start().await;
    let pipeline = |server: &FakeOtlp| {
        workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null).to_string()
    };
    let config = workspace.config("pipeline.yaml", &pipeline(&away));
    let mut running = workspace.program("run").arg("-c").arg(&config).spawn();
    let snapshot = workspace.export("one", &presets::typical()).snapshot;
    away.wait_for(|state| !state.attempts.is_empty(), PATIENCE).await;
    fs::write(&config, pipeline(&there)).unwrap();
    running.signal(Signal::HUP);
    assert_eq!(snapshot.wait_for_trace_id(PATIENCE).await, snapshot.trace_id());
    assert_eq!(there.accepted().len(), 1);
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
}

#[tokio::test]
async fn validate_shows_what_is_in_effect_and_connects_when_asked() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let secret = json!({"headers": {"authorization": "Bearer hunter2"}});
    let pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, secret);
    let validate = |flag: &str| workspace.configured("validate", &pipeline).arg(flag).run();
    let printed = validate("--print").expect_code(0).stdout;
    assert!(!printed.contains("hunter2") && printed.contains("rescan_interval: 30s"), "{printed}");
    let beside = ["# Also in effect:", "queue: /", "redaction in traces, built in: password,"];
    for line in beside {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    let again = workspace.config("printed.yaml", &printed);
    workspace.program("validate").arg("-c").arg(again).run().expect_code(0);

    let mut tokens = pipeline.clone();
    tokens["exporters"]["otlp_grpc"]["endpoint"] =
        json!("http://u:hunter2@127.0.0.1:1?key=hunter2");
    let run = workspace.configured("validate", &tokens).arg("--print").run();
    assert!(!run.stdout.contains("hunter2") && !run.stderr.contains("hunter2"), "{run:?}");

    validate("--connect").expect_code(0).expect_log(&["takes connections"]);
    server.stop();
    validate("--connect").expect_code(1);

    let mut file = pipeline.clone();
    file["exporters"]["file"] = json!({"path": workspace.root().join("none/x.jsonl")});
    let run = workspace.configured("validate", &file).run().expect_code(2);
    run.expect_log(&["exporter `file`", "no such directory"]);
    file["exporters"]["file"] = json!({"path": workspace.root()});
    let run = workspace.configured("validate", &file).run().expect_code(2);
    run.expect_log(&["exporter `file`", "is a directory"]);
}

/// Traces and logs may have different destinations.
#[test]
fn validate_says_where_each_signal_goes() {
    let workspace = Workspace::new();
    let endpoint = |port: u16| json!({"endpoint": format!("http://127.0.0.1:{port}")});
    let pipeline = json!({
        "receivers": {"export_dir": {"directories": [workspace.root()]}},
        "exporters": {"otlp_grpc": endpoint(4317), "otlp_http/logs": endpoint(3100)},
        "service": {"pipelines": {
            "traces": {"receivers": ["export_dir"], "exporters": ["otlp_grpc"]},
            "logs": {"receivers": ["export_dir"], "exporters": ["otlp_http/logs"]},
        }},
    });
    let printed = workspace.configured("validate", &pipeline).run().expect_code(0).stdout;
    let expected =
        "valid; traces go to http://127.0.0.1:4317; logs go to http://127.0.0.1:3100/v1/logs\n";
    assert_eq!(printed, expected);
}

/// `validate` shows what the environment adds, and finds what would fail at the start.
#[tokio::test]
async fn validate_tries_what_run_will_need() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let plain = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let validate = |pipeline: &Value| workspace.configured("validate", pipeline);

    let printed = validate(&plain)
        .arg("--print")
        .env("OTEL_RESOURCE_ATTRIBUTES", "team=a%0Ab")
        .env("OTEL_SERVICE_NAME", "mine")
        .env("OTEL_SPAN_LINK_COUNT_LIMIT", "7")
        .env("OTEL_SDK_DISABLED", "true")
        .run()
        .expect_code(0)
        .stdout;
    for line in [
        r#"#   resource: "team" = "a\nb""#,
        r#"#   resource: "service.name" = "mine""#,
        "#   limit: 7 links of a span",
        "#   OTEL_SDK_DISABLED: nothing is sent",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }

    let file = workspace.root().join("file");
    fs::write(&file, "").unwrap();
    let queue = file.join("queue");
    let run = validate(&plain).arg("--state-dir").arg(&queue).run().expect_code(0);
    run.expect_log(&["the queue cannot be in", "is no directory to write to"]);
    assert!(!queue.exists());

    let mut listening = plain.clone();
    let taken = server.address().to_string();
    listening["service"]["telemetry"] = json!({"metrics": {"address": taken}});
    validate(&listening).run().expect_code(0).expect_log(&["is in use at this moment"]);
    listening["service"]["telemetry"] = json!({"metrics": {"address": ":0"}});
    validate(&listening).run().expect_code(0);
    listening["service"]["telemetry"] = json!({"metrics": {"address": "192.0.2.1:8888"}});
    let run = validate(&listening).run().expect_code(0);
    run.expect_log(&["service.telemetry.metrics cannot listen on 192.0.2.1:8888 here"]);
    listening["service"]["telemetry"] =
        json!({"metrics": {"address": "no-such-host.invalid:8888"}});
    let run = validate(&listening).run().expect_code(2);
    run.expect_log(&["service.telemetry.metrics cannot listen on no-such-host.invalid:8888"]);

    // Both addresses in one file are the same, written in two ways.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut same = plain.clone();
    same["extensions"] = json!({"health_check": {"endpoint": format!("127.0.0.1:{free}")}});
    same["service"]["extensions"] = json!(["health_check"]);
    same["service"]["telemetry"] = json!({"metrics": {"address": format!(":{free}")}});
    let run = validate(&same).run().expect_code(2);
    run.expect_log(&["service.telemetry.metrics cannot listen on"]);

    let mut twice = plain.clone();
    twice["extensions"] = json!({"health_check/a": null, "health_check/b": null});
    twice["service"]["extensions"] = json!(["health_check/a", "health_check/b"]);
    validate(&twice).run().expect_code(2).expect_log(&["a second health_check"]);
}

/// The new configuration needs an address that is in use. The old configuration stays, every time.
#[tokio::test]
async fn a_reload_that_fails_late_goes_back() {
    let workspace = Workspace::new();
    let server = FakeOtlp::builder().start().await;
    let mut pipeline = workspace.pipeline(server.endpoint(), Protocol::Grpc, Value::Null);
    let config = workspace.config("pipeline.yaml", &pipeline.to_string());
    let mut running = workspace.program("run").arg("-c").arg(&config).spawn();
    running.wait_for_line("watching", PATIENCE);
    let taken = server.address().to_string();
    pipeline["service"]["telemetry"] = json!({"metrics": {"address": taken}});
    for round in ["one", "two"] {
        fs::write(&config, pipeline.to_string()).unwrap();
        running.signal(Signal::HUP);
        running.wait_for_line("going back to the configuration before", PATIENCE);
        let snapshot = workspace.export(round, &presets::typical()).snapshot;
        snapshot.wait_for_trace_id(PATIENCE).await;
    }
    let directory = workspace.root().join("elsewhere");
    pipeline["service"]["telemetry"] = json!({});
    pipeline["extensions"] = json!({"file_storage": {"directory": directory}});
    pipeline["service"]["extensions"] = json!(["file_storage"]);
    fs::write(&config, pipeline.to_string()).unwrap();
    running.signal(Signal::HUP);
    running.wait_for_line("the queue cannot move", PATIENCE);
    running.signal(Signal::TERM);
    let code = running.wait(PATIENCE);
    running.output(code).expect_code(0);
    assert!(!directory.exists());
}
