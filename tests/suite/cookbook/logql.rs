//! As much of LogQL as the cookbook uses: which records a selector with its filters lets through.
//!
//! ```text
//! sum by (…) (count_over_time({stream} | key="value" | key < n [5m])) ──▶ {stream} │ filters ──▶ records
//! ```

use std::collections::BTreeMap;

/// The labels and the structured metadata of a record, as Loki names them.
pub type Fields = BTreeMap<String, String>;

/// For each selector of the query, the records that it lets through.
pub fn run(query: &str, records: &[Fields]) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    for (start, _) in query.match_indices("{service_name") {
        let selector = query[start..].split('[').next().unwrap();
        let (stream, filters) = selector.split_once('}').unwrap();
        let stream = stream.trim_start_matches('{');
        let mut left: Vec<usize> =
            (0..records.len()).filter(|at| passes(stream, &records[*at])).collect();
        for filter in filters.split(" | ").map(str::trim).filter(|it| !it.is_empty()) {
            let filter = filter.trim_start_matches("| ");
            match filter.split(' ').next().unwrap() {
                // Every field of the line is one of the record's, too.
                "json" => {}
                "line_format" => {
                    for (at, _) in filter.match_indices("{{.") {
                        let name = filter[at + 3..].split('}').next().unwrap();
                        assert!(left.iter().all(|at| records[*at].contains_key(name)), "{query}");
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
        found.push(left);
    }
    found
}

fn passes(filter: &str, fields: &Fields) -> bool {
    if let Some((name, limit)) = filter.split_once(" < ") {
        let value: Option<f64> = fields.get(name).and_then(|it| it.parse().ok());
        return value.is_some_and(|value| value < limit.parse().unwrap());
    }
    let (name, value) = filter.split_once('=').unwrap_or_else(|| panic!("no filter: {filter}"));
    fields.get(name).is_some_and(|it| *it == value.trim_matches('"'))
}
