//! Endpoints as users write them: pure.

use super::BuildError;
use super::config::OtlpConfig;
use super::redacted::redacted;
use crate::base::signal::Signal;

/// The URI a gRPC channel connects to. A scheme decides about TLS; without one `tls.insecure` does.
pub fn grpc(config: &OtlpConfig, signal: Signal) -> Result<String, BuildError> {
    let endpoint = config.own_endpoint(signal).or(config.endpoint.as_ref());
    let endpoint = endpoint.map(|text| text.trim()).filter(|text| !text.is_empty());
    let endpoint = endpoint.ok_or(BuildError::NoEndpoint)?;
    match endpoint.split_once("://") {
        Some(("http" | "https", _)) => Ok(endpoint.to_owned()),
        Some((scheme, _)) => Err(BuildError::BadEndpoint {
            endpoint: redacted(endpoint),
            reason: format!("the scheme `{scheme}` is neither http nor https"),
        }),
        None if config.tls.insecure => Ok(format!("http://{endpoint}")),
        None => Ok(format!("https://{endpoint}")),
    }
}

/// The URL that a signal is posted to: its own endpoint as it is, or `endpoint` and the path.
pub fn http(config: &OtlpConfig, signal: Signal) -> Result<String, BuildError> {
    let filled = |text: &&String| !text.trim().is_empty();
    let url = match (config.own_endpoint(signal).filter(filled), &config.endpoint) {
        (Some(exact), _) => exact.trim().to_owned(),
        (None, Some(base)) if filled(&base) => {
            format!("{}/v1/{signal}", base.trim().trim_end_matches('/'))
        }
        _ => return Err(BuildError::NoEndpoint),
    };
    match url.split_once("://") {
        Some(("http" | "https", _)) => Ok(url),
        _ => Err(BuildError::BadEndpoint {
            endpoint: redacted(&url),
            reason: "it has to begin with http:// or https://".to_owned(),
        }),
    }
}

/// The host:port of a URL, with the port that its scheme has unless it names one.
pub fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let port = match scheme {
        "https" => 443,
        _ => 80,
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { authority.to_owned() } else { format!("{authority}:{port}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(endpoint: &str, insecure: bool) -> OtlpConfig {
        let mut config = OtlpConfig { endpoint: Some(endpoint.into()), ..OtlpConfig::default() };
        config.tls.insecure = insecure;
        config
    }

    #[test]
    fn grpc_endpoints() {
        let cases = [
            ("http://h:4317", false, Some("http://h:4317")),
            ("https://h:4317", true, Some("https://h:4317")),
            ("h:4317", true, Some("http://h:4317")),
            ("h:4317", false, Some("https://h:4317")),
            ("unix:///x", false, None),
            ("", false, None),
        ];
        for (endpoint, insecure, expected) in cases {
            let actual = grpc(&config(endpoint, insecure), Signal::Traces).ok();
            assert_eq!(actual.as_deref(), expected, "{endpoint}");
        }
    }

    #[test]
    fn http_endpoints() {
        let cases = [
            ("http://h:4318", Some("http://h:4318/v1/traces")),
            ("http://h:4318/", Some("http://h:4318/v1/traces")),
            ("https://h/otlp", Some("https://h/otlp/v1/traces")),
            ("h:4318", None),
        ];
        for (endpoint, expected) in cases {
            let actual = http(&config(endpoint, false), Signal::Traces).ok();
            assert_eq!(actual.as_deref(), expected, "{endpoint}");
        }
        let exact = OtlpConfig {
            traces_endpoint: Some("http://h/custom".into()),
            ..config("http://other", false)
        };
        assert_eq!(http(&exact, Signal::Traces).ok().as_deref(), Some("http://h/custom"));
        assert_eq!(http(&exact, Signal::Logs).ok().as_deref(), Some("http://other/v1/logs"));
        let loki = config("http://loki:3100/otlp", false);
        assert_eq!(
            http(&loki, Signal::Logs).ok().as_deref(),
            Some("http://loki:3100/otlp/v1/logs")
        );
    }

    #[test]
    fn addresses() {
        assert_eq!(address("http://h:4317").as_deref(), Some("h:4317"));
        assert_eq!(address("https://h/v1/traces").as_deref(), Some("h:443"));
        assert_eq!(address("http://[::1]").as_deref(), Some("[::1]:80"));
        assert_eq!(address("http://[::1]:4317").as_deref(), Some("[::1]:4317"));
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        assert_eq!(redacted("https://u:p@h:1/x?token=t"), "https://h:1/x");
        assert_eq!(redacted("http://h:4317"), "http://h:4317");
        assert_eq!(redacted("u:p@h:4317"), "h:4317");
        for password in ["hun/ter2", "hun?ter2", "hun#ter2", "hun@ter2", "hun://ter2"] {
            assert_eq!(
                redacted(&format!("http://admin:{password}@tempo:4317/x")),
                "http://tempo:4317/x"
            );
            assert_eq!(redacted(&format!("admin:{password}@tempo:4317")), "tempo:4317");
        }
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[!-~]{0,20}") {
            let shown = redacted(&format!("https://user:s3cret{password}@host/path"));
            prop_assert!(!shown.contains("s3cret"), "{}", shown);
        }
    }
}
