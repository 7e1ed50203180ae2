//! Splits the top-level object of a JSON text into members, without changing their text.
//!
//! `serde_json` checks the syntax of the text as a whole, and its nesting.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members, with unescaped keys and values as they are written.
#[derive(Debug)]
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Returns the value of a key. If the key occurs several times, the last value counts, as in
    /// Python.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, value)| *value)
    }

    /// Returns the string value of a key. `None` if the key is missing or its value is not a
    /// string.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }
}

/// Returns the string value of `key` in the top-level object. `None` if the text is not an object
/// or has no such string.
pub fn existing(original: &[u8], key: &str) -> Option<String> {
    parse(original).ok()?.text(key)
}

/// Parses the members of the top level. Values are only checked for syntax. A number out of range
/// or an unpaired surrogate is not an error here; the code that reads the value decides.
///
/// # Errors
/// Returns an error if the text is not a JSON object, or is nested too deeply.
pub(crate) fn parse(original: &[u8]) -> Result<Members<'_>, serde_json::Error> {
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

/// A key, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
