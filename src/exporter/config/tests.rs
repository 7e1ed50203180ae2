use super::*;

#[test]
fn a_signal_uses_its_own_endpoint_as_it_is_and_the_shared_one_with_its_path() {
    use Protocol::{Grpc, HttpProtobuf};
    let url = |config: &OtlpConfig, protocol, signal| {
        let endpoint = config.endpoint_for(protocol, signal).unwrap();
        endpoint.map(|it| it.uri().to_string())
    };
    let config = OtlpConfig {
        endpoint: Some("http://other:9".into()),
        traces_endpoint: Some("http://h/custom?a=b".into()),
        ..OtlpConfig::default()
    };
    assert_eq!(url(&config, HttpProtobuf, Signal::Traces).as_deref(), Some("http://h/custom?a=b"));
    assert_eq!(url(&config, HttpProtobuf, Signal::Logs).as_deref(), Some("http://other:9/v1/logs"));
    assert_eq!(url(&config, Grpc, Signal::Logs).as_deref(), Some("http://other:9/"));
    assert_eq!(config.endpoint_for(Grpc, Signal::Traces), Err(EndpointError::GrpcPath));
    assert_eq!(url(&OtlpConfig::default(), HttpProtobuf, Signal::Logs), None);
}

#[test]
fn every_check_is_reported_and_no_secret_is_shown() {
    let config = OtlpConfig {
        endpoint: Some("ftp://user:hunter2@x".into()),
        headers: [("a b", "hunter2\n"), ("x-ok", "fine\tvalue")]
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .into(),
        timeout: HumanDuration::ZERO,
        tls: TlsConfig { cert_file: Some("c.pem".into()), ..TlsConfig::default() },
        retry_on_failure: RetryConfig {
            multiplier: f64::NAN,
            randomization_factor: 1.5,
            max_interval: HumanDuration::from_millis(1),
            ..RetryConfig::default()
        },
        sending_queue: QueueConfig { queue_size: "1KiB".parse().unwrap(), ..Default::default() },
        ..OtlpConfig::default()
    };
    let mut found = Vec::new();
    config.check(Protocol::Grpc, &mut |path, message| found.push(format!("{path}: {message}")));
    let text = found.join("\n");
    for path in [
        "endpoint",
        "headers.a b",
        "timeout",
        "tls.cert_file",
        "retry_on_failure.multiplier",
        "retry_on_failure.randomization_factor",
        "retry_on_failure.max_interval",
        "sending_queue.queue_size",
    ] {
        assert!(text.contains(&format!("{path}: ")), "{path} in {text}");
    }
    assert_eq!(found.len(), 9);
    assert!(!text.contains("hunter2") && !format!("{:?}", config.headers).contains("hunter2"));

    let mut defaults = Vec::new();
    let mut at = |path: &str, _| defaults.push(path.to_owned());
    OtlpConfig::default().check(Protocol::HttpProtobuf, &mut at);
    assert!(defaults.is_empty());
}
