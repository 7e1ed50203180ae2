//! Decodes nodes into Rust types and reports every error.
//!
//! ```text
//! Node ──serde──▶ T
//!   ▲       └──error (place, message)──▶ record it, remove the entry, retry
//!   └────────────────────────────────────┘
//! ```
//!
//! The target type decides how a scalar is read, so `version: 1.10` can be a string. A key without
//! a value keeps the default.

use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::fault::Faults;
use super::node::{Key, Mark, Node, Style, Value};
use crate::base::diagnostics::unknown;

/// Returns the value made from everything that could be decoded. `None` if that is not enough.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node, faults: &mut Faults) -> Option<T> {
    let mut tree = node.clone();
    loop {
        match T::deserialize(Reader(&tree)) {
            Ok(value) => return Some(value),
            Err(error) => {
                faults.push(error.mark.as_ref().unwrap_or(&tree.mark), error.message);
                remove(&mut tree, &error.path)?;
            }
        }
    }
}

/// Removes the entry at `path` (innermost step first) from the tree. Each round of `decode` removes
/// one, so the loop ends.
fn remove(tree: &mut Node, path: &[usize]) -> Option<()> {
    let (last, steps) = path.split_first()?;
    let mut node = tree;
    for step in steps.iter().rev() {
        node = match &mut node.value {
            Value::Seq(items) => items.get_mut(*step)?,
            Value::Map(entries) => &mut entries.get_mut(*step)?.1,
            _ => return None,
        };
    }
    match &mut node.value {
        Value::Seq(items) if *last < items.len() => drop(items.remove(*last)),
        Value::Map(entries) if *last < entries.len() => drop(entries.remove(*last)),
        _ => return None,
    }
    Some(())
}

/// An error. Its position and path are filled in while it is passed up.
#[derive(Debug)]
struct Error {
    mark: Option<Mark>,
    path: Vec<usize>,
    message: String,
}

impl Error {
    fn at(mut self, mark: &Mark) -> Self {
        self.mark.get_or_insert_with(|| mark.clone());
        self
    }

    fn inside(mut self, index: usize) -> Self {
        self.path.push(index);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<M: Display>(message: M) -> Self {
        Self { mark: None, path: Vec::new(), message: message.to_string() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("key", field, expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("value", variant, expected))
    }
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a Node);

impl<'a> Reader<'a> {
    fn wrong<T>(self, expected: &str) -> Result<T, Error> {
        let found = self.0.noun();
        Err(de::Error::custom(format_args!("expected {expected}, found {found}")))
    }

    /// Parses the scalar with `FromStr`. The error message contains the text.
    fn number<T: std::str::FromStr>(self, expected: &str) -> Result<T, Error> {
        let Some(text) = self.0.text() else {
            return self.wrong(expected);
        };
        text.trim()
            .parse()
            .map_err(|_| de::Error::custom(format_args!("expected {expected}, found `{text}`")))
    }

    fn map<V: Visitor<'a>>(self, fields: &'a [&'a str], visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => visitor.visit_map(Entries { fields, entries: &[], next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { fields, entries, next: 0 }),
            _ => self.wrong("a map"),
        }
    }

    fn seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => visitor.visit_seq(Items { items: &[], next: 0 }),
            Value::Seq(items) => visitor.visit_seq(Items { items, next: 0 }),
            _ => self.wrong("a list"),
        }
    }

    fn str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            // If text is expected, an unset variable is the empty text.
            Value::Null => visitor.visit_str(""),
            Value::Scalar { text, .. } => visitor.visit_str(text),
            _ => self.wrong("text"),
        }
    }

    /// Reads a value of unknown type by the rules of the core schema.
    fn any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = match &self.0.value {
            Value::Null => return visitor.visit_unit(),
            Value::Seq(_) => return self.seq(visitor),
            Value::Map(_) => return self.map(&[], visitor),
            Value::Scalar { text, style: Style::Quoted } => return visitor.visit_str(text),
            Value::Scalar { text, style: Style::Plain } => text,
        };
        // Rust parses `inf` and `nan` as floats; YAML does not.
        let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        match text.as_str() {
            "true" | "True" | "TRUE" => visitor.visit_bool(true),
            "false" | "False" | "FALSE" => visitor.visit_bool(false),
            _ if !numeric => visitor.visit_str(text),
            _ => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(int), _) => visitor.visit_i64(int),
                (_, Ok(float)) if float.is_finite() => visitor.visit_f64(float),
                _ => visitor.visit_str(text),
            },
        }
    }
}

/// Implements the methods that differ only in their names.
macro_rules! read_as {
    ($($method:ident => $visit:ident($expected:literal);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number($expected)?)
        })*
    };
    ($($method:ident => self.$how:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$how(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Error;

    read_as! {
        deserialize_any => self.any;
        deserialize_str => self.str;
        deserialize_string => self.str;
        deserialize_identifier => self.str;
        deserialize_seq => self.seq;
    }

    read_as! {
        deserialize_bool => visit_bool("true or false");
        deserialize_i8 => visit_i64("a whole number");
        deserialize_i16 => visit_i64("a whole number");
        deserialize_i32 => visit_i64("a whole number");
        deserialize_i64 => visit_i64("a whole number");
        deserialize_u8 => visit_u64("a whole number, 0 or more");
        deserialize_u16 => visit_u64("a whole number, 0 or more");
        deserialize_u32 => visit_u64("a whole number, 0 or more");
        deserialize_u64 => visit_u64("a whole number, 0 or more");
        deserialize_f32 => visit_f64("a number");
        deserialize_f64 => visit_f64("a number");
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.map(fields, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0.text() {
            Some(text) => visitor.visit_enum(StrDeserializer::new(text)),
            None => self.wrong("text"),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let index = self.next;
        let Some(item) = self.items.get(index) else {
            return Ok(None);
        };
        self.next += 1;
        seed.deserialize(Reader(item)).map(Some).map_err(|e| e.at(&item.mark).inside(index))
    }
}

struct Entries<'a> {
    /// The fields of a struct. Empty for a map, which can have any key.
    fields: &'a [&'a str],
    entries: &'a [(Key, Node)],
    next: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        loop {
            let index = self.next;
            let Some((key, node)) = self.entries.get(index) else {
                return Ok(None);
            };
            self.next += 1;
            if node.value == Value::Null && self.fields.contains(&key.text.as_str()) {
                continue;
            }
            let text: StrDeserializer<Error> = key.text.as_str().into_deserializer();
            return seed.deserialize(text).map(Some).map_err(|e| e.at(&key.mark).inside(index));
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let index = self.next.saturating_sub(1);
        let Some((_, node)) = self.entries.get(index) else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader(node)).map_err(|e| e.at(&node.mark).inside(index))
    }
}

#[cfg(test)]
mod tests;
