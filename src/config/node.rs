//! YAML text as a tree in which every value has the place where it was written.
//!
//! ```text
//! text ──taskspan_yaml, within LIMITS──▶ Builder ──▶ Node
//!                                           └─▶ duplicate keys into the report
//! ```
//!
//! The tree keeps scalars as text: `decode` decides what a scalar is.

use std::borrow::Cow;
use std::sync::Arc;

use taskspan_yaml::{Build, Limits, Position, YamlError};

pub(crate) use super::fault::Mark;
use super::fault::Report;

/// Limits that no handwritten configuration reaches.
const LIMITS: Limits = Limits { depth: 64, values: 10_000 };

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Scalar { text: String, style: Style },
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) mark: Mark,
}

/// How a scalar is written. Only a plain one can be null or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
}

impl Value {
    /// Makes a scalar, or null according to the core schema.
    pub(crate) fn scalar(text: String, style: Style) -> Self {
        match (style, text.as_str()) {
            (Style::Plain, "" | "~" | "null" | "Null" | "NULL") => Self::Null,
            _ => Self::Scalar { text, style },
        }
    }
}

impl Node {
    /// Reads the one document of `text`, null if it is empty. `None` if it cannot be read; the
    /// reason is in `report`.
    pub(crate) fn parse(file: &Arc<str>, text: &str, report: &mut Report) -> Option<Self> {
        let mut builder = Builder { file, report };
        match taskspan_yaml::read(text, LIMITS, &mut builder) {
            Ok(Some(root)) => Some(root),
            Ok(None) => Some(builder.node(Value::Null, Position { line: 1, column: 1 })),
            Err(error) => {
                let mark = builder.mark(error.at);
                report.fault(&mark, error.message);
                None
            }
        }
    }

    pub(crate) fn entries(&self) -> &[(Key, Node)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    pub(crate) fn items(&self) -> &[Node] {
        if let Value::Seq(items) = &self.value { items } else { &[] }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::Scalar { text, .. } = &self.value { Some(text) } else { None }
    }

    /// Finds the value at a dotted path, and the position for messages about it: the scalar itself,
    /// or the key of anything else. A key may contain dots (`headers.x.y`).
    pub(crate) fn find(&self, path: &str) -> Option<(&Mark, &Node)> {
        self.find_below(&self.mark, path)
    }

    fn find_below<'a>(&'a self, above: &'a Mark, path: &str) -> Option<(&'a Mark, &'a Node)> {
        if path.is_empty() {
            let mark = if self.text().is_some() { &self.mark } else { above };
            return Some((mark, self));
        }
        if let Value::Seq(items) = &self.value {
            let (index, rest) = path.split_once('.').unwrap_or((path, ""));
            let item = items.get(index.parse::<usize>().ok()?)?;
            return item.find_below(&item.mark, rest);
        }
        self.entries().iter().find_map(|(key, node)| {
            let rest = path.strip_prefix(&key.text)?;
            let rest = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
            node.find_below(&key.mark, rest)
        })
    }

    /// Whether `mark` is the position of this node or of a node in it.
    pub(crate) fn covers(&self, mark: &Mark) -> bool {
        self.mark == *mark
            || self.children().any(|child| child.covers(mark))
            || self.entries().iter().any(|(key, _)| key.mark == *mark)
    }

    /// Names the kind of value for messages. The text itself may be a secret.
    pub(crate) fn noun(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    fn children(&self) -> impl Iterator<Item = &Node> {
        self.items().iter().chain(self.entries().iter().map(|(_, node)| node))
    }
}

struct Builder<'a> {
    file: &'a Arc<str>,
    report: &'a mut Report,
}

impl Builder<'_> {
    fn mark(&self, Position { line, column }: Position) -> Mark {
        Mark { file: self.file.clone(), line, column }
    }

    fn node(&self, value: Value, at: Position) -> Node {
        Node { value, mark: self.mark(at) }
    }
}

