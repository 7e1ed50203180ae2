//! Gate results as JSON within the length limit of an attribute.
//!
//! ```text
//! result ─ fits ─▶ one piece
//!        └ else ─▶ required fields + a part of the reason │ … + a part of the evidence │ …
//! ```
//!
//! Each piece is a valid GateResult by itself. The reasons of all pieces, joined in order, are the
//! reason of the result. The same holds for the evidence.

use serde_json::{Map, Value, json};

use super::attributes::cut;

/// The JSON of one result, in pieces of at most `max_bytes`.
#[derive(Debug, PartialEq)]
pub(crate) struct Pieces {
    pub(crate) json: Vec<String>,
    /// Whether a text was truncated because it cannot be spread over several pieces.
    pub(crate) reduced: bool,
}

/// Bytes to keep free for reason and evidence, if the other fields allow it.
const MIN_ROOM: usize = 512;

/// Fields that are always short, or that the schema does not allow to truncate.
const NEVER_CUT: [&str; 5] = ["schema_version", "phase", "result", "severity", "checked_at"];

/// If a piece has less room than this for the reason, in bytes, the reason is truncated.
const LEAST_PIECE: usize = 32;

pub(crate) fn pieces(result: &Map<String, Value>, max_bytes: usize) -> Pieces {
    let whole = json_of(result);
    if whole.len() <= max_bytes {
        return Pieces { json: vec![whole], reduced: false };
    }
    let mut fields = result.clone();
    let reason = fields.remove("reason");
    let evidence = fields.remove("evidence");
    let mut reduced = shorten(&mut fields, max_bytes.saturating_sub(MIN_ROOM).max(max_bytes / 2));
    let mut pieces = Vec::new();
    let with = |key: &str, value: Value| {
        let mut piece = fields.clone();
        piece.insert(key.to_owned(), value);
        piece
    };
    if let Some(Value::String(reason)) = &reason {
        let room = max_bytes.saturating_sub(json_of(&with("reason", json!(""))).len());
        let mut chunks = chunks(reason, room.max(LEAST_PIECE));
        if room < LEAST_PIECE && chunks.len() > 1 {
            chunks.truncate(1);
            reduced = true;
        }
        pieces.extend(chunks.into_iter().map(|chunk| with("reason", json!(chunk))));
    }
    if let Some(Value::Array(evidence)) = evidence {
        let mut piece = pieces.pop().unwrap_or_else(|| fields.clone());
        let mut taken: Vec<Value> = Vec::new();
        for entry in evidence {
            let mut larger = piece.clone();
            larger.insert(
                "evidence".to_owned(),
                json!([taken.as_slice(), std::slice::from_ref(&entry)].concat()),
            );
            if json_of(&larger).len() <= max_bytes {
                taken.push(entry);
                continue;
            }
            if !taken.is_empty() || piece.contains_key("reason") {
                pieces.push(finished(piece, std::mem::take(&mut taken)));
            }
            piece = fields.clone();
            let room = max_bytes.saturating_sub(json_of(&with("evidence", json!([]))).len());
            let mut entry = entry;
            reduced |= entry.as_object_mut().is_some_and(|entry| shorten(entry, room));
            taken.push(entry);
        }
        pieces.push(finished(piece, taken));
    }
    if pieces.is_empty() {
        pieces.push(fields);
    }
    Pieces { json: pieces.iter().map(json_of).collect(), reduced }
}

fn finished(mut piece: Map<String, Value>, evidence: Vec<Value>) -> Map<String, Value> {
    if !evidence.is_empty() {
        piece.insert("evidence".to_owned(), Value::Array(evidence));
    }
    piece
}

fn json_of(fields: &Map<String, Value>) -> String {
    // A map with text keys always has a JSON form.
    serde_json::to_string(fields).unwrap_or_default()
}

