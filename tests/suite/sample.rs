//! Guarantees:
//!
//! - The whole trace of the sample export does not change by accident, because queries depend on
//!   it. The snapshots show every attribute, for each grouping.

use std::fmt::Write;
use std::path::Path;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use taskspan::base::clock::UnixNanos;
use taskspan::base::ids::TraceId;
use taskspan::converter::limits::SpanLimits;
use taskspan::converter::options::{GroupBy, RedactionConfig, ResourceConfig, SpanOptions};
use taskspan::converter::{Converter, Redaction};
use taskspan::internals::Roots;
use taskspan::plan::{self, Export, ReadOptions};

const T0: UnixNanos = UnixNanos(1_795_414_500_000_000_000);

fn trace(group_by: GroupBy) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/sample-export/onboarding-metadata.json");
    let options = ReadOptions {
        max_file_size: 1 << 20,
        max_artifacts: 100_000,
        max_memory: u64::MAX,
        project_id: None,
        emit_existing: false,
    };
    let Ok(Export::Fresh(fresh)) = plan::read(&Roots::of_file(&path), &path, &options) else {
        panic!("the sample is no fresh export");
    };
    let converter = Converter {
        spans: SpanOptions { group_by, ..SpanOptions::default() },
        redaction: Redaction::new(&RedactionConfig::default()).expect("the defaults"),
        resource: ResourceConfig::default(),
        limits: SpanLimits::default(),
        triggered_by: None,
    };
    // The real id depends on the location and the time of the checkout.
    let trace_id = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("an id");
    let conversion = converter.convert(&fresh.plan, trace_id, T0);
    assert_eq!(conversion.warnings, []);
    let mut text = String::new();
    for group in conversion.traces().iter().flat_map(|request| &request.resource_spans) {
        writeln!(text, "resource").unwrap();
        attributes(&mut text, "  ", &group.resource.as_ref().unwrap().attributes);
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            describe(&mut text, span);
        }
    }
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

fn describe(text: &mut String, span: &Span) {
    let from = (span.start_time_unix_nano - T0.0) / 1_000;
    let to = (span.end_time_unix_nano - T0.0) / 1_000;
    let status = span.status.as_ref().map_or(0, |status| status.code);
    let (id, parent) = (hex(&span.span_id), hex(&span.parent_span_id));
    writeln!(text, "\nspan {}", span.name).unwrap();
    writeln!(text, "  {id} below {parent}, {from}..{to} us, kind {}, status {status}", span.kind)
        .unwrap();
    attributes(text, "  ", &span.attributes);
    for event in &span.events {
        writeln!(text, "  event {} at {} us", event.name, (event.time_unix_nano - T0.0) / 1_000)
            .unwrap();
        attributes(text, "    ", &event.attributes);
    }
    for link in &span.links {
        writeln!(text, "  link to {}", hex(&link.span_id)).unwrap();
        attributes(text, "    ", &link.attributes);
    }
}

fn attributes(text: &mut String, indent: &str, attributes: &[KeyValue]) {
    for attribute in attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref()).unwrap();
        writeln!(text, "{indent}{} = {}", attribute.key, show(value)).unwrap();
    }
}

/// Shows a value with its type, which backends distinguish: `1` is an int, `1.0` a double, `"1"` a
/// string.
fn show(value: &Value) -> String {
    match value {
        Value::StringValue(text) => format!("{text:?}"),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => format!("{number:?}"),
        Value::BoolValue(flag) => flag.to_string(),
        Value::ArrayValue(array) => {
            let items = array.values.iter().filter_map(|item| item.value.as_ref());
            format!("[{}]", items.map(show).collect::<Vec<_>>().join(", "))
        }
        other => panic!("{other:?} is of a kind that is never sent"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_trace_of_the_sample_export() {
    insta::assert_snapshot!(trace(GroupBy::Type));
}

/// Shows only what another grouping changes: names, in order, and their parents.
#[test]
fn the_other_groupings() {
    for group_by in [GroupBy::Target, GroupBy::TargetType] {
        let spans: Vec<String> = trace(group_by)
            .lines()
            .filter(|line| {
                ["span ", "  task.id", "  task.parent_id"].iter().any(|it| line.starts_with(it))
            })
            .map(str::to_owned)
            .collect();
        insta::assert_snapshot!(format!("{group_by:?}"), spans.join("\n"));
    }
}
