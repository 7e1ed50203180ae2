//! Evaluates the part of TraceQL that the cookbook uses, as strictly as Tempo: an int is not a
//! double, a string is not a number, and a list matches if one of its elements does. A query is
//! evaluated per block, so operators, groups and counts never combine spans of different blocks.
//!
//! ```text
//! { cond && cond } op { … } | stage | stage ──▶ matches; panics if a name does not exist
//! ```

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::conventions::hex;

/// A span as Tempo stores it.
#[derive(Clone)]
pub struct Stored {
    pub span: Span,
    pub resource: Vec<KeyValue>,
    /// The block that the span was written to.
    pub block: usize,
}

/// One condition: `field op literal`.
#[derive(Debug)]
struct Condition {
    field: String,
    op: String,
    literal: Literal,
}

#[derive(Debug, PartialEq)]
enum Literal {
    Text(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    Nil,
    Status(i32),
}

/// Returns the matching spans, each as its block and its position in that block.
pub fn run(query: &str, spans: &[Stored]) -> Vec<(usize, usize)> {
    let blocks: std::collections::BTreeSet<usize> = spans.iter().map(|it| it.block).collect();
    let in_block = |block: usize| {
        let of_block = |it: &&Stored| it.block == block;
        let own: Vec<Stored> = spans.iter().filter(of_block).cloned().collect();
        run_in_block(query, &own, spans).into_iter().map(move |at| (block, at))
    };
    blocks.into_iter().flat_map(in_block).collect()
}

/// Evaluates a query in one block. `all` has the spans of every block: a field of `select` must
/// exist there, and may be missing in this block.
fn run_in_block(query: &str, spans: &[Stored], all: &[Stored]) -> Vec<usize> {
    let mut stages = query.split(" | ");
    let mut found = select(stages.next().unwrap(), spans);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for stage in stages.map(str::trim) {
        let (name, rest) = stage.split_once('(').unwrap_or_else(|| panic!("{stage} in {query}"));
        let (argument, rest) = rest.split_once(')').unwrap();
        match name {
            "select" => {
                for field in argument.split(", ") {
                    let is_known = all.iter().any(|it| !values(field, it).is_empty());
                    assert!(is_known, "nothing has {field}, in {query}");
                }
            }
            // A metrics query needs a number, and a group that it belongs to.
            "max_over_time" => {
                let by = rest.trim().strip_prefix("by (").and_then(|it| it.strip_suffix(')'));
                let has = |at: &usize| {
                    let is_number =
                        |it: &Literal| matches!(it, Literal::Int(_) | Literal::Double(_));
                    values(argument, &spans[*at]).iter().any(is_number)
                        && !values(by.unwrap(), &spans[*at]).is_empty()
                };
                found.retain(has);
            }
            "by" => groups = grouped(argument, &found, spans),
            "count" | "max" => {
                let all = vec![found.clone()];
                let groups = if groups.is_empty() { &all } else { &groups };
                let (op, limit) = rest.trim().split_once(' ').unwrap();
                assert_eq!(op, ">", "{query}");
                let limit: i64 = limit.parse().unwrap();
                let is_more = |group: &&Vec<usize>| figure(name, argument, group, spans) > limit;
                found = groups.iter().filter(is_more).flatten().copied().collect();
            }
            _ => panic!("no stage {name}, in {query}"),
        }
    }
    found
}

fn figure(name: &str, field: &str, group: &[usize], spans: &[Stored]) -> i64 {
    if name == "count" {
        return i64::try_from(group.len()).unwrap();
    }
    let ints = group.iter().flat_map(|at| values(field, &spans[*at]));
    let ints = ints.filter_map(|value| match value {
        Literal::Int(int) => Some(int),
        _ => None,
    });
    ints.max().unwrap_or(0)
}

fn grouped(field: &str, found: &[usize], spans: &[Stored]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Vec<Literal>, Vec<usize>)> = Vec::new();
    for at in found {
        let key = values(field, &spans[*at]);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(*at),
            None => groups.push((key, vec![*at])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Evaluates `{ … } op { … }` from left to right.
fn select(text: &str, spans: &[Stored]) -> Vec<usize> {
    let mut rest = text.trim();
    let mut found: Option<Vec<usize>> = None;
    while !rest.is_empty() {
        let (op, after) = rest.split_once('{').unwrap_or_else(|| panic!("no set in {text}"));
        let (body, after) = after.split_once('}').unwrap();
        rest = after.trim();
        let conditions: Vec<Condition> = body.split("&&").map(condition).collect();
        let right: Vec<usize> =
            (0..spans.len()).filter(|at| matches(&conditions, &spans[*at])).collect();
        found = Some(match found {
            None => right,
            Some(left) => combine(&left, op.trim(), right, spans),
        });
    }
    found.unwrap()
}

fn combine(left: &[usize], op: &str, right: Vec<usize>, spans: &[Stored]) -> Vec<usize> {
    let is_parent = |parent: usize, child: usize| {
        let (parent, child) = (&spans[parent].span, &spans[child].span);
        parent.trace_id == child.trace_id && parent.span_id == child.parent_span_id
    };
    let is_above = |above: usize, below: usize| {
        let mut at = below;
        while let Some(parent) = (0..spans.len()).find(|it| is_parent(*it, at)) {
            if parent == above {
                return true;
            }
            at = parent;
        }
        false
    };
    let same_trace = |a: usize, b: usize| spans[a].span.trace_id == spans[b].span.trace_id;
    let is_wanted = |at: &usize| {
        left.iter().any(|other| match op {
            ">" => is_parent(*other, *at),
            ">>" => is_above(*other, *at),
            "<" => is_parent(*at, *other),
            "&&" => same_trace(*other, *at),
            _ => panic!("no operator {op}"),
        })
    };
    right.into_iter().filter(is_wanted).collect()
}

fn condition(text: &str) -> Condition {
    let mut words = text.trim().splitn(3, ' ');
    let [field, op, literal] = [words.next(), words.next(), words.next()];
    let literal = literal.unwrap_or_else(|| panic!("no condition: {text}")).trim();
    let quoted = literal.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let literal = match (quoted, literal) {
        (Some(text), _) => Literal::Text(text.to_owned()),
        (_, "nil") => Literal::Nil,
        (_, "true" | "false") => Literal::Bool(literal == "true"),
        (_, "ok") => Literal::Status(1),
        (_, "error") => Literal::Status(2),
        _ if literal.contains('.') => Literal::Double(literal.parse().unwrap()),
        _ => Literal::Int(literal.parse().unwrap()),
    };
    Condition { field: field.unwrap().to_owned(), op: op.unwrap().to_owned(), literal }
}

/// Whether a span matches. All conditions on events must hold for the same event, and all
/// conditions on links for the same link.
fn matches(conditions: &[Condition], stored: &Stored) -> bool {
    let scope = |it: &Condition| it.field.split(['.', ':']).next().unwrap_or_default().to_owned();
    let (of_parts, of_span): (Vec<_>, Vec<_>) =
        conditions.iter().partition(|it| ["event", "link"].contains(&scope(it).as_str()));
    let mut narrowed = vec![stored.span.clone()];
    for part in ["event", "link"] {
        if of_parts.iter().any(|it| scope(it) == part) {
            narrowed = narrowed.iter().flat_map(|span| one_at_a_time(span, part)).collect();
        }
    }
    let holds = |span: &Span, it: &Condition| {
        let stored = Stored { span: span.clone(), ..stored.clone() };
        holds(it, &values(&it.field, &stored))
    };
    of_span.iter().all(|it| holds(&stored.span, it))
        && narrowed.iter().any(|span| of_parts.iter().all(|it| holds(span, it)))
}

fn one_at_a_time(span: &Span, part: &str) -> Vec<Span> {
    let plain = Span { events: Vec::new(), links: Vec::new(), ..span.clone() };
    match part {
        "event" => {
            let one = |it: &_| Span {
                events: vec![Clone::clone(it)],
                links: span.links.clone(),
                ..plain.clone()
            };
            span.events.iter().map(one).collect()
        }
        _ => {
            let one = |it: &_| Span {
                links: vec![Clone::clone(it)],
                events: span.events.clone(),
                ..plain.clone()
            };
            span.links.iter().map(one).collect()
        }
    }
}

fn holds(condition: &Condition, values: &[Literal]) -> bool {
    let order = |value: &Literal| match (value, &condition.literal) {
        (Literal::Int(value), Literal::Int(than)) => value.partial_cmp(than),
        (Literal::Double(value), Literal::Double(than)) => value.partial_cmp(than),
        _ => None,
    };
    match (condition.op.as_str(), &condition.literal) {
        ("!=", Literal::Nil) => !values.is_empty(),
        ("=", literal) => values.contains(literal),
        ("!=", literal) => !values.is_empty() && !values.contains(literal),
        ("=~", Literal::Text(pattern)) => values.iter().any(|value| match value {
            // The pattern must match the whole value.
            Literal::Text(text) => {
                regex_lite::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
            }
            _ => false,
        }),
        ("<", _) => values.iter().any(|it| order(it).is_some_and(|it| it.is_lt())),
        (">", _) => values.iter().any(|it| order(it).is_some_and(|it| it.is_gt())),
        _ => panic!("{condition:?}"),
    }
}

/// Returns the values of a field of one span. A list, or a field of events or links, has several.
fn values(field: &str, Stored { span, resource, .. }: &Stored) -> Vec<Literal> {
    let text = |text: &str| vec![Literal::Text(text.to_owned())];
    match field {
        "name" => return text(&span.name),
        "status" => return vec![Literal::Status(span.status.as_ref().map_or(0, |it| it.code))],
        "statusMessage" => return text(span.status.as_ref().map_or("", |it| &it.message)),
        "span:id" => return text(&hex(&span.span_id)),
        "span:parentID" => return text(&hex(&span.parent_span_id)),
        "event:name" => return span.events.iter().flat_map(|it| text(&it.name)).collect(),
        "link:spanID" => return span.links.iter().flat_map(|it| text(&hex(&it.span_id))).collect(),
        "link:traceID" => {
            // Tempo stores trace ids of links without leading zeros.
            let stripped = |id: &[u8]| hex(id).trim_start_matches('0').to_owned();
            return span.links.iter().flat_map(|it| text(&stripped(&it.trace_id))).collect();
        }
        _ => {}
    }
    let (scope, name) = field.split_once('.').unwrap_or_else(|| panic!("no field {field}"));
    let attributes: Vec<&KeyValue> = match scope {
        "span" => span.attributes.iter().collect(),
        "resource" => resource.iter().collect(),
        "event" => span.events.iter().flat_map(|it| &it.attributes).collect(),
        "link" => span.links.iter().flat_map(|it| &it.attributes).collect(),
        _ => panic!("no scope {scope}"),
    };
    let named = attributes.into_iter().filter(|it| it.key == name);
    named.flat_map(|it| literals(it.value.as_ref())).collect()
}

fn literals(value: Option<&AnyValue>) -> Vec<Literal> {
    match value.and_then(|it| it.value.as_ref()) {
        Some(Value::StringValue(text)) => vec![Literal::Text(text.clone())],
        Some(Value::IntValue(int)) => vec![Literal::Int(*int)],
        Some(Value::DoubleValue(double)) => vec![Literal::Double(*double)],
        Some(Value::BoolValue(bool)) => vec![Literal::Bool(*bool)],
        Some(Value::ArrayValue(list)) => {
            list.values.iter().flat_map(|it| literals(Some(it))).collect()
        }
        _ => Vec::new(),
    }
}
