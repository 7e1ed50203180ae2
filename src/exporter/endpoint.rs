//! Endpoints: the URLs of OTLP exporters, and of the backends that traces are read back from.
//!
//! ```text
//! text ─parse─▶ Endpoint ─▶ the URI to connect to, host:port, or a text without secrets
//! ```
//!
//! Validation and connection use the same parser, so an endpoint that `validate` accepts is one
//! that `run` can connect to. Pure.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Serialize, Serializer};

/// The OTLP protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum Protocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err("has to be grpc or http/protobuf".into()),
        }
    }
}

/// A complete `http` or `https` URL: it has a host, a port, and no user or password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    uri: Uri,
    port: u16,
}

/// Why a text is not an endpoint. The message never contains the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("must start with http:// or https://")]
    NoScheme,
    #[error("must start with http:// or https://, or be host:port")]
    BadScheme,
    #[error("names no host")]
    NoHost,
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    #[error("must not contain a user or password (`@`); use a header")]
    UserInfo,
    #[error("must not have a path or query: gRPC uses neither; use `otlp_http` for one")]
    GrpcPath,
    #[error("must not have a fragment (`#`): it would not be sent")]
    Fragment,
    #[error("must not have a query (`?`): paths are appended to it")]
    Query,
    #[error("is not a URL: {0}")]
    NotUrl(String),
}

impl Endpoint {
    /// Parses the endpoint of a gRPC exporter: a URL, or `host:port` that uses TLS unless `insecure`
    /// is set (OTLP exporter specification, "Endpoint URLs for OTLP/gRPC").
    ///
    /// # Errors
    /// Returns an error if `text` is neither, or has a path or a query.
    pub(crate) fn grpc(text: &str, insecure: bool) -> Result<Endpoint, EndpointError> {
        let text = text.trim();
        let endpoint = if text.contains("://") {
            Endpoint::parse(text).map_err(|error| match error {
                EndpointError::NoScheme => EndpointError::BadScheme,
                other => other,
            })?
        } else {
            let scheme = if insecure { "http" } else { "https" };
            Endpoint::parse(&format!("{scheme}://{text}"))?
        };
        match endpoint.uri.path() {
            "" | "/" if endpoint.uri.query().is_none() => Ok(endpoint),
            _ => Err(EndpointError::GrpcPath),
        }
    }

    /// Parses a URL that is used as it is.
    ///
    /// # Errors
    /// Returns an error if `text` is not an `http` or `https` URL.
    pub(crate) fn http(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(text.trim())
    }

    /// Parses a URL that paths are appended to.
    ///
    /// # Errors
    /// Returns an error if `text` is not an `http` or `https` URL, or has a query.
    pub(crate) fn base(text: &str) -> Result<Endpoint, EndpointError> {
        let endpoint = Endpoint::http(text)?;
        match endpoint.uri.query() {
            None => Ok(endpoint),
            Some(_) => Err(EndpointError::Query),
        }
    }

    fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(EndpointError::NoScheme);
        };
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(EndpointError::NoScheme),
        };
        // Check this first, so that no later error can contain a password that is not
        // percent-encoded.
        if rest.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.is_empty() || authority.starts_with(':') {
            return Err(EndpointError::NoHost);
        }
        let uri: Uri = text.parse().map_err(|error| EndpointError::NotUrl(format!("{error}")))?;
        // `Uri` accepts any text as a port, and returns no port if it is out of range.
        let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
        let port = match (after_host.contains(':'), uri.port_u16()) {
            (false, _) => default_port,
            (true, Some(port @ 1..)) => port,
            (true, _) => return Err(EndpointError::BadPort),
        };
        Ok(Endpoint { uri, port })
    }

    /// Appends `path`, which starts with `/`, to the path; a query stays at the end.
    ///
    /// # Errors
    /// Returns an error if the result is not a URL.
    pub(crate) fn join(&self, path: &str) -> Result<Endpoint, EndpointError> {
        let query = self.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Endpoint::parse(&format!("{self}{path}{query}"))
    }

    /// The URI to connect to.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether connections use TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host and port to connect to, the port being that of the scheme unless the URL has one.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.uri.host().unwrap_or_default(), self.port)
    }

    /// The port of the URL, or of its scheme.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Why the endpoint is probably not what the user meant: the port or the path belongs to the
    /// other protocol.
    pub(crate) fn doubt(&self, protocol: Protocol) -> Option<&'static str> {
        match (protocol, self.port) {
            (Protocol::Grpc, 4318) => {
                return Some("4318 is usually the port of OTLP/HTTP, but this exporter uses gRPC");
            }
            (Protocol::HttpProtobuf, 4317) => {
                return Some("4317 is usually the port of OTLP/gRPC, but this exporter uses HTTP");
            }
            _ => {}
        }
        let path = self.uri.path();
        let is_twice = ["/v1/traces/v1/", "/v1/logs/v1/"].iter().any(|twice| path.contains(twice));
        is_twice.then_some("ends in /v1/traces or /v1/logs, which taskspan appends itself")
    }
}

