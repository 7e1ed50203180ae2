//! YAML as the exporter's library writes and reads it.
//!
//! ```text
//! text ─parser events─▶ scalars by the rules of YAML 1.1 ─▶ JSON value
//!                       aliases within a budget
//! ```
//!
//! Exports are written by PyYAML, which leaves a text such as `1e3`, `08` or `y` without quotes
//! because it is no number or boolean to it. A reader with the rules of YAML 1.2 would change their
//! type, so plain scalars are resolved here, on top of the parser that serde-saphyr brings along.
//!
//! A crate of its own for one reason: that parser is generic, so it is compiled where it is used,
//! and the rest of the program is built for size.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{self as granit, Parser};

pub use serde_saphyr::granit_parser::{Event, ScalarStyle, Span};

/// Levels of nesting; reading and dropping a value recurses as deep.
const MAX_DEPTH: usize = 128;

/// How many values a text of so many bytes may stand for. Each written one takes a byte at least;
/// the rest is what aliases may repeat. A short text must not expand into a long one.
fn budget(text: &str) -> usize {
    text.len().saturating_mul(4).saturating_add(10_000).min(32_000_000)
}

/// What is wrong with a document, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct YamlError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
}

impl std::error::Error for YamlError {}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}: {}", self.line, self.column, self.message)
    }
}

/// Reads one document; an empty one is null.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    reader(text, None).document()
}

/// The same, but the items of the list under `key`, at the top, go to `each` one at a time, and an
/// empty list is left in their place.
pub fn parse_with_list(
    text: &str,
    key: &'static str,
    each: &mut dyn FnMut(Value),
) -> Result<Value, YamlError> {
    reader(text, Some(List { key, each })).document()
}

/// The events of a text, for readers that want something else than values.
pub struct Events<'a> {
    parser: Parser<'a, granit::StrInput<'a>>,
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl<'a> Events<'a> {
    pub fn of(text: &'a str) -> Events<'a> {
        let options = granit::options! { emit_comments: false };
        Events { parser: Parser::new_from_str_with_options(text, options) }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<(Event<'a>, Span), YamlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.parser.next_event()?;
        Some(event.map_err(|error| {
            let (marker, message) = (error.marker(), error.info().to_string());
            YamlError { line: marker.line(), column: marker.col() + 1, message }
        }))
    }
}

struct Reader<'a> {
    events: Events<'a>,
    anchors: HashMap<usize, (Value, usize)>,
    /// How many more values there may be.
    left: usize,
    list: Option<List<'a>>,
}

/// A list that is handed over item by item.
struct List<'a> {
    key: &'static str,
    each: &'a mut dyn FnMut(Value),
}

fn reader<'a>(text: &'a str, list: Option<List<'a>>) -> Reader<'a> {
    Reader { events: Events::of(text), anchors: HashMap::new(), left: budget(text), list }
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<Value, YamlError> {
        let mut root = None;
        while let Some((event, span)) = self.events.next().transpose()? {
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => return Err(at(&span, "a second document")),
                event => root = Some(self.value(event, &span, 0)?.0),
            }
        }
        Ok(root.unwrap_or(Value::Null))
    }

    fn inner(&mut self, start: &Span) -> Result<(Event<'a>, Span), YamlError> {
        self.events.next().transpose()?.ok_or_else(|| at(start, "this never ends"))
    }

    /// A value, and of how many it consists.
    fn value(
        &mut self,
        event: Event<'a>,
        span: &Span,
        depth: usize,
    ) -> Result<(Value, usize), YamlError> {
        if depth > MAX_DEPTH {
            return Err(at(span, "nested too deep"));
        }
        self.spend(1, span)?;
        let (value, size, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !is_text;
                let value = if plain { resolve(&text) } else { Value::from(text.as_ref()) };
                (value, 1, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let (mut items, mut size) = (Vec::new(), 1);
                loop {
                    let (event, inner) = self.inner(span)?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let (item, its_size) = self.value(event, &inner, depth + 1)?;
                    items.push(item);
                    size += its_size;
                }
                (Value::Array(items), size, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (map, size) = self.mapping(span, depth)?;
                (Value::Object(map), size, anchor)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (value, size) = known.ok_or_else(|| at(span, "an alias of what holds it"))?;
                self.spend(size, span)?;
                (value, size, 0)
            }
            _ => return Err(at(span, "an unknown alias")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), size));
        }
        Ok((value, size))
    }

    fn mapping(
        &mut self,
        span: &Span,
        depth: usize,
    ) -> Result<(Map<String, Value>, usize), YamlError> {
        let (mut map, mut merged, mut size) = (Map::new(), Map::new(), 1);
        loop {
            let (event, key_span) = self.inner(span)?;
            let key = match event {
                Event::MappingEnd => break,
                // A key is what it says, whatever type it would have as a value.
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(at(&key_span, "a key that is no text")),
            };
            let (event, value_span) = self.inner(span)?;
            if depth == 0
                && matches!(event, Event::SequenceStart(_, 0, _))
                && !map.contains_key(&key)
                && let Some(list) = self.list.take_if(|list| list.key == key)
            {
                self.items(list, &value_span)?;
                map.insert(key, Value::Array(Vec::new()));
                continue;
            }
            let (value, its_size) = self.value(event, &value_span, depth + 1)?;
            size += 1 + its_size;
            match value {
                Value::Object(more) if key == "<<" => merged.extend(more),
                // Its value may be a secret, and this goes to the log.
                _ if map.contains_key(&key) => {
                    return Err(at(&key_span, &format!("the key `{key}` a second time")));
                }
                value => drop(map.insert(key, value)),
            }
        }
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
        Ok((map, size))
    }

    /// What an alias could repeat is read as a whole instead; it has an anchor.
    fn items(&mut self, list: List<'_>, span: &Span) -> Result<(), YamlError> {
        loop {
            let (event, inner) = self.inner(span)?;
            if event == Event::SequenceEnd {
                return Ok(());
            }
            let (item, _) = self.value(event, &inner, 2)?;
            (list.each)(item);
        }
    }

    fn spend(&mut self, count: usize, span: &Span) -> Result<(), YamlError> {
        self.left = self.left.checked_sub(count).ok_or_else(|| {
            at(span, "its aliases stand for more than a manifest of this size can hold")
        })?;
        Ok(())
    }
}

