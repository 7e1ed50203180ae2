//! Checks `task.contract`: derivation rules in as many events as needed, and the output contract.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::events::Findings;
use super::export::{Export, Task};
use super::values::{Attributes, LIMIT, Val};

/// The contents of all `task.contract` events of one span.
struct Whole {
    rules: Vec<Value>,
    contracts: Vec<String>,
}

/// Estimates the size of the `task.contract` events of a task, in bytes.
pub fn size(export: &Export, task: &Task) -> usize {
    let rules = task.rules.iter().map(|rule| rule.to_string().len() + 1).sum::<usize>();
    rules + export.contract(&task.kind).map_or(0, |contract| contract.to_string().len())
}

/// Checks a task that was not slimmed: it has all rules and the contract of its type.
pub fn check(
    place: &str,
    export: &Export,
    task: &Task,
    events: Vec<Attributes>,
    findings: &mut Findings,
) {
    let parts = events.len();
    let whole = put_together(place, events, findings);
    let rules: Vec<Value> = task.rules.iter().map(normal).collect();
    let json_size = Value::from(rules.clone()).to_string().len();
    // Near the limit, the number of parts depends on the spelling of the keys, so there is a
    // tolerance.
    if parts > 1 && json_size < LIMIT * 9 / 10 {
        findings
            .faults
            .push(format!("{place}: {parts} task.contract events for {json_size} bytes"));
    }
    if whole.rules.len() != rules.len() {
        let (has, due) = (whole.rules.len(), rules.len());
        findings.faults.push(format!("{place}: {has} derivation rules, expected {due}"));
    }
    for (rule, received) in rules.iter().zip(&whole.rules) {
        if rule == received {
            continue;
        }
        if rule.to_string().len() + 2 > LIMIT && is_cut_rule(rule, received) {
            findings.cut.insert("derivation_rules".to_owned());
        } else {
            findings.faults.push(format!("{place}: derivation rule {received}, expected {rule}"));
        }
    }
    check_contract(place, export.contract(&task.kind), &whole, findings);
}

/// Checks a task whose story has the data of the type: it has rules only if they are its own, and
/// no contract.
pub fn check_own(
    place: &str,
    export: &Export,
    task: &Task,
    events: Vec<Attributes>,
    findings: &mut Findings,
) {
    let of_type = export.entry("derivation_rules", &task.kind).and_then(Value::as_array);
    let is_own = of_type != Some(&task.rules) && !task.rules.is_empty();
    let whole = put_together(place, events, findings);
    if whole.rules.len() != if is_own { task.rules.len() } else { 0 } {
        findings.faults.push(format!("{place}: {} derivation rules", whole.rules.len()));
    }
    if !whole.contracts.is_empty() {
        findings.faults.push(format!("{place}: the output contract is with the story"));
    }
}

/// Checks a story that has the events of its tasks: it has rules if one of its tasks has, and the
/// contract of the type.
pub fn check_moved(
    place: &str,
    export: &Export,
    kind: &str,
    tasks: &[&Task],
    events: Vec<Attributes>,
    findings: &mut Findings,
) {
    let whole = put_together(place, events, findings);
    if whole.rules.is_empty() && tasks.iter().any(|task| !task.rules.is_empty()) {
        findings.faults.push(format!("{place}: no derivation rules came along"));
    }
    check_contract(place, export.contract(kind), &whole, findings);
}

fn put_together(place: &str, events: Vec<Attributes>, findings: &mut Findings) -> Whole {
    let count = events.len();
    let mut rules = BTreeMap::new();
    let mut contracts = Vec::new();
    for mut bag in events {
        let mut part = Some(Val::Int(1));
        if count > 1 {
            part = bag.take("part");
            bag.expect("parts", count);
        }
        match part {
            Some(Val::Int(part)) if (1..=count as i64).contains(&part) => {
                let received =
                    bag.take_text("derivation_rules").map(|text| (text.clone(), array(&text)));
                match received {
                    Some((_, Some(items))) if !rules.contains_key(&part) => {
                        rules.insert(part, items);
                    }
                    Some((_, Some(_))) => bag.fault(format!("part {part} is there twice")),
                    Some((text, None)) => bag.fault(format!("not a JSON array: {text:?}")),
                    None => {}
                }
            }
            other => bag.fault(format!("part is {other:?}")),
        }
        let contract = bag.take_text("expected_output_contract");
        if count == 1 && contract.is_none() && rules.is_empty() {
            bag.fault("neither rules nor contract");
        }
        contracts.extend(contract);
        findings.end(bag);
    }
    if count > 1 && rules.len() != count {
        findings.faults.push(format!("{place}: {} of {count} parts have rules", rules.len()));
    }
    Whole { rules: rules.into_values().flatten().map(|rule| normal(&rule)).collect(), contracts }
}

fn array(text: &str) -> Option<Vec<Value>> {
    serde_json::from_str(text).ok().filter(|items: &Vec<Value>| !items.is_empty())
}

/// Checks that at least one event has the contract, and that all copies are equal to it.
fn check_contract(place: &str, due: Option<&Value>, whole: &Whole, findings: &mut Findings) {
    let Some(due) = due else {
        if !whole.contracts.is_empty() {
            findings.faults.push(format!("{place}: an output contract from nowhere"));
        }
        return;
    };
    if whole.contracts.is_empty() {
        findings.faults.push(format!("{place}: no expected_output_contract"));
    }
    for text in &whole.contracts {
        if due.to_string().len() > LIMIT {
            findings.cut.insert("expected_output_contract".to_owned());
        } else if serde_json::from_str::<Value>(text).ok().as_ref() != Some(due) {
            findings.faults.push(format!("{place}: expected_output_contract is {text}"));
        }
    }
}

/// Normalizes a rule: snake_case keys, without null values.
fn normal(rule: &Value) -> Value {
    let Value::Object(map) = rule else {
        return rule.clone();
    };
    let snake = |key: &str| -> String {
        let letter = |c: char| match c {
            'A'..='Z' => format!("_{}", c.to_ascii_lowercase()),
            c => c.to_string(),
        };
        key.chars().map(letter).collect()
    };
    let known = map.iter().filter(|(_, value)| !value.is_null());
    Value::Object(known.map(|(key, value)| (snake(key), value.clone())).collect::<Map<_, _>>())
}

fn is_cut_rule(rule: &Value, received: &Value) -> bool {
    match (rule, received) {
        (Value::String(full), Value::String(cut)) => {
            full == cut || cut.strip_suffix('…').is_some_and(|kept| full.starts_with(kept))
        }
        (Value::Object(full), Value::Object(cut)) => {
            full.len() == cut.len()
                && full
                    .iter()
                    .all(|(key, value)| cut.get(key).is_some_and(|c| is_cut_rule(value, c)))
        }
        (Value::Array(full), Value::Array(cut)) => {
            full.len() == cut.len()
                && full.iter().zip(cut).all(|(full, cut)| is_cut_rule(full, cut))
        }
        (full, cut) => full == cut,
    }
}
