//! Merges all sources into one tree.
//!
//! ```text
//! --config a.yaml ┐
//! --config b.yaml ┼─ parse ─▶ merge (maps deeply, all else replaces) ─▶ expand ${env:…}
//! --set a.b=v     ┘
//! ```
//!
//! Expansion comes last, so a variable need not be set if a later source overrides its value.

use std::path::PathBuf;
use std::sync::Arc;

use super::expand::{Env, expand};
use super::fault::{Fault, Report};
use super::node::{Key, Mark, Node, Value};
use crate::fs::named;

/// Size limit of a configuration file, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// A source of YAML.
#[derive(Clone, Debug)]
pub enum ConfigDocument {
    /// A file.
    File(PathBuf),
    /// Text that is not in a file, with a name for messages.
    Text {
        /// Where the text is from, for messages.
        name: String,
        /// The text itself.
        text: String,
    },
}

/// Returns the merged and expanded tree. `None` if a source could not be read at all.
pub(crate) fn load(
    sources: &[ConfigDocument],
    sets: &[String],
    env: Env,
    report: &mut Report,
) -> Option<Node> {
    // Read every source, to report the errors of all.
    let mut parsed: Vec<Option<Node>> = sources.iter().map(|s| read(s, report)).collect();
    parsed.extend(sets.iter().map(|set| read_set(set, report)));
    let parsed: Vec<Node> = parsed.into_iter().collect::<Option<_>>()?;
    let mut root = parsed
        .into_iter()
        .reduce(|mut base, over| {
            merge(&mut base, over);
            base
        })
        .unwrap_or_else(|| Node {
            value: Value::Map(Vec::new()),
            mark: Mark { file: "configuration".into(), line: 1, column: 1 },
        });
    expand(&mut root, env, report);
    Some(root)
}

fn read(source: &ConfigDocument, report: &mut Report) -> Option<Node> {
    let mut node = match source {
        ConfigDocument::Text { name, text } => Node::parse(&name.as_str().into(), text, report)?,
        ConfigDocument::File(path) => {
            let name = path.display().to_string();
            match named::read_text(path, MAX_BYTES) {
                Ok(text) => Node::parse(&name.into(), &text, report)?,
                Err(error) => {
                    let message = format!("{name}: cannot be read: {error}");
                    report.faults.0.push(Fault::nowhere(message));
                    return None;
                }
            }
        }
    };
    match node.value {
        Value::Map(_) => {}
        Value::Null => node.value = Value::Map(Vec::new()),
        _ => {
            let found = node.noun();
            report.fault(
                &node.mark,
                format!("expected receivers, exporters and so on, found {found}"),
            );
            return None;
        }
    }
    Some(node)
}

/// Parses `a.b=v` into the tree `a: {b: v}`. Its positions name only the key, because the value may
/// be a secret.
fn read_set(set: &str, report: &mut Report) -> Option<Node> {
    let (path, text) = set.split_once('=').unwrap_or((set, ""));
    let file: Arc<str> = format!("--set {path}").into();
    let mark = Mark { file: file.clone(), line: 1, column: 1 };
    if !set.contains('=') || path.split('.').any(|part| part.trim().is_empty()) {
        report.fault(&mark, "write it as key.key=value");
        return None;
    }
    let value = Node::parse(&file, text, report)?;
    Some(path.rsplit('.').fold(value, |inner, part| {
        let key = Key { text: part.trim().to_owned(), mark: mark.clone() };
        Node { value: Value::Map(vec![(key, inner)]), mark: mark.clone() }
    }))
}

fn merge(base: &mut Node, over: Node) {
    let (Value::Map(entries), Value::Map(more)) = (&mut base.value, over.value) else {
        return;
    };
    for (key, node) in more {
        let Some((old_key, old)) = entries.iter_mut().find(|(old, _)| old.text == key.text) else {
            entries.push((key, node));
            continue;
        };
        match (&old.value, &node.value) {
            (Value::Map(_), Value::Map(_)) => merge(old, node),
            // `debug:` without a value names a component. It removes nothing.
            (Value::Map(_), Value::Null) => {}
            _ => (*old_key, *old) = (key, node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, text: &str) -> ConfigDocument {
        ConfigDocument::Text { name: name.into(), text: text.into() }
    }

    fn run(sources: &[ConfigDocument], sets: &[&str]) -> (Option<Node>, Report) {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let mut report = Report::default();
        let node = load(sources, &sets, &|_| None, &mut report);
        (node, report)
    }

    #[test]
    fn maps_merge_and_everything_else_replaces() {
        let base = text("a", "m: {x: 1, y: [1, 2], z: {k: v}}\nn: ${env:GONE}\n");
        let over = text("b", "m:\n  y: [3]\n  z:\n  w: 4\n");
        let (node, report) = run(&[base, over], &["n=5", "m.z.k='q'", "m.new/1.deep=[a, {b: c}]"]);
        let node = node.unwrap();
        // The variable is overridden, so it is not reported.
        assert!(report.faults.is_empty() && report.warnings.is_empty());
        let get = |path: &str| {
            let (mark, node) = node.find(path).unwrap();
            format!("{} {mark}", node.text().unwrap_or(node.noun()))
        };
        assert_eq!(get("m.x"), "1 a:1:8");
        assert_eq!(get("m.y.0"), "3 b:2:7");
        assert!(node.find("m.y.1").is_none());
        assert_eq!(get("m.z.k"), "q --set m.z.k:1:1");
        assert_eq!(get("m.w"), "4 b:4:6");
        assert_eq!(get("n"), "5 --set n:1:1");
        assert_eq!(get("m.new/1.deep.1.b"), "c --set m.new/1.deep:1:9");
    }

    #[test]
    fn every_source_that_cannot_be_read_is_named() {
        let sources = [
            ConfigDocument::File("/no/such.yaml".into()),
            text("list", "- a\n"),
            text("broken", "a: ["),
        ];
        let (node, report) = run(&sources, &["token", "a..b=1", "x=[s3cret"]);
        assert!(node.is_none());
        let faults = report.faults.to_string();
        let lines: Vec<_> = faults.lines().collect();
        assert_eq!(lines.len(), 6, "{faults}");
        assert!(lines[0].starts_with("/no/such.yaml: cannot be read: No such file"), "{faults}");
        assert!(faults.contains("--set token:1:1: write it as key.key=value"), "{faults}");
        assert!(!faults.contains("s3cret"), "{faults}");
    }
}
