//! Sets members of the top-level object of a JSON text, and keeps every other byte. An existing
//! value is replaced in place; a new member is added before the closing brace.
//!
//! ```text
//!   {
//!   "a": 1,
//!   "b" : [2]
//! }
//!                │   │└┬┘  └ value end: new members are added here ┘ └ close
//!        last comma  │ └ spacing around the colon ┐ both are copied from the last member,
//!                    └ key, after the lead ───────┘ so new lines look like the line above
//! ```
//!
//! `serde_json` checks the syntax and the nesting of the text, and returns the position of each
//! value. All other positions are found from these.

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

/// Returns `original` with each entry as a string member: in place of the existing value, or added
/// before the closing brace, in order.
pub fn splice(original: &[u8], entries: &[(&str, &str)]) -> Result<Vec<u8>, SpliceError> {
    Ok(splice_into(original, &parse(original)?, entries).concat())
}

/// Like [`splice`], for parsed members. Returns parts, so that a large export is not in memory
/// twice.
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

/// Returns the position of a value in the text that it was borrowed from.
fn place_of(value: &RawValue, text: &[u8]) -> Range<usize> {
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + value.get().len()
}

/// The positions of the last member of the top-level object, as offsets into the text.
struct Last {
    /// After the comma before it, or after the opening brace.
    start: usize,
    /// Its colon. `None` in an empty object.
    colon: Option<usize>,
    /// After its value. In an empty object, after the opening brace.
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
            // An only member has no comma before it that would show the style.
            None if self.only && lead.is_empty() && colon.ends_with(' ') => " ".to_owned(),
            None => lead.to_owned(),
        };
        Style { first_lead: lead.clone(), lead, colon }
    }
}

/// The white space before a key, and between key and value.
struct Style {
    first_lead: String,
    lead: String,
    colon: String,
}

impl Style {
    /// The style for an empty object, which only shows whether it spans several lines.
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

/// Returns the last line break in white space, and the indentation after it.
fn newline(space: &str) -> Option<(&str, &str)> {
    let at = space.rfind(['\n', '\r'])?;
    let start = if space[..=at].ends_with("\r\n") { at - 1 } else { at };
    Some((&space[start..=at], &space[at + 1..]))
}

fn leading_space(text: &[u8]) -> &str {
    space(&text[..text.len() - text.trim_ascii_start().len()])
}

/// White space between JSON tokens is ASCII, so this cannot fail.
fn space(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Appends a JSON string in ASCII, as Python's `json` writes it.
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