impl Build for Builder<'_> {
    type Value = Node;

    fn scalar(&mut self, text: Cow<'_, str>, plain: bool, at: Position) -> Node {
        let style = if plain { Style::Plain } else { Style::Quoted };
        self.node(Value::scalar(text.into_owned(), style), at)
    }

    fn sequence(&mut self, items: Vec<Node>, at: Position) -> Node {
        self.node(Value::Seq(items), at)
    }

    /// Keeps the first of duplicate keys and reports the others, so that the rest of the file is
    /// checked too.
    fn mapping(
        &mut self,
        entries: Vec<(taskspan_yaml::Key, Node)>,
        at: Position,
    ) -> Result<Node, YamlError> {
        let mut unique: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            match unique.iter().find(|(first, _)| first.text == key.text) {
                None => {
                    let mark = self.mark(key.at);
                    unique.push((Key { text: key.text, mark }, node));
                }
                Some((first, _)) => {
                    let Mark { line, column, .. } = first.mark;
                    let duplicate = key.duplicate_of(Position { line, column });
                    self.report.fault(&self.mark(duplicate.at), duplicate.message);
                }
            }
        }
        Ok(self.node(Value::Map(unique), at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<Node>, String) {
        let mut report = Report::default();
        let node = Node::parse(&"p.yaml".into(), text, &mut report);
        (node, report.faults.to_string())
    }

    #[test]
    fn values_have_their_position() {
        let (node, faults) = parse("a:\n  b: [1, 'x']\n  c.d: {e: 2}\n  f:\n");
        let node = node.unwrap();
        assert_eq!(faults, "");
        let at = |path: &str| node.find(path).unwrap().0.to_string();
        assert_eq!(at(""), "p.yaml:1:1");
        assert_eq!(at("a"), "p.yaml:1:1");
        assert_eq!(at("a.b"), "p.yaml:2:3");
        assert_eq!(at("a.b.1"), "p.yaml:2:10");
        assert_eq!(at("a.c.d.e"), "p.yaml:3:12");
        assert_eq!(at("a.f"), "p.yaml:4:3");
        assert!(node.find("a.b.2").is_none() && node.find("a.x").is_none());
        assert_eq!(node.find("a.f").unwrap().1.value, Value::Null);
    }

    #[test]
    fn nothing_is_null() {
        for text in ["", "# a comment\n", "---\n", "~"] {
            let (node, faults) = parse(text);
            assert_eq!((node.unwrap().value, faults.as_str()), (Value::Null, ""), "{text}");
        }
    }

    #[test]
    fn aliases_are_copies_within_bounds() {
        let (node, _) = parse("a: &x {b: 1}\nc: *x\n");
        assert_eq!(node.unwrap().find("c.b").unwrap().0.to_string(), "p.yaml:1:11");

        let mut bomb = "a0: &a0 [1, 1]\n".to_owned();
        for i in 1..40 {
            bomb += &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1);
        }
        let (node, faults) = parse(&bomb);
        assert!(node.is_none());
        assert_eq!(faults, "p.yaml:12:12: more than 10000 values, aliases written out");
        let (_, faults) = parse("&a [*a]");
        assert_eq!(faults, "p.yaml:1:5: recursive alias: its anchor contains it");
    }

    #[test]
    fn invalid_trees_are_errors_with_a_position() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3\n", "p.yaml:3:1: `a` is written twice; the first is at 1:1"),
            ("a: b: c", "p.yaml:1:5: not YAML: mapping values are not allowed in this context"),
            ("a\n---\nb", "p.yaml:3:1: a second document; a file holds one"),
            ("[a]: b", "p.yaml:1:1: a key must be text"),
            (deep.as_str(), "p.yaml:1:66: nested deeper than 64 levels"),
        ] {
            assert_eq!(parse(text).1, expected);
        }
    }
}
