//! Guarantees:
//!
//! - The OTEL_* variables have the effect that the OpenTelemetry specification defines, as seen
//!   from the endpoint.
//! - Flags override variables, and variables override files.
//! - An invalid variable is ignored with a warning.
//! - With `OTEL_SDK_DISABLED`, nothing is sent or written.
//! - Only servers with a certificate of a trusted authority receive anything.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::conventions::{Settings, check_with, trace_id};
use crate::support::exports::presets;
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol, TestPki};
use crate::support::program::Program;
use crate::support::snapshot::Snapshot;
use crate::support::workspace::Workspace;

/// Prepares one export, and a run that is configured by the environment only.
fn once() -> (Workspace, Snapshot, Program) {
    let workspace = Workspace::new();
    let snapshot = workspace.export("a", &presets::one()).snapshot;
    let program = workspace.program("once").arg(workspace.exports());
    (workspace, snapshot, program)
}

#[tokio::test]
async fn endpoint_and_protocol() {
    for protocol in Protocol::BOTH {
        let server = FakeOtlp::builder().start().await;
        let (_workspace, snapshot, program) = once();
        let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint());
        program.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name()).run().expect_code(0);
        assert_eq!(server.attempts()[0].protocol, protocol);
        assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
    }
}

#[tokio::test]
async fn a_generic_endpoint_is_a_base_and_a_specific_one_is_used_as_it_is() {
    let base = FakeOtlp::builder().http_path("/base/v1/traces").start().await;
    let (_workspace, snapshot, program) = once();
    let program = program.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let url = format!("{}/base", base.endpoint());
    program.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).run().expect_code(0);
    assert_eq!(snapshot.check(&base.accepted()), [""; 0]);

    let exact = FakeOtlp::builder().http_path("/take/this").start().await;
    let (_workspace, snapshot, program) = once();
    let program = program.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", base.endpoint());
    let url = format!("{}/take/this", exact.endpoint());
    program.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url).run().expect_code(0);
    assert_eq!(snapshot.check(&exact.accepted()), [""; 0]);
    assert_eq!(base.attempts().len(), 1, "the specific variable wins");
}

#[tokio::test]
async fn flags_beat_the_environment() {
    let (flag, env) = (FakeOtlp::builder().start().await, FakeOtlp::builder().may_be_unused());
    let env = env.start().await;
    let (_workspace, _, program) = once();
    let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", env.endpoint());
    program.args(&["--endpoint", flag.endpoint()]).run().expect_code(0);
    assert!(env.attempts().is_empty());
}

#[tokio::test]
async fn headers_are_sent_decoded_and_the_user_agent_names_the_program() {
    for protocol in Protocol::BOTH {
        let server = FakeOtlp::builder().start().await;
        let (_workspace, _, program) = once();
        let program = program
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc%3D, X-Tenant=shop");
        let output = program.arg("-v").run().expect_code(0);
        let headers = &server.attempts()[0].headers;
        assert_eq!(headers["authorization"], "Bearer abc=");
        assert_eq!(headers["x-tenant"], "shop");
        let agent = concat!("OTel-OTLP-Exporter-taskspan/", env!("CARGO_PKG_VERSION"));
        assert!(headers["user-agent"].contains(agent), "{headers:?}");
        assert!(!output.stderr.contains("abc="), "a secret in the log:\n{}", output.stderr);
    }
}

#[tokio::test]
async fn headers_of_traces_replace_the_generic_ones() {
    let server = FakeOtlp::builder().start().await;
    let (_workspace, _, program) = once();
    let program = program
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=generic")
        .env("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-tenant=traces");
    program.run().expect_code(0);
    assert_eq!(server.attempts()[0].headers["x-tenant"], "traces");
}

