//! Properties of the converter as a whole, over any plan.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::base::ids::TaskId;
use crate::base::units::ByteSize;
use crate::converter::options::{GroupBy, RedactionConfig};
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
        project: Project {
            id: "p".into(),
            declared_id: None,
            name: "Project".into(),
            owner: None,
            epic: None,
        },
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

/// A plan like those of the real exporter, with contracts, rules and sources per type, rules per
/// artifact, and long values.
fn large_plan(count: usize) -> Plan {
    let own = |n: usize| Rule::from(&json!({"property": n, "why": "y".repeat(200)}));
    let shared = json!({"selectors": "s".repeat(400), "severity": "P1"});
    let artifacts = (0..count).map(|n| Artifact {
        derived_from: vec![own(n % 3)],
        parameters: [shared.clone(), json!({"own": format!("{n}-{}", "o".repeat(400))})]
            .iter()
            .flat_map(|it| it.as_object().cloned().unwrap_or_default())
            .collect(),
        depends_on: vec![TaskId::new(format!("a{}", n / 2))],
        status: [Status::Needed, Status::Exists, Status::Outdated][n % 3],
        ..artifact(&format!("a{n}"), "dashboard", "api")
    });
    let rules: Vec<Rule> =
        (0..4).map(|n| Rule::from(&json!({"property": n, "of": "x".repeat(200)}))).collect();
    let contract = json!({
        "expected_depth": "standard", "max_lines": 10, "fields": ["a", "b"],
        "completeness_markers": ["title", "panels"],
    });
    let sources = json!({"severity": "manifest.spec.business", "selectors": "manifest.spec.logs"});
    let info = TypeInfo {
        contract: contract.as_object().cloned(),
        rules,
        parameter_sources: sources.as_object().cloned(),
        ..TypeInfo::default()
    };
    let mut plan =
        Plan { types: [("dashboard".to_owned(), info)].into(), ..plan(artifacts.collect()) };
    plan.export.source_checksum = Some("c".repeat(64));
    plan
}

fn with_limit(plan: &Plan, limit: u64) -> Conversion {
    let mut converter = converter();
    converter.spans.max_trace_bytes = ByteSize(limit);
    converter.convert(plan, trace_id(), T0)
}

/// One conversion per slimming step, from nothing moved to everything.
fn ladder(plan: &Plan) -> Vec<Conversion> {
    let mut steps = vec![with_limit(plan, u64::MAX / 2)];
    while steps.len() < Slimming::LADDER.len() {
        let smaller = steps.last().expect("one").trace_bytes - 1;
        steps.push(with_limit(plan, smaller));
    }
    steps
}

fn steps_of(conversion: &Conversion) -> Vec<String> {
    let epic = &spans(conversion)[0];
    let listed = epic.attributes.iter().find(|it| it.key == "taskspan.slimmed");
    let listed = view::json(listed.and_then(|it| it.value.as_ref()));
    serde_json::from_value(listed).unwrap_or_default()
}

#[test]
fn each_step_moves_more_to_the_story_and_is_recorded() {
    let ladder = ladder(&large_plan(60));
    let names = ["shared", "contracts", "parameters", "bare"];
    for (step, conversion) in ladder.iter().enumerate() {
        assert_eq!(steps_of(conversion), names[..step]);
        assert_eq!(conversion.span_count, 62, "no span is left out");
        let warned = conversion.warnings.iter().map(ToString::to_string).collect::<String>();
        assert!(warned.contains(&names[..step].join(", ")), "{warned}");
        assert_eq!(conversion.warnings.len(), usize::from(step > 0));
    }
    let events = |step: usize, span: usize| -> Vec<String> {
        let mut names: Vec<_> =
            event_names(&spans(&ladder[step])[span]).into_iter().map(str::to_owned).collect();
        // A contract may have several parts.
        names.dedup_by(|name, before| name == before && name == "task.contract");
        names
    };
    let (created, contract) = ("task.created", "task.contract");
    let (intent, span_contract) = ("artifact.intent", "task.span_contract");
    let dependencies = "task.dependencies";
    for step in [0, 1] {
        assert_eq!(events(step, 2), [created, contract, dependencies, intent, span_contract]);
    }
    assert_eq!(events(2, 2), [created, dependencies]);
    assert_eq!(events(3, 2), [created, dependencies]);
    assert_eq!(events(4, 2), [""; 0]);
    let sources = "task.parameter_sources";
    assert_eq!(events(0, 1), [created, span_contract]);
    assert_eq!(events(1, 1), [created, contract, sources, span_contract]);
    let story = [created, contract, sources, intent, intent, span_contract];
    assert_eq!(events(2, 1), story);
    assert_eq!(events(3, 1).iter().filter(|it| *it == "task.parameters").count(), 1);
}

/// Moving the rules of all tasks to one story would make it too large for any request.
#[test]
fn no_step_makes_a_story_too_large_for_a_request() {
    let mut plan = large_plan(400);
    for (n, artifact) in plan.artifacts.iter_mut().enumerate() {
        artifact.derived_from = vec![Rule::from(&json!({"property": n, "why": "z".repeat(300)}))];
    }
    let mut converter = converter();
    converter.spans.max_request_bytes = ByteSize(64 << 10);
    for limit in [100_000, 900_000] {
        converter.spans.max_trace_bytes = ByteSize(limit);
        let conversion = converter.convert(&plan, trace_id(), T0);
        let largest = conversion.requests.iter().map(Bytes::len).max();
        assert!(largest <= Some(64 << 10), "{limit}: {largest:?}");
        assert_eq!(conversion.span_count, 402);
    }
}

