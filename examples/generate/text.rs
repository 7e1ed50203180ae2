//! Formats values like the exporter's libraries, Python's `json.dump(indent=2)` and PyYAML. Long
//! objects and lists are written piece by piece, so that they are never in memory as a whole.

use std::io::{self, Write};

use serde_json::Value;

/// A JSON object that is written member by member.
pub struct Object<'a, W> {
    out: &'a mut W,
    depth: usize,
    is_empty: bool,
}

impl<'a, W: Write> Object<'a, W> {
    /// Starts an object. `end` must be called to close it.
    pub fn begin(out: &'a mut W, depth: usize) -> io::Result<Self> {
        out.write_all(b"{")?;
        Ok(Self { out, depth, is_empty: true })
    }

    /// Writes one member.
    pub fn member(&mut self, key: &str, value: &Value) -> io::Result<()> {
        let mut text = String::new();
        json(value, self.depth + 1, &mut text);
        self.key(key)?;
        self.out.write_all(text.as_bytes())
    }

    /// Writes a member that is an object, one of its members at a time.
    pub fn object(
        &mut self,
        key: &str,
        members: impl IntoIterator<Item = (String, Value)>,
    ) -> io::Result<()> {
        self.key(key)?;
        let mut inner = Object::begin(self.out, self.depth + 1)?;
        for (key, value) in members {
            inner.member(&key, &value)?;
        }
        inner.end()
    }

    /// Writes a member that is a list, one item at a time.
    pub fn list(&mut self, key: &str, items: impl IntoIterator<Item = Value>) -> io::Result<()> {
        self.key(key)?;
        self.out.write_all(b"[")?;
        let mut text = String::new();
        let mut is_empty = true;
        for item in items {
            text.clear();
            text.push_str(if is_empty { "" } else { "," });
            line(self.depth + 2, &mut text);
            json(&item, self.depth + 2, &mut text);
            self.out.write_all(text.as_bytes())?;
            is_empty = false;
        }
        text.clear();
        if !is_empty {
            line(self.depth + 1, &mut text);
        }
        write!(self.out, "{text}]")
    }

    /// Closes the object.
    pub fn end(self) -> io::Result<()> {
        let mut text = String::new();
        if !self.is_empty {
            line(self.depth, &mut text);
        }
        write!(self.out, "{text}}}")
    }

    fn key(&mut self, key: &str) -> io::Result<()> {
        let mut text = String::from(if self.is_empty { "" } else { "," });
        self.is_empty = false;
        line(self.depth + 1, &mut text);
        quoted(key, &mut text);
        write!(self.out, "{text}: ")
    }
}

fn line(depth: usize, out: &mut String) {
    out.push('\n');
    (0..depth).for_each(|_| out.push_str("  "));
}

fn json(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                line(depth + 1, out);
                quoted(key, out);
                out.push_str(": ");
                json(value, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                out.push(if index == 0 { '[' } else { ',' });
                line(depth + 1, out);
                json(item, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        Value::String(text) => quoted(text, out),
        other => out.push_str(&other.to_string()),
    }
}

/// Writes a string in ASCII, as Python does by default. The result is valid YAML, too.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// Writes a YAML value in block style.
pub fn yaml(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                // The first key can follow the dash of a list.
                if index > 0 || !out.ends_with("- ") {
                    out.extend(std::iter::repeat_n(' ', depth));
                }
                plain(key, out);
                out.push(':');
                // PyYAML does not indent a list below its key.
                yaml_nested(value, if value.is_array() { depth } else { depth + 2 }, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.extend(std::iter::repeat_n(' ', depth));
                out.push_str("- ");
                yaml(item, depth + 2, out);
            }
        }
        scalar => {
            yaml_scalar(scalar, out);
            out.push('\n');
        }
    }
}

fn yaml_nested(value: &Value, depth: usize, out: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if is_block { '\n' } else { ' ' });
    yaml(value, depth, out);
}

fn yaml_scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => plain(text, out),
        // All other values are the same in JSON and YAML.
        other => out.push_str(&other.to_string()),
    }
}

/// Writes a string without quotes if YAML then reads the same string. Otherwise quotes it.
fn plain(text: &str, out: &mut String) {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if !text.chars().all(|c| (' '..='~').contains(&c)) {
        return quoted(text, out);
    }
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "./".contains(c));
    let is_number = !text.contains(|c: char| !c.is_ascii_digit() && !"._:+-eETZ".contains(c));
    let has_meaning = is_number && text.contains(|c: char| c.is_ascii_digit())
        || WORDS.contains(&text.to_ascii_lowercase().as_str());
    let is_split = text.contains(": ") || text.contains(" #") || text.ends_with([':', ' ']);
    if begins && !has_meaning && !is_split {
        out.push_str(text);
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}
