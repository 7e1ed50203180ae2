//! Values of keys that look like secrets never leave the machine.

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::options::RedactionConfig;

const REDACTED: &str = "[redacted]";

/// Replaces the values of keys that match any pattern, at any depth.
#[derive(Clone, Debug)]
pub struct Redaction {
    secrets: Vec<Regex>,
}

/// A pattern that is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is not a regular expression: {source}")]
pub struct BadPattern {
    pub pattern: String,
    source: regex_lite::Error,
}

impl Redaction {
    /// # Errors
    /// The first pattern that cannot be read.
    pub fn new(config: &RedactionConfig) -> Result<Redaction, BadPattern> {
        let compile = |pattern: &String| {
            let built = RegexBuilder::new(pattern).case_insensitive(true).build();
            built.map_err(|source| BadPattern { pattern: pattern.clone(), source })
        };
        Ok(Redaction { secrets: config.keys.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// What either of two takes for a secret.
    pub fn and(mut self, other: Option<Redaction>) -> Redaction {
        self.secrets.extend(other.into_iter().flat_map(|other| other.secrets));
        self
    }

    /// The parameters with every secret replaced. A null holds no secret and stays null.
    pub fn apply(&self, parameters: &Map<String, Value>) -> Map<String, Value> {
        let replace = |(key, value): (&String, &Value)| {
            let value = match value {
                Value::Null => Value::Null,
                _ if self.is_secret(key) => Value::from(REDACTED),
                value => self.apply_within(value),
            };
            (key.clone(), value)
        };
        parameters.iter().map(replace).collect()
    }

    fn apply_within(&self, value: &Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(self.apply(map)),
            Value::Array(items) => items.iter().map(|item| self.apply_within(item)).collect(),
            scalar => scalar.clone(),
        }
    }

    fn is_secret(&self, key: &str) -> bool {
        self.secrets.iter().any(|pattern| pattern.is_match(key))
    }
}

impl Default for Redaction {
    /// The default patterns. They are ours, and a test reads them all.
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
        assert_eq!(Value::Object(redaction.apply(map)), expected);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Redaction::new(&RedactionConfig { keys: vec!["(".into()] }).expect_err("bad");
        assert!(error.to_string().starts_with("`(` is not a regular expression"), "{error}");
    }
}
