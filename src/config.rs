//! Loads the configuration from files, flags and the environment into typed values.
//!
//! ```text
//! files, --set ──load──▶ one tree ──decode, check──▶ components ─┐
//!                          └──────wiring─────────▶ references ───┴─▶ Config + warnings
//!                                                                  │ or every fault at once
//! OTEL_* ──otel_env──▶ OtelEnv, applied by the caller: flags override environment override file
//! ```
//!
//! Each stage defines its own configuration struct; only this file names them all.

pub(crate) mod decode;
pub(crate) mod expand;
pub(crate) mod fault;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod otel_env;
pub(crate) mod overlay;
pub(crate) mod receivers;
#[cfg(test)]
mod schema;
pub(crate) mod service;
mod wiring;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::diagnostics::unknown;
use crate::base::units::ComponentId;
use crate::converter::options::{RedactionConfig, ResourceConfig};
pub(crate) use crate::exporter::config::ExporterConfig;
use crate::exporter::config::{DebugConfig, FileConfig, OtlpConfig, Protocol};

use decode::decode;
use expand::Env;
use fault::Report;
pub(crate) use fault::{Fault, Faults};
use load::ConfigDocument;
use node::{Key, Node};
use receivers::{ExportDirConfig, GateResultsConfig};
pub(crate) use service::{
    FileStorageConfig, HealthCheckConfig, LogEncoding, LogsConfig, PipelineConfig, Service,
};

/// The whole configuration. Serializing it does not show secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// Sources of exports and gate results, by id.
    pub(crate) receivers: IndexMap<ComponentId, ReceiverConfig>,
    /// Steps between receivers and exporters, by id.
    pub(crate) processors: IndexMap<ComponentId, ProcessorConfig>,
    /// Destinations, by id.
    pub(crate) exporters: IndexMap<ComponentId, ExporterConfig>,
    /// Health check and queue storage, by id.
    pub(crate) extensions: IndexMap<ComponentId, ExtensionConfig>,
    /// What of these is used, and how.
    pub(crate) service: Service,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum ReceiverConfig {
    ExportDir(ExportDirConfig),
    GateResults(GateResultsConfig),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum ProcessorConfig {
    Redaction(RedactionConfig),
    Resource(ResourceConfig),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum ExtensionConfig {
    FileStorage(FileStorageConfig),
    HealthCheck(HealthCheckConfig),
}

impl Config {
    /// Reads `files` in order, then `sets` (`key.key=value`). Returns the configuration and
    /// warnings.
    ///
    /// # Errors
    /// Returns all errors at once.
    pub fn load(
        files: &[PathBuf],
        sets: &[String],
        env: Env,
    ) -> Result<(Self, Vec<Fault>), Faults> {
        let sources: Vec<_> = files.iter().cloned().map(ConfigDocument::File).collect();
        Self::from_sources(&sources, sets, env)
    }

    /// Like [`Config::load`], from any sources.
    ///
    /// # Errors
    /// Returns all errors at once.
    pub fn from_sources(
        sources: &[ConfigDocument],
        sets: &[String],
        env: Env,
    ) -> Result<(Self, Vec<Fault>), Faults> {
        let mut report = Report::default();
        let config = match load::load(sources, sets, env, &mut report) {
            Some(root) => Self::from_tree(&root, &mut report),
            None => Self::default(),
        };
        if !report.faults.is_empty() {
            return Err(report.faults);
        }
        report.warnings.sort();
        Ok((config, report.warnings))
    }

    /// The configuration that is used without a file. Flags add directories and an endpoint.
    pub(crate) fn without_file() -> ConfigDocument {
        ConfigDocument::Text {
            name: "built-in configuration".into(),
            text: include_str!("config/without_file.yaml").into(),
        }
    }

    /// Returns the health check that the service uses, if any.
    pub(crate) fn health_check(&self) -> Option<&HealthCheckConfig> {
        let mut used = self.service.extensions.iter().filter_map(|id| self.extensions.get(id));
        used.find_map(|extension| match extension {
            ExtensionConfig::HealthCheck(health) => Some(health),
            ExtensionConfig::FileStorage(_) => None,
        })
    }

    fn from_tree(root: &Node, report: &mut Report) -> Self {
        const SECTIONS: [&str; 5] =
            ["receivers", "processors", "exporters", "extensions", "service"];
        for (key, _) in root.entries() {
            if !SECTIONS.contains(&key.text.as_str()) {
                report.fault(&key.mark, unknown("section", &key.text, &SECTIONS));
            }
        }
        let config = Self {
            receivers: section(root, "receivers", report, ReceiverConfig::read),
            processors: section(root, "processors", report, ProcessorConfig::read),
            exporters: section(root, "exporters", report, ExporterConfig::read),
            extensions: section(root, "extensions", report, ExtensionConfig::read),
            service: match root.entries().iter().find(|(key, _)| key.text == "service") {
                Some((key, node)) => {
                    let entry = Entry { key, node, faults: &mut report.faults };
                    entry.read(Service::check).unwrap_or_default()
                }
                None => Service::default(),
            },
        };
        wiring::check(root, report);
        config
    }
}

impl ReceiverConfig {
    fn read(kind: &str, entry: Entry) -> Option<Self> {
        match kind {
            "export_dir" => entry.read(ExportDirConfig::check).map(Self::ExportDir),
            "gate_results" => entry.read(GateResultsConfig::check).map(Self::GateResults),
            _ => entry.refuse(unknown("receiver", kind, &["export_dir", "gate_results"])),
        }
    }
}

impl ProcessorConfig {
    fn read(kind: &str, entry: Entry) -> Option<Self> {
        match kind {
            "redaction" => entry.read(RedactionConfig::check).map(Self::Redaction),
            "resource" => entry.read(ResourceConfig::check).map(Self::Resource),
            _ => entry.refuse(unknown("processor", kind, &["redaction", "resource"])),
        }
    }
}

impl ExporterConfig {
    const KINDS: [&str; 6] = ["otlp_grpc", "otlp_http", "file", "debug", "otlp", "otlphttp"];

    /// Returns the component type of this exporter.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::OtlpGrpc(_) => "otlp_grpc",
            Self::OtlpHttp(_) => "otlp_http",
            Self::File(_) => "file",
            Self::Debug(_) => "debug",
        }
    }

    /// Returns the protocol and the settings of an OTLP exporter.
    pub(crate) fn otlp(&self) -> Option<(Protocol, &OtlpConfig)> {
        match self {
            Self::OtlpGrpc(config) => Some((Protocol::Grpc, config)),
            Self::OtlpHttp(config) => Some((Protocol::HttpProtobuf, config)),
            Self::File(_) | Self::Debug(_) => None,
        }
    }

    /// Whether the write-back waits for this exporter.
    pub(crate) fn is_required(&self) -> bool {
        match self {
            Self::OtlpGrpc(config) | Self::OtlpHttp(config) => config.required,
            Self::File(config) => config.required,
            Self::Debug(_) => true,
        }
    }

    /// Returns the limit of the exporter's queue in bytes. `None` if it has no queue.
    pub(crate) fn queue_size(&self) -> Option<u64> {
        self.otlp().map(|(_, config)| config.sending_queue.queue_size.0)
    }

    fn read(kind: &str, entry: Entry) -> Option<Self> {
        let otlp = |protocol| move |config: &OtlpConfig, at: At| config.check(protocol, at);
        match kind {
            "otlp_grpc" | "otlp" => entry.read(otlp(Protocol::Grpc)).map(Self::OtlpGrpc),
            "otlp_http" | "otlphttp" => {
                entry.read(otlp(Protocol::HttpProtobuf)).map(Self::OtlpHttp)
            }
            "file" => entry.read(FileConfig::check).map(Self::File),
            "debug" => entry.read(|_: &DebugConfig, _: At| {}).map(Self::Debug),
            _ => entry.refuse(unknown("exporter", kind, &Self::KINDS)),
        }
    }
}