/// The attributes that R2 requires stay on the task.
#[test]
fn a_task_keeps_its_attributes_to_the_end() {
    let ladder = ladder(&large_plan(60));
    let keys = |step: usize| -> HashSet<String> {
        spans(&ladder[step])[2].attributes.iter().map(|it| it.key.clone()).collect()
    };
    let (whole, bare) = (keys(0), keys(4));
    let mut gone: Vec<&String> = whole.difference(&bare).collect();
    gone.sort();
    assert_eq!(
        gone,
        [
            "artifact.parameters.selectors",
            "expected_output.completeness_markers",
            "expected_output.fields",
        ]
    );
    let spans = spans(&ladder[4]);
    // A value that only this task has stays whole.
    let own = view::text_of(&spans[2].attributes, "artifact.parameters.own").expect("a value");
    assert!(own.len() > 400 && !own.ends_with('…'), "{own}");
    // The shared value is stored whole, once.
    let moved = spans[1].events.iter().find(|it| it.name == "task.parameters").expect("moved");
    let key = "artifact.parameters.selectors";
    assert_eq!(view::text_of(&moved.attributes, key).map(str::len), Some(400));
}

/// Skipping a step is a heuristic; it must not change which step is chosen.
#[test]
fn the_first_step_that_fits_is_taken() {
    for count in [60, 600] {
        let plan = large_plan(count);
        let ladder = ladder(&plan);
        for (step, conversion) in ladder.iter().enumerate() {
            let fits = with_limit(&plan, conversion.trace_bytes);
            assert_eq!(fits.requests, conversion.requests, "{count} {step}");
        }
        let least = ladder.last().expect("one").trace_bytes;
        let warned = with_limit(&plan, least / 2);
        assert!(spans(&warned) == spans(&ladder[4]), "{count}");
        let [ConversionWarning::TraceTooLarge { fit, artifacts, .. }] = warned.warnings[..] else {
            panic!("{:?}", warned.warnings)
        };
        assert_eq!(artifacts, count as u64);
        // Only large plans get small requests: this plan is a single request, which does not fit.
        assert_eq!(fit, 0);
    }
}

/// A backend drops the request that exceeds its limit as a whole, and every later one.
#[test]
fn beyond_the_limit_requests_are_small_and_the_warning_counts_them() {
    let plan = large_plan(3_000);
    let limit = 1 << 20;
    let conversion = with_limit(&plan, limit);
    let [ConversionWarning::TraceTooLarge { bytes, fit, artifacts, .. }] = conversion.warnings[..]
    else {
        panic!("{:?}", conversion.warnings)
    };
    assert_eq!(artifacts, 3_000);
    assert!(conversion.requests.iter().all(|request| request.len() <= SMALL_REQUEST));
    let kept = fit * bytes / artifacts;
    assert!((limit / 2..limit).contains(&kept), "{fit} artifacts are about {kept} bytes");
}

/// A rule of some artifacts names them. A rule of all artifacts, and one of the type, names none.
#[test]
fn a_rule_on_the_story_names_its_artifacts() {
    let mut plan = large_plan(60);
    let of_all = Rule::from(&json!({"property": "of all"}));
    plan.artifacts.iter_mut().for_each(|it| it.derived_from.push(of_all.clone()));
    let story = &spans(&ladder(&plan)[2])[1];
    let contracts = story.events.iter().filter(|it| it.name == "task.contract");
    let arrays = contracts.filter_map(|it| view::text_of(&it.attributes, "derivation_rules"));
    let rules: Vec<serde_json::Value> = arrays
        .flat_map(|array| serde_json::from_str::<Vec<serde_json::Value>>(array).expect("rules"))
        .collect();
    let mut named: Vec<(String, i64)> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.get("artifact_ids").is_some()) {
        let ids = rule["artifact_ids"].as_array().expect("ids").iter();
        named.extend(ids.map(|id| {
            (id.as_str().expect("an id").to_owned(), rule["property"].as_i64().expect("one"))
        }));
    }
    let mut expected: Vec<_> = (0..60).map(|n| (format!("a{n}"), n % 3)).collect();
    named.sort();
    expected.sort();
    assert_eq!(named, expected);
    assert_eq!(rules.iter().filter(|rule| rule["property"] == "of all").count(), 1);
    assert_eq!(rules.iter().filter(|rule| rule.get("of").is_some()).count(), 4);
}

/// In a bare trace, the lists of the output contract are attributes of the story's contract.
#[test]
fn the_story_of_bare_tasks_has_their_lists() {
    let ladder = ladder(&large_plan(60));
    let story = &spans(&ladder[4])[1];
    let contract = story.events.iter().find(|it| it.name == "task.contract").expect("a contract");
    for key in ["expected_output.completeness_markers", "expected_output.fields"] {
        assert!(contract.attributes.iter().any(|it| it.key == key), "{key}");
    }
}

#[test]
fn open_tasks_come_before_done_tasks() {
    let conversion = with_limit(&large_plan(60), u64::MAX / 2);
    let order: Vec<String> = spans(&conversion)
        .iter()
        .map(|span| {
            let text = |key| view::text_of(&span.attributes, key).unwrap_or_default().to_owned();
            let kind = text("task.type");
            if kind == "task" { text("task.status") } else { kind }
        })
        .collect();
    let expected = [vec!["epic", "story"], vec!["todo"; 40], vec!["done"; 20]].concat();
    assert_eq!(order, expected);
}

#[test]
fn span_limits_are_applied_and_dropped_items_are_counted() {
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
