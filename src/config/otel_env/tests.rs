use super::*;

fn run(vars: &[(&str, &str)]) -> (OtelEnv, String) {
    let env = |name: &str| {
        vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let (otel, warnings) = parse(&env);
    (otel, warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn nothing_configured_gives_no_message() {
    let expected = (OtelEnv::default(), String::new());
    assert_eq!(run(&[]), expected);
    let empty = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_SPAN_LINK_COUNT_LIMIT"];
    assert_eq!(run(&empty.map(|name| (name, " "))), expected);
}

#[test]
fn every_feature_together() {
    let (otel, warnings) = run(&[
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_SERVICE_NAME", "exporter"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=pr%C3%B6d, team%2Fx = a%2Cb=c "),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, tenant=a=b"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert.pem"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "128"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "2"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
    ]);
    assert_eq!(warnings, "");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let generic = otel.generic.clone();
    assert_eq!(generic, otel.traces);
    let expected = OtelEnv {
        generic,
        logs: OtlpEnv::default(),
        disabled: true,
        service_name: Some("exporter".into()),
        resource_attributes: vec![pair("deployment.environment", "pröd"), pair("team/x", "a,b=c")],
        traces: OtlpEnv {
            endpoint: Some(EndpointEnv { url: "http://tempo:4317".into(), exact: false }),
            protocol: Some(Protocol::HttpProtobuf),
            headers: [("authorization", "Bearer x"), ("tenant", "a=b")]
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .into(),
            timeout: Some(Duration::from_millis(2500)),
            compression: Some(Compression::None),
            insecure: Some(true),
            ca_file: Some("/ca.pem".into()),
            client_key: Some("/key.pem".into()),
            client_certificate: Some("/cert.pem".into()),
        },
        limits: SpanLimits {
            attribute_count: Some(128),
            event_count: Some(0),
            link_count: Some(2),
            attribute_value_length: Some(100),
        },
        triggered_by: None,
    };
    assert_eq!(otel, expected);
}

#[test]
fn traces_beat_the_generic_ones() {
    let (otel, _) = run(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/v1/traces"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", ""),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd"),
    ]);
    let url = "http://b/v1/traces".into();
    assert_eq!(otel.traces.endpoint, Some(EndpointEnv { url, exact: true }));
    assert_eq!(otel.traces.headers.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(otel.traces.timeout, Some(Duration::from_millis(1)));
    assert_eq!(otel.traces.compression, Some(Compression::Gzip));
}

#[test]
fn variables_of_one_signal_do_not_apply_to_the_other() {
    let (otel, _) = run(&[
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "secret=of-traces"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "secret=of-logs"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://loki/otlp/v1/logs"),
    ]);
    assert_eq!(otel.traces.headers["secret"].expose(), "of-traces");
    assert_eq!(otel.logs.headers["secret"].expose(), "of-logs");
    assert!(otel.logs.endpoint.is_some_and(|it| it.exact) && otel.traces.endpoint.is_none());
    assert_eq!(otel.generic, OtlpEnv::default());
}

#[test]
fn invalid_values_are_reported_and_ignored() {
    for (name, value, warning) in [
        ("OTEL_SDK_DISABLED", "1", "OTEL_SDK_DISABLED has to be true or false; it is ignored"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TIMEOUT has to be a number"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "OTEL_EXPORTER_OTLP_TIMEOUT has to be a number"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL has to be"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "OTEL_EXPORTER_OTLP_INSECURE has to be"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1", "OTEL_SPAN_EVENT_COUNT_LIMIT has to be a whole"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b", "OTEL_RESOURCE_ATTRIBUTES has to be key=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b=%zz", "OTEL_RESOURCE_ATTRIBUTES has to be key="),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "OTEL_RESOURCE_ATTRIBUTES has to be key=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=1", "OTEL_RESOURCE_ATTRIBUTES has to be key=value"),
    ] {
        let (otel, warnings) = run(&[(name, value)]);
        assert_eq!(otel, OtelEnv::default(), "{name}={value}");
        assert!(warnings.starts_with(warning) && !warnings.contains('\n'), "{warnings}");
    }
}

#[test]
fn a_bad_header_is_left_out_and_not_shown() {
    let headers = "good=1,s3cret,=s3cret,x=%s3cret,Authorization: Basic s3cret==";
    let (otel, warnings) = run(&[("OTEL_EXPORTER_OTLP_HEADERS", headers)]);
    assert_eq!(otel.traces.headers.keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(warnings.lines().count(), 4);
    assert!(!warnings.contains("s3cret") && !format!("{otel:?}").contains("s3cret"));
}
