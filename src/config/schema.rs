//! The configuration as a JSON Schema, made from the types: editors complete and check with it.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{FileStorageConfig, HealthCheckConfig, Service};
use crate::converter::options::{RedactionConfig, ResourceConfig};
use crate::exporter::config::{DebugConfig, FileConfig, OtlpConfig};
use crate::receiver::config::ExportDirConfig;
use crate::receiver::gates::GateResultsConfig;

/// The schema of `pipeline.yaml`.
pub fn schema() -> Value {
    let mut make = SchemaSettings::draft07().into_generator();
    let receivers = section(
        &mut make,
        &[("export_dir", of::<ExportDirConfig>), ("gate_results", of::<GateResultsConfig>)],
    );
    let processors = section(
        &mut make,
        &[("redaction", of::<RedactionConfig>), ("resource", of::<ResourceConfig>)],
    );
    let exporters = section(
        &mut make,
        &[
            ("(otlp_grpc|otlp)", of::<OtlpConfig>),
            ("(otlp_http|otlphttp)", of::<OtlpConfig>),
            ("file", of::<FileConfig>),
            ("debug", of::<DebugConfig>),
        ],
    );
    let extensions = section(
        &mut make,
        &[("file_storage", of::<FileStorageConfig>), ("health_check", of::<HealthCheckConfig>)],
    );
    let service = of::<Service>(&mut make);
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "taskspan pipeline.yaml",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "receivers": receivers,
            "processors": processors,
            "exporters": exporters,
            "extensions": extensions,
            "service": service,
        },
        "definitions": make.take_definitions(true),
    })
}

type Make = fn(&mut SchemaGenerator) -> Value;

fn of<T: JsonSchema>(make: &mut SchemaGenerator) -> Value {
    make.subschema_for::<T>().to_value()
}

/// Components by their ids, `type` or `type/name`. Each may be empty, which takes every default.
fn section(make: &mut SchemaGenerator, kinds: &[(&str, Make)]) -> Value {
    let patterns: Map<String, Value> = kinds
        .iter()
        .map(|(kind, of)| {
            let component = json!({"anyOf": [of(make), {"type": "null"}]});
            (format!("^{kind}(/.+)?$"), component)
        })
        .collect();
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "patternProperties": patterns,
    })
}
