//! What a type's contract says about a valid result, as attributes (R2.5, Q4).

use serde_json::Value;

use super::attributes::int;
use super::draft::Draft;
use crate::plan::TypeInfo;

/// The fields of a type's contract that are attributes (R2.5, Q4).
#[derive(Default)]
pub struct Expected<'a> {
    pub depth: Option<&'a str>,
    pub max_lines: Option<i64>,
    max_tokens: Option<i64>,
    pub markers: Vec<&'a str>,
    fields: Vec<&'a str>,
    present: bool,
}

impl<'a> Expected<'a> {
    pub fn of(info: Option<&'a TypeInfo>) -> Expected<'a> {
        let Some(contract) = info.and_then(|info| info.contract.as_ref()) else {
            return Expected::default();
        };
        let int = |key: &str| contract.get(key).and_then(Value::as_i64);
        let strings = |key: &str| {
            let items = contract.get(key).and_then(Value::as_array);
            let items = items.map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(Value::as_str).collect()
        };
        Expected {
            depth: contract.get("expected_depth").and_then(Value::as_str),
            max_lines: int("max_lines"),
            max_tokens: int("max_tokens"),
            markers: strings("completeness_markers"),
            fields: strings("fields"),
            present: true,
        }
    }

    pub fn describe(&self, draft: &mut Draft) {
        draft.known_string("expected_output.depth", self.depth);
        let numbers = [
            ("expected_output.max_lines", self.max_lines),
            ("expected_output.max_tokens", self.max_tokens),
        ];
        draft.attributes.extend(numbers.into_iter().filter_map(|(key, n)| Some(int(key, n?))));
        for (key, list) in [
            ("expected_output.completeness_markers", &self.markers),
            ("expected_output.fields", &self.fields),
        ] {
            if self.present && !list.is_empty() {
                let attribute = draft.cutter.strings(key, list.iter().copied());
                draft.attributes.push(attribute);
            }
        }
    }
}
