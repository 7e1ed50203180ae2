//! Reads span ids from an answer of any size, without keeping the answer in memory.
//!
//! ```text
//! body ─chunks─▶ Chunks (Read) ─▶ serde_json, streaming ─▶ each span id is removed from `missing`
//! ```

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Buf, Bytes};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc::Receiver;

/// Size limit of one string in an answer, in bytes. The parser keeps one string at a time.
const MAX_STRING: usize = 8 << 20;

/// Removes each span id that an answer has from `missing`. Finds ids at any depth, because the
/// versions of the API nest spans differently. Blocks until the answer is complete.
///
/// # Errors
/// Fails if the answer is not JSON, ends early, or has a string over 8 MiB.
pub(super) fn remove_found(
    answer: impl Read,
    missing: &mut HashSet<Vec<u8>>,
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(answer);
    Spans(missing).deserialize(&mut json)?;
    json.end()
}

/// The chunks of a body as they arrive.
pub(super) struct Chunks {
    pub(super) chunks: Receiver<Bytes>,
    chunk: Bytes,
    string: StringLength,
}

impl Chunks {
    pub(super) fn new(chunks: Receiver<Bytes>) -> Chunks {
        Chunks { chunks, chunk: Bytes::new(), string: StringLength::default() }
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.chunk.len());
        self.string.measure(&self.chunk[..count])?;
        self.chunk.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// Measures the string that the text is in.
#[derive(Default)]
struct StringLength {
    /// `None` outside of a string.
    bytes: Option<usize>,
    is_escaped: bool,
}

impl StringLength {
    fn measure(&mut self, text: &[u8]) -> io::Result<()> {
        for byte in text {
            match (&mut self.bytes, byte) {
                (None, b'"') => self.bytes = Some(0),
                (None, _) => {}
                (Some(_), b'"') if !self.is_escaped => self.bytes = None,
                (Some(bytes), _) => {
                    self.is_escaped = !self.is_escaped && *byte == b'\\';
                    *bytes += 1;
                    if *bytes > MAX_STRING {
                        return Err(io::Error::other(format!("a string over {MAX_STRING} bytes")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Any value that may contain spans.
struct Spans<'a>(&'a mut HashSet<Vec<u8>>);

impl<'de> DeserializeSeed<'de> for Spans<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Spans<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a trace")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                // Links contain the ids of other spans.
                "links" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "spanId" | "spanID" | "span_id" => map.next_value_seed(SpanId(self.0))?,
                _ => map.next_value_seed(Spans(self.0))?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Spans(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The value of a span id. Other values than text are no ids.
struct SpanId<'a>(&'a mut HashSet<Vec<u8>>);

impl<'de> DeserializeSeed<'de> for SpanId<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(value)?;
        if let Some(id) = id_bytes(&text) {
            self.0.remove(&id);
        }
        Ok(())
    }
}

/// Decodes a span id. `None` if the text is not 8 bytes in either encoding.
fn id_bytes(text: &str) -> Option<Vec<u8>> {
    /// Length of a span id in hexadecimal digits.
    const HEX_DIGITS: usize = 16;
    if text.len() == HEX_DIGITS {
        return (0..HEX_DIGITS)
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect();
    }
    from_base64(text).filter(|bytes| bytes.len() == HEX_DIGITS / 2)
}

/// Decodes base64 in either alphabet, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabets = [&alphabet::STANDARD, &alphabet::URL_SAFE];
    let decode = |it| GeneralPurpose::new(it, LENIENT).decode(text).ok();
    alphabets.into_iter().find_map(decode)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    const ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    /// Returns the ids of `sent` that the answer does not have.
    fn missing(answer: &str, sent: &[[u8; 8]]) -> Result<HashSet<Vec<u8>>, String> {
        let mut missing = sent.iter().map(|id| id.to_vec()).collect();
        let size = if answer.len() < 10_000 { 7 } else { 64 << 10 };
        let (sender, chunks) = mpsc::channel(answer.len() / size + 1);
        for chunk in answer.as_bytes().chunks(size) {
            sender.try_send(Bytes::copy_from_slice(chunk)).unwrap();
        }
        drop(sender);
        remove_found(Chunks::new(chunks), &mut missing).map_err(|error| error.to_string())?;
        Ok(missing)
    }

    #[test]
    fn ids_are_found_in_every_form_of_answer() {
        let link = json!([{"spanId": "ffffffffffffffff"}]);
        for answer in [
            json!({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [
                {"spanId": "AQIDBAUGBwg=", "links": link, "parentSpanId": "CAcGBQQDAgE="}]}]}]}}),
            json!({"batches": [{"instrumentationLibrarySpans": [{"spans": [
                {"n": [1, -1, 0.5, true, null], "spanId": "0102030405060708"}]}]}]}),
        ] {
            let left = missing(&answer.to_string(), &[ID, [0xff; 8]]).unwrap();
            assert_eq!(left, HashSet::from([vec![0xff; 8]]));
        }
        assert_eq!(missing(r#"{"trace": null}"#, &[ID]).unwrap().len(), 1);
        assert_eq!(missing(r#"{"spanId": "no id"}"#, &[ID]).unwrap().len(), 1);
    }

    #[test]
    fn incomplete_answers_are_errors() {
        let nested = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for answer in ["", "<html>", "{\"trace\": [", "{} {}", r#"{"spanId": 1}"#, &nested] {
            assert!(missing(answer, &[ID]).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_string_is_limited_wherever_it_is() {
        let long = "\\\"x".repeat(MAX_STRING / 3 + 1);
        for answer in [format!("[\"{long}\"]"), format!("{{\"{long}\": 1}}")] {
            let error = missing(&answer, &[ID]).unwrap_err();
            assert!(error.contains("a string over 8388608 bytes"), "{error}");
        }
        let many = format!("[{}]", vec!["\"xxxxxxxxxx\""; 100_000].join(","));
        assert!(missing(&many, &[ID]).is_ok());
    }
}
