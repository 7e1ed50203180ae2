//! Checks the metadata after the write-back: two additional keys, and every other byte unchanged.

use serde_json::Value;

const KEYS: [&str; 2] = ["task_trace_id", "task_emission_timestamp"];

/// Returns what is wrong with the metadata after a write-back, as text. Empty if nothing is.
pub fn check_written_back(before: &[u8], after: &[u8]) -> Vec<String> {
    match difference(before, after) {
        Ok(()) => Vec::new(),
        Err(fault) => vec![fault],
    }
}

fn difference(before: &[u8], after: &[u8]) -> Result<(), String> {
    let parse = |bytes: &[u8]| {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string())
    };
    let old = parse(before).map_err(|e| format!("before: {e}"))?;
    let new = parse(after).map_err(|e| format!("after: {e}"))?;
    let mut rest = new.as_object().ok_or("after: not an object")?.clone();
    let [trace_id, timestamp] = KEYS.map(|key| rest.shift_remove(key));
    let trace_id = trace_id.ok_or("task_trace_id is missing")?;
    let timestamp = timestamp.ok_or("task_emission_timestamp is missing")?;
    if Value::Object(rest) != old {
        return Err("something else than the two keys changed".to_owned());
    }
    if !trace_id.as_str().is_some_and(is_trace_id) {
        return Err(format!("task_trace_id is {trace_id}"));
    }
    if !timestamp.as_str().is_some_and(is_rfc3339_utc) {
        return Err(format!("task_emission_timestamp is {timestamp}"));
    }

    // The addition is after the last value, before the white space and the brace.
    let brace = before.iter().rposition(|&b| b == b'}').unwrap();
    let blank = before[..brace].iter().rev().take_while(|b| b.is_ascii_whitespace()).count();
    let (head, tail) = before.split_at(brace - blank);
    let added = after.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
    let added = added.ok_or("bytes outside of the addition changed")?;
    let added = std::str::from_utf8(added).map_err(|e| e.to_string())?;
    let style = Style::of(std::str::from_utf8(before).map_err(|e| e.to_string())?);
    let comma = if old.as_object().is_some_and(|old| old.is_empty()) { "" } else { "," };
    let Style { gap, colon } = &style;
    let expected = format!(
        "{comma}{gap}\"{}\"{colon}{trace_id},{gap}\"{}\"{colon}{timestamp}",
        KEYS[0], KEYS[1]
    );
    if added == expected { Ok(()) } else { Err(format!("added {added:?}, expected {expected:?}")) }
}

/// The separators of the file, taken from its first key.
struct Style {
    /// Between a comma and the next key.
    gap: String,
    /// Between a key and its value.
    colon: String,
}

impl Style {
    fn of(text: &str) -> Self {
        let blank =
            |text: &str| -> String { text.chars().take_while(|c| c.is_whitespace()).collect() };
        let inside = &text[text.find('{').unwrap() + 1..];
        let mut gap = blank(inside);
        let colon = match inside.find("\":") {
            Some(at) => format!(":{}", blank(&inside[at + 2..])),
            None => ": ".to_owned(),
        };
        // On one line, the first key follows its brace directly, and the others follow commas.
        if gap.is_empty() && colon == ": " {
            gap = " ".to_owned();
        }
        Self { gap, colon }
    }
}

fn is_trace_id(text: &str) -> bool {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    text.len() == 32 && text.chars().all(is_hex) && text.chars().any(|c| c != '0')
}

/// Whether the text is `2026-11-23T06:15:00Z`, possibly with a fraction, and with `Z` or `+00:00`.
fn is_rfc3339_utc(text: &str) -> bool {
    let Some(local) = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")) else {
        return false;
    };
    let (whole, fraction) = local.split_once('.').unwrap_or((local, "0"));
    let shape: String = whole.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00"
        && !fraction.is_empty()
        && fraction.chars().all(|c| c.is_ascii_digit())
}
