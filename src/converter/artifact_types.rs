//! The properties that all artifacts of one type share, computed once per trace (R2.5, Q4).

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use serde_json::Value;
use serde_json::value::RawValue;

use super::attributes::{Truncator, int};
use super::json;
use super::span_builder::SpanBuilder;
use crate::plan::{Plan, Rule, TypeInfo};

/// All artifact types of a plan, by name.
pub(crate) struct ArtifactTypes<'a> {
    known: HashMap<&'a str, ArtifactType<'a>>,
    /// Used for types that the export does not describe.
    unknown: ArtifactType<'a>,
}

impl<'a> ArtifactTypes<'a> {
    pub(crate) fn of(plan: &'a Plan) -> ArtifactTypes<'a> {
        let known = plan.types.iter().map(|(name, info)| (name.as_str(), ArtifactType::of(info)));
        ArtifactTypes { known: known.collect(), unknown: ArtifactType::default() }
    }

    pub(crate) fn get(&self, name: &str) -> &ArtifactType<'a> {
        self.known.get(name).unwrap_or(&self.unknown)
    }

    /// Returns the empty type, for spans that have no artifact type.
    pub(crate) fn unknown(&self) -> &ArtifactType<'a> {
        &self.unknown
    }
}

#[derive(Default)]
pub(crate) struct ArtifactType<'a> {
    pub(crate) rules: &'a [Rule],
    /// The output contract as JSON.
    pub(crate) contract: Option<String>,
    /// The sources of the parameters' values, as JSON.
    pub(crate) parameter_sources: Option<Box<RawValue>>,
    pub(crate) output_ext: Option<&'a String>,
    /// The acceptance criteria, as JSON.
    pub(crate) criteria: Option<Box<RawValue>>,
    /// The fields from here on are copied from the contract.
    pub(crate) depth: Option<&'a str>,
    pub(crate) max_lines: Option<i64>,
    max_tokens: Option<i64>,
    markers: Vec<&'a str>,
    fields: Vec<&'a str>,
}

impl<'a> ArtifactType<'a> {
    fn of(info: &'a TypeInfo) -> ArtifactType<'a> {
        let field = |key: &str| info.contract.as_ref().and_then(|it| it.get(key));
        let int = |key: &str| field(key).and_then(Value::as_i64);
        let strings = |key: &str| -> Vec<&'a str> {
            let items = field(key).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let markers = strings("completeness_markers");
        ArtifactType {
            rules: &info.rules,
            contract: info.contract.as_ref().map(json::text),
            parameter_sources: info.parameter_sources.as_ref().and_then(json::raw),
            output_ext: info.output_ext.as_ref(),
            depth: field("expected_depth").and_then(Value::as_str),
            max_lines: int("max_lines"),
            max_tokens: int("max_tokens"),
            criteria: json::criteria(&markers),
            markers,
            fields: strings("fields"),
        }
    }

    /// Returns the lists of the contract as attributes of a task, or of its story in a bare trace.
    pub(crate) fn lists(&self, cutter: &mut Truncator) -> Vec<KeyValue> {
        let lists = [
            ("expected_output.completeness_markers", &self.markers),
            ("expected_output.fields", &self.fields),
        ];
        let known = lists.into_iter().filter(|(_, list)| !list.is_empty());
        known.map(|(key, list)| cutter.strings(key, list.iter().copied())).collect()
    }

    /// Adds the type's attributes to a task. The lists are left out if the task `is_bare`.
    pub(crate) fn describe(&self, draft: &mut SpanBuilder<'_>, is_bare: bool) {
        draft.known_string("expected_output.depth", self.depth);
        let numbers = [
            ("expected_output.max_lines", self.max_lines),
            ("expected_output.max_tokens", self.max_tokens),
        ];
        draft.attributes.extend(numbers.into_iter().filter_map(|(key, n)| Some(int(key, n?))));
        if !is_bare {
            let lists = self.lists(&mut draft.cutter);
            draft.attributes.extend(lists);
        }
    }
}
