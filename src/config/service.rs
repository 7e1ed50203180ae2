//! The `service` section, and the extensions it switches on.

use std::borrow::Cow;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::units::{ComponentId, HumanDuration};
use crate::exporter::config::{Protocol, check_endpoint, without_secrets};

/// What of all that is defined runs, and how it is put together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// Default: none.
    pub extensions: Vec<ComponentId>,
    /// `traces` or `traces/name`; one at least.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub pipelines: IndexMap<ComponentId, PipelineConfig>,
    /// How long requests in flight have to finish when the program is asked to stop. Default 10s.
    pub shutdown_timeout: HumanDuration,
    /// Where a person looks traces up, such as `https://grafana.example.com`: links in summaries
    /// lead there. Default: not set.
    #[serde(serialize_with = "without_secrets")]
    pub grafana_url: Option<String>,
    /// The uid of the Tempo data source there. Default: tempo.
    pub grafana_datasource: String,
    pub telemetry: TelemetryConfig,
}

/// From where, through what, to where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// One at least.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub receivers: Vec<ComponentId>,
    /// In this order. Default: none.
    pub processors: Vec<ComponentId>,
    /// One at least; each gets everything.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub exporters: Vec<ComponentId>,
}

/// What the program says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    pub logs: LogsConfig,
    /// Default: not set, which serves none.
    pub metrics: Option<MetricsConfig>,
}

/// Metrics of the program in the text format of Prometheus, on `/metrics`, and a page for people on `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// host:port. Default: 127.0.0.1:8888.
    #[cfg_attr(test, schemars(regex(pattern = r":\d{1,5}$|\$")))]
    pub address: String,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:8888".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`. Default: info.
    #[cfg_attr(
        test,
        schemars(regex(
            pattern = r"^([Oo][Ff][Ff]|[Ee][Rr][Rr][Oo][Rr]|[Ww][Aa][Rr][Nn]|[Ii][Nn][Ff][Oo]|[Dd][Ee][Bb][Uu][Gg]|[Tt][Rr][Aa][Cc][Ee])$|\$"
        ))
    )]
    pub level: String,
    /// `text` or `json`. Default: text.
    pub encoding: LogEncoding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogEncoding {
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
            grafana_url: None,
            grafana_datasource: "tempo".into(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Service {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if let Some(url) = &self.grafana_url {
            if let Err(message) = check_endpoint(url, Protocol::HttpProtobuf) {
                at("grafana_url", message);
            } else if url.contains(['?', '#']) {
                at("grafana_url", "goes in front of a path, and so has no ? and no #".into());
            }
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

/// Where the queue lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FileStorageConfig {
    /// Default: not set, which leaves the choice to the program.
    pub directory: Option<PathBuf>,
}

/// A page that says whether all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheckConfig {
    /// host:port. Default: 127.0.0.1:13133.
    #[cfg_attr(test, schemars(regex(pattern = r":\d{1,5}$|\$")))]
    pub endpoint: String,
    /// Where it answers. Default: /.
    #[cfg_attr(test, schemars(regex(pattern = r"^/(?!(live|ready)$)|\$")))]
    pub path: String,
    /// How long an export may wait for its delivery before that counts as unhealthy. More than 0.
    /// Default: 5m.
    pub unhealthy_after: HumanDuration,
}

impl HealthCheckConfig {
    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
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

/// Where to listen. `:8888` is every IPv4 address of this machine, as the Collector reads it.
pub fn listening(address: &str) -> Cow<'_, str> {
    match address.starts_with(':') {
        true => format!("0.0.0.0{address}").into(),
        false => address.into(),
    }
}

fn check_address(address: &str, at: &mut dyn FnMut(String)) {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) {
        at("has to be host:port".into());
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
