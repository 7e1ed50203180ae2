//! Resolved parameter values as typed attributes (R2.3).
//!
//! A backend has one column per key and type, so a value keeps the type that it has in the file:
//! `1` is an int and `1.0` a double. A value without a searchable form in OTLP becomes JSON text.

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as AnyValue};
use serde_json::Value;

use super::attributes::{Truncator, array, boolean, double, int};

/// Makes the attribute of a value. `None` for null.
pub(crate) fn attribute(cutter: &mut Truncator, key: String, value: &Value) -> Option<KeyValue> {
    let attribute = match value {
        Value::Null => return None,
        Value::Bool(value) => boolean(key, *value),
        Value::Number(_) => match as_int(value) {
            Some(value) => int(key, value),
            None => double(key, value.as_f64()?),
        },
        Value::String(text) => cutter.string(key, text),
        Value::Array(items) => elements(cutter, key, items),
        Value::Object(_) => cutter.string(key, value.to_string()),
    };
    Some(attribute)
}

/// Makes an array if all elements have the same type, else JSON text.
fn elements(cutter: &mut Truncator, key: String, items: &[Value]) -> KeyValue {
    let typed =
        |of: fn(&Value) -> Option<AnyValue>| items.iter().map(of).collect::<Option<Vec<_>>>();
    let all = typed(|item| as_int(item).map(AnyValue::IntValue))
        .or_else(|| typed(|item| as_double(item).map(AnyValue::DoubleValue)))
        .or_else(|| typed(|item| item.as_bool().map(AnyValue::BoolValue)));
    if let Some(values) = all {
        return array(key, values);
    }
    let texts: Vec<String> = items
        .iter()
        .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
        .collect();
    cutter.strings(key, texts.iter().map(String::as_str))
}

/// Returns a number that is written without a fraction and fits into an `i64`.
fn as_int(value: &Value) -> Option<i64> {
    value.as_i64()
}

fn as_double(value: &Value) -> Option<f64> {
    if as_int(value).is_some() { None } else { value.as_f64() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn converted(value: Value) -> Option<AnyValue> {
        attribute(&mut Truncator::new(2_048, None), "k".to_owned(), &value)?.value?.value
    }

    fn list(values: Vec<AnyValue>) -> Option<AnyValue> {
        array("k", values).value?.value
    }

    fn text(text: &str) -> AnyValue {
        AnyValue::StringValue(text.to_owned())
    }

    #[test]
    fn table() {
        use AnyValue::{BoolValue, DoubleValue, IntValue};
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let cases = [
            (json!("a"), Some(text("a"))),
            (json!(true), Some(BoolValue(true))),
            (json!(5), Some(IntValue(5))),
            (json!(i64::MIN), Some(IntValue(i64::MIN))),
            (json!(u64::MAX), Some(DoubleValue(u64::MAX as f64))),
            (parse("5.0"), Some(DoubleValue(5.0))),
            (parse("1e3"), Some(DoubleValue(1_000.0))),
            (json!(null), None),
            (json!([]), list(vec![])),
            (json!(["a", "b"]), list(vec![text("a"), text("b")])),
            (json!([1, 2]), list(vec![IntValue(1), IntValue(2)])),
            (json!([1.5, 2.0]), list(vec![DoubleValue(1.5), DoubleValue(2.0)])),
            (json!([true]), list(vec![BoolValue(true)])),
            (json!([1, 2.5]), list(vec![text("1"), text("2.5")])),
            (json!(["a", 1, null, {"k": [1]}]), {
                list(vec![text("a"), text("1"), text("null"), text("{\"k\":[1]}")])
            }),
            (json!({"b": 1, "a": [true]}), Some(text("{\"b\":1,\"a\":[true]}"))),
        ];
        for (value, expected) in cases {
            assert_eq!(converted(value.clone()), expected, "{value}");
        }
    }
}
