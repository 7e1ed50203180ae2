use super::*;

fn parse(text: &str) -> Result<Onboarding, OnboardingError> {
    Onboarding::parse(text.as_bytes())
}

#[test]
fn both_spellings_of_coverage() {
    for (required, existing, percent, targets) in [
        ("totalRequired", "totalExisting", "overallCoverage", "byTarget"),
        ("total_required", "total_existing", "overall_coverage", "by_target"),
    ] {
        let text = format!(
            r#"{{"coverage": {{"{required}": 3, "{existing}": 1, "{percent}": 33,
            "{targets}": [{{"target": "api", "gaps": ["a"]}}], "gaps": ["a", "b"]}}}}"#
        );
        let onboarding = parse(&text).expect("an export");
        let coverage = Coverage {
            total_required: Some(3),
            total_existing: Some(1),
            total_gaps: 2,
            percent: Some(33.0),
        };
        assert_eq!(onboarding.coverage, coverage);
        assert_eq!(onboarding.by_target, [("api".to_owned(), vec!["a".to_owned()])]);
    }
}

#[test]
fn refusals_name_the_place() {
    let cases = [
        ("{\"coverage\": {\n \"gaps\": [", "2:10: not valid JSON: EOF while parsing a list"),
        ("", "1:1: not valid JSON: EOF while parsing a value"),
        ("[]", "the top level is an array, not an object"),
        ("5", "the top level is a number, not an object"),
        ("{\"coverage\": NaN}", "1:14: not valid JSON: expected value"),
        ("{} x", "1:4: not valid JSON: trailing characters"),
        ("{\"coverage\": {\"a\": 1,}}", "1:22: not valid JSON: trailing comma"),
        ("{\"coverage\":\n {\"a\": 1e999}}", "2:12: not valid JSON: number out of range"),
        (
            "{\"coverage\": {},\n\"artifact_types\": \"\\ud800\"}",
            "2:26: not valid JSON: unexpected end of hex escape",
        ),
        ("{}", "the key `coverage` is missing or not an object"),
        (r#"{"coverage": {}}"#, "the key `coverage.gaps` is missing or not an array of strings"),
        (
            r#"{"coverage": {"gaps": "a"}}"#,
            "the key `coverage.gaps` is missing or not an array of strings",
        ),
        (
            r#"{"coverage": {"gaps": [1]}}"#,
            "the key `coverage.gaps` is missing or not an array of strings",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text).expect_err(text).to_string(), message);
    }
    for utf16 in [b"\xff\xfe{\0}\0".as_slice(), b"{\0}\0", b"\0{\0}"] {
        assert_eq!(Onboarding::parse(utf16), Err(OnboardingError::NotUtf8));
    }
}

#[test]
fn omitted_and_malformed_sections_do_not_refuse_the_export() {
    let onboarding = parse(
        r#"{"coverage": {"gaps": []}, "derivation_rules": {"_omitted": "profile=source"},
            "artifact_dependency_graph": [], "file_ownership": null}"#,
    )
    .expect("an export");
    assert!(onboarding.rules.is_empty() && onboarding.graph.is_empty());
    let warning = Warning::MalformedSection { section: "artifact_dependency_graph".into() };
    assert_eq!(onboarding.warnings, [warning]);
}

#[test]
fn ownership_is_turned_around() {
    let onboarding = parse(
        r#"{"coverage": {"gaps": []}, "file_ownership": {
            "x.json": {"artifact_ids": ["a"], "artifact_types": ["dashboard"]},
            "y.yaml": {"artifact_ids": ["b", "c"], "artifact_types": ["rule"]}}}"#,
    )
    .expect("an export");
    let owner = |id: &str| onboarding.ownership.get(id).cloned();
    assert_eq!(owner("a"), Some(("x.json".into(), Some("dashboard".into()))));
    assert_eq!(owner("c"), Some(("y.yaml".into(), Some("rule".into()))));
}
