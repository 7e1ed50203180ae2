//! A place with exports in it, and the runs of the program over it.
//!
//! Runs of one workspace share their state, as runs on one machine do.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::exports::{ExportBuilder, Written};
use super::fake_otlp::{FakeOtlp, Protocol};
use super::program::Program;

pub struct Workspace {
    root: TempDir,
}

impl Workspace {
    pub fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("exports")).unwrap();
        Self { root }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The directory that is processed or watched.
    pub fn exports(&self) -> PathBuf {
        self.root().join("exports")
    }

    /// Writes an export into a directory of its own.
    pub fn export(&self, name: &str, export: &ExportBuilder) -> Written {
        export.write_into(&self.exports().join(name))
    }

    /// A subcommand with this workspace's state.
    pub fn program(&self, subcommand: &str) -> Program {
        Program::new(subcommand).state_dir(&self.root().join("state"))
    }

    /// `once` over the exports, told everything by flags.
    pub fn once(&self, server: &FakeOtlp, protocol: Protocol) -> Program {
        let told = ["--endpoint", server.endpoint(), "--protocol", protocol.name()];
        self.program("once").arg(self.exports()).args(&told)
    }

    /// A subcommand with `pipeline` as its configuration.
    pub fn configured(&self, subcommand: &str, pipeline: &Value) -> Program {
        let path = self.config("pipeline.yaml", &pipeline.to_string());
        self.program(subcommand).arg("-c").arg(path)
    }

    /// A configuration file.
    pub fn config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Watches the exports and forwards them, with waits short enough for tests.
    /// What `exporter` says goes on top.
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
        // JSON is YAML too.
        json!({
            "receivers": {"export_dir": {"directories": [self.exports()], "settle": "20ms"}},
            "exporters": {id: options},
            "service": {"pipelines": {"traces": {"receivers": ["export_dir"], "exporters": [id]}}},
        })
    }
}