impl ExtensionConfig {
    fn read(kind: &str, entry: Entry) -> Option<Self> {
        match kind {
            "file_storage" => entry.read(|_: &FileStorageConfig, _: At| {}).map(Self::FileStorage),
            "health_check" => entry.read(HealthCheckConfig::check).map(Self::HealthCheck),
            _ => entry.refuse(unknown("extension", kind, &["file_storage", "health_check"])),
        }
    }
}

/// Receives the errors of a check: key path within the component, message.
type At<'a> = &'a mut dyn FnMut(&str, String);

/// One component in the tree.
struct Entry<'a> {
    key: &'a Key,
    node: &'a Node,
    faults: &'a mut Faults,
}

impl Entry<'_> {
    /// Decodes the component and checks the values that could be decoded.
    fn read<T: DeserializeOwned>(self, check: impl Fn(&T, At)) -> Option<T> {
        let mut own = Faults::default();
        let config = decode::<T>(self.node, &mut own);
        if let Some(config) = &config {
            let mut found = Faults::default();
            check(config, &mut |path, message| match self.node.find(path) {
                // A value that could not be decoded was checked as its default, so this error would
                // mislead.
                Some((_, node)) if own.0.iter().flat_map(|f| &f.mark).any(|m| node.covers(m)) => {}
                None if !own.is_empty() => {}
                Some((mark, _)) => found.push(mark, message),
                None => found.push(&self.key.mark, message),
            });
            own.0.append(&mut found.0);
        }
        self.faults.0.append(&mut own.0);
        config
    }

    fn refuse<T>(self, message: impl Into<String>) -> Option<T> {
        self.faults.push(&self.key.mark, message);
        None
    }
}

/// Reads all components of one section.
fn section<T>(
    root: &Node,
    name: &str,
    report: &mut Report,
    read: impl Fn(&str, Entry) -> Option<T>,
) -> IndexMap<ComponentId, T> {
    let Some((mark, components)) = root.find(name) else {
        return IndexMap::new();
    };
    if !matches!(components.value, node::Value::Map(_) | node::Value::Null) {
        report.fault(mark, format!("expected a map, found {}", components.noun()));
    }
    let mut section = IndexMap::new();
    for (key, node) in components.entries() {
        match key.text.parse::<ComponentId>() {
            Err(message) => report.fault(&key.mark, message),
            Ok(id) => {
                let entry = Entry { key, node, faults: &mut report.faults };
                if let Some(config) = read(&id.kind, entry) {
                    section.insert(id, config);
                }
            }
        }
    }
    section
}
