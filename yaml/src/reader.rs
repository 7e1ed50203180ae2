//! Reads one document into the tree that a [`Build`] makes.
//!
//! Aliases are copied, so the limits count a value once per alias: a short text cannot become a
//! large or a deep tree.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{self as granit, Event, Parser, ScalarStyle, Span};

use crate::{Position, YamlError};

/// Makes the values of a document. The reader calls it from the leaves to the root.
pub trait Build {
    /// A value, cloned once per alias.
    type Value: Clone;

    /// Makes a scalar. `plain` is false for a quoted scalar and for one with the tag `!!str`, which
    /// are text whatever they contain.
    fn scalar(&mut self, text: Cow<'_, str>, plain: bool, at: Position) -> Self::Value;

    /// Makes a list.
    fn sequence(&mut self, items: Vec<Self::Value>, at: Position) -> Self::Value;

    /// Makes a map. `entries` has every key in the order of the text, duplicates included.
    ///
    /// # Errors
    /// Returns an error if the document must be refused, for a duplicate key for example.
    fn mapping(
        &mut self,
        entries: Vec<(Key, Self::Value)>,
        at: Position,
    ) -> Result<Self::Value, YamlError>;

    /// Whether [`item`](Build::item) receives the items of the list under `key` of the top-level
    /// map. The map then has an empty list there. A list with an anchor is never passed on this way.
    fn streams(&self, _key: &str) -> bool {
        false
    }

    /// Receives the items of a streamed list, one at a time.
    fn item(&mut self, _value: Self::Value) {}
}

/// A key of a map. A key is text, whatever type it would have as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key without quotes.
    pub text: String,
    /// Where the key is written.
    pub at: Position,
}

impl Key {
    /// The error for a key that the same map has already, written at `first`.
    pub fn duplicate_of(&self, first: Position) -> YamlError {
        let Position { line, column } = first;
        let message = format!("`{}` is written twice; the first is at {line}:{column}", self.text);
        YamlError { at: self.at, message }
    }
}

/// How large a tree may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Levels of nesting. Bounds the recursion of the reader and of everything that walks the tree.
    pub depth: usize,
    /// Values and keys, with aliases counted as the values that they stand for.
    pub values: usize,
}

/// Reads the one document of `text`. `None` if it is empty.
///
/// # Errors
/// Returns an error if `text` is not one YAML document within `limits`, or if `build` refuses it.
pub fn read<B: Build>(
    text: &str,
    limits: Limits,
    build: &mut B,
) -> Result<Option<B::Value>, YamlError> {
    let options = granit::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    Reader { parser, build, limits, values: 0, anchors: HashMap::new() }.document()
}

struct Reader<'a, B: Build> {
    parser: Parser<'a, granit::StrInput<'a>>,
    build: &'a mut B,
    limits: Limits,
    /// Values and keys read, aliases included.
    values: usize,
    anchors: HashMap<usize, MeasuredValue<B::Value>>,
}

/// A value with the figures that an alias of it adds to the tree.
#[derive(Clone)]
struct MeasuredValue<V> {
    value: V,
    /// Values and keys.
    size: usize,
    /// Levels below this value.
    depth: usize,
}

