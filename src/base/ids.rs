//! Ids of an export's telemetry, with one type per kind of id.
//!
//! ```text
//! export file ──SHA-256──▶ TraceId ──SHA-256 with task.type, task.id──▶ SpanId
//! ```
//!
//! Both are pure functions of the files, so a retry and a restart compute the same ids. A program
//! that has `task_trace_id` and an artifact id can compute the span id (R4.4).

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::base::text::hex;

/// A W3C trace id: 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

/// A W3C span id: 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

/// The id of a task, story or epic. For a task it is the artifact id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(String);

/// The level of a span in the hierarchy (`task.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskType {
    /// The root: one export.
    Epic,
    /// One artifact type of an export.
    Story,
    /// One artifact.
    Task,
}

impl TaskType {
    /// The value of the attribute `task.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskType::Epic => "epic",
            TaskType::Story => "story",
            TaskType::Task => "task",
        }
    }
}

impl TraceId {
    /// Computes the trace id of an export from its canonical path, modification time and bytes.
    ///
    /// The time is part of it so that a new export is a new trace even if its bytes are the same
    /// (R7.3).
    pub fn of_export(canonical_path: &Path, mtime_ns: i128, bytes: &[u8]) -> TraceId {
        let digest = Sha256::new()
            .chain_update(b"taskspan/trace/v1\0")
            .chain_update(canonical_path.as_os_str().as_encoded_bytes())
            .chain_update(b"\0")
            .chain_update(mtime_ns.to_string())
            .chain_update(b"\0")
            .chain_update(bytes)
            .finalize();
        TraceId(non_zero_prefix(digest.into()))
    }

    /// Parses 32 hexadecimal digits. `None` if they are all zero, which is not a valid id.
    pub fn from_hex(text: &str) -> Option<TraceId> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let high = (pair[0] as char).to_digit(16)?;
            let low = (pair[1] as char).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        (bytes != [0; 16]).then_some(TraceId(bytes))
    }

    /// Returns the id as OTLP has it.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Computes the span id of a task in this trace.
    pub fn span(&self, task_type: TaskType, task_id: &TaskId) -> SpanId {
        let digest = Sha256::new()
            .chain_update(b"taskspan/span/v1\0")
            .chain_update(self.0)
            .chain_update(task_type.as_str())
            .chain_update(b"\0")
            .chain_update(task_id.as_str())
            .finalize();
        SpanId(non_zero_prefix(digest.into()))
    }
}

impl TraceId {
    /// Computes the id of a span that is added after the export. The content distinguishes it from
    /// other additions.
    pub fn added_span(&self, name: &str, content: &[u8]) -> SpanId {
        SpanId(non_zero_prefix(self.added(b"taskspan/added/v1\0", name, content)))
    }

    /// Computes the queue key of an addition to this trace. It is not the id of a trace.
    pub fn addition(&self, name: &str, content: &[u8]) -> TraceId {
        TraceId(non_zero_prefix(self.added(b"taskspan/addition/v1\0", name, content)))
    }

    /// Computes a key from content. It is not the id of a trace.
    pub fn of_content(content: &[u8]) -> TraceId {
        let digest = Sha256::new().chain_update(b"taskspan/content/v1\0").chain_update(content);
        TraceId(non_zero_prefix(digest.finalize().into()))
    }

    fn added(&self, what: &[u8], name: &str, content: &[u8]) -> [u8; 32] {
        let digest = Sha256::new()
            .chain_update(what)
            .chain_update(self.0)
            .chain_update(name)
            .chain_update(b"\0")
            .chain_update(content)
            .finalize();
        digest.into()
    }
}

/// A span of another trace, in the format of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace that the span is in.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
}

impl FromStr for TraceParent {
    type Err = &'static str;

    /// Parses `version-trace-parent-flags` (W3C Trace Context §3.2). Later versions may have more
    /// fields.
    fn from_str(text: &str) -> Result<TraceParent, &'static str> {
        const NO: &str = "is no W3C traceparent";
        let text = text.trim();
        let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace_id, span_id, flags, ref more @ ..] = parts[..] else { return Err(NO) };
        let lengths = [version, trace_id, span_id, flags].map(str::len);
        let known = lengths == [2, 32, 16, 2] && parts.iter().take(4).all(|part| is_hex(part));
        if !known || version == "ff" || (version == "00" && !more.is_empty()) {
            return Err(NO);
        }
        let trace_id = TraceId::from_hex(trace_id).ok_or(NO)?;
        let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0).ok_or(NO)?;
        Ok(TraceParent { trace_id, span_id: SpanId(span_id.to_be_bytes()) })
    }
}

impl SpanId {
    /// Returns the id as OTLP has it.
    pub fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl TaskId {
    /// Makes an id of an artifact id, a story id or a project id.
    pub fn new(id: impl Into<String>) -> TaskId {
        TaskId(id.into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TraceId, D::Error> {
        let text = String::deserialize(from)?;
        TraceId::from_hex(&text).ok_or_else(|| D::Error::custom("32 hexadecimal digits wanted"))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str(&hex(bytes))
}

/// Returns the first `N` bytes of a digest. If they are all zero, which OTLP does not allow in an
/// id, the digest is hashed again.
fn non_zero_prefix<const N: usize>(mut digest: [u8; 32]) -> [u8; N] {
    loop {
        let mut prefix = [0; N];
        prefix.copy_from_slice(&digest[..N]);
        if prefix != [0; N] {
            return prefix;
        }
        digest = Sha256::digest(digest).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values were computed with Python's hashlib.
    #[test]
    fn ids_follow_the_published_formula() {
        let trace = TraceId::of_export(Path::new("/out/onboarding-metadata.json"), 42, b"{}");
        assert_eq!(trace.to_string(), "b846d43b1791aba1df4876cf02b130fa");
        let span = trace.span(TaskType::Task, &TaskId::new("checkout_api-dashboard"));
        assert_eq!(span.to_string(), "b65529d12e78738f");
    }

    #[test]
    fn an_all_zero_prefix_is_hashed_again() {
        let rehashed: [u8; 8] = non_zero_prefix([0; 32]);
        assert_eq!(rehashed, Sha256::digest([0; 32])[..8]);
    }

    #[test]
    fn hex_round_trips_and_refuses_what_is_no_id() {
        let text = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(TraceId::from_hex(text).map(|id| id.to_string()).as_deref(), Some(text));
        let zeros = "0".repeat(32);
        for bad in ["", "0af7", zeros.as_str(), "zaf7651916cd43dd8448eb211c80319c"] {
            assert_eq!(TraceId::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn traceparents_as_w3c_writes_them() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent: TraceParent = good.parse().expect("good");
        assert_eq!(parent.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id.to_string(), "b7ad6b7169203331");
        assert!(good.replace("00-", "cc-").parse::<TraceParent>().is_ok());
        assert!(format!("{}-more", good.replace("00-", "cc-")).parse::<TraceParent>().is_ok());
        for bad in [
            "",
            "00",
            &format!("{good}-more"),
            &good.replace("00-", "ff-"),
            &good.to_uppercase(),
            &good.replace("b7ad6b7169203331", "0000000000000000"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad", "+7ad"),
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
