//! A directory with exports, in which the program can run.
//!
//! All runs of a workspace share the state directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::exports::{ExportBuilder, Written};
use super::fake_otlp::{FakeOtlp, Protocol};
use super::program::Program;

/// A temporary directory for exports, configuration and state.
pub struct Workspace {
    root: TempDir,
}

impl Workspace {
    /// Creates a workspace without exports.
    pub fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("exports")).unwrap();
        Self { root }
    }

    /// Returns the directory that contains everything else.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns the directory that taskspan processes or watches.
    pub fn exports(&self) -> PathBuf {
        self.root().join("exports")
    }

    /// Writes an export into a sub-directory.
    pub fn export(&self, name: &str, export: &ExportBuilder) -> Written {
        export.write_into(&self.exports().join(name))
    }

    /// Prepares a subcommand that uses the state of this workspace.
    pub fn program(&self, subcommand: &str) -> Program {
        Program::new(subcommand).state_dir(&self.root().join("state"))
    }

    /// Prepares `once` for the exports, configured by flags only.
    pub fn once(&self, server: &FakeOtlp, protocol: Protocol) -> Program {
        let told = ["--endpoint", server.endpoint(), "--protocol", protocol.name()];
        self.program("once").arg(self.exports()).args(&told)
    }

    /// Prepares a subcommand with `pipeline` as its configuration.
    pub fn configured(&self, subcommand: &str, pipeline: &Value) -> Program {
        let path = self.config("pipeline.yaml", &pipeline.to_string());
        self.program(subcommand).arg("-c").arg(path)
    }

    /// Writes a configuration file and returns its path.
    pub fn config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns a configuration that watches and forwards the exports, with short delays. `exporter`
    /// overrides options of the exporter. If `endpoint` is empty, none is set.
    pub fn pipeline(&self, endpoint: &str, protocol: Protocol, exporter: Value) -> Value {
        let id = match protocol {
            Protocol::Grpc => "otlp_grpc",
            Protocol::Http => "otlp_http",
        };
        let mut options = json!({
            "timeout": "10s",
            "retry_on_failure": {"initial_interval": "20ms", "max_interval": "200ms"},
        });
        if !endpoint.is_empty() {
            options["endpoint"] = json!(endpoint);
        }
        for (key, value) in exporter.as_object().into_iter().flatten() {
            options[key] = value.clone();
        }
        // JSON is valid YAML.
        json!({
            "receivers": {"export_dir": {"directories": [self.exports()], "settle": "20ms"}},
            "exporters": {id: options},
            "service": {"pipelines": {"traces": {"receivers": ["export_dir"], "exporters": [id]}}},
        })
    }
}
