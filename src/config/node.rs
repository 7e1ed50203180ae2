//! YAML text as a tree in which every value knows where it was written.
//!
//! ```text
//! text ──taskspan_yaml──▶ events with positions ──Builder──▶ Node
//!                                                   │
//!             aliases copied, size and depth bounded ┘  duplicate keys reported
//! ```
//!
//! The tree keeps scalars as text: `decode` decides what a scalar is.

use std::collections::HashMap;
use std::sync::Arc;

use taskspan_yaml::{Event, Events, ScalarStyle};

pub use super::fault::Mark;
use super::fault::Report;

/// More values than this, aliases written out, is an attack or an accident.
const MAX_NODES: usize = 10_000;
/// Bounds the recursion here and in everything that walks the tree.
const MAX_DEPTH: usize = 64;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub mark: Mark,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Scalar { text: String, style: Style },
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub text: String,
    pub mark: Mark,
}

/// Only a plain scalar may be a null or a number where the type is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Quoted,
}

impl Value {
    /// A scalar, or null where the core schema says so.
    pub fn scalar(text: String, style: Style) -> Self {
        match (style, text.as_str()) {
            (Style::Plain, "" | "~" | "null" | "Null" | "NULL") => Self::Null,
            _ => Self::Scalar { text, style },
        }
    }
}

impl Node {
    /// The one document of `text`, null when it has none. `None` after a syntax fault.
    pub fn parse(file: &Arc<str>, text: &str, report: &mut Report) -> Option<Self> {
        Builder::new(file, text, report).document()
    }

    pub fn entries(&self) -> &[(Key, Node)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    pub fn items(&self) -> &[Node] {
        if let Value::Seq(items) = &self.value { items } else { &[] }
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Scalar { text, .. } = &self.value { Some(text) } else { None }
    }

    /// The value at a dotted path, and where to point when it is wrong: at a scalar itself, at the
    /// key of anything else. A key may hold dots itself (`headers.x.y`): the tree decides.
    pub fn find(&self, path: &str) -> Option<(&Mark, &Node)> {
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

    /// Whether `mark` lies on this node or on anything in it.
    pub fn covers(&self, mark: &Mark) -> bool {
        self.mark == *mark
            || self.children().any(|child| child.covers(mark))
            || self.entries().iter().any(|(key, _)| key.mark == *mark)
    }

    /// How a message calls this kind of value. Never the text itself, which may be a secret.
    pub fn noun(&self) -> &'static str {
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

    fn size(&self) -> usize {
        1 + self.entries().len() + self.children().map(Node::size).sum::<usize>()
    }

    fn depth(&self) -> usize {
        self.children().map(|child| 1 + child.depth()).max().unwrap_or(0)
    }
}

/// Building stopped; the reason is in the report.
struct Stopped;

struct Builder<'a> {
    events: Events<'a>,
    file: &'a Arc<str>,
    report: &'a mut Report,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(file: &'a Arc<str>, text: &'a str, report: &'a mut Report) -> Self {
        Self { events: Events::of(text), file, report, anchors: HashMap::new(), nodes: 0 }
    }

    fn document(mut self) -> Option<Node> {
        let mut root = None;
        while let Some((event, mark)) = self.next().ok()? {
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    self.report.fault(&mark, "a second document; a file holds one");
                    return None;
                }
                node => root = Some(self.node(node, mark, 0).ok()?),
            }
        }
        let start = Mark { file: self.file.clone(), line: 1, column: 1 };
        Some(root.unwrap_or(Node { value: Value::Null, mark: start }))
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Mark)>, Stopped> {
        let place = |line, column| Mark { file: self.file.clone(), line, column };
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                Ok(Some((event, place(span.start.line(), span.start.col() + 1))))
            }
            Some(Err(error)) => {
                let mark = place(error.line, error.column);
                self.report.fault(&mark, format!("not YAML: {}", error.message));
                Err(Stopped)
            }
        }
    }

    /// The next event inside a collection, which always has one until its end.
    fn inner(&mut self, start: &Mark) -> Result<(Event<'a>, Mark), Stopped> {
        match self.next()? {
            Some(next) => Ok(next),
            None => self.stop(start, "not YAML: this never ends"),
        }
    }

    fn node(&mut self, event: Event<'a>, mark: Mark, depth: usize) -> Result<Node, Stopped> {
        if depth > MAX_DEPTH {
            return self.stop(&mark, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.count(1, &mark)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !text_tag;
                let style = if plain { Style::Plain } else { Style::Quoted };
                (Value::scalar(text.into_owned(), style), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.seq(&mark, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(&mark, depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, &mark, depth),
            other => return self.stop(&mark, format!("not YAML: unexpected {other:?}")),
        };
        let node = Node { value, mark };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn seq(&mut self, start: &Mark, depth: usize) -> Result<Value, Stopped> {
        let mut items = Vec::new();
        loop {
            match self.inner(start)? {
                (Event::SequenceEnd, _) => return Ok(Value::Seq(items)),
                (event, mark) => items.push(self.node(event, mark, depth + 1)?),
            }
        }
    }

    fn map(&mut self, start: &Mark, depth: usize) -> Result<Value, Stopped> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.inner(start)? {
                (Event::MappingEnd, _) => return Ok(Value::Map(entries)),
                (Event::Scalar(text, ..), mark) => Key { text: text.into_owned(), mark },
                (_, mark) => return self.stop(&mark, "a key has to be plain text"),
            };
            self.count(1, &key.mark)?;
            let (event, mark) = self.inner(start)?;
            let node = self.node(event, mark, depth + 1)?;
            match entries.iter().find(|(first, _)| first.text == key.text) {
                None => entries.push((key, node)),
                Some((first, _)) => {
                    let Mark { line, column, .. } = first.mark;
                    let message =
                        format!("`{}` is written twice; the first is at {line}:{column}", key.text);
                    self.report.fault(&key.mark, message);
                }
            }
        }
    }

    /// A copy of the anchored node that keeps the anchor's marks: a fault in it is fixed there.
    fn alias(&mut self, anchor: usize, mark: &Mark, depth: usize) -> Result<Node, Stopped> {
        let Some(target) = self.anchors.get(&anchor).cloned() else {
            return self.stop(mark, "an alias inside the value it stands for");
        };
        self.count(target.size(), mark)?;
        if depth + target.depth() > MAX_DEPTH {
            return self.stop(mark, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        Ok(target)
    }

    fn count(&mut self, more: usize, mark: &Mark) -> Result<(), Stopped> {
        self.nodes += more;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        self.stop(mark, format!("more than {MAX_NODES} values, aliases written out"))
    }

    fn stop<T>(&mut self, mark: &Mark, message: impl Into<String>) -> Result<T, Stopped> {
        self.report.fault(mark, message);
        Err(Stopped)
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
    fn values_know_their_place() {
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
        assert_eq!(faults, "p.yaml:1:5: an alias inside the value it stands for");
    }

    #[test]
    fn what_is_not_a_tree_is_a_fault() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3\n", "p.yaml:3:1: `a` is written twice; the first is at 1:1"),
            ("a: b: c", "p.yaml:1:5: not YAML: mapping values are not allowed in this context"),
            ("a\n---\nb", "p.yaml:3:1: a second document; a file holds one"),
            ("[a]: b", "p.yaml:1:1: a key has to be plain text"),
            (deep.as_str(), "p.yaml:1:66: nested deeper than 64 levels"),
        ] {
            assert_eq!(parse(text).1, expected);
        }
    }
}
