use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::config::fault::Report;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    name: String,
    count: u8,
    ratio: f64,
    on: bool,
    tags: Vec<String>,
    kind: Option<Kind>,
    inner: BTreeMap<String, Sample>,
    any: Option<serde_json::Value>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    First,
    SecondOne,
}

fn run(yaml: &str) -> (Option<Sample>, String) {
    let mut report = Report::default();
    let node = Node::parse(&"p".into(), yaml, &mut report).unwrap();
    let value = decode(&node, &mut report.faults);
    (value, report.faults.to_string())
}

#[test]
fn the_type_decides() {
    let yaml = "
name: 1.10
count: \"7\"
ratio: 2
on: true
tags: [1, null, no]
kind: second_one
inner: {a: {name: x}, b: }
any: [1, 1.5, yes, true, '1', ~, {a: 0}, .inf, 1_000]
";
    let (value, faults) = run(yaml);
    assert_eq!(faults, "");
    let inner = |name: &str| Sample { name: name.into(), ..Sample::default() };
    let expected = Sample {
        name: "1.10".into(),
        count: 7,
        ratio: 2.0,
        on: true,
        tags: vec!["1".into(), String::new(), "no".into()],
        kind: Some(Kind::SecondOne),
        inner: BTreeMap::from([("a".into(), inner("x")), ("b".into(), inner(""))]),
        any: Some(serde_json::json!([
            1, 1.5, "yes", true, "1", null, {"a": 0}, ".inf", "1_000"
        ])),
    };
    assert_eq!(value.unwrap(), expected);
}

#[test]
fn an_empty_value_means_the_default() {
    let (value, faults) = run("name:\ncount: ~\ntags:\nkind: null\n");
    assert_eq!((value, faults), (Some(Sample::default()), String::new()));
}

#[test]
fn every_fault_is_found_and_the_rest_is_read() {
    let yaml = "
name: [x]
count: 300
ratio: fast
nmae: x
tags: [a, {b: c}, d]
kind: thrid
inner:
  a: {on: maybe, name: kept}
  b: text
any:
unknown_thing:
";
    let (value, faults) = run(yaml);
    let known = "Known: name, count, ratio, on, tags, kind, inner, any";
    let expected = [
        "p:2:7: expected text, found a list".to_owned(),
        "p:3:8: invalid value: integer `300`, expected u8".to_owned(),
        "p:4:8: expected a number, found `fast`".to_owned(),
        format!("p:5:1: unknown key `nmae`; did you mean `name`? {known}"),
        "p:6:11: expected text, found a map".to_owned(),
        "p:7:7: unknown value `thrid`. Known: first, second_one".to_owned(),
        "p:9:11: expected true or false, found `maybe`".to_owned(),
        "p:10:6: expected a map, found text".to_owned(),
        format!("p:12:1: unknown key `unknown_thing`. {known}"),
    ];
    assert_eq!(faults, expected.join("\n"));
    let value = value.unwrap();
    assert_eq!(value.tags, ["a", "d"]);
    assert_eq!(value.inner["a"].name, "kept");
}

#[test]
fn a_value_of_another_type_is_a_fault() {
    let (value, faults) = run("[1]");
    assert_eq!((value, faults.as_str()), (None, "p:1:1: expected a map, found a list"));
}
