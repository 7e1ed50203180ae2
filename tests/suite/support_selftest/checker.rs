//! The checker of the conventions accepts the hand-written trace, and finds each planted error.

use std::path::Path;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Proto;
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::{Value, json};

use super::by_hand::{Case, set};
use crate::support::conventions::{hex, span_id, trace_id};

/// The expected values were computed with Python's hashlib by the published formulas.
#[test]
fn ids_follow_the_published_formulas() {
    let trace = trace_id(Path::new("/out/onboarding-metadata.json"), 42, b"{}");
    assert_eq!(hex(&trace), "b846d43b1791aba1df4876cf02b130fa");
    assert_eq!(hex(&span_id(&trace, "task", "checkout_api-dashboard")), "b65529d12e78738f");
}

#[test]
fn a_correct_trace_has_no_faults() {
    assert_eq!(Case::new().faults(), [""; 0]);
}

#[test]
fn a_trace_may_come_in_several_requests() {
    let case = Case::new();
    let mut requests = vec![case.request.clone(), case.request.clone()];
    requests[0].resource_spans[0].scope_spans[0].spans.truncate(1);
    requests[1].resource_spans[0].scope_spans[0].spans.remove(0);
    assert_eq!(case.written.snapshot.check(&requests), [""; 0]);
    requests[1].resource_spans[0].resource = None;
    assert_ne!(case.written.snapshot.check(&requests), [""; 0]);
}

