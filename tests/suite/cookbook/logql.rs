//! Evaluates the part of LogQL that the cookbook uses: selectors with filters, and the coverage
//! query.
//!
//! ```text
//! {stream} | key="value" | key < n | label_format … ──▶ records
//! avg by (…) (last_over_time(records | unwrap … [range]) by (…)) and on (…) … ──▶ value per group
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// The labels and structured metadata of a record, with Loki's names.
pub type Fields = BTreeMap<String, String>;

/// Evaluates `avg by (G) (last_over_time(SELECTOR | unwrap LABEL [RANGE]) by (K)) and on (G) sum by
/// (G) (…SELECTOR…)`. Returns, per G, the average of the last value per K. Groups without a value
/// on the right side are left out. `records` must be sorted by time.
pub fn coverage(query: &str, records: &[Fields]) -> Vec<(String, f64)> {
    let (left, right) = query.split_once(" and on (project_id) ").unwrap();
    let group = inside(left, "avg by (");
    assert!(inside(right, "sum by (") == group && inside(query, "and on (") == group);
    assert!(left.starts_with("avg by (") && left.contains("(last_over_time({"), "{left}");
    let label = inside(left, "| unwrap ").split(' ').next().unwrap().to_owned();
    let keys = inside(left, "]) by (");
    let keys: Vec<&str> = keys.split(", ").collect();
    let present: BTreeSet<String> =
        selected(right, records).into_iter().map(|it| it[&group].clone()).collect();

    let mut last: BTreeMap<Vec<String>, f64> = BTreeMap::new();
    for record in selected(left, records) {
        let key = keys.iter().map(|key| record[*key].clone()).collect();
        last.insert(key, record[&label].parse().unwrap());
    }
    let at = keys.iter().position(|key| **key == group).unwrap();
    let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, value) in last {
        groups.entry(key[at].clone()).or_default().push(value);
    }
    let average = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let groups = groups.into_iter().filter(|(group, _)| present.contains(group));
    groups.map(|(group, values)| (group, average(values))).collect()
}

/// Returns the text after `before` up to the next closing parenthesis or bracket.
fn inside(text: &str, before: &str) -> String {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}")).1;
    rest.split([')', '[']).next().unwrap().trim().to_owned()
}

/// Returns the records that the query's only selector matches, including added labels.
fn selected(query: &str, records: &[Fields]) -> Vec<Fields> {
    let mut labelled = records.to_vec();
    let found = filtered(query, &mut labelled);
    found.into_iter().map(|at| labelled[at].clone()).collect()
}

/// Returns, per selector of the query, the positions of the matching records.
pub fn run(query: &str, records: &[Fields]) -> Vec<Vec<usize>> {
    let selectors = query.match_indices("{service_name");
    selectors.map(|(start, _)| filtered(&query[start..], &mut records.to_vec())).collect()
}

/// Returns the positions of the records that the first selector matches. `label_format` adds labels
/// to the records.
fn filtered(query: &str, records: &mut [Fields]) -> Vec<usize> {
    let selector = &query[query.find("{service_name").unwrap()..];
    // The first bracket starts the range. Templates have no brackets.
    let selector = selector.split('[').next().unwrap();
    let (stream, filters) = selector.split_once('}').unwrap();
    let stream = stream.trim_start_matches('{');
    let mut left: Vec<usize> =
        (0..records.len()).filter(|at| passes(stream, &records[*at])).collect();
    for filter in filters.split(" | ").map(str::trim).filter(|it| !it.is_empty()) {
        let filter = filter.trim_start_matches("| ");
        match filter.split(' ').next().unwrap() {
            // A record already has all fields of its line, so there is nothing to add.
            "json" => {}
            "line_format" => {
                for (at, _) in filter.match_indices("{{.") {
                    let name = filter[at + 3..].split('}').next().unwrap();
                    assert!(left.iter().all(|at| records[*at].contains_key(name)), "{query}");
                }
            }
            "label_format" => {
                for at in &left {
                    let (label, value) = formatted(filter, &records[*at]);
                    records[*at].insert(label, value);
                }
            }
            "unwrap" => {
                let name = filter.split(' ').nth(1).unwrap();
                let is_number = |at: &usize| records[*at][name].parse::<f64>().is_ok();
                assert!(left.iter().all(is_number), "{name} in {query}");
            }
            _ => left.retain(|at| passes(filter, &records[*at])),
        }
    }
    left
}

/// Evaluates ``label_format NAME=`{{ if eq .FIELD "VALUE" }}THEN{{ else }}ELSE{{ end }}` ``.
fn formatted(filter: &str, record: &Fields) -> (String, String) {
    let (label, template) = filter.strip_prefix("label_format ").unwrap().split_once('=').unwrap();
    let template = template.trim_matches('`');
    let condition = template.strip_prefix("{{ if eq .").unwrap();
    let (field, rest) = condition.split_once(" \"").unwrap();
    let (value, rest) = rest.split_once("\" }}").unwrap();
    let (then, rest) = rest.split_once("{{ else }}").unwrap();
    let otherwise = rest.strip_suffix("{{ end }}").unwrap();
    let is_equal = record.get(field).is_some_and(|it| it == value);
    (label.to_owned(), if is_equal { then } else { otherwise }.to_owned())
}

fn passes(filter: &str, fields: &Fields) -> bool {
    if let Some((name, limit)) = filter.split_once(" < ") {
        let value: Option<f64> = fields.get(name).and_then(|it| it.parse().ok());
        return value.is_some_and(|value| value < limit.parse().unwrap());
    }
    if let Some((name, value)) = filter.split_once("!=") {
        return fields.get(name).map_or("", String::as_str) != value.trim_matches('"');
    }
    let (name, value) = filter.split_once('=').unwrap_or_else(|| panic!("no filter: {filter}"));
    fields.get(name).is_some_and(|it| *it == value.trim_matches('"'))
}