/// Truncates texts until the fields fit. Returns whether a text was truncated.
fn shorten(fields: &mut Map<String, Value>, max_bytes: usize) -> bool {
    let mut reduced = false;
    let mut longest = max_bytes;
    while json_of(fields).len() > max_bytes && longest > 16 {
        longest /= 2;
        for (key, text) in fields.iter_mut() {
            if let Value::String(long) = text
                && long.len() > longest
                && !NEVER_CUT.contains(&key.as_str())
            {
                *long = cut(long, longest);
                reduced = true;
            }
        }
    }
    reduced
}

/// Splits a text into chunks whose JSON is at most `room` bytes long, not counting the quotes.
fn chunks(text: &str, room: usize) -> Vec<String> {
    let (mut chunks, mut chunk, mut used) = (Vec::new(), String::new(), 0);
    for char in text.chars() {
        let bytes = json!(char).to_string().len() - 2;
        if used + bytes > room && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            used = 0;
        }
        chunk.push(char);
        used += bytes;
    }
    chunks.push(chunk);
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUIRED: [&str; 6] =
        ["schema_version", "gate_id", "phase", "result", "severity", "checked_at"];

    fn result(reason: &str, evidence: &[Value]) -> Map<String, Value> {
        let result = json!({
            "schema_version": "v1", "gate_id": "g", "phase": "OTHER", "result": "pass",
            "severity": "info", "checked_at": "2026-11-23T06:15:00Z", "reason": reason,
            "evidence": evidence,
        });
        result.as_object().cloned().unwrap_or_default()
    }

    fn parsed(pieces: &Pieces, max_bytes: usize) -> Vec<Value> {
        let parse = |piece: &String| -> Value {
            assert!(piece.len() <= max_bytes, "{} bytes", piece.len());
            serde_json::from_str(piece).expect("JSON")
        };
        pieces.json.iter().map(parse).collect()
    }

    fn file(text: &str) -> Value {
        json!({"type": "file", "ref": text})
    }

    proptest! {
        #[test]
        fn reason_and_evidence_are_complete_in_every_part(
            reason in "\\PC{0,4000}",
            refs in proptest::collection::vec("[a-z\"\\\\é]{0,300}", 0..40),
            max_bytes in 1_024_usize..4_096,
        ) {
            let evidence: Vec<Value> = refs.iter().map(|text| file(text)).collect();
            let pieces = pieces(&result(&reason, &evidence), max_bytes);
            prop_assert!(!pieces.reduced);
            let (mut reasons, mut found) = (String::new(), Vec::new());
            for piece in parsed(&pieces, max_bytes) {
                prop_assert!(REQUIRED.iter().all(|key| piece.get(key).is_some()), "{}", piece);
                reasons += piece["reason"].as_str().unwrap_or_default();
                found.extend(piece["evidence"].as_array().cloned().unwrap_or_default());
            }
            prop_assert_eq!(reasons, reason);
            prop_assert_eq!(found, evidence);
        }
    }

    #[test]
    fn small_limits_cut_no_schema_value() {
        let result = result(&"why ".repeat(1_000), &[file("x")]);
        for max_bytes in [64, 140, 200, 513, 650] {
            let pieces = pieces(&result, max_bytes);
            assert!(pieces.json.len() < 100, "{} pieces", pieces.json.len());
            for piece in &pieces.json {
                let piece: Value = serde_json::from_str(piece).expect("JSON");
                let same = NEVER_CUT.iter().all(|key| piece[*key] == result[*key]);
                assert!(same, "{max_bytes}: {piece}");
            }
        }
    }

    #[test]
    fn oversized_values_are_truncated_and_marked() {
        let mut long = result("", &[file(&"r".repeat(9_000)), file("short")]);
        long.insert("gate_id".to_owned(), json!("i".repeat(9_000)));
        let pieces = pieces(&long, 2_048);
        assert!(pieces.reduced);
        let parsed = parsed(&pieces, 2_048);
        assert!(
            parsed
                .iter()
                .all(|piece| piece["gate_id"].as_str().is_some_and(|id| id.ends_with('…')))
        );
        let all = parsed
            .iter()
            .flat_map(|piece| piece["evidence"].as_array().cloned().unwrap_or_default());
        assert_eq!(all.count(), 2);
    }
}
