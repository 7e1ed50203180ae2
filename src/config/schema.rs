//! Makes the JSON Schema of the configuration from its types. Editors use it for completion and
//! checks.
//!
//! ```text
//! types ──schemars──▶ schema of the types ──as_read──▶ schema of the YAML that decode accepts
//! ```
//!
//! Only tests make it. The program contains the committed file, and a test compares the two.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::{FileStorageConfig, HealthCheckConfig, Service};
use crate::base::units::{ByteSize, ComponentId, HumanDuration, Secret};
use crate::config::receivers::ExportDirConfig;
use crate::config::receivers::GateResultsConfig;
use crate::converter::options::{RedactionConfig, ResourceConfig};
use crate::exporter::config::{DebugConfig, FileConfig, OtlpConfig};

/// Makes the schema of `pipeline.yaml`. It accepts every file that loads. Rules that a schema
/// cannot express, for example between two values, are left to `taskspan validate`.
pub(crate) fn schema() -> Value {
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
    let mut definitions = Value::Object(make.take_definitions(true));
    let pipelines = &mut definitions["Service"]["properties"]["pipelines"];
    pipelines["patternProperties"] =
        json!({r"^(traces|logs)(/\S+)?$": {"$ref": "#/definitions/PipelineConfig"}});
    let mut schema = json!({
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
        "definitions": definitions,
    });
    as_read(&mut schema);
    schema
}

type Make = fn(&mut SchemaGenerator) -> Value;

fn of<T: JsonSchema>(make: &mut SchemaGenerator) -> Value {
    make.subschema_for::<T>().to_value()
}

/// The components of a section by their ids, `type` or `type/name`.
fn section(make: &mut SchemaGenerator, kinds: &[(&str, Make)]) -> Value {
    let patterns: Map<String, Value> =
        kinds.iter().map(|(kind, of)| (format!(r"^{kind}(/\S+)?$"), of(make))).collect();
    json!({"type": "object", "additionalProperties": false, "patternProperties": patterns})
}

/// Allows the other forms of a value: nothing, which means the default; `${env:…}`; and a quoted
/// number or boolean, because the target type decides how text is read.
fn as_read(node: &mut Value) {
    let fields = match node {
        Value::Object(fields) => fields,
        Value::Array(items) => return items.iter_mut().for_each(as_read),
        _ => return,
    };
    fields.values_mut().for_each(as_read);
    let nothing_or_a_variable = json!({"type": ["string", "null"], "pattern": r"^$|\$"});
    if let Some(Value::Array(mut variants)) = fields.remove("oneOf") {
        variants.push(nothing_or_a_variable);
        fields.insert("anyOf".into(), variants.into());
    } else if let Some(values) = fields.remove("enum") {
        fields.insert("anyOf".into(), json!([{"enum": values}, nothing_or_a_variable]));
        fields.remove("type");
    }
    let kinds = match fields.get("type") {
        Some(Value::Array(kinds)) => kinds.clone(),
        Some(kind) => vec![kind.clone()],
        None => return,
    };
    let (more, pattern) = stand_ins(&kinds);
    let more = more.iter().chain(&["null"]).map(|kind| json!(kind));
    let more: Vec<_> = more.filter(|kind| !kinds.contains(kind)).collect();
    fields.insert("type".into(), kinds.into_iter().chain(more).collect());
    if let Some(pattern) = pattern {
        fields.insert("pattern".into(), pattern.into());
    }
}

/// Returns the other types that a scalar may be written as, and the pattern for text.
fn stand_ins(kinds: &[Value]) -> (&'static [&'static str], Option<&'static str>) {
    let is = |kind: &str| kinds.iter().any(|it| it == kind);
    match (is("string"), is("integer"), is("number"), is("boolean")) {
        // The valid numbers are part of the type's own schema.
        (true, true, ..) | (true, _, true, _) => (&[], None),
        (true, ..) => (&["number", "boolean"], None),
        (_, true, ..) => (&["string"], Some(r"^\s*\+?\d+\s*$|\$")),
        (_, _, true, _) => (&["string"], Some(r"^\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*$|\$")),
        (_, _, _, true) => (&["string"], Some(r"^\s*(true|false)\s*$|\$")),
        _ => (&[], None),
    }
}

/// Makes the schema of text with a pattern.
macro_rules! text_schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_schema!(HumanDuration, "Duration", {
    // 0 is the only number that is a duration.
    "type": ["string", "integer"],
    "pattern": r"^\s*(0|((\d+\.?\d*|\.\d+)(h|m|s|ms|us|µs|μs|ns))+)\s*$|\$",
    "maximum": 0,
    "minimum": 0,
    "description": "500us, 100ms, 1.5s, 1m30s",
});
text_schema!(ByteSize, "ByteSize", {
    "type": ["string", "number"],
    "pattern": r"^\s*(\d+\.?\d*|\.\d+)\s*(B|[KkMmGgTt][Ii]?[Bb])?\s*$|\$",
    "minimum": 0,
    "description": "512KiB, 64MiB, 1GB; a bare number is bytes",
});
text_schema!(Secret, "Secret", { "type": ["string", "number", "boolean"] });
text_schema!(ComponentId, "ComponentId", {
    "type": "string",
    "pattern": r"^[A-Za-z]\w*(/\S+)?$|\$",
    "description": "type or type/name",
});
