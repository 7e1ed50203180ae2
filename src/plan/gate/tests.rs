use serde_json::json;

use super::*;

const WRITTEN_AT: UnixNanos = UnixNanos(1_795_414_500_000_000_000);

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
    GateFile::parse(value.to_string().as_bytes(), WRITTEN_AT).map_err(|error| error.to_string())
}

#[test]
fn all_three_forms() {
    let one = parse(&valid()).expect("valid");
    assert_eq!((one.results.len(), one.warnings.len()), (1, 0));
    let result = &one.results[0];
    assert_eq!((result.phase, result.outcome), (Phase::TestValidate, GateOutcome::Fail));
    assert!(result.blocking && result.trace_id.is_some());
    assert_eq!(Value::Object(result.whole.clone()), valid());
    let marked = ["\u{feff}", &valid().to_string()].concat();
    assert_eq!(GateFile::parse(marked.as_bytes(), WRITTEN_AT).expect("valid"), one);

    let list = parse(&json!([valid(), valid()])).expect("valid");
    assert_eq!((list.results.len(), list.project_id), (2, None));
    assert_eq!(parse(&json!([])).expect("valid").results, []);

    let report = json!({"project_id": "p", "generated_by": "x", "gates": [valid()]});
    let report = parse(&report).expect("valid");
    assert_eq!(report.project_id.as_deref(), Some("p"));
    assert_eq!(Value::Object(report.results[0].whole.clone()), valid());
}

/// Entries as ContextCore's pipeline checker writes them.
fn entry(result: &str, blocking: bool) -> Value {
    json!({
        "gate_id": "g", "phase": "EXPORT_CONTRACT", "result": result, "blocking": blocking,
        "reason": "because",
    })
}

#[test]
fn an_entry_of_a_report_becomes_a_complete_result() {
    let checked_at = "2026-11-25T22:36:05.376517+00:00";
    for (result, blocking, severity) in
        [("pass", false, "info"), ("fail", true, "error"), ("fail", false, "warning")]
    {
        let gates = [entry(result, blocking)];
        let report = json!({"project_id": "p", "checked_at": checked_at, "gates": gates});
        let file = parse(&report).expect("valid");
        let mut whole = entry(result, blocking);
        whole["schema_version"] = json!("v1");
        whole["severity"] = json!(severity);
        whole["checked_at"] = json!(checked_at);
        assert_eq!(Value::Object(file.results[0].whole.clone()), whole);
        assert_eq!(file.results[0].severity.as_str(), severity);
        assert_eq!(file.warnings, [""; 0]);
    }
    // Fields of the entry are kept, and a report without a time gets the time of its file.
    let mut own = entry("pass", false);
    own["severity"] = json!("critical");
    own["extra"] = json!(1);
    own["evidence"] = json!([{"type": "file", "ref": "x", "more": 2}]);
    let file = parse(&json!({"project_id": "p", "gates": [own]})).expect("valid");
    let whole = &file.results[0].whole;
    assert_eq!(whole["severity"], "critical");
    assert_eq!(whole["checked_at"], "2026-11-23T06:15:00.000Z");
    assert_eq!(whole["evidence"], json!([{"type": "file", "ref": "x"}]));
    assert_eq!(whole.get("extra"), None);
    assert_eq!(
        file.warnings,
        [
            "keys that a GateResult does not have: `extra`, `more`; they are left out of the contract"
        ]
    );
    let error = parse(&json!({"project_id": "p", "checked_at": "now", "gates": []}));
    assert!(error.expect_err("no time").contains("checked_at: must be an RFC 3339 time"));
}

#[test]
fn a_null_is_absent() {
    let mut one = valid();
    for key in ["trace_id", "task_id", "reason", "next_action", "blocking", "evidence"] {
        one[key] = json!(null);
    }
    let mut absent = valid();
    absent.as_object_mut().expect("an object").retain(|key, _| !one[key].is_null());
    let file = parse(&one).expect("valid");
    assert_eq!(Value::Object(file.results[0].whole.clone()), absent);
    one["evidence"] = json!([{"type": "file", "ref": "x", "description": null}]);
    assert!(parse(&one).is_ok());
    one["gate_id"] = json!(null);
    assert!(parse(&one).expect_err("required").contains("gate_id: is missing"));
}

#[test]
fn an_invalid_trace_id_names_no_trace() {
    for (text, kept) in [("abc", Some(json!("abc"))), ("", None)] {
        let mut one = valid();
        one["trace_id"] = json!(text);
        let file = parse(&one).expect("valid");
        assert_eq!(file.results[0].trace_id, None);
        assert_eq!(file.results[0].whole.get("trace_id"), kept.as_ref());
        assert!(file.warnings[0].contains(&format!("no trace id: 1 (`{text}`)")));
    }
}

#[test]
fn every_fault_with_its_place() {
    for (key, value, words) in [
        ("schema_version", json!("v2"), "schema_version: must be v1"),
        ("gate_id", json!(""), "gate_id: must be a non-empty string"),
        ("phase", json!("DESIGN"), "phase: unknown phase `DESIGN`"),
        ("result", json!("ok"), "result: unknown result `ok`"),
        ("severity", json!("bad"), "severity: unknown severity `bad`"),
        ("checked_at", json!("yesterday"), "checked_at: must be an RFC 3339 time"),
        ("checked_at", json!("2026-11-23T06:15:00+99:00"), "checked_at: must be an RFC 3339 time"),
        ("checked_at", json!("é"), "checked_at: must be an RFC 3339 time"),
        ("blocking", json!("yes"), "blocking: must be true or false"),
        ("trace_id", json!(5), "trace_id: must be a string"),
        ("evidence", json!([{"type": "x"}]), "evidence[0]: must have"),
        ("evidence", json!({}), "evidence: must be an array"),
        ("evidence", json!([{"type": "x", "ref": "y", "z": 1}]), "evidence[0].z: is no key"),
        (
            "evidence",
            json!([{"type": "x", "ref": "y", "description": 5}]),
            "evidence[0].description: must be a string",
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
    assert!(matches!(GateFile::parse(b"{\"gate", WRITTEN_AT), Err(GateError::Syntax(_))));
}
