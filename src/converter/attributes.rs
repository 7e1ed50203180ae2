//! Typed OTLP attributes, truncated to a limit that backends accept. A backend would truncate them
//! without marking them.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};

/// Ends a string that was truncated.
const ELLIPSIS: &str = "…";

/// Makes the string attributes of one span and records which of them it truncated.
#[derive(Clone, Debug)]
pub(crate) struct Truncator {
    max_bytes: usize,
    /// Limit for strings in arrays, in bytes. `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT` applies to
    /// them, the limit of a backend does not.
    max_element_bytes: usize,
    cut_keys: Vec<String>,
}

impl Truncator {
    /// `max_bytes` is in UTF-8 bytes and `max_chars` in characters. A text of n bytes has at most n
    /// characters, so the smaller number satisfies both limits.
    pub(crate) fn new(max_bytes: usize, max_chars: Option<usize>) -> Truncator {
        Truncator {
            max_bytes: max_chars.map_or(max_bytes, |chars| chars.min(max_bytes)),
            max_element_bytes: max_chars.unwrap_or(usize::MAX),
            cut_keys: Vec::new(),
        }
    }

    /// Length limit for string values, in bytes.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Records that the value of `key` was truncated.
    pub(crate) fn note(&mut self, key: &str) {
        if !self.cut_keys.iter().any(|known| known == key) {
            self.cut_keys.push(key.to_owned());
        }
    }

    pub(crate) fn string<'a>(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Cow<'a, str>>,
    ) -> KeyValue {
        let (key, value) = (key.into(), value.into());
        let value = if value.len() <= self.max_bytes {
            value.into_owned()
        } else {
            self.note(&key);
            cut(&value, self.max_bytes)
        };
        attribute(key, Value::StringValue(value))
    }

    pub(crate) fn strings<'a>(
        &mut self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = &'a str>,
    ) -> KeyValue {
        let key = key.into();
        let mut elements = Vec::new();
        for value in values {
            let whole = value.len() <= self.max_element_bytes;
            if !whole {
                self.note(&key);
            }
            let value = if whole { value.to_owned() } else { cut(value, self.max_element_bytes) };
            elements.push(Value::StringValue(value));
        }
        array(key, elements)
    }

    /// Returns the attribute `taskspan.truncated`. `None` if nothing was truncated.
    pub(crate) fn truncated(self) -> Option<KeyValue> {
        if self.cut_keys.is_empty() {
            return None;
        }
        let keys = self.cut_keys.into_iter().map(Value::StringValue).collect();
        Some(array("taskspan.truncated", keys))
    }
}

/// Makes a string attribute that is never truncated. For values that are always short.
pub(crate) fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(crate) fn int(key: impl Into<String>, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

pub(crate) fn count(key: &str, value: usize) -> KeyValue {
    int(key, i64::try_from(value).unwrap_or(i64::MAX))
}

pub(crate) fn double(key: impl Into<String>, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

pub(crate) fn boolean(key: impl Into<String>, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

/// Makes an array attribute. All values must have the same type, as OTLP requires.
pub(crate) fn array(key: impl Into<String>, values: Vec<Value>) -> KeyValue {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}

fn attribute(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Truncates a text to `max_bytes`, between characters, and ends it with an ellipsis if there is
/// room.
pub(crate) fn cut(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let ellipsis = if max_bytes >= ELLIPSIS.len() { ELLIPSIS } else { "" };
    let end = text.floor_char_boundary(max_bytes - ellipsis.len());
    format!("{}{ellipsis}", &text[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abc…");
        assert_eq!(cut("aéééé", 6), "aé…");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("é", 1), "");
    }

    proptest! {
        #[test]
        fn a_cut_text_is_a_prefix_within_the_limit(text in ".{0,80}", max in 0_usize..100) {
            let short = cut(&text, max);
            prop_assert!(short.len() <= max);
            prop_assert!(short == text || text.starts_with(short.trim_end_matches(ELLIPSIS)));
        }
    }

    #[test]
    fn the_keys_of_cut_values_are_listed_once() {
        let mut cutter = Truncator::new(8, None);
        cutter.string("fits", "12345678");
        cutter.string("long", "123456789");
        cutter.string("long", "987654321");
        cutter.strings("array", ["123456789"]);
        let Some(Value::ArrayValue(keys)) =
            cutter.truncated().and_then(|attribute| attribute.value?.value)
        else {
            panic!("no list of keys");
        };
        let keys: Vec<_> = keys.values.into_iter().filter_map(|key| key.value).collect();
        assert_eq!(keys, [Value::StringValue("long".into())]);
    }

    #[test]
    fn the_length_limit_of_the_environment_reaches_into_arrays() {
        let mut cutter = Truncator::new(2048, Some(4));
        cutter.strings("array", ["12345"]);
        assert!(cutter.truncated().is_some());
    }
}