/// Each case plants one error and names a word of the expected message.
#[test]
fn planted_errors_are_found() {
    type Plant = fn(&mut Case);
    let plants: &[(&str, Plant)] = &[
        ("resource", |c| c.request.resource_spans[0].resource = None),
        ("service.instance.id", |c| {
            let resource = c.request.resource_spans[0].resource.as_mut().unwrap();
            set(&mut resource.attributes, "service.instance.id", json!("x"));
        }),
        ("scope", |c| c.scope().scope.as_mut().unwrap().version.push('x')),
        ("epic is missing", |c| drop(c.scope().spans.remove(0))),
        ("story \"pair-dashboard-artifacts\" is missing", |c| drop(c.scope().spans.remove(1))),
        ("task \"b\" is missing", |c| drop(c.scope().spans.remove(3))),
        ("sent twice", |c| {
            let span = c.span(2).clone();
            c.scope().spans.push(span);
        }),
        ("nobody's", |c| {
            let mut span = c.span(2).clone();
            span.span_id = vec![1; 8];
            c.scope().spans.push(span);
        }),
        ("valid trace id", |c| c.span(1).trace_id = vec![0; 16]),
        ("valid span id", |c| c.span(1).span_id.truncate(4)),
        ("its trace", |c| c.span(1).trace_id[0] ^= 1),
        ("parent", |c| c.span(2).parent_span_id = c.span(0).span_id.clone()),
        ("parent", |c| c.span(0).parent_span_id = vec![1; 8]),
        ("name", |c| c.span(1).name.push('!')),
        ("kind", |c| c.span(1).kind = 2),
        ("status", |c| c.span(3).status = None),
        ("status", |c| c.span(0).status = Some(Status { code: 1, message: String::new() })),
        ("dropped", |c| c.span(0).dropped_links_count = 1),
        ("ends before", |c| c.span(3).end_time_unix_nano = 1),
        ("the epic ends", |c| c.span(0).end_time_unix_nano += 1),
        ("not cover", |c| c.span(1).end_time_unix_nano -= 1000),
        ("time of emission", |c| {
            for span in &mut c.scope().spans {
                span.start_time_unix_nano -= 3_600_000_000_000;
                span.end_time_unix_nano -= 3_600_000_000_000;
            }
        }),
        ("before its dependency", |c| {
            let (a, b) = (c.span(2).start_time_unix_nano, c.span(3).start_time_unix_nano);
            for (span, start) in [(2, b), (3, a)] {
                c.span(span).start_time_unix_nano = start;
                c.span(span).end_time_unix_nano = start + 1000;
            }
        }),
        ("task.title is missing", |c| set(&mut c.span(2).attributes, "task.title", Value::Null)),
        ("task.percent_complete", |c| {
            set(&mut c.span(2).attributes, "task.percent_complete", json!(0));
        }),
        ("coverage.percent", |c| set(&mut c.span(0).attributes, "coverage.percent", json!(50))),
        ("export.id", |c| set(&mut c.span(0).attributes, "export.id", json!("export-pair"))),
        ("export.manifest", |c| {
            set(&mut c.span(0).attributes, "export.manifest", json!("missing"))
        }),
        ("artifact.gap_count", |c| set(&mut c.span(1).attributes, "artifact.gap_count", json!(2))),
        ("artifact.depends_on", |c| {
            set(&mut c.span(2).attributes, "artifact.depends_on", json!(["b", "nowhere"]));
        }),
        ("parameters.int", |c| {
            set(&mut c.span(3).attributes, "artifact.parameters.int", json!(1.0))
        }),
        ("parameters.mixed", |c| {
            set(&mut c.span(3).attributes, "artifact.parameters.mixed", json!(["x", 1]));
        }),
        ("parameters.null", |c| {
            set(&mut c.span(3).attributes, "artifact.parameters.null", json!(""))
        }),
        ("parameters.my_token", |c| {
            set(&mut c.span(3).attributes, "artifact.parameters.my_token", json!("hunter2"));
        }),
        ("over 2048 bytes", |c| {
            let full = json!("ü".repeat(1500));
            set(&mut c.span(3).attributes, "artifact.parameters.long", full);
        }),
        ("parameters.long", |c| {
            let short = json!(format!("{}…", "ü".repeat(500)));
            set(&mut c.span(3).attributes, "artifact.parameters.long", short);
        }),
        ("cut and not listed", |c| {
            set(&mut c.span(3).attributes, "taskspan.truncated", Value::Null);
        }),
        ("listed and not cut", |c| {
            set(&mut c.span(2).attributes, "taskspan.truncated", json!(["task.id"]));
        }),
        ("not in the conventions", |c| set(&mut c.span(2).attributes, "extra", json!(1))),
        ("there twice", |c| {
            let again = c.span(2).attributes[0].clone();
            c.span(2).attributes.push(again);
        }),
        ("no link", |c| c.span(2).links.clear()),
        ("only link", |c| {
            let link = c.span(2).links[0].clone();
            c.span(2).links.push(link);
        }),
        ("does not lead", |c| c.span(2).links[0].span_id = vec![9; 8]),
        ("link.type", |c| set(&mut c.span(2).links[0].attributes, "link.type", json!("blocks"))),
        ("events task.created", |c| c.span(0).events.retain(|event| event.name != "task.created")),
        ("not in the conventions", |c| c.span(0).events[0].name = "task.unheard".to_owned()),
        ("priority", |c| set(&mut c.event(2, "task.created").attributes, "priority", json!("low"))),
        ("dependency_count", |c| {
            set(&mut c.event(2, "task.dependencies").attributes, "dependency_count", json!(2));
        }),
        ("unresolved", |c| {
            set(&mut c.event(2, "task.dependencies").attributes, "unresolved", Value::Null);
        }),
        ("events task.dependencies, due: false", |c| {
            let event = c.event(2, "task.dependencies").clone();
            c.span(3).events.push(event);
        }),
        ("parts", |c| set(&mut c.event(2, "task.contract").attributes, "parts", json!(3))),
        ("part", |c| set(&mut c.event(2, "task.contract").attributes, "part", json!(2))),
        ("not a JSON array", |c| {
            set(&mut c.event(2, "task.contract").attributes, "derivation_rules", json!("[{\"p"));
        }),
        ("derivation rule", |c| {
            let rule = json!("[{\"property\":\"p1\",\"transformation\":\"y\"}]");
            set(&mut c.event(2, "task.contract").attributes, "derivation_rules", rule);
        }),
        ("expected_output_contract", |c| {
            set(
                &mut c.event(3, "task.contract").attributes,
                "expected_output_contract",
                json!("{}"),
            );
        }),
        ("owner", |c| replace_in_contract(c.event(2, "artifact.intent"), "team-a", "team-b")),
        ("intent", |c| replace_in_contract(c.event(2, "artifact.intent"), "create", "build")),
        ("incomplete without need", |c| {
            replace_in_contract(c.event(2, "artifact.intent"), "onboarding-metadata", "elsewhere");
        }),
        ("contract", |c| {
            replace_in_contract(c.event(0, "task.span_contract"), "schema_version", "scheme");
        }),
        ("metrics", |c| {
            let event = c.event(0, "task.span_contract");
            replace_in_contract(event, "\"gap_count\":1", "\"gap_count\":2");
        }),
        ("not a JSON object", |c| {
            set(&mut c.event(0, "task.span_contract").attributes, "contract", json!("{\"a\":"));
        }),
    ];
    for (index, (words, plant)) in plants.iter().enumerate() {
        let mut case = Case::new();
        plant(&mut case);
        let faults = case.faults();
        let found = faults.iter().any(|fault| fault.contains(words));
        assert!(found, "plant {index} ({words}) was not found; instead: {faults:#?}");
    }
}

fn replace_in_contract(event: &mut Event, from: &str, to: &str) {
    let contract = event.attributes.iter_mut().find(|pair| pair.key == "contract").unwrap();
    let value = contract.value.as_mut().unwrap().value.as_mut().unwrap();
    let Proto::StringValue(text) = value else { panic!("not a string") };
    assert!(text.contains(from), "{text}");
    *text = text.replace(from, to);
}
