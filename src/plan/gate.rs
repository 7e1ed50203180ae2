//! Reads files with gate results: a single result, a list, or a checker's report.
//!
//! ```text
//! bytes ─▶ JSON ─▶ { … } │ [{ … }, …] │ {project_id, checked_at, gates: [{ … }, …]}
//!                      └─▶ each: drop nulls ─▶ fill in (reports) ─▶ check ─▶ GateFile
//! ```
//!
//! A GateResult v1 must match its schema. The entries of ContextCore's reports hold only `gate_id`,
//! `phase`, `result`, `blocking` and `reason`; the other fields are filled in to make each a valid
//! GateResult v1.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Examples, memory};
use crate::base::clock::UnixNanos;
use crate::base::contract::{GateOutcome, Phase, Severity};
use crate::base::ids::{TaskId, TraceId};

/// The contents of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct GateFile {
    /// Only in a report.
    pub(crate) project_id: Option<String>,
    /// Only in a report: the directory that was checked, as it was passed to the checker.
    pub(crate) output_dir: Option<PathBuf>,
    /// In the order of the file.
    pub results: Vec<GateResult>,
    /// Problems with the file. Every result is sent in spite of them.
    pub(crate) warnings: Vec<String>,
}

/// The outcome of one gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateResult {
    /// The id of the gate.
    pub gate_id: String,
    pub(crate) phase: Phase,
    pub(crate) outcome: GateOutcome,
    pub(crate) severity: Severity,
    pub(crate) blocking: bool,
    pub(crate) reason: Option<String>,
    pub(crate) task_id: Option<TaskId>,
    pub(crate) trace_id: Option<TraceId>,
    /// The whole result, valid against the schema of a GateResult v1.
    pub whole: Map<String, Value>,
}

/// Why a file has no gate results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Not JSON. A file that is still being written looks like this, too.
    #[error("not JSON: {0}")]
    Syntax(String),
    #[error("not a gate result: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

const KNOWN: [&str; 12] = [
    "schema_version",
    "gate_id",
    "trace_id",
    "task_id",
    "phase",
    "result",
    "severity",
    "reason",
    "next_action",
    "blocking",
    "evidence",
    "checked_at",
];

const KNOWN_OF_EVIDENCE: [&str; 3] = ["type", "ref", "description"];

impl GateFile {
    /// Estimates the memory of a file with gate results and of their conversion, in bytes.
    pub(crate) fn memory(bytes: &[u8]) -> u64 {
        // The text, and each result as a value, as text and as a request.
        4 * bytes.len() as u64 + 2 * memory::of_json(bytes).whole
    }

    /// Parses a file. A report without a time gets `written_at`, the time when the file was
    /// written.
    ///
    /// # Errors
    /// Returns everything that is wrong with the file, each with its place. After a
    /// [`GateError::Syntax`] the caller should retry, because the file may still be being written.
    /// After any other error the user must correct the file.
    pub fn parse(bytes: &[u8], written_at: UnixNanos) -> Result<GateFile, GateError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let whole: Value =
            serde_json::from_slice(bytes).map_err(|error| GateError::Syntax(error.to_string()))?;
        let mut findings = Findings::default();
        let output_dir = whole.get("output_dir").and_then(Value::as_str).map(PathBuf::from);
        let (project_id, results) = match whole {
            Value::Object(report) if report.contains_key("gates") => {
                of_report(report, written_at, &mut findings)
            }
            Value::Array(entries) => (None, of_list(entries, "", None, &mut findings)),
            one => (None, of_list(vec![one], "", None, &mut findings)),
        };
        if !findings.faults.is_empty() {
            return Err(GateError::Invalid(findings.faults));
        }
        Ok(GateFile { project_id, output_dir, results, warnings: findings.into_warnings() })
    }
}

/// Errors and warnings about a file.
#[derive(Default)]
struct Findings {
    faults: Vec<String>,
    /// Values of `trace_id` that are not trace ids.
    trace_ids: Examples,
    /// Keys that a GateResult does not have.
    unknown_keys: BTreeSet<String>,
}

