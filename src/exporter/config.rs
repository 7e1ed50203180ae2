//! Configuration of the exporters.
//!
//! ```text
//! otlp_grpc ┐
//! otlp_http ┴─ OtlpConfig { endpoint, headers, TlsConfig, RetryConfig, QueueConfig }
//! file ─────── FileConfig         debug ─── DebugConfig
//! ```
//!
//! Plain data. An endpoint may be missing here, because flags and OTEL_* variables can set it
//! later.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub(crate) use super::endpoint::Protocol;
use super::endpoint::{Endpoint, EndpointError, serialize_redacted, serialize_redacted_option};
use super::sending_queue::QueueConfig;
use crate::base::signal::Signal;
use crate::base::units::{HumanDuration, Secret};

/// An exporter of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum ExporterConfig {
    OtlpGrpc(OtlpConfig),
    OtlpHttp(OtlpConfig),
    File(FileConfig),
    Debug(DebugConfig),
}

/// Sends OTLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OtlpConfig {
    /// `http://host:4317` for gRPC, `http://host:4318` for HTTP, where `/v1/traces` or `/v1/logs`
    /// is appended. `https://` means TLS. Default: not set.
    #[serde(serialize_with = "serialize_redacted_option")]
    pub(crate) endpoint: Option<String>,
    /// Used for traces instead of `endpoint`, without appending a path. Default: not set.
    #[serde(serialize_with = "serialize_redacted_option")]
    pub(crate) traces_endpoint: Option<String>,
    /// Used for logs instead of `endpoint`, without appending a path. Default: not set.
    #[serde(serialize_with = "serialize_redacted_option")]
    pub(crate) logs_endpoint: Option<String>,
    /// Headers of every request. Default: none.
    pub(crate) headers: IndexMap<String, Secret>,
    /// `gzip` or `none`. Default: gzip.
    pub(crate) compression: Compression,
    /// Time limit for one request. More than 0. Default: 10s.
    pub(crate) timeout: HumanDuration,
    pub(crate) tls: TlsConfig,
    pub(crate) retry_on_failure: RetryConfig,
    pub(crate) sending_queue: QueueConfig,
    /// Whether `task_trace_id` is written only after this exporter has delivered. Default: true.
    pub(crate) required: bool,
    /// Whether and how taskspan verifies that the backend has every span. Default: not verified.
    pub(crate) verify: Option<VerifyConfig>,
}

/// Reads a trace back over Tempo's HTTP API after the last acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyConfig {
    /// Base URL of Tempo's HTTP API, for example `http://tempo:3200`.
    #[serde(serialize_with = "serialize_redacted")]
    pub(crate) endpoint: String,
    /// Time limit for finding every span. It starts again after missing spans are resent. More than
    /// 0. Default: 60s.
    #[serde(default = "verify_timeout")]
    pub(crate) timeout: HumanDuration,
    /// Delay before a second verification, which must succeed before the id is written. Tempo can
    /// lose spans that it already returned if it is killed before it flushes its WAL. Default: not
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<HumanDuration>,
}

impl VerifyConfig {
    /// Returns the longest time until a verification is decided, if the backend answers.
    pub(crate) fn longest(&self) -> Duration {
        // Once for the first delivery, and once after missing spans were resent.
        let again = self.after.map_or(Duration::ZERO, |after| after.0 + self.timeout.0);
        (self.timeout.0 + again) * 2
    }
}

/// The default of `verify.timeout`.
pub(crate) fn verify_timeout() -> HumanDuration {
    HumanDuration::from_secs(60)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    #[default]
    Gzip,
    None,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            _ => Err("has to be gzip or none".into()),
        }
    }
}

/// TLS settings: whether to use TLS, certificates to trust and present, and the server name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsConfig {
    /// For an endpoint without a scheme: use plain text instead of TLS. Default: false.
    pub(crate) insecure: bool,
    /// PEM file with the certificate authorities to trust instead of the system's. Default: not
    /// set.
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM file with the client certificate; requires `key_file`. Default: not set.
    pub(crate) cert_file: Option<PathBuf>,
    /// PEM file with the key of `cert_file`. Default: not set.
    pub(crate) key_file: Option<PathBuf>,
    /// Name to expect in the server's certificate. Default: the endpoint's host.
    pub(crate) server_name_override: Option<String>,
}

/// How failed requests are retried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryConfig {
    /// Whether to retry. Default: true.
    pub(crate) enabled: bool,
    /// Wait before the first retry. More than 0. Default: 1s.
    pub(crate) initial_interval: HumanDuration,
    /// Factor by which each wait grows. 1 or more. Default: 1.5.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub(crate) multiplier: f64,
    /// Random variation of each wait, as a fraction of it. 0 to 1. Default: 0.5.
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    pub(crate) randomization_factor: f64,
    /// Upper limit of the wait; not below `initial_interval`. Default: 30s.
    pub(crate) max_interval: HumanDuration,
    /// When to give up; 0 means never. Default: 0s.
    pub(crate) max_elapsed_time: HumanDuration,
}

/// Writes OTLP as JSON, one request per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileConfig {
    /// The file to append to. Required.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) path: PathBuf,
    /// Whether `task_trace_id` is written only after this exporter has delivered. Default: true.
    pub(crate) required: bool,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self { path: PathBuf::new(), required: true }
    }
}

