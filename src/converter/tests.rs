//! The converter as a whole: properties over any plan.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::config::values::ByteSize;
use crate::converter::options::{GroupBy, RedactionConfig};
use crate::ids::TaskId;
use crate::plan::{Artifact, Coverage, ExportInfo, Project, Rule, Status, TypeInfo};

pub(crate) fn artifact(id: &str, kind: &str, target: &str) -> Artifact {
    Artifact {
        id: TaskId::new(id),
        kind: kind.into(),
        name: format!("{id} title"),
        target: target.into(),
        priority: "required".into(),
        status: Status::Needed,
        depends_on: Vec::new(),
        parameters: Map::new(),
        derived_from: Vec::new(),
        output_path: None,
        existing_path: None,
        mapped_id: None,
        entries: 1,
        parameters_unresolved: Vec::new(),
    }
}

fn plan(artifacts: Vec<Artifact>) -> Plan {
    Plan {
        project: Project { id: "p".into(), name: "Project".into(), owner: None, epic: None },
        export: ExportInfo::default(),
        coverage: Coverage { total_gaps: 1, ..Coverage::default() },
        artifacts,
        types: IndexMap::new(),
        warnings: Vec::new(),
    }
}

fn converter() -> Converter {
    Converter {
        spans: SpanOptions::default(),
        redaction: Redaction::new(&RedactionConfig::default()).expect("the defaults"),
        resource: ResourceConfig::default(),
        limits: SpanLimits::default(),
        triggered_by: None,
    }
}

fn trace_id() -> TraceId {
    TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("an id")
}

const T0: UnixNanos = UnixNanos(1_795_414_500_000_000_000);

fn spans(conversion: &Conversion) -> Vec<Span> {
    let groups = conversion.traces().into_iter().flat_map(|request| request.resource_spans);
    groups.flat_map(|group| group.scope_spans).flat_map(|scope| scope.spans).collect()
}

fn event_names(span: &Span) -> Vec<&str> {
    span.events.iter().map(|event| event.name.as_str()).collect()
}

fn has_attribute(span: &Span, key: &str) -> bool {
    span.attributes.iter().any(|attribute| attribute.key == key)
}

prop_compose! {
    fn any_artifact()(
        id in "[a-f]{1,2}",
        kind in prop::sample::select(vec!["dashboard", "prometheus_rule", "runbook"]),
        target in prop::sample::select(vec!["api", "web"]),
        status in prop::sample::select(vec![
            Status::Needed, Status::Exists, Status::Outdated, Status::Skipped,
        ]),
        depends_on in prop::collection::vec("[a-g]{1,2}", 0..5),
        text in ".{0,60}",
    ) -> Artifact {
        let parameters = json!({"text": text, "n": 1, "list": [1, "a"]});
        Artifact {
            status,
            depends_on: depends_on.into_iter().map(TaskId::new).collect(),
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            ..artifact(&id, kind, target)
        }
    }
}

prop_compose! {
    fn any_plan()(artifacts in prop::collection::vec(any_artifact(), 0..25)) -> Plan {
        let mut seen = HashSet::new();
        plan(artifacts.into_iter().filter(|it| seen.insert(it.id.clone())).collect())
    }
}

proptest! {
    #[test]
    fn every_artifact_is_one_span_and_every_reference_is_known(
        plan in any_plan(),
        group_by in prop::sample::select(vec![
            GroupBy::Type, GroupBy::Target, GroupBy::TargetType,
        ]),
    ) {
        let mut converter = converter();
        converter.spans.group_by = group_by;
        let conversion = converter.convert(&plan, trace_id(), T0);
        let spans = spans(&conversion);
        let by_id: HashMap<&[u8], &Span> =
            spans.iter().map(|span| (span.span_id.as_slice(), span)).collect();
        prop_assert_eq!(by_id.len(), spans.len(), "span ids are unique");
        prop_assert_eq!(conversion.span_count, spans.len());

        let tasks = spans.iter().filter(|span| has_attribute(span, "artifact.id"));
        let mut names: Vec<&str> = tasks.map(|span| span.name.as_str()).collect();
        let mut ids: Vec<&str> = plan.artifacts.iter().map(|it| it.id.as_str()).collect();
        names.sort_unstable();
        ids.sort_unstable();
        prop_assert_eq!(names, ids);

        let roots = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
        prop_assert_eq!(roots, 1);
        for span in &spans {
            prop_assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
            if let Some(parent) = by_id.get(span.parent_span_id.as_slice()) {
                prop_assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
                prop_assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
            } else {
                prop_assert!(span.parent_span_id.is_empty(), "an unknown parent");
            }
            for link in &span.links {
                prop_assert!(by_id.contains_key(link.span_id.as_slice()), "an unknown target");
            }
        }
    }

    #[test]
    fn the_same_plan_gives_the_same_bytes(plan in any_plan()) {
        let encode = || converter().convert(&plan, trace_id(), T0).requests;
        prop_assert_eq!(encode(), encode());
    }
}

