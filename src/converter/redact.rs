//! Redacts the values of keys that look like secrets, so that they are never sent.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::options::RedactionConfig;

const REDACTED: &str = "[redacted]";

/// Replaces the values of keys that match a pattern, at any depth.
#[derive(Clone, Debug)]
pub struct Redaction {
    secrets: Vec<Regex>,
}

/// A pattern that is not a valid regular expression.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is not a regular expression: {source}")]
pub struct BadPattern {
    /// The pattern as configured.
    pub pattern: String,
    source: regex_lite::Error,
}

impl Redaction {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// Returns the first pattern that is not a valid regular expression.
    pub fn new(config: &RedactionConfig) -> Result<Redaction, BadPattern> {
        let compile = |pattern: &String| {
            let built = RegexBuilder::new(pattern).case_insensitive(true).build();
            built.map_err(|source| BadPattern { pattern: pattern.clone(), source })
        };
        Ok(Redaction { secrets: config.keys.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Returns a redaction that applies the patterns of both.
    pub fn and(mut self, other: Option<Redaction>) -> Redaction {
        self.secrets.extend(other.into_iter().flat_map(|other| other.secrets));
        self
    }

    /// Returns a redactor for one plan, whose artifacts repeat the same keys.
    pub fn of_a_plan(&self) -> Redactor<'_> {
        Redactor { redaction: self, known: RefCell::default() }
    }
}

/// Applies a [`Redaction`] and caches the result per key.
#[derive(Debug)]
pub struct Redactor<'a> {
    redaction: &'a Redaction,
    known: RefCell<HashMap<&'a str, bool>>,
}

impl<'a> Redactor<'a> {
    /// Returns the parameters with every secret replaced. A null is not a secret and stays null.
    pub fn apply(&self, parameters: &'a Map<String, Value>) -> Cow<'a, Map<String, Value>> {
        if !self.has_secret(parameters) {
            return Cow::Borrowed(parameters);
        }
        let replace = |(key, value): (&'a String, &'a Value)| {
            let value = match value {
                Value::Null => Value::Null,
                _ if self.is_secret(key) => Value::from(REDACTED),
                value => self.apply_within(value),
            };
            (key.clone(), value)
        };
        Cow::Owned(parameters.iter().map(replace).collect())
    }

    fn apply_within(&self, value: &'a Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(self.apply(map).into_owned()),
            Value::Array(items) => items.iter().map(|item| self.apply_within(item)).collect(),
            scalar => scalar.clone(),
        }
    }

    fn has_secret(&self, parameters: &'a Map<String, Value>) -> bool {
        parameters.iter().any(|(key, value)| self.is_secret(key) || self.has_secret_within(value))
    }

    fn has_secret_within(&self, value: &'a Value) -> bool {
        match value {
            Value::Object(map) => self.has_secret(map),
            Value::Array(items) => items.iter().any(|item| self.has_secret_within(item)),
            _ => false,
        }
    }

    fn is_secret(&self, key: &'a str) -> bool {
        let is_match = || self.redaction.secrets.iter().any(|pattern| pattern.is_match(key));
        *self.known.borrow_mut().entry(key).or_insert_with(is_match)
    }
}

impl Default for Redaction {
    /// The default patterns. A test compiles all of them.
    fn default() -> Redaction {
        let keys = RedactionConfig::default().keys;
        let compile = |key: &String| RegexBuilder::new(key).case_insensitive(true).build().ok();
        Redaction { secrets: keys.iter().filter_map(compile).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_at_any_depth() {
        let redaction = Redaction::new(&RedactionConfig::default()).expect("the defaults");
        let parameters = json!({
            "dbPassword": "x", "API-KEY": 5, "apikey": ["a"], "plain": "token", "Token": null,
            "deep": [{"privateKey": {"pem": "x"}, "ok": 1}],
        });
        let expected = json!({
            "dbPassword": "[redacted]", "API-KEY": "[redacted]", "apikey": "[redacted]",
            "plain": "token", "Token": null,
            "deep": [{"privateKey": "[redacted]", "ok": 1}],
        });
        let map = parameters.as_object().expect("a map");
        let redactor = redaction.of_a_plan();
        assert_eq!(Value::Object(redactor.apply(map).into_owned()), expected);
        let plain = json!({"plain": [{"ok": 1}]});
        let plain = plain.as_object().expect("a map");
        assert!(matches!(redactor.apply(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Redaction::new(&RedactionConfig { keys: vec!["(".into()] }).expect_err("bad");
        assert!(error.to_string().starts_with("`(` is not a regular expression"), "{error}");
    }
}