#[tokio::test]
async fn compression() {
    for protocol in Protocol::BOTH {
        let key = if protocol == Protocol::Grpc { "grpc-encoding" } else { "content-encoding" };
        for compression in ["gzip", "none"] {
            let server = FakeOtlp::builder().start().await;
            let (_workspace, snapshot, program) = once();
            let program = program
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
                .env("OTEL_EXPORTER_OTLP_COMPRESSION", compression);
            program.run().expect_code(0);
            let attempt = &server.attempts()[0];
            let zipped = attempt.headers.get(key).is_some_and(|value| value == "gzip");
            assert_eq!(zipped, compression == "gzip", "{:?}", attempt.headers);
            assert_eq!(attempt.wire_bytes < attempt.encoded_bytes, compression == "gzip");
            assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
        }
    }
}

#[tokio::test]
async fn the_timeout_is_in_milliseconds() {
    let server = FakeOtlp::builder().script([Fault::Stall]).start().await;
    let workspace = Workspace::new();
    workspace.export("a", &presets::one());
    let mut pipeline = workspace.pipeline("", Protocol::Grpc, Value::Null);
    pipeline["exporters"]["otlp_grpc"]["timeout"] = json!("50s");
    let program = workspace.configured("once", &pipeline);
    let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint());
    program.env("OTEL_EXPORTER_OTLP_TIMEOUT", "300").run().expect_code(0);
    let attempts = server.attempts();
    let waited = attempts[1].at - attempts[0].at;
    assert!((250..20_000).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test]
async fn meaningless_values_are_reported_and_ignored() {
    let server = FakeOtlp::builder().start().await;
    let (_workspace, snapshot, program) = once();
    let program = program
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment=prod,broken");
    let output = program.run().expect_code(0);
    output.expect_log(&["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_RESOURCE_ATTRIBUTES"]);
    assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
}

#[tokio::test]
async fn service_name_and_resource_attributes() {
    let cases = [
        (None, "service.name=from-attributes,deployment=pro%20d", "from-attributes"),
        (Some("from-name"), "service.name=from-attributes,deployment=pro%20d", "from-name"),
    ];
    for (name, attributes, expected) in cases {
        let server = FakeOtlp::builder().start().await;
        let (_workspace, snapshot, program) = once();
        let program = program
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
            .env("OTEL_SERVICE_NAME", name.unwrap_or_default())
            .env("OTEL_RESOURCE_ATTRIBUTES", attributes);
        program.run().expect_code(0);
        let settings = Settings {
            service_name: Some(expected.to_owned()),
            resource: vec![("deployment".to_owned(), "pro d".to_owned())],
            ..Settings::default()
        };
        let trace = trace_id(&snapshot.canonical, snapshot.mtime_ns, &snapshot.bytes);
        let dir = snapshot.canonical.parent().unwrap();
        let faults = check_with(&settings, dir, &snapshot.bytes, trace, &server.accepted());
        assert_eq!(faults, [""; 0]);
    }
}

#[tokio::test]
async fn a_disabled_sdk_sends_and_writes_nothing() {
    let server = FakeOtlp::builder().may_be_unused().start().await;
    let (_workspace, snapshot, program) = once();
    let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint());
    program.env("OTEL_SDK_DISABLED", "true").run().expect_code(0);
    assert!(server.attempts().is_empty());
    assert!(snapshot.is_untouched());
}

#[tokio::test]
async fn certificates() {
    for protocol in Protocol::BOTH {
        let pki = TestPki::new();
        let server = FakeOtlp::builder().mutual_tls(&pki).start().await;
        let (workspace, snapshot, program) = once();
        let files = pki.write_into(workspace.root());
        let program = program
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", files.ca)
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", files.client_certificate)
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", files.client_key);
        program.run().expect_code(0);
        assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
    }
}

#[tokio::test]
async fn an_unknown_authority_is_not_trusted() {
    let server = FakeOtlp::builder().tls(&TestPki::new()).may_be_unused().start().await;
    let (_workspace, snapshot, program) = once();
    let program = program.env("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint());
    let output = program.args(&["--timeout", "2s"]).deadline(Duration::from_secs(30)).run();
    assert_ne!(output.code, 0, "{output:?}");
    assert!(server.attempts().is_empty());
    assert!(snapshot.is_untouched());
}
