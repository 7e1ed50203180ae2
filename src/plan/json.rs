//! Readers for loosely typed values. Older and newer exports spell keys differently, leave sections
//! out, or put `{"_omitted": …}` in their place.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};

/// Returns a string that is not empty.
pub(crate) fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// Returns a string that is not empty, also from a number or a boolean: YAML reads names without
/// quotes as those.
pub(crate) fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        number @ (Value::Number(_) | Value::Bool(_)) => Some(number.to_string()),
        value => text(Some(value)),
    }
}

/// Returns the value of the first of several spellings of a key.
pub(crate) fn any<'a>(map: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| map.get(*name)).find(|value| !value.is_null())
}

/// Returns the strings of an array, without its other elements.
pub(crate) fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The key of the note that the exporter puts in place of an omitted section.
pub(crate) const OMITTED: &str = "_omitted";

/// Whether the exporter replaced this section with such a note.
pub(crate) fn is_omitted(map: &Map<String, Value>) -> bool {
    map.contains_key(OMITTED)
}

/// Reads the members of an object one at a time: as values, they would use several times the memory
/// of their text.
pub(crate) struct Members<F>(pub F);

impl<'de, F: FnMut(String, Value)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some((key, value)) = members.next_entry()? {
            (self.0)(key, value);
        }
        Ok(())
    }
}

/// Returns the bytes without a UTF-8 byte order mark, which JSON and YAML parsers do not accept.
pub(crate) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}
