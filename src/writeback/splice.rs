//! Sets members of the top-level object of a JSON text and leaves every other byte as it was: a
//! value that is there is replaced where it stands, a new member goes in before the closing brace.
//!
//! ```text
//!   {\n  "a": 1,\n  "b" : [2]                                      \n}
//!                │   │└┬┘  └ value end: the new members go in here ┘ └ close
//!        last comma  │ └ spacing around the colon ┐ both are copied from the last member,
//!                    └ key, after the lead ───────┘ so new lines look like the line above
//! ```
//!
//! `serde_json` judges the text as a whole, refuses what is nested too deep, and says where each
//! value stands; all else is found from there.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use serde_json::value::RawValue;

use crate::fs::members::{Members, parse};

#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    #[error("not a JSON object: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// `original` with each entry as a string member: in place of the value that the key has, else added
/// before the closing brace, in order.
pub fn splice(original: &[u8], entries: &[(&str, &str)]) -> Result<Vec<u8>, SpliceError> {
    Ok(splice_into(original, &parse(original)?, entries).concat())
}

/// The same where the members are known, as parts: a large export is not held a second time.
pub(super) fn splice_into<'a>(
    original: &'a [u8],
    object: &Members<'_>,
    entries: &[(&str, &str)],
) -> Vec<Cow<'a, [u8]>> {
    let last = Last::find(original, object);
    let style = last.style(original);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut added = String::new();
    for (key, value) in entries {
        if let Some(present) = object.get(key) {
            let mut quoted = String::new();
            push_quoted(&mut quoted, value);
            edits.push((place_of(present, original), quoted));
            continue;
        }
        let comma = if added.is_empty() && object.0.is_empty() { "" } else { "," };
        added.push_str(comma);
        added.push_str(if comma.is_empty() { &style.first_lead } else { &style.lead });
        push_quoted(&mut added, key);
        added.push_str(&style.colon);
        push_quoted(&mut added, value);
    }
    edits.push((last.end..last.end, added));
    edits.sort_by_key(|(place, _)| (place.start, place.end));
    let mut parts: Vec<Cow<'a, [u8]>> = Vec::new();
    let mut copied = 0;
    for (place, text) in edits {
        parts.push(original[copied..place.start].into());
        parts.push(text.into_bytes().into());
        copied = place.end;
    }
    parts.push(original[copied..].into());
    parts
}

/// The bytes of a value in the text that it was borrowed from.
fn place_of(value: &RawValue, text: &[u8]) -> Range<usize> {
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + value.get().len()
}

/// Where the last member of the top-level object lies, as offsets into the text.
struct Last {
    /// Just after the comma before it, or after the opening brace.
    start: usize,
    /// Its colon; none in an empty object.
    colon: Option<usize>,
    /// Just after its value; in an empty object, just after the opening brace.
    end: usize,
    /// The closing brace.
    close: usize,
    /// Whether it is the only member.
    only: bool,
}

impl Last {
    fn find(text: &[u8], members: &Members<'_>) -> Last {
        let open = text.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        let close = text.iter().rposition(|byte| *byte == b'}').unwrap_or(text.len());
        let only = members.0.len() < 2;
        let mut values = members.0.iter().rev().map(|(_, value)| place_of(value, text));
        let Some(value) = values.next() else {
            return Last { start: open, colon: None, end: open, close, only };
        };
        // Between two values there is a comma, then a key in quotes.
        let start = values.next().map_or(open, |before| {
            let comma = text[before.end..].iter().position(|byte| *byte == b',');
            comma.map_or(before.end, |at| before.end + at + 1)
        });
        let colon = text[..value.start].iter().rposition(|byte| *byte == b':');
        Last { start, colon, end: value.end, close, only }
    }

    fn style(&self, text: &[u8]) -> Style {
        let Some(colon) = self.colon else {
            return Style::of_empty(space(&text[self.start..self.close]));
        };
        let lead = leading_space(&text[self.start..]);
        let before = &text[self.start..colon];
        let colon = format!(
            "{}:{}",
            space(&before[before.trim_ascii_end().len()..]),
            leading_space(&text[colon + 1..])
        );
        let lead = match newline(lead) {
            Some((newline, indent)) => format!("{newline}{indent}"),
            // An only member has no comma before it to show what follows one.
            None if self.only && lead.is_empty() && colon.ends_with(' ') => " ".to_owned(),
            None => lead.to_owned(),
        };
        Style { first_lead: lead.clone(), lead, colon }
    }
}

/// What is written between the brace or comma and the key, and between key and value.
struct Style {
    first_lead: String,
    lead: String,
    colon: String,
}

impl Style {
    /// An empty object shows only whether it is broken over lines.
    fn of_empty(inner: &str) -> Style {
        let (first_lead, lead) = match newline(inner) {
            Some((newline, indent)) => {
                let lead = format!("{newline}{indent}  ");
                (lead.clone(), lead)
            }
            None => (inner.to_owned(), " ".to_owned()),
        };
        Style { first_lead, lead, colon: ": ".to_owned() }
    }
}

/// The last line break in some white space, and what stands between it and the next character.
fn newline(space: &str) -> Option<(&str, &str)> {
    let at = space.rfind(['\n', '\r'])?;
    let start = if space[..=at].ends_with("\r\n") { at - 1 } else { at };
    Some((&space[start..=at], &space[at + 1..]))
}

fn leading_space(text: &[u8]) -> &str {
    space(&text[..text.len() - text.trim_ascii_start().len()])
}

/// White space between JSON tokens is ASCII, so this never falls back.
fn space(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A JSON string in ASCII only, as Python's `json` writes it.
fn push_quoted(out: &mut String, text: &str) {
    for char in serde_json::Value::from(text).to_string().chars() {
        if char.is_ascii() {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
            }
        }
    }
}

#[cfg(test)]
mod tests;
