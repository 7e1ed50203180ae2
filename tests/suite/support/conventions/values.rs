//! Compares attribute values with the expected ones, within the length limit.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::common::v1::any_value::Value as Proto;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use serde_json::Value;

/// The longest string that no backend truncates, in bytes.
pub const LIMIT: usize = 2048;

/// An attribute value, received or expected.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    Str(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    List(Vec<Val>),
    /// Expected values only: a string with this JSON, with keys in any order.
    Json(Value),
}

impl Val {
    fn received(value: Option<&AnyValue>) -> Option<Self> {
        Some(match value?.value.as_ref()? {
            Proto::StringValue(text) => Self::Str(text.clone()),
            Proto::IntValue(number) => Self::Int(*number),
            Proto::DoubleValue(number) => Self::Double(*number),
            Proto::BoolValue(flag) => Self::Bool(*flag),
            Proto::ArrayValue(array) => {
                let items = array.values.iter().map(|item| Self::received(Some(item)));
                Self::List(items.collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }

    /// Returns the text of a string. `None` for any other type.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// Returns a list of strings.
    pub fn strings<'a>(items: impl IntoIterator<Item = &'a String>) -> Self {
        Self::List(items.into_iter().map(|item| Self::Str(item.clone())).collect())
    }

    /// Returns the length of a top-level string, in bytes. Backends do not truncate the elements of
    /// arrays.
    fn longest_string(&self) -> usize {
        match self {
            Self::Str(text) => text.len(),
            _ => 0,
        }
    }
}

impl From<&str> for Val {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<usize> for Val {
    fn from(number: usize) -> Self {
        Self::Int(number as i64)
    }
}

/// Returns the attribute value of a parameter. `None` for null, which has no attribute.
pub fn parameter(key: &str, value: &Value) -> Option<Val> {
    if value.is_null() {
        return None;
    }
    if is_secret(key) {
        return Some("[redacted]".into());
    }
    Some(match value {
        Value::Array(items) => {
            let plain: Vec<Val> = items.iter().filter_map(simple).collect();
            let alike = plain
                .windows(2)
                .all(|pair| std::mem::discriminant(&pair[0]) == std::mem::discriminant(&pair[1]));
            if plain.len() == items.len() && alike {
                Val::List(plain)
            } else {
                let text = |item: &Value| match item {
                    Value::String(text) => Val::Str(text.clone()),
                    other => Val::Json(without_secrets(other)),
                };
                Val::List(items.iter().map(text).collect())
            }
        }
        Value::Object(_) => Val::Json(without_secrets(value)),
        simple_value => simple(simple_value)?,
    })
}

fn simple(value: &Value) -> Option<Val> {
    match value {
        Value::String(text) => Some(Val::Str(text.clone())),
        Value::Bool(flag) => Some(Val::Bool(*flag)),
        Value::Number(number) => {
            number.as_i64().map(Val::Int).or_else(|| number.as_f64().map(Val::Double))
        }
        _ => None,
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace(['-', '_'], "");
    ["password", "passwd", "secret", "token", "apikey", "privatekey", "credential"]
        .iter()
        .any(|word| key.contains(word))
}

fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let clean = |(key, value): (&String, &Value)| {
                let secret = is_secret(key) && !value.is_null();
                let value = if secret { "[redacted]".into() } else { without_secrets(value) };
                (key.clone(), value)
            };
            Value::Object(map.iter().map(clean).collect())
        }
        Value::Array(items) => items.iter().map(without_secrets).collect(),
        other => other.clone(),
    }
}

#[derive(PartialEq, Eq)]
enum Match {
    Same,
    /// A truncated form of the expected value, which is above the limit.
    Cut,
    Different,
}

fn compare(expected: &Val, actual: &Val) -> Match {
    match (expected, actual) {
        (Val::Str(full), Val::Str(text)) if full.len() <= LIMIT => same_if(full == text),
        (Val::Str(full), Val::Str(text)) if is_cut_of(full, text) => Match::Cut,
        (Val::Json(json), Val::Str(text)) => {
            let compact = json.to_string();
            if compact.len() > LIMIT {
                return compare(&Val::Str(compact), actual);
            }
            let same_json = serde_json::from_str::<Value>(text).is_ok_and(|v| v == *json);
            same_if(same_json && text.len() == compact.len())
        }
        (Val::List(expected), Val::List(actual)) if expected.len() == actual.len() => {
            let pairs = expected.iter().zip(actual);
            let matches: Vec<_> =
                pairs.map(|(expected, actual)| compare(expected, actual)).collect();
            match () {
                () if matches.contains(&Match::Different) => Match::Different,
                () if matches.contains(&Match::Cut) => Match::Cut,
                () => Match::Same,
            }
        }
        (expected, actual) => same_if(expected == actual),
    }
}

fn same_if(same: bool) -> Match {
    if same { Match::Same } else { Match::Different }
}

/// Whether `cut` is `full`, truncated at the last possible character and marked with `…`.
fn is_cut_of(full: &str, cut: &str) -> bool {
    let kept = cut.strip_suffix('…');
    kept.is_some_and(|kept| full.starts_with(kept)) && (LIMIT - 3..=LIMIT).contains(&cut.len())
}

/// The attributes of a span, event, link or resource. Each check removes its attribute, so the rest
/// are unexpected.
pub struct Attributes {
    values: BTreeMap<String, Val>,
    place: String,
    pub faults: Vec<String>,
    /// Keys whose values had to be truncated.
    pub cut: BTreeSet<String>,
}

impl Attributes {
    /// Reads received attributes. `place` names their owner in messages.
    pub fn new(place: String, attributes: &[KeyValue]) -> Self {
        let mut bag =
            Self { values: BTreeMap::new(), place, faults: Vec::new(), cut: BTreeSet::new() };
        for KeyValue { key, value, .. } in attributes {
            match Val::received(value.as_ref()) {
                None => bag.fault(format!("{key} has no value of a usable type")),
                Some(value) => {
                    if value.longest_string() > LIMIT {
                        bag.fault(format!("{key} holds a string over {LIMIT} bytes"));
                    }
                    if bag.values.insert(key.clone(), value).is_some() {
                        bag.fault(format!("{key} is there twice"));
                    }
                }
            }
        }
        bag
    }

    /// Reports a fault.
    pub fn fault(&mut self, words: impl AsRef<str>) {
        self.faults.push(format!("{}: {}", self.place, words.as_ref()));
    }

    /// Removes an attribute and returns its value.
    pub fn take(&mut self, key: &str) -> Option<Val> {
        self.values.remove(key)
    }

    /// Removes an attribute and returns its text. Reports a value of another type.
    pub fn take_text(&mut self, key: &str) -> Option<String> {
        match self.take(key) {
            Some(Val::Str(text)) => Some(text),
            Some(_) => {
                self.fault(format!("{key} is not a string"));
                None
            }
            None => None,
        }
    }

    /// Checks one attribute, which must be present.
    pub fn expect(&mut self, key: &str, expected: impl Into<Val>) {
        let expected = expected.into();
        match self.take(key) {
            None => self.fault(format!("{key} is missing, expected {}", short(&expected))),
            Some(actual) => match compare(&expected, &actual) {
                Match::Same => {}
                Match::Cut => {
                    self.cut.insert(key.to_owned());
                }
                Match::Different => {
                    let (actual, expected) = (short(&actual), short(&expected));
                    self.fault(format!("{key} is {actual}, expected {expected}"));
                }
            },
        }
    }

    /// Checks an attribute if its value is known. Otherwise the attribute must be absent.
    pub fn expect_if_known(&mut self, key: &str, expected: Option<impl Into<Val>>) {
        if let Some(expected) = expected {
            self.expect(key, expected);
        }
    }

    /// Ends the check and reports the remaining attributes. Returns the faults, and the keys that
    /// were truncated.
    pub fn finish(mut self) -> (Vec<String>, BTreeSet<String>) {
        for (key, value) in std::mem::take(&mut self.values) {
            self.fault(format!("{key} = {} is not in the conventions", short(&value)));
        }
        (self.faults, self.cut)
    }
}

fn short(value: &Val) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}