/// The URL without its query, which may hold a token.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map(|authority| authority.as_str());
        let path = self.uri.path().trim_end_matches('/');
        write!(f, "{scheme}://{}{path}", authority.unwrap_or_default())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Serializes a URL without its secrets.
///
/// # Errors
/// Fails only if `to` does.
pub(crate) fn serialize_redacted<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&redacted(url))
}

/// Serializes an optional URL without its secrets.
///
/// # Errors
/// Fails only if `to` does.
pub(crate) fn serialize_redacted_option<S: Serializer>(
    url: &Option<String>,
    to: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redacted).serialize(to)
}

/// Removes what may be secret from a text that need not be a URL: user info and query. Everything
/// before the last `@` counts as user info, because a password that is not percent-encoded may
/// contain any character.
pub(crate) fn redacted(url: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let host = rest.rsplit('@').next().unwrap_or_default();
    let without_query = host.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}{}", without_query.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use EndpointError as E;
    use Protocol::{Grpc, HttpProtobuf};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_endpoints() {
        let cases = [
            ("http://h:4317", false, Ok("http://h:4317/")),
            ("HTTPS://h", true, Ok("https://h/")),
            (" h:4317 ", true, Ok("http://h:4317/")),
            ("h:4317", false, Ok("https://h:4317/")),
            ("[::1]:4317", true, Ok("http://[::1]:4317/")),
            ("http://h:4317/", false, Ok("http://h:4317/")),
            ("http://h:4317/v1/traces", false, Err(E::GrpcPath)),
            ("h:4317/x", false, Err(E::GrpcPath)),
            ("http://h:4317?a=b", false, Err(E::GrpcPath)),
            ("unix:///x", false, Err(E::BadScheme)),
        ];
        for (text, insecure, expected) in cases {
            let actual = Endpoint::grpc(text, insecure).map(|it| it.uri().to_string());
            assert_eq!(actual, expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_endpoints() {
        for (text, expected) in [
            ("h:4318", E::NoScheme),
            ("", E::NoScheme),
            ("ftp://h", E::NoScheme),
            ("http://", E::NoHost),
            ("http://:4318", E::NoHost),
            ("http:///v1", E::NoHost),
            ("http://h:", E::BadPort),
            ("http://h:0", E::BadPort),
            ("http://h:65536", E::BadPort),
            ("http://h:4317x", E::BadPort),
            ("http://h:-1", E::BadPort),
            ("http://[::1]:4317x", E::BadPort),
            ("http://user:pw@h", E::UserInfo),
            ("http://admin:hun/ter2@h:4317", E::UserInfo),
            ("http://h/x#y", E::Fragment),
        ] {
            assert_eq!(Endpoint::http(text), Err(expected), "{text}");
        }
        for text in
            ["http://a b", "http://h:1:2", "http://[::1", "http://h/\u{7f}", "http://h/a\nb"]
        {
            assert!(Endpoint::http(text).is_err(), "{text}");
        }
        assert_eq!(Endpoint::base("http://h/x?y"), Err(E::Query));
    }

    #[test]
    fn a_path_is_appended_before_the_query() {
        for (text, expected) in [
            ("http://h:4318", "http://h:4318/v1/traces"),
            ("http://h:4318/", "http://h:4318/v1/traces"),
            ("https://h/otlp", "https://h/otlp/v1/traces"),
            ("https://h/otlp/?tenant=a", "https://h/otlp/v1/traces?tenant=a"),
        ] {
            let joined = Endpoint::http(text).unwrap().join("/v1/traces").unwrap();
            assert_eq!(joined.uri().to_string(), expected);
        }
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("http://h:4317", "h:4317"),
            ("https://h/v1/traces", "h:443"),
            ("http://[::1]", "[::1]:80"),
            ("http://[::1]:4317", "[::1]:4317"),
        ] {
            assert_eq!(Endpoint::http(text).unwrap().address(), expected);
        }
    }

    #[test]
    fn a_port_or_a_path_of_the_other_protocol_is_doubted() {
        for (text, protocol, is_doubted) in [
            ("http://h:4317", Grpc, false),
            ("http://h:4318", Grpc, true),
            ("http://h:4318/v1/traces", HttpProtobuf, false),
            ("http://h:4317/v1/traces", HttpProtobuf, true),
            ("http://h:4318/v1/traces/v1/traces", HttpProtobuf, true),
        ] {
            let doubt = Endpoint::http(text).unwrap().doubt(protocol);
            assert_eq!(doubt.is_some(), is_doubted, "{text} {protocol:?}: {doubt:?}");
        }
    }

    #[test]
    fn redaction() {
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
        fn no_secret_is_shown(password in "[!-~]{0,20}") {
            let url = format!("https://user:s3cret{password}@host/path");
            prop_assert!(!redacted(&url).contains("s3cret"));
            let error = Endpoint::http(&url).expect_err("user info");
            prop_assert!(!error.to_string().contains("s3cret"), "{error}");

            let url = format!("https://host/path?token=s3cret{}", password.replace(['@', '#'], ""));
            if let Ok(endpoint) = Endpoint::http(&url) {
                let shown = format!("{endpoint} {endpoint:?}");
                prop_assert!(!shown.contains("s3cret"), "{shown}");
            }
        }
    }
}