impl<'a, B: Build> Reader<'a, B> {
    fn document(mut self) -> Result<Option<B::Value>, YamlError> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    return error(&span, "a second document; a file holds one");
                }
                event => root = Some(self.value(event, &span, 0)?.value),
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        self.parser.next_event().transpose().map_err(|error| {
            let message = format!("not YAML: {}", error.info());
            YamlError { at: position_of(error.marker()), message }
        })
    }

    /// The next event inside the collection that begins at `start`.
    fn inner(&mut self, start: &Span) -> Result<(Event<'a>, Span), YamlError> {
        match self.next()? {
            Some(next) => Ok(next),
            None => error(start, "not YAML: this never ends"),
        }
    }

    fn value(
        &mut self,
        event: Event<'a>,
        span: &Span,
        depth: usize,
    ) -> Result<MeasuredValue<B::Value>, YamlError> {
        self.check_depth(depth, span)?;
        self.count(1, span)?;
        let (built, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !is_text;
                let value = self.build.scalar(text, plain, position(span));
                (MeasuredValue { value, size: 1, depth: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(span, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(span, depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            other => return error(span, format!("not YAML: unexpected {other:?}")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    /// A copy of the anchored value. It keeps the positions of the anchor, where a fault in it is
    /// to be fixed.
    fn alias(
        &mut self,
        anchor: usize,
        span: &Span,
        depth: usize,
    ) -> Result<MeasuredValue<B::Value>, YamlError> {
        let Some(target) = self.anchors.get(&anchor).cloned() else {
            return error(span, "recursive alias: its anchor contains it");
        };
        self.count(target.size, span)?;
        self.check_depth(depth + target.depth, span)?;
        Ok(target)
    }

    fn sequence(
        &mut self,
        start: &Span,
        depth: usize,
    ) -> Result<MeasuredValue<B::Value>, YamlError> {
        let (mut items, mut size, mut levels) = (Vec::new(), 1, 0);
        loop {
            let (event, span) = self.inner(start)?;
            if event == Event::SequenceEnd {
                let value = self.build.sequence(items, position(start));
                return Ok(MeasuredValue { value, size, depth: levels });
            }
            let item = self.value(event, &span, depth + 1)?;
            size += item.size;
            levels = levels.max(item.depth + 1);
            items.push(item.value);
        }
    }

    fn mapping(
        &mut self,
        start: &Span,
        depth: usize,
    ) -> Result<MeasuredValue<B::Value>, YamlError> {
        let (mut entries, mut size, mut levels) = (Vec::new(), 1, 0);
        loop {
            let key = match self.inner(start)? {
                (Event::MappingEnd, _) => {
                    let value = self.build.mapping(entries, position(start))?;
                    return Ok(MeasuredValue { value, size, depth: levels });
                }
                (Event::Scalar(text, ..), span) => {
                    self.count(1, &span)?;
                    Key { text: text.into_owned(), at: position(&span) }
                }
                (_, span) => return error(&span, "a key must be text"),
            };
            let (event, span) = self.inner(start)?;
            let unanchored_list = matches!(event, Event::SequenceStart(_, 0, _));
            if depth == 0 && unanchored_list && self.build.streams(&key.text) {
                entries.push((key, self.stream(&span)?));
                continue;
            }
            let item = self.value(event, &span, depth + 1)?;
            size += 1 + item.size;
            levels = levels.max(item.depth + 1);
            entries.push((key, item.value));
        }
    }

    fn stream(&mut self, start: &Span) -> Result<B::Value, YamlError> {
        loop {
            let (event, span) = self.inner(start)?;
            if event == Event::SequenceEnd {
                return Ok(self.build.sequence(Vec::new(), position(start)));
            }
            let item = self.value(event, &span, 2)?;
            self.build.item(item.value);
        }
    }

    fn check_depth(&self, depth: usize, span: &Span) -> Result<(), YamlError> {
        let limit = self.limits.depth;
        if depth <= limit {
            return Ok(());
        }
        error(span, format!("nested deeper than {limit} levels"))
    }

    fn count(&mut self, more: usize, span: &Span) -> Result<(), YamlError> {
        self.values = self.values.saturating_add(more);
        let limit = self.limits.values;
        if self.values <= limit {
            return Ok(());
        }
        error(span, format!("more than {limit} values, aliases written out"))
    }
}

fn position(span: &Span) -> Position {
    position_of(&span.start)
}

/// The parser counts columns from 0.
fn position_of(marker: &granit::Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

fn error<T>(span: &Span, message: impl Into<String>) -> Result<T, YamlError> {
    Err(YamlError { at: position(span), message: message.into() })
}
