//! Small readers over loosely typed values: older and newer exports spell the same thing
//! differently, leave sections out, or put `{"_omitted": …}` in their place.

use serde_json::{Map, Value};

/// A string that says something.
pub fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// The same, from a number or a boolean too: YAML makes those of names without quotes.
pub fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        number @ (Value::Number(_) | Value::Bool(_)) => Some(number.to_string()),
        value => text(Some(value)),
    }
}

/// The first of several spellings of a key that has a value.
pub fn any<'a>(map: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| map.get(*name)).find(|value| !value.is_null())
}

/// The strings of an array; other elements are passed over.
pub fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether the exporter replaced this section by a note that it left it out.
pub fn is_omitted(map: &Map<String, Value>) -> bool {
    map.contains_key("_omitted")
}

/// The bytes without a UTF-8 byte order mark, which JSON and YAML parsers trip over.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}
