//! The `service` section, and the extensions that it enables.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::units::{ByteSize, ComponentId, HumanDuration};
use crate::exporter::endpoint::{Endpoint, serialize_redacted_option};

/// Which components run, and how they are connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Service {
    /// Extensions to run. Default: none.
    pub(crate) extensions: Vec<ComponentId>,
    /// Pipelines named `traces` or `traces/name`, and `logs` or `logs/name`; at least one for
    /// traces.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) pipelines: IndexMap<ComponentId, PipelineConfig>,
    /// How long requests in flight may take to finish when the program is stopped. Default: 10s.
    pub(crate) shutdown_timeout: HumanDuration,
    /// Limit for the memory of the exports that are read, converted, enqueued and written back at
    /// the same time, as estimated. An export waits for room; one that needs more than the limit is
    /// refused. At least 16MiB. Default: 128MiB, or half of the container's limit if that is less.
    pub(crate) max_memory: Option<ByteSize>,
    /// Base URL of Grafana, such as `https://grafana.example.com`, for links in summaries. Default:
    /// not set.
    #[serde(serialize_with = "serialize_redacted_option")]
    pub(crate) grafana_url: Option<String>,
    /// The uid of the Tempo data source in Grafana. Default: tempo.
    pub(crate) grafana_datasource: String,
    pub(crate) telemetry: TelemetryConfig,
}

/// The receivers, processors and exporters of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PipelineConfig {
    /// At least one.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) receivers: Vec<ComponentId>,
    /// Applied in this order. Default: none.
    pub(crate) processors: Vec<ComponentId>,
    /// At least one. Each receives everything.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) exporters: Vec<ComponentId>,
}

/// Telemetry of taskspan itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryConfig {
    pub(crate) logs: LogsConfig,
    /// Default: not set, which serves no metrics.
    pub(crate) metrics: Option<MetricsConfig>,
}

/// Serves metrics in the text format of Prometheus on `/metrics`, and a status page on `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetricsConfig {
    /// host:port. Default: 127.0.0.1:8888.
    #[cfg_attr(test, schemars(regex(pattern = r":\d{1,5}$|\$")))]
    pub(crate) address: String,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:8888".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogsConfig {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`. Default: info.
    #[cfg_attr(
        test,
        schemars(regex(
            pattern = r"^([Oo][Ff][Ff]|[Ee][Rr][Rr][Oo][Rr]|[Ww][Aa][Rr][Nn]|[Ii][Nn][Ff][Oo]|[Dd][Ee][Bb][Uu][Gg]|[Tt][Rr][Aa][Cc][Ee])$|\$"
        ))
    )]
    pub(crate) level: String,
    /// `text` or `json`. Default: text.
    pub(crate) encoding: LogEncoding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogEncoding {
    #[default]
    Text,
    Json,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { level: "info".into(), encoding: LogEncoding::default() }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            extensions: Vec::new(),
            pipelines: IndexMap::new(),
            shutdown_timeout: HumanDuration::from_secs(10),
            max_memory: None,
            grafana_url: None,
            grafana_datasource: "tempo".into(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Service {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.max_memory.is_some_and(|max| max < ByteSize::mib(16)) {
            at("max_memory", "must be at least 16MiB".into());
        }
        if let Some(Err(error)) = self.grafana_url.as_deref().map(Endpoint::base) {
            at("grafana_url", error.to_string());
        }
        if let Some(metrics) = &self.telemetry.metrics {
            check_address(&metrics.address, &mut |message| {
                at("telemetry.metrics.address", message)
            });
        }
        let level = &self.telemetry.logs.level;
        if !Self::LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            let message = crate::base::diagnostics::unknown("level", level, &Self::LEVELS);
            at("telemetry.logs.level", message);
        }
    }
}

/// Where the queue is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileStorageConfig {
    /// Default: not set; the user's state directory is used.
    pub(crate) directory: Option<PathBuf>,
}

/// Serves the health of the program over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HealthCheckConfig {
    /// host:port. Default: 127.0.0.1:13133.
    #[cfg_attr(test, schemars(regex(pattern = r":\d{1,5}$|\$")))]
    pub(crate) endpoint: String,
    /// Path of the health check. Default: /.
    #[cfg_attr(test, schemars(regex(pattern = r"^/(?!(live|ready)$)|\$")))]
    pub(crate) path: String,
    /// An export that waits longer than this for its delivery counts as unhealthy. More than 0.
    /// Default: 5m.
    pub(crate) unhealthy_after: HumanDuration,
}

impl HealthCheckConfig {
    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        check_address(&self.endpoint, &mut |message| at("endpoint", message));
        if !self.path.starts_with('/') {
            at("path", "has to begin with /".into());
        } else if ["/live", "/ready"].contains(&self.path.as_str()) {
            at("path", "is taken: /live and /ready answer by themselves".into());
        }
        if self.unhealthy_after.is_zero() {
            at("unhealthy_after", "has to be more than 0".into());
        }
    }
}

/// Returns the address to listen on. `:8888` means every IPv4 address of this machine, as in the
/// Collector.
pub(crate) fn listening(address: &str) -> Cow<'_, str> {
    match address.starts_with(':') {
        true => format!("0.0.0.0{address}").into(),
        false => address.into(),
    }
}

fn check_address(address: &str, at: &mut dyn FnMut(String)) {
    let is_name = |host: &str| {
        host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    let is_ipv6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
    };
    let is_valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        (is_name(host) || is_ipv6(host)) && port.parse::<u16>().is_ok()
    });
    if !is_valid {
        at("must be host:port, with a host name, an IPv4 address or an [IPv6 address]; \
            use 0.0.0.0 for all addresses"
            .into());
    }
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        Self {
            endpoint: "127.0.0.1:13133".into(),
            path: "/".into(),
            unhealthy_after: HumanDuration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (address, is_valid) in [
            ("127.0.0.1:13133", true),
            ("localhost:0", true),
            (":8888", true),
            ("[::]:13133", true),
            ("http://127.0.0.1:13133", false),
            ("*:13133", false),
            ("::1:13133", false),
            ("localhost", false),
            ("localhost:65536", false),
            ("localhost:", false),
            ("localhost:80/x", false),
        ] {
            let mut messages = Vec::new();
            check_address(address, &mut |message| messages.push(message));
            assert_eq!(messages.is_empty(), is_valid, "{address}: {messages:?}");
        }
    }
}
