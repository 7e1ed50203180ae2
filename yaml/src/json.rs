//! Documents as JSON values.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::reader::{Build, Key, Limits, read};
use crate::scalar::resolve;
use crate::{Position, YamlError};

/// Levels of nesting, as many as serde_json reads.
const MAX_DEPTH: usize = 128;

/// Reads one document. An empty one is null. Merge keys (`<<`) are resolved.
///
/// # Errors
/// Returns an error if `text` is not one YAML document, has a duplicate key, or expands to far more
/// values than a text of this size can hold.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    parse_json(text, JsonBuilder { list: None })
}

/// Like [`parse`], but passes the items of the list under the top-level key `key` to `each`, one at
/// a time, and leaves an empty list in their place. This keeps a long list out of memory.
///
/// # Errors
/// As for [`parse`]. `each` may have been called before the error was found.
pub fn parse_with_list(
    text: &str,
    key: &'static str,
    each: &mut dyn FnMut(Value),
) -> Result<Value, YamlError> {
    parse_json(text, JsonBuilder { list: Some((key, each)) })
}

fn parse_json(text: &str, mut build: JsonBuilder<'_>) -> Result<Value, YamlError> {
    // A written value takes at least one byte; the rest is for what aliases repeat.
    let values = text.len().saturating_mul(4).saturating_add(10_000).min(32_000_000);
    let limits = Limits { depth: MAX_DEPTH, values };
    Ok(read(text, limits, &mut build)?.unwrap_or(Value::Null))
}

struct JsonBuilder<'a> {
    list: Option<(&'static str, &'a mut dyn FnMut(Value))>,
}

impl Build for JsonBuilder<'_> {
    type Value = Value;

    fn scalar(&mut self, text: Cow<'_, str>, plain: bool, _: Position) -> Value {
        if plain { resolve(&text) } else { Value::String(text.into_owned()) }
    }

    fn sequence(&mut self, items: Vec<Value>, _: Position) -> Value {
        Value::Array(items)
    }

    fn mapping(&mut self, entries: Vec<(Key, Value)>, _: Position) -> Result<Value, YamlError> {
        let (mut map, mut merged) = (Map::with_capacity(entries.len()), Map::new());
        let mut written = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match value {
                Value::Object(more) if key.text == "<<" => merged.extend(more),
                _ if map.contains_key(&key.text) => {
                    let first = map.keys().position(|text| *text == key.text);
                    return Err(key.duplicate_of(first.map_or(key.at, |index| written[index])));
                }
                value => {
                    written.push(key.at);
                    map.insert(key.text, value);
                }
            }
        }
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
        Ok(Value::Object(map))
    }

    fn streams(&self, key: &str) -> bool {
        self.list.as_ref().is_some_and(|(list, _)| *list == key)
    }

    fn item(&mut self, value: Value) {
        if let Some((_, each)) = &mut self.list {
            each(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_json_values() {
        let cases = [
            ("", json!(null)),
            ("a: 'no'\nb: \"1\"\nc: !!str 1\nd: [1, {e: 2.0}]\n", {
                json!({"a": "no", "b": "1", "c": "1", "d": [1, {"e": 2.0}]})
            }),
            ("o: &o [x]\na: *o\nb: *o\n", json!({"o": ["x"], "a": ["x"], "b": ["x"]})),
            ("o: &o {x: 1, y: 2}\na: {<<: *o, y: 3}\n", {
                json!({"o": {"x": 1, "y": 2}, "a": {"y": 3, "x": 1}})
            }),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_error_has_its_place() {
        let cases = [
            ("a: [\n", 1, "not YAML: "),
            ("b: 0\na: 1\na: 2\n", 3, "`a` is written twice; the first is at 2:1"),
            ("--- a\n--- b\n", 2, "a second document"),
            ("a: &a [*a]\n", 1, "recursive alias"),
            ("[a]: b\n", 1, "a key must be text"),
        ];
        for (text, line, message) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.at.line, line, "{error}");
            assert!(error.message.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_long_list_is_passed_on_item_by_item() {
        let mut items = Vec::new();
        let rest = parse_with_list("a: 1\nlist: [x, {y: 2}]\nb: [3]\n", "list", &mut |item| {
            items.push(item);
        });
        assert_eq!(rest, Ok(json!({"a": 1, "list": [], "b": [3]})));
        assert_eq!(items, [json!("x"), json!({"y": 2})]);

        let twice = parse_with_list("list: []\nlist: []\n", "list", &mut |_| {});
        assert!(twice.is_err());
    }

    #[test]
    fn a_large_document_is_accepted() {
        let item = "- {id: a, type: b, parameters: {x: [1, 2, 3], y: {z: 1.5}}, dependsOn: [c]}\n";
        let value = parse(&item.repeat(30_000)).expect("a large document");
        assert_eq!(value.as_array().map(Vec::len), Some(30_000));
    }

    #[test]
    fn a_text_that_expands_too_much_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        let error = parse(&bomb).expect_err("a bomb");
        assert!(error.message.ends_with("values, aliases written out"), "{error}");
    }

    /// Each alias lies deep in the next anchor, so the tree becomes deeper than any text in it.
    /// Dropping or cloning it would overflow the stack.
    #[test]
    fn nesting_is_limited_even_through_aliases() {
        let mut chain = String::from("a0: &a0 [x]\n");
        for level in 1..1_000 {
            let (open, close) = ("[".repeat(60), "]".repeat(60));
            chain.push_str(&format!("a{level}: &a{level} {open}*a{}{close}\n", level - 1));
        }
        let error = parse(&chain).expect_err("deep nesting");
        assert_eq!(error.message, "nested deeper than 128 levels");
        assert!(parse(&format!("{}{}", "[".repeat(200_000), "]".repeat(200_000))).is_err());
        assert!(parse(&"- ".repeat(50_000)).is_err());
    }
}
