//! The members of the top-level object of a JSON text, each as it is written.
//!
//! `serde_json` judges the text as a whole and refuses what is nested too deep.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members, with keys without escapes and values as they are written.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The value under `key`. Of several with one key, the last counts, as in Python.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, value)| *value)
    }

    /// The string under `key`; `None` if it is absent or no string.
    pub fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }
}

/// The string under `key` in the top-level object; `None` if the text is no object or has no such string.
pub fn existing(original: &[u8], key: &str) -> Option<String> {
    parse(original).ok()?.text(key)
}

/// The members of the top level, each judged for its form alone: a number too large for any type,
/// or half a surrogate, is left to the programs that read the export.
///
/// # Errors
/// The text is no JSON object, or is nested too deep.
pub fn parse(original: &[u8]) -> Result<Members<'_>, serde_json::Error> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    serde_json::from_slice(original.strip_prefix(BOM).unwrap_or(original))
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<Key<'de>, &RawValue>()? {
                    members.push((member.0.0, member.1));
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Object)
    }
}

/// A key that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