impl Findings {
    fn into_warnings(self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.trace_ids.is_empty() {
            warnings.push(format!(
                "results whose trace_id is no trace id: {}; they are added to the trace of the export",
                self.trace_ids
            ));
        }
        if !self.unknown_keys.is_empty() {
            let keys = Vec::from_iter(self.unknown_keys).join("`, `");
            warnings.push(format!(
                "keys that a GateResult does not have: `{keys}`; they are left out of the contract"
            ));
        }
        warnings
    }
}

fn of_report(
    mut report: Map<String, Value>,
    written_at: UnixNanos,
    findings: &mut Findings,
) -> (Option<String>, Vec<GateResult>) {
    let project_id = match report.remove("project_id") {
        Some(Value::String(id)) if !id.is_empty() => Some(id),
        _ => {
            findings.faults.push("project_id: must be a non-empty string".to_owned());
            None
        }
    };
    let checked_at = match report.remove("checked_at") {
        Some(Value::String(text)) if UnixNanos::parse(&text).is_some() => text,
        Some(Value::Null) | None => written_at.rfc3339(),
        Some(_) => {
            findings.faults.push(format!("checked_at: {NO_TIME}"));
            // The time is an error already; check the entries as if it were valid.
            written_at.rfc3339()
        }
    };
    let results = match report.remove("gates") {
        Some(Value::Array(entries)) => of_list(entries, "gates", Some(&checked_at), findings),
        _ => {
            findings.faults.push("gates: must be an array".to_owned());
            Vec::new()
        }
    };
    (project_id, results)
}

const NO_TIME: &str = "must be an RFC 3339 time, such as 2026-11-23T06:15:00Z";

/// Reads a list of results. `checked_at` is the time of the report that the list is in, if any.
fn of_list(
    entries: Vec<Value>,
    name: &str,
    checked_at: Option<&str>,
    findings: &mut Findings,
) -> Vec<GateResult> {
    let is_list = entries.len() > 1 || !name.is_empty();
    let mut results = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let place = if is_list { format!("{name}[{index}]") } else { String::new() };
        match entry {
            Value::Object(mut whole) => {
                drop_nulls(&mut whole);
                let is_strict = checked_at.is_none();
                if let Some(checked_at) = checked_at {
                    fill_in(&mut whole, checked_at);
                }
                let mut entry = Entry { whole, place, is_strict, findings };
                results.extend(entry.read());
            }
            _ if place.is_empty() => {
                findings.faults.push("must be an object or an array".to_owned());
            }
            _ => findings.faults.push(format!("{place}: must be an object")),
        }
    }
    results
}

/// Removes fields that are null: ContextCore's models write null for every field that is not set.
fn drop_nulls(whole: &mut Map<String, Value>) {
    whole.retain(|_, value| !value.is_null());
    let evidence = whole.get_mut("evidence").and_then(Value::as_array_mut);
    for entry in evidence.into_iter().flatten().filter_map(Value::as_object_mut) {
        entry.retain(|_, value| !value.is_null());
    }
}

/// Adds the fields that a report's entry lacks. The severity follows ContextCore's rule for its
/// reports.
fn fill_in(whole: &mut Map<String, Value>, checked_at: &str) {
    let is = |key: &str, value: Value| whole.get(key) == Some(&value);
    let severity = match (is("result", "pass".into()), is("blocking", true.into())) {
        (true, _) => Severity::Info,
        (false, true) => Severity::Error,
        (false, false) => Severity::Warning,
    };
    for (key, value) in
        [("schema_version", "v1"), ("severity", severity.as_str()), ("checked_at", checked_at)]
    {
        whole.entry(key).or_insert_with(|| value.into());
    }
}

struct Entry<'a> {
    whole: Map<String, Value>,
    place: String,
    /// Whether this is a GateResult v1 and not an entry of a report.
    is_strict: bool,
    findings: &'a mut Findings,
}

