//! The configuration as a JSON Schema, made from the types: editors complete and check with it.
//!
//! ```text
//! types ──schemars──▶ what they hold ──as_read──▶ what decode takes for them
//! ```
//!
//! Only tests make it: the program carries the committed file, which a test holds against this.

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

/// The schema of `pipeline.yaml`. It takes every file that loads; what it cannot say (one value
/// against another, what an address may be) is left to `taskspan validate`.
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

/// Components by their ids, `type` or `type/name`.
fn section(make: &mut SchemaGenerator, kinds: &[(&str, Make)]) -> Value {
    let patterns: Map<String, Value> =
        kinds.iter().map(|(kind, of)| (format!(r"^{kind}(/\S+)?$"), of(make))).collect();
    json!({"type": "object", "additionalProperties": false, "patternProperties": patterns})
}

/// What may stand for a value besides itself: nothing, which takes the default; `${env:…}`; and a
/// number or a switch in quotes, since the type that is asked for decides how text is read.
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

/// Which other types a scalar may be written as, and what such a text looks like.
fn stand_ins(kinds: &[Value]) -> (&'static [&'static str], Option<&'static str>) {
    let is = |kind: &str| kinds.iter().any(|it| it == kind);
    match (is("string"), is("integer"), is("number"), is("boolean")) {
        // Which numbers such a text may be is said where it is defined.
        (true, true, ..) | (true, _, true, _) => (&[], None),
        (true, ..) => (&["number", "boolean"], None),
        (_, true, ..) => (&["string"], Some(r"^\s*\+?\d+\s*$|\$")),
        (_, _, true, _) => (&["string"], Some(r"^\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*$|\$")),
        (_, _, _, true) => (&["string"], Some(r"^\s*(true|false)\s*$|\$")),
        _ => (&[], None),
    }
}

/// A text of a certain form.
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
    // The one number that is a duration is 0.
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
