//! Gate results on disk: one, a list of them, or a checker's report of a project.
//!
//! ```text
//! bytes ─▶ JSON ─▶ { … } │ [{ … }, …] │ {project_id, gates: [{ … }, …]} ─▶ check each ─▶ GateFile
//! ```
//!
//! A GateResult v1 has to be valid as its schema says. The entries of a report may lack `severity`
//! and `checked_at`, and may say more.

use serde_json::{Map, Value};

use crate::clock::UnixNanos;
use crate::contract::{GateOutcome, Phase, Severity};
use crate::ids::{TaskId, TraceId};

/// What one file says.
#[derive(Clone, Debug, PartialEq)]
pub struct GateFile {
    /// Of a report.
    pub project_id: Option<String>,
    pub results: Vec<GateResult>,
}

/// The outcome of one gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateResult {
    pub gate_id: String,
    pub phase: Phase,
    pub outcome: GateOutcome,
    pub severity: Option<Severity>,
    pub blocking: bool,
    pub reason: Option<String>,
    pub task_id: Option<TaskId>,
    pub trace_id: Option<TraceId>,
    /// All of it, as it was written.
    pub whole: Map<String, Value>,
}

/// Why a file is no gate result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A writer in the middle of its work would leave this, too.
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

impl GateFile {
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn parse(bytes: &[u8]) -> Result<GateFile, GateError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let whole: Value =
            serde_json::from_slice(bytes).map_err(|error| GateError::Syntax(error.to_string()))?;
        let mut faults = Vec::new();
        let file = match whole {
            Value::Object(report) if report.contains_key("gates") => of_report(report, &mut faults),
            Value::Array(entries) => {
                GateFile { project_id: None, results: of_list(entries, "", true, &mut faults) }
            }
            one => {
                GateFile { project_id: None, results: of_list(vec![one], "", true, &mut faults) }
            }
        };
        if faults.is_empty() { Ok(file) } else { Err(GateError::Invalid(faults)) }
    }
}

fn of_report(mut report: Map<String, Value>, faults: &mut Vec<String>) -> GateFile {
    let project_id = match report.remove("project_id") {
        Some(Value::String(id)) if !id.is_empty() => Some(id),
        _ => {
            faults.push("project_id: a text is wanted".to_owned());
            None
        }
    };
    let results = match report.remove("gates") {
        Some(Value::Array(entries)) => of_list(entries, "gates", false, faults),
        _ => {
            faults.push("gates: a list is wanted".to_owned());
            Vec::new()
        }
    };
    GateFile { project_id, results }
}

fn of_list(
    entries: Vec<Value>,
    name: &str,
    is_strict: bool,
    faults: &mut Vec<String>,
) -> Vec<GateResult> {
    let is_list = entries.len() > 1 || !name.is_empty();
    let mut results = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let place = if is_list { format!("{name}[{index}]") } else { String::new() };
        match entry {
            Value::Object(whole) => {
                let mut entry = Entry { whole: &whole, place, is_strict, faults };
                results.extend(entry.read());
            }
            _ if place.is_empty() => faults.push("an object or a list is wanted".to_owned()),
            _ => faults.push(format!("{place}: an object is wanted")),
        }
    }
    results
}

struct Entry<'a> {
    whole: &'a Map<String, Value>,
    place: String,
    /// A GateResult v1 by itself, and not an entry of a report.
    is_strict: bool,
    faults: &'a mut Vec<String>,
}

