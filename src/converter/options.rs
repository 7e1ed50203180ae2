//! Configuration of the spans, and of the `redaction` and `resource` processors.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::units::ByteSize;

/// How an export becomes spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SpanOptions {
    /// The level between epic and tasks: `type`, `target` or `target_type`. Default: type.
    pub group_by: GroupBy,
    /// Whether artifacts that already exist become tasks. Default: true.
    pub include_existing: bool,
    /// `readable` or `low_cardinality`. Default: readable.
    pub span_names: SpanNames,
    /// Longer strings are split or truncated, and marked as such. UTF-8 bytes, 64 to 1048576.
    /// Default: 2048, the length at which Tempo truncates without a mark.
    #[cfg_attr(test, schemars(range(min = 64, max = 1_048_576)))]
    pub max_attribute_bytes: usize,
    /// Larger traces are slimmed. 64KiB to 1GiB. Default: 4.5MB, because Tempo drops spans above 5
    /// MB.
    pub max_trace_bytes: ByteSize,
    /// Larger requests are split. 16KiB to 20MiB. Default: 3.5MiB, because gRPC receivers accept 4
    /// MiB.
    pub max_request_bytes: ByteSize,
    /// Limit for requests of log records, if it is smaller than `max_request_bytes`. 16KiB to
    /// 20MiB. Default: 2.5MiB, because Loki expands each record to about 1.1 KB before it applies
    /// its limit of 4 MiB.
    pub max_log_request_bytes: ByteSize,
}

/// What a story groups artifacts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Epic, one story per artifact type, tasks.
    #[default]
    Type,
    /// Epic, one story per target, tasks.
    Target,
    /// Epic, one story per target, one story per type below it, tasks.
    TargetType,
}

/// How spans are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SpanNames {
    /// Span names are titles and artifact ids.
    #[default]
    Readable,
    /// Span names are the same for all epics, all stories and all tasks.
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
    /// Reports each value that is out of range: key path, message.
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

/// Hides the values of parameters whose key looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RedactionConfig {
    /// Case-insensitive regular expressions. If one matches anywhere in a key, its value is
    /// replaced. This list replaces the default list.
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
    /// Reports each value that is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        for (index, key) in self.keys.iter().enumerate() {
            if let Err(message) = check_pattern(key) {
                at(&format!("keys.{index}"), message);
            }
        }
    }
}

/// Returns an error if `pattern` is not a valid regular expression.
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
    /// Attributes to add, or to set in place of existing ones. Default: none.
    pub attributes: IndexMap<String, String>,
}

impl ResourceConfig {
    /// Reports each value that is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        if self.attributes.contains_key("") {
            at("attributes", "an attribute without a name".into());
        }
    }
}
