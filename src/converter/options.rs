//! What a user can set about the spans, and on the `redaction` and `resource` processors.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::units::ByteSize;

/// How an export becomes spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SpanOptions {
    /// What a story stands for: `type`, `target` or `target_type`. Default: type.
    pub group_by: GroupBy,
    /// Emit a task for an artifact that exists already. Default: true.
    pub include_existing: bool,
    /// `readable` or `low_cardinality`. Default: readable.
    pub span_names: SpanNames,
    /// A longer string is split or cut, and marked. Bytes of UTF-8, 64 to 1048576. Default: 2048,
    /// which is where Tempo would cut without a mark.
    #[cfg_attr(test, schemars(range(min = 64, max = 1_048_576)))]
    pub max_attribute_bytes: usize,
    /// A larger trace is slimmed. 64KiB to 1GiB. Default: 4.5MB, short of the 5 MB at which Tempo
    /// starts to drop spans.
    pub max_trace_bytes: ByteSize,
    /// A larger request is sent in several. 16KiB to 20MiB. Default: 3.5MiB, short of the 4 MiB
    /// that gRPC receivers accept.
    pub max_request_bytes: ByteSize,
    /// The same for requests of log records, if it is smaller. 16KiB to 20MiB. Default: 2.5MiB, because
    /// Loki expands a record to about 1.1 KB before it applies its own limit of 4 MiB.
    pub max_log_request_bytes: ByteSize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// epic, one story per artifact type, tasks.
    #[default]
    Type,
    /// epic, one story per target, tasks.
    Target,
    /// epic, one story per target, in it one per type, tasks.
    TargetType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SpanNames {
    /// Titles and artifact ids.
    #[default]
    Readable,
    /// One name for each of epic, story and task.
    LowCardinality,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self {
            group_by: GroupBy::default(),
            include_existing: true,
            span_names: SpanNames::default(),
            max_attribute_bytes: 2048,
            max_trace_bytes: ByteSize(4_500_000),
            max_request_bytes: ByteSize(3_670_016),
            max_log_request_bytes: ByteSize(2_621_440),
        }
    }
}

impl SpanOptions {
    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if !(64..=1 << 20).contains(&self.max_attribute_bytes) {
            at("max_attribute_bytes", "has to be between 64 and 1048576".into());
        }
        if !(ByteSize::kib(64)..=ByteSize::mib(1024)).contains(&self.max_trace_bytes) {
            at("max_trace_bytes", "has to be between 64KiB and 1GiB".into());
        }
        for (key, size) in [
            ("max_request_bytes", self.max_request_bytes),
            ("max_log_request_bytes", self.max_log_request_bytes),
        ] {
            if !(ByteSize::kib(16)..=ByteSize::mib(20)).contains(&size) {
                at(key, "has to be between 16KiB and 20MiB".into());
            }
        }
    }
}

/// Hide the values of parameters whose key looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RedactionConfig {
    /// Regular expressions, upper and lower case alike; a key that one matches anywhere has its
    /// value replaced. A list given here stands in for the default one.
    #[cfg_attr(test, schemars(inner(length(min = 1))))]
    pub keys: Vec<String>,
}

impl Default for RedactionConfig {
    fn default() -> Self {
        let keys = [
            "password",
            "passwd",
            "secret",
            "token",
            "api[_-]?key",
            "private[_-]?key",
            "credential",
        ];
        Self { keys: keys.map(str::to_owned).to_vec() }
    }
}

impl RedactionConfig {
    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        for (index, key) in self.keys.iter().enumerate() {
            if let Err(message) = check_pattern(key) {
                at(&format!("keys.{index}"), message);
            }
        }
    }
}

/// Whether `pattern` can be used.
fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("an empty pattern matches every key".into());
    }
    let config = RedactionConfig { keys: vec![pattern.to_owned()] };
    super::Redaction::new(&config).map(drop).map_err(|error| error.to_string())
}

/// Attributes of the resource that all telemetry carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResourceConfig {
    /// Added, or set in place of what is there. Default: none.
    pub attributes: IndexMap<String, String>,
}

impl ResourceConfig {
    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.attributes.contains_key("") {
            at("attributes", "an attribute without a name".into());
        }
    }
}
