use super::*;
use crate::config::expand::Env;
use crate::config::load::ConfigDocument;
use crate::config::otel_env;

const ONE: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://file:4317, headers: {a: file, b: file}}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]}}}";

const TWO: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://a:4317}, otlp_http: {endpoint: http://b:4318}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc, otlp_http]}}}";

fn loaded(text: &str) -> Config {
    let source = ConfigDocument::Text { name: "t.yaml".into(), text: text.into() };
    let no_env: Env<'_> = &|_| None;
    Config::from_sources(&[source], &[], no_env).expect("a valid configuration").0
}

fn env(pairs: &[(&str, &str)]) -> OtelEnv {
    let find = |name: &str| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    otel_env::parse(&find).0
}

fn endpoint_flag(url: &str) -> Flags {
    Flags { endpoint: Some(url.into()), ..Flags::default() }
}

fn only(config: &Config) -> (Protocol, OtlpConfig) {
    let (protocol, config) = config.exporters[0].otlp().expect("OTLP");
    (protocol, config.clone())
}

#[test]
fn flag_beats_environment_beats_file() {
    let otel = env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "b=env"),
    ]);
    let mut config = loaded(ONE);
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    let (protocol, exporter) = only(&config);
    assert_eq!(exporter.endpoint.as_deref(), Some("http://env:4318"));
    assert_eq!(protocol, Protocol::HttpProtobuf, "the port says so");
    assert_eq!(exporter.headers["a"].expose(), "file");
    assert_eq!(exporter.headers["b"].expose(), "env");

    apply(&mut config, &endpoint_flag("http://flag:4317"), &otel).expect("fits");
    let (protocol, exporter) = only(&config);
    assert_eq!(
        (protocol, exporter.endpoint.as_deref()),
        (Protocol::Grpc, Some("http://flag:4317"))
    );
}

#[test]
fn the_protocol_of_the_environment_belongs_to_its_endpoint() {
    let mut config = loaded(ONE);
    let otel = env(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    assert_eq!(only(&config).0, Protocol::Grpc);
}

#[test]
fn the_endpoint_for_traces_is_used_as_it_is() {
    let mut config = loaded(ONE);
    let otel = env(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://env:4318/x"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318"),
    ]);
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    assert_eq!(only(&config).1.traces_endpoint.as_deref(), Some("http://env:4318/x"));
}

#[test]
fn several_exporters_are_left_alone() {
    let mut config = loaded(TWO);
    let before = config.clone();
    let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317")]);
    let warnings = apply(&mut config, &Flags::default(), &otel).expect("a warning");
    assert_eq!((config, warnings.len()), (before.clone(), 1));
    let faults = apply(&mut before.clone(), &endpoint_flag("http://x:4317"), &otel);
    assert!(faults.is_err());
}

const LOGS: &str = "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: http://tempo:4317}, otlp_http/loki: {endpoint: http://loki}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]},
  logs: {receivers: [export_dir], exporters: [LOGS]}}}";

#[test]
fn log_options_apply_to_logs_and_secrets_of_traces_do_not() {
    let otel = env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "secret=of-traces"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "tenant=of-logs"),
    ]);
    let of_logs = |config: &Config| {
        let id = config.service.pipelines[1].exporters[0].clone();
        config.exporters[&id].otlp().expect("OTLP").1.clone()
    };
    // An exporter for Loki keeps its endpoint.
    let mut config = loaded(&LOGS.replace("[LOGS]", "[otlp_http/loki]"));
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    let loki = of_logs(&config);
    assert_eq!(loki.endpoint.as_deref(), Some("http://loki"));
    assert_eq!(loki.headers.keys().collect::<Vec<_>>(), ["tenant"]);

    // The exporter of the traces, with different settings for logs.
    let shared = LOGS
        .replace("[LOGS]", "[otlp_grpc]")
        .replace(", otlp_http/loki: {endpoint: http://loki}", "");
    let mut config = loaded(&shared);
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    let logs = of_logs(&config);
    assert_eq!(logs.endpoint.as_deref(), Some("http://env:4317"));
    assert_eq!(logs.headers.keys().collect::<Vec<_>>(), ["tenant"]);
    assert_eq!(only(&config).1.headers.keys().collect::<Vec<_>>(), ["secret"]);

    // The same exporter, with the same settings.
    let mut config = loaded(&shared);
    let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317")]);
    apply(&mut config, &Flags::default(), &otel).expect("fits");
    assert_eq!(config.exporters.len(), 1);
}

#[test]
fn an_endpoint_of_the_other_protocol_is_a_warning() {
    let mut config = loaded(
        "receivers: {export_dir: {directories: [out]}}
exporters: {otlp_grpc: {endpoint: 'http://tempo:4318'}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [otlp_grpc]}}}",
    );
    let apply_env = |config: &mut Config, otel: &OtelEnv| {
        let warnings = apply(config, &Flags::default(), otel).expect("fits");
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        apply_env(&mut config, &OtelEnv::default()),
        ["exporter `otlp_grpc`: http://tempo:4318: 4318 is usually the port of OTLP/HTTP, \
                 but this exporter uses gRPC"]
    );
    let otel = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4317")]);
    assert_eq!(apply_env(&mut config, &otel), [""; 0]);
}

#[test]
fn a_flag_adds_an_exporter_where_there_is_none() {
    let mut config = loaded(
        "receivers: {export_dir: {directories: [out]}}
exporters: {debug: {}}
service: {pipelines: {traces: {receivers: [export_dir], exporters: [debug]}}}",
    );
    apply(&mut config, &endpoint_flag("http://x:4318"), &OtelEnv::default()).expect("fits");
    let pipeline = &config.service.pipelines[0];
    assert_eq!(pipeline.exporters.len(), 2);
    assert!(matches!(config.exporters[1], ExporterConfig::OtlpHttp(_)));
}

#[test]
fn a_bad_flag_is_a_fault() {
    let faults = apply(&mut loaded(ONE), &endpoint_flag("ftp://x"), &OtelEnv::default());
    assert!(faults.expect_err("no such scheme").to_string().contains("endpoint"));
}