fn at(span: &Span, message: &str) -> YamlError {
    let (line, column) = (span.start.line(), span.start.col() + 1);
    YamlError { line, column, message: message.to_owned() }
}

/// A plain scalar by the rules of YAML 1.1, as PyYAML has them. Dates and numbers to the base of
/// sixty stay text, and so do infinities, which JSON cannot say.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::from(text))
}

fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = digits.replace('_', "");
    let of_base = |digits: &str, base: u32| {
        let known = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        let value = known.then(|| i128::from_str_radix(digits, base).ok()).flatten()?;
        let value = if negative { -value } else { value };
        i64::try_from(value)
            .map(Value::from)
            .or_else(|_| u64::try_from(value).map(Value::from))
            .ok()
    };
    if let Some(hex) = plain.strip_prefix("0x") {
        return of_base(hex, 16);
    }
    if let Some(binary) = plain.strip_prefix("0b") {
        return of_base(binary, 2);
    }
    if plain.chars().all(|c| c.is_ascii_digit()) {
        return match plain.strip_prefix('0') {
            Some("") | None => of_base(&plain, 10).or_else(|| float(&plain, negative)),
            Some(octal) => of_base(octal, 8),
        };
    }
    // A float has a dot, and an exponent has a sign.
    let (mantissa, exponent) = match plain.find(['e', 'E']) {
        Some(at) => (&plain[..at], Some(&plain[at + 1..])),
        None => (plain.as_str(), None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let all_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let signed = |part: &str| {
        let digits = part.strip_prefix(['+', '-']);
        digits.is_some_and(|digits| !digits.is_empty() && all_digits(digits))
    };
    let sound = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(signed);
    if sound { float(&plain, negative) } else { None }
}

fn float(text: &str, negative: bool) -> Option<Value> {
    let value: f64 = text.parse().ok()?;
    serde_json::Number::from_f64(if negative { -value } else { value }).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_are_what_they_are_to_the_exporter() {
        let cases = [
            ("y", json!("y")),
            ("n", json!("n")),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("True", json!(true)),
            ("~", json!(null)),
            ("12", json!(12)),
            ("-1_000", json!(-1000)),
            ("0", json!(0)),
            ("010", json!(8)),
            ("08", json!("08")),
            ("0o17", json!("0o17")),
            ("0x1F", json!(31)),
            ("1e3", json!("1e3")),
            ("1234e567", json!("1234e567")),
            ("1.0e+3", json!(1000.0)),
            ("1.0e3", json!("1.0e3")),
            ("5.0", json!(5.0)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("-2.5", json!(-2.5)),
            (".", json!(".")),
            ("1.2.3", json!("1.2.3")),
            (".inf", json!(".inf")),
            (".nan", json!(".nan")),
            ("12:30", json!("12:30")),
            ("2026-11-23", json!("2026-11-23")),
            ("200ms", json!("200ms")),
            ("-", json!("-")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }

    #[test]
    fn documents() {
        let cases = [
            ("", json!(null)),
            ("a: 'no'\nb: \"1\"\nc: !!str 1\nd: [1, {e: 2.0}]\n", {
                json!({"a": "no", "b": "1", "c": "1", "d": [1, {"e": 2.0}]})
            }),
            ("o: &o [x]\na: *o\nb: *o\n", json!({"o": ["x"], "a": ["x"], "b": ["x"]})),
            ("o: &o {x: 1, y: 2}\na: {<<: *o, y: 3}\n", {
                json!({"o": {"x": 1, "y": 2}, "a": {"y": 3, "x": 1}})
            }),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults_say_where() {
        for (text, line) in [("a: [\n", 1), ("a: 1\na: 2\n", 2), ("--- a\n--- b\n", 2)] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{error}");
        }
    }

    #[test]
    fn a_large_document_is_no_reason_to_refuse_it() {
        let item = "- {id: a, type: b, parameters: {x: [1, 2, 3], y: {z: 1.5}}, dependsOn: [c]}\n";
        let value = parse(&item.repeat(30_000)).expect("a large document");
        assert_eq!(value.as_array().map(Vec::len), Some(30_000));
    }

    #[test]
    fn an_alias_bomb_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(200_000), "]".repeat(200_000))).is_err());
        assert!(parse(&"- ".repeat(50_000)).is_err());
    }
}