impl Entry<'_> {
    fn read(&mut self) -> Option<GateResult> {
        let before = self.faults.len();
        let required = self.is_strict;
        if self.text("schema_version", true).is_some_and(|version| version != "v1") {
            self.fault("schema_version", "has to be v1");
        }
        let gate_id = self.text("gate_id", true);
        let phase = self.word("phase", true);
        let outcome = self.word("result", true);
        let severity = self.word("severity", required);
        if self.text("checked_at", required).is_some_and(|text| UnixNanos::parse(&text).is_none()) {
            self.fault("checked_at", "has to be a time such as 2026-11-23T06:15:00Z");
        }
        let reason = self.text("reason", false);
        self.text("next_action", false);
        let task_id = self.text("task_id", false).map(TaskId::new);
        let trace_id = self.text("trace_id", false).and_then(|text| {
            let id = TraceId::from_hex(&text);
            if id.is_none() {
                self.fault("trace_id", "has to be 32 hexadecimal digits, not all zero");
            }
            id
        });
        let blocking = match self.whole.get("blocking") {
            None => false,
            Some(Value::Bool(blocking)) => *blocking,
            Some(_) => {
                self.fault("blocking", "true or false is wanted");
                false
            }
        };
        self.evidence();
        self.unknown_keys();
        if self.faults.len() > before {
            return None;
        }
        Some(GateResult {
            gate_id: gate_id?,
            phase: phase?,
            outcome: outcome?,
            severity,
            blocking,
            reason,
            task_id,
            trace_id,
            whole: self.whole.clone(),
        })
    }

    fn fault(&mut self, key: &str, message: &str) {
        let dot = if self.place.is_empty() { "" } else { "." };
        self.faults.push(format!("{}{dot}{key}: {message}", self.place));
    }

    fn text(&mut self, key: &str, required: bool) -> Option<String> {
        match self.whole.get(key) {
            Some(Value::String(text)) if !text.is_empty() => return Some(text.clone()),
            None if !required => {}
            // What writes reports says so of what it does not know.
            Some(Value::Null) if !required && !self.is_strict => {}
            None => self.fault(key, "is missing"),
            Some(_) => self.fault(key, "a text is wanted, and not an empty one"),
        }
        None
    }

    fn word<T: std::str::FromStr<Err = String>>(&mut self, key: &str, required: bool) -> Option<T> {
        let text = self.text(key, required)?;
        text.parse().map_err(|error: String| self.fault(key, &error)).ok()
    }

    fn evidence(&mut self) {
        let entries = match self.whole.get("evidence") {
            None => return,
            Some(Value::Array(entries)) => entries,
            Some(_) => return self.fault("evidence", "a list is wanted"),
        };
        for (index, entry) in entries.iter().enumerate() {
            let is_text = |key: &str| {
                entry.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
            };
            if !(is_text("type") && is_text("ref")) {
                self.fault(&format!("evidence[{index}]"), "needs the texts `type` and `ref`");
            }
            let description = entry.get("description");
            if description.is_some_and(|it| !it.is_string()) {
                self.fault(&format!("evidence[{index}].description"), "a text is wanted");
            }
            let known = ["type", "ref", "description"];
            let keys = entry.as_object().into_iter().flat_map(|it| it.keys());
            let is_strict = self.is_strict;
            for key in keys.filter(|key| is_strict && !known.contains(&key.as_str())) {
                let place = format!("evidence[{index}].{key}");
                self.fault(&place, "is no key of an evidence");
            }
        }
    }

    fn unknown_keys(&mut self) {
        let unknown = self.whole.keys().filter(|key| !KNOWN.contains(&key.as_str()));
        for key in unknown.filter(|_| self.is_strict).cloned().collect::<Vec<_>>() {
            self.fault(&key, "is no key of a GateResult");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "schema_version": "v1", "gate_id": "g", "phase": "TEST_VALIDATE", "result": "fail",
            "severity": "error", "checked_at": "2026-11-23T06:15:00.123456+00:00",
            "blocking": true, "reason": "it does not", "task_id": "t",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "evidence": [{"type": "file", "ref": "x"}],
        })
    }

    fn parse(value: &Value) -> Result<GateFile, String> {
        GateFile::parse(value.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_three_forms() {
        let one = parse(&valid()).expect("valid");
        assert_eq!(one.results.len(), 1);
        let result = &one.results[0];
        assert_eq!((result.phase, result.outcome), (Phase::TestValidate, GateOutcome::Fail));
        assert!(result.blocking && result.trace_id.is_some());
        assert_eq!(Value::Object(result.whole.clone()), valid());
        let marked = ["\u{feff}", &valid().to_string()].concat();
        assert_eq!(GateFile::parse(marked.as_bytes()).expect("valid"), one);

        let list = parse(&json!([valid(), valid()])).expect("valid");
        assert_eq!((list.results.len(), list.project_id), (2, None));
        assert_eq!(parse(&json!([])).expect("valid").results, []);

        let mut entry = valid();
        for key in ["severity", "checked_at"] {
            entry.as_object_mut().expect("an object").remove(key);
        }
        entry["extra"] = json!(1);
        entry["severity"] = json!(null);
        let report = json!({"project_id": "p", "generated_by": "x", "gates": [entry]});
        let report = parse(&report).expect("valid");
        assert_eq!(report.project_id.as_deref(), Some("p"));
        assert_eq!(report.results[0].severity, None);
    }

    #[test]
    fn every_fault_with_its_place() {
        for (key, value, words) in [
            ("schema_version", json!("v2"), "schema_version: has to be v1"),
            ("gate_id", json!(""), "gate_id: a text is wanted"),
            ("gate_id", json!(null), "gate_id: a text is wanted"),
            ("phase", json!("DESIGN"), "phase: unknown phase `DESIGN`"),
            ("result", json!("ok"), "result: unknown result `ok`"),
            ("severity", json!("bad"), "severity: unknown severity `bad`"),
            ("checked_at", json!("yesterday"), "checked_at: has to be a time"),
            ("checked_at", json!("2026-11-23T06:15:00+99:00"), "checked_at: has to be a time"),
            ("checked_at", json!("é"), "checked_at: has to be a time"),
            ("blocking", json!("yes"), "blocking: true or false"),
            ("trace_id", json!("abc"), "trace_id: has to be 32"),
            ("evidence", json!([{"type": "x"}]), "evidence[0]: needs"),
            ("evidence", json!({}), "evidence: a list"),
            ("evidence", json!([{"type": "x", "ref": "y", "z": 1}]), "evidence[0].z: is no key"),
            (
                "evidence",
                json!([{"type": "x", "ref": "y", "description": 5}]),
                "evidence[0].description: a text",
            ),
            ("surprise", json!(1), "surprise: is no key"),
        ] {
            let mut one = valid();
            one[key] = value;
            let error = parse(&one).expect_err(key);
            assert!(error.contains(words), "{error}");
            let error = parse(&json!([valid(), one])).expect_err(key);
            assert!(error.contains(&format!("[1].{words}")), "{error}");
        }
        for other in [json!(1), json!("x"), json!([1, 2]), json!({"gates": 1})] {
            assert!(parse(&other).is_err(), "{other}");
        }
        assert!(matches!(GateFile::parse(b"{\"gate"), Err(GateError::Syntax(_))));
    }
}