impl Entry<'_> {
    fn read(&mut self) -> Option<GateResult> {
        let before = self.findings.faults.len();
        if self.text("schema_version", true).is_some_and(|version| version != "v1") {
            self.fault("schema_version", "must be v1");
        }
        let gate_id = self.text("gate_id", true);
        let phase = self.word("phase", true);
        let outcome = self.word("result", true);
        let severity = self.word("severity", true);
        if self.text("checked_at", true).is_some_and(|text| UnixNanos::parse(&text).is_none()) {
            self.fault("checked_at", NO_TIME);
        }
        let reason = self.text("reason", false);
        self.text("next_action", false);
        let task_id = self.text("task_id", false).map(TaskId::new);
        let trace_id = self.trace_id();
        let blocking = match self.whole.get("blocking") {
            None => false,
            Some(Value::Bool(blocking)) => *blocking,
            Some(_) => {
                self.fault("blocking", "must be true or false");
                false
            }
        };
        self.evidence();
        self.unknown_keys();
        if self.findings.faults.len() > before {
            return None;
        }
        Some(GateResult {
            gate_id: gate_id?,
            phase: phase?,
            outcome: outcome?,
            severity: severity?,
            blocking,
            reason,
            task_id,
            trace_id,
            whole: std::mem::take(&mut self.whole),
        })
    }

    fn fault(&mut self, key: &str, message: &str) {
        let dot = if self.place.is_empty() { "" } else { "." };
        self.findings.faults.push(format!("{}{dot}{key}: {message}", self.place));
    }

    fn text(&mut self, key: &str, required: bool) -> Option<String> {
        match self.whole.get(key) {
            Some(Value::String(text)) if !text.is_empty() => return Some(text.clone()),
            None if !required => {}
            None => self.fault(key, "is missing"),
            Some(_) => self.fault(key, "must be a non-empty string"),
        }
        None
    }

    fn word<T: std::str::FromStr<Err = String>>(&mut self, key: &str, required: bool) -> Option<T> {
        let text = self.text(key, required)?;
        text.parse().map_err(|error: String| self.fault(key, &error)).ok()
    }

    /// Parses the trace id. The schema allows any text, so a value that is not a trace id stays in
    /// the contract and names no trace.
    fn trace_id(&mut self) -> Option<TraceId> {
        let text = match self.whole.get("trace_id")? {
            Value::String(text) => text.clone(),
            _ => {
                self.fault("trace_id", "must be a string");
                return None;
            }
        };
        let id = TraceId::from_hex(&text);
        if id.is_none() {
            self.findings.trace_ids.add(|| format!("`{text}`"));
        }
        if text.is_empty() {
            self.whole.remove("trace_id");
        }
        id
    }

    fn evidence(&mut self) {
        let entries = match self.whole.get("evidence") {
            None => return,
            Some(Value::Array(entries)) => entries.clone(),
            Some(_) => return self.fault("evidence", "must be an array"),
        };
        for (index, entry) in entries.iter().enumerate() {
            let is_text = |key: &str| {
                entry.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
            };
            if !(is_text("type") && is_text("ref")) {
                self.fault(&format!("evidence[{index}]"), "must have the strings `type` and `ref`");
            }
            let description = entry.get("description");
            if description.is_some_and(|it| !it.is_string()) {
                self.fault(&format!("evidence[{index}].description"), "must be a string");
            }
            for key in unknown(entry.as_object(), &KNOWN_OF_EVIDENCE) {
                self.unknown_key(&format!("evidence[{index}].{key}"), "is no key of an evidence");
            }
        }
        let evidence = self.whole.get_mut("evidence").and_then(Value::as_array_mut);
        for entry in evidence.into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.retain(|key, _| KNOWN_OF_EVIDENCE.contains(&key.as_str()));
        }
    }

    fn unknown_keys(&mut self) {
        for key in unknown(Some(&self.whole), &KNOWN) {
            self.unknown_key(&key, "is no key of a GateResult");
            self.whole.remove(&key);
        }
    }

    /// Reports a key that a GateResult does not have. An entry of a report may have more keys than
    /// the contract.
    fn unknown_key(&mut self, place: &str, message: &str) {
        if self.is_strict {
            self.fault(place, message);
        } else {
            let key = place.rsplit('.').next().unwrap_or(place);
            self.findings.unknown_keys.insert(key.to_owned());
        }
    }
}

fn unknown(object: Option<&Map<String, Value>>, known: &[&str]) -> Vec<String> {
    let keys = object.into_iter().flat_map(Map::keys);
    keys.filter(|key| !known.contains(&key.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests;