/// Logs what would be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DebugConfig {
    /// `basic` (one line per request), `normal` (one line per span) or `detailed`. Default: basic.
    pub(crate) verbosity: Verbosity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verbosity {
    #[default]
    Basic,
    Normal,
    Detailed,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            traces_endpoint: None,
            logs_endpoint: None,
            headers: IndexMap::new(),
            compression: Compression::default(),
            timeout: HumanDuration::from_secs(10),
            tls: TlsConfig::default(),
            retry_on_failure: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            required: true,
            verify: None,
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: HumanDuration::from_secs(1),
            multiplier: 1.5,
            randomization_factor: 0.5,
            max_interval: HumanDuration::from_secs(30),
            max_elapsed_time: HumanDuration::ZERO,
        }
    }
}

impl OtlpConfig {
    /// The endpoint for `signal`, as the exporter connects to it. `None` if it is not configured.
    ///
    /// # Errors
    /// Returns an error if the configured text is not an endpoint of this protocol.
    pub(crate) fn endpoint_for(
        &self,
        protocol: Protocol,
        signal: Signal,
    ) -> Result<Option<Endpoint>, EndpointError> {
        let own = match signal {
            Signal::Traces => &self.traces_endpoint,
            Signal::Logs => &self.logs_endpoint,
        };
        let own = own.as_deref().map(|text| self.exact_endpoint(protocol, text));
        let shared =
            || self.endpoint.as_deref().map(|text| self.base_endpoint(protocol, signal, text));
        own.or_else(shared).transpose()
    }

    fn base_endpoint(
        &self,
        protocol: Protocol,
        signal: Signal,
        text: &str,
    ) -> Result<Endpoint, EndpointError> {
        let endpoint = self.exact_endpoint(protocol, text)?;
        match protocol {
            Protocol::Grpc => Ok(endpoint),
            Protocol::HttpProtobuf => endpoint.join(&format!("/v1/{signal}")),
        }
    }

    fn exact_endpoint(&self, protocol: Protocol, text: &str) -> Result<Endpoint, EndpointError> {
        match protocol {
            Protocol::Grpc => Endpoint::grpc(text, self.tls.insecure),
            Protocol::HttpProtobuf => Endpoint::http(text),
        }
    }

    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, protocol: Protocol, at: &mut dyn FnMut(&str, String)) {
        for (key, endpoint) in [
            ("endpoint", &self.endpoint),
            ("traces_endpoint", &self.traces_endpoint),
            ("logs_endpoint", &self.logs_endpoint),
        ] {
            let endpoint = endpoint.as_deref().map(|text| self.exact_endpoint(protocol, text));
            if let Some(Err(error)) = endpoint {
                at(key, error.to_string());
            }
        }
        for (name, value) in &self.headers {
            for message in header_complaints(name, value) {
                at(&format!("headers.{name}"), message);
            }
        }
        if self.timeout.is_zero() {
            at("timeout", "has to be more than 0".into());
        }
        if let Some(verify) = &self.verify {
            if let Err(error) = Endpoint::base(&verify.endpoint) {
                at("verify.endpoint", error.to_string());
            }
            if verify.timeout.is_zero() {
                at("verify.timeout", "has to be more than 0".into());
            }
        }
        self.tls.check(&mut |path, message| at(&format!("tls.{path}"), message));
        self.retry_on_failure
            .check(&mut |path, message| at(&format!("retry_on_failure.{path}"), message));
        self.sending_queue
            .check(&mut |path, message| at(&format!("sending_queue.{path}"), message));
    }
}

/// Returns why HTTP does not allow this header. The messages never contain the value.
fn header_complaints(name: &str, value: &Secret) -> impl Iterator<Item = String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let bad_name = name.is_empty() || !name.bytes().all(token);
    let bad_value = !value.expose().bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b));
    let name_message = bad_name.then(|| "not a valid header name".to_owned());
    let value_message = bad_value
        .then(|| "the value may hold printable ASCII only, without line breaks".to_owned());
    name_message.into_iter().chain(value_message)
}

impl TlsConfig {
    fn check(&self, at: &mut dyn FnMut(&str, String)) {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => at("cert_file", "needs key_file beside it".into()),
            (None, Some(_)) => at("key_file", "needs cert_file beside it".into()),
            _ => {}
        }
    }
}

impl RetryConfig {
    fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.initial_interval.is_zero() {
            at("initial_interval", "has to be more than 0".into());
        }
        if !(self.multiplier >= 1.0 && self.multiplier.is_finite()) {
            at("multiplier", "has to be 1 or more".into());
        }
        if !(0.0..=1.0).contains(&self.randomization_factor) {
            at("randomization_factor", "has to be between 0 and 1".into());
        }
        if self.max_interval < self.initial_interval {
            let least = self.initial_interval;
            let message = format!("has to be at least initial_interval, which is {least}");
            at("max_interval", message);
        }
    }
}

impl FileConfig {
    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.path.as_os_str().is_empty() {
            at("path", "name the file to write".into());
        }
    }
}

#[cfg(test)]
mod tests;