fn plan_with_contracts(count: usize) -> Plan {
    let artifacts = (0..count).map(|n| artifact(&format!("a{n}"), "dashboard", "api")).collect();
    let rules: Vec<Rule> =
        (0..4).map(|n| Rule::from(&json!({"property": n, "why": "x".repeat(300)}))).collect();
    let contract = json!({"expected_depth": "standard", "max_lines": 10, "fields": ["a"]});
    let info = TypeInfo { contract: contract.as_object().cloned(), rules, ..TypeInfo::default() };
    Plan { types: [("dashboard".to_owned(), info)].into(), ..plan(artifacts) }
}

#[test]
fn a_trace_over_the_limit_keeps_each_contract_once() {
    let plan = plan_with_contracts(60);
    let mut converter = converter();
    let full = converter.convert(&plan, trace_id(), T0);
    assert!(spans(&full)[2..].iter().all(|task| event_names(task).contains(&"task.contract")));

    converter.spans.max_trace_bytes = ByteSize(full.trace_bytes - 1);
    let slim = converter.convert(&plan, trace_id(), T0);
    let slim_spans = spans(&slim);
    assert!(event_names(&slim_spans[1]).contains(&"task.contract"));
    assert!(slim_spans[2..].iter().all(|task| !event_names(task).contains(&"task.contract")));
    assert_eq!((slim.span_count, slim.warnings.len()), (full.span_count, 0));

    converter.spans.max_trace_bytes = ByteSize(1_000);
    let warned = converter.convert(&plan, trace_id(), T0);
    assert!(matches!(warned.warnings[..], [ConversionWarning::TraceTooLarge { limit: 1_000, .. }]));
}

/// Which of the two forms is tried first is a guess; which one is kept is not.
#[test]
fn contracts_stay_on_tasks_exactly_as_long_as_the_trace_fits() {
    let large = plan_with_contracts(90);
    let mut small = plan(large.artifacts.clone());
    let contract = json!({"max_lines": 1}).as_object().cloned();
    small.types.insert("dashboard".into(), TypeInfo { contract, ..TypeInfo::default() });
    // Spans below and above the usual size, so that the guess is wrong as well.
    for (plan, is_small) in [(small, true), (large, false)] {
        let with_limit = |limit: u64| {
            let mut converter = converter();
            converter.spans.max_trace_bytes = ByteSize(limit);
            converter.convert(&plan, trace_id(), T0)
        };
        let (whole, slim) = (with_limit(u64::MAX / 2), with_limit(1));
        let (most, least) = (whole.trace_bytes, slim.trace_bytes);
        assert!(least < most && (most < 90 * USUAL_TASK as u64) == is_small, "{least} {most}");
        for limit in [least / 2, least - 1, least, least.midpoint(most), most - 1, most, most * 2] {
            let expected = if limit >= most { &whole } else { &slim };
            assert_eq!(with_limit(limit).requests, expected.requests, "{least} {limit} {most}");
        }
    }
}

#[test]
fn the_limits_of_the_environment_are_obeyed_and_counted() {
    let mut first = artifact("a", "dashboard", "api");
    first.depends_on = vec![TaskId::new("a"), TaskId::new("b")];
    first.parameters.insert("long".into(), json!("x".repeat(500)));
    let plan = plan(vec![first, artifact("b", "dashboard", "api")]);
    let mut converter = converter();
    converter.limits = SpanLimits {
        attribute_count: Some(12),
        event_count: Some(1),
        link_count: Some(1),
        attribute_value_length: Some(100),
    };
    let conversion = converter.convert(&plan, trace_id(), T0);
    let spans = spans(&conversion);
    let task = spans.iter().find(|span| span.name == "a").expect("the task");
    assert_eq!((task.attributes.len(), task.events.len(), task.links.len()), (12, 1, 1));
    assert!(task.dropped_attributes_count > 0);
    assert_eq!((task.dropped_events_count, task.dropped_links_count), (3, 1));
}

#[test]
fn existing_artifacts_can_be_left_out() {
    let mut there = artifact("there", "dashboard", "api");
    there.status = Status::Exists;
    let mut waiting = artifact("waiting", "runbook", "api");
    waiting.depends_on = vec![TaskId::new("there")];
    let plan = plan(vec![there, waiting]);
    let mut converter = converter();
    converter.spans.include_existing = false;
    let conversion = converter.convert(&plan, trace_id(), T0);
    let spans = spans(&conversion);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["Project Observability Artifact Generation", "Runbook Artifacts", "waiting"]
    );
    assert!(spans[2].links.is_empty(), "there is no span to link to");
}

#[test]
fn an_empty_plan_is_an_epic_that_is_done() {
    let conversion = converter().convert(&plan(Vec::new()), trace_id(), T0);
    let spans = spans(&conversion);
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].status.as_ref().map(|status| status.code), Some(1));
}
