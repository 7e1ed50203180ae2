//! Checks the events of a span: names, attributes, and the JSON in them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::Validator;
use opentelemetry_proto::tonic::trace::v1::{Span, span::Event};
use prost::Message;
use serde_json::{Map, Value, json};

use super::export::{Export, Task};
use super::ids::hex;
use super::rules;
use super::spans::{Expected, Kind};
use super::values::{Attributes, LIMIT, Val};

static INTENT: LazyLock<Validator> =
    LazyLock::new(|| schema(include_str!("../../../fixtures/schemas/artifact-intent.schema.json")));
static SPAN_CONTRACT: LazyLock<Validator> = LazyLock::new(|| {
    schema(include_str!("../../../fixtures/schemas/task-span-contract.schema.json"))
});

fn schema(text: &str) -> Validator {
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

/// A trace whose estimated size is above this is slimmed, in bytes.
const MAX_TRACE: f64 = 4.5e6;

/// The results of a check.
#[derive(Default)]
pub struct Findings {
    pub faults: Vec<String>,
    pub cut: BTreeSet<String>,
    /// Keys that may be listed as truncated, although the check cannot see the loss.
    pub may_be_cut: BTreeSet<String>,
}

impl Findings {
    /// Ends the check of one set of attributes and adds its results.
    pub fn end(&mut self, bag: Attributes) {
        let (faults, cut) = bag.finish();
        self.faults.extend(faults);
        self.cut.extend(cut);
    }
}

/// Returns the number of slimming steps that the epic names, and reports a wrong order. Also
/// reports a trace that was slimmed without need, or not slimmed in spite of its size. The size is
/// estimated, so there is a tolerance.
pub fn steps(export: &Export, epic: &Span, spans: &[Span], faults: &mut Vec<String>) -> usize {
    let listed = epic.attributes.iter().find(|it| it.key == "taskspan.slimmed");
    let mut bag = Attributes::new("the epic".to_owned(), listed.map_or(&[], std::slice::from_ref));
    let listed = match bag.take("taskspan.slimmed") {
        None => Vec::new(),
        Some(Val::List(steps)) if !steps.is_empty() => steps,
        Some(other) => {
            faults.push(format!("taskspan.slimmed is {other:?}"));
            Vec::new()
        }
    };
    let known = ["shared", "contracts", "parameters", "bare"];
    if !listed.iter().map(Val::as_str).eq(known.iter().take(listed.len()).copied().map(Some)) {
        faults.push(format!("taskspan.slimmed is {listed:?}"));
    }
    let size = spans.iter().map(Message::encoded_len).sum::<usize>();
    let moved: usize = export.tasks.iter().map(|task| rules::size(export, task)).sum();
    if listed.is_empty() && size as f64 > 1.1 * MAX_TRACE && moved > 0 {
        faults.push(format!("not slimmed, although it has {size} bytes"));
    }
    // The ids, times and attributes of a slimmed trace take at least as much space as the moved
    // data.
    if !listed.is_empty() && ((2 * size + 3 * moved) as f64) < MAX_TRACE {
        faults.push(format!("slimmed, although it has {size} bytes and {moved} were moved"));
    }
    listed.len()
}

/// Checks the events of one span. `steps` is the number of slimming steps.
pub fn check(expected: &Expected<'_>, export: &Export, span: &Span, steps: usize) -> Findings {
    let mut findings = Findings::default();
    let known = [
        "task.created",
        "task.contract",
        "task.dependencies",
        "artifact.intent",
        "task.span_contract",
        "task.parameter_sources",
        "task.parameters",
    ];
    for event in &span.events {
        let place = format!("{}, event {:?}", expected.place(), event.name);
        if !known.contains(&event.name.as_str()) {
            findings.faults.push(format!("{place}: not in the conventions"));
        }
        if event.time_unix_nano == 0 || event.dropped_attributes_count != 0 {
            findings.faults.push(format!("{place}: without a time, or with dropped attributes"));
        }
    }
    let task = if let Kind::Task(task) = &expected.kind { Some(*task) } else { None };
    let depends = task.is_some_and(|task| !task.depends_on.is_empty());
    let intent = task.and_then(|task| match task.status.as_str() {
        "needed" => Some("create"),
        "outdated" => Some("update"),
        _ => None,
    });
    let is_task = task.is_some();
    if let Some(bag) = findings.single(expected, span, "task.created", !is_task || steps < 4) {
        check_created(bag, expected, task, &mut findings);
    }
    if let Some(bag) = findings.single(expected, span, "task.span_contract", !is_task || steps < 2)
    {
        check_span_contract(bag, expected, export, steps, &mut findings);
    }
    if let Some(bag) = findings.single(expected, span, "task.dependencies", depends && steps < 4) {
        check_dependencies(bag, export, task.unwrap(), &mut findings);
    }
    if is_task {
        let due = intent.is_some() && steps < 2;
        if let Some(bag) = findings.single(expected, span, "artifact.intent", due) {
            check_intent(bag, export, task.unwrap(), intent.unwrap(), steps, &mut findings);
        }
    }
    check_moved_events(expected, export, span, steps, &mut findings);
    let contracts: Vec<Attributes> =
        named(span, "task.contract").into_iter().map(|event| bag_of(expected, event)).collect();
    match (&expected.kind, steps) {
        (Kind::Task(task), 0) => {
            rules::check(&expected.place(), export, task, contracts, &mut findings);
        }
        (Kind::Task(task), 1) => {
            rules::check_own(&expected.place(), export, task, contracts, &mut findings);
        }
        (Kind::Story { kind, tasks }, 1..) => {
            rules::check_moved(&expected.place(), export, kind, tasks, contracts, &mut findings);
        }
        _ if contracts.is_empty() => {}
        _ => findings.faults.push(format!("{}: task.contract does not belong", expected.place())),
    }
    findings
}

/// Checks the events that a story has in place of its tasks after slimming.
fn check_moved_events(
    expected: &Expected<'_>,
    export: &Export,
    span: &Span,
    steps: usize,
    findings: &mut Findings,
) {
    let place = expected.place();
    let kind = if let Kind::Story { kind, .. } = &expected.kind { Some(*kind) } else { None };
    let due = |step: usize| kind.is_some() && steps >= step;
    let sources = kind.and_then(|kind| export.entry("artifact_types", kind));
    let sources = sources.and_then(|it| it["parameter_sources"].as_object());
    let sources = sources.filter(|it| !it.is_empty() && due(1));
    if let Some(mut bag) =
        findings.single(expected, span, "task.parameter_sources", sources.is_some())
    {
        for (key, source) in sources.unwrap() {
            bag.expect_if_known(key, super::values::parameter("", source));
        }
        findings.end(bag);
    }
    if !due(3) && !named(span, "task.parameters").is_empty() {
        findings.faults.push(format!("{place}: task.parameters does not belong"));
    }
    if kind.is_none() && matches!(expected.kind, Kind::Task(_)) {
        return;
    }
    let counts = [("create", "needed"), ("update", "outdated")];
    let counts = counts.map(|(intent, status)| (intent, expected.count(status)));
    let wanted: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0 && due(2)).collect();
    let intents = named(span, "artifact.intent");
    if intents.len() != wanted.len() {
        let (has, due) = (intents.len(), wanted.len());
        findings.faults.push(format!("{place}: {has} events artifact.intent, expected {due}"));
    }
    for (event, (intent, count)) in intents.into_iter().zip(wanted) {
        let mut bag = bag_of(expected, event);
        bag.expect("intent", intent);
        bag.expect("artifact_id", expected.task_id.as_str());
        bag.expect("artifact_type", expected.artifact_type());
        bag.expect("artifact_count", count);
        let wanted = json!({
            "schema_version": "v1",
            "artifact_id": expected.task_id,
            "artifact_type": expected.artifact_type(),
            "intent": intent,
            "owner": export.owner.as_ref().unwrap_or(&export.project_id),
        });
        check_json(&mut bag, &INTENT, wanted, &[], &json!({}), findings);
        findings.end(bag);
    }
}

fn named<'a>(span: &'a Span, name: &str) -> Vec<&'a Event> {
    span.events.iter().filter(|event| event.name == name).collect()
}

fn bag_of(expected: &Expected<'_>, event: &Event) -> Attributes {
    Attributes::new(format!("{}, {}", expected.place(), event.name), &event.attributes)
}

impl Findings {
    /// Returns the attributes of the one event of this name, if it is due. Reports any other number
    /// of events.
    fn single(
        &mut self,
        expected: &Expected<'_>,
        span: &Span,
        name: &str,
        due: bool,
    ) -> Option<Attributes> {
        let events = named(span, name);
        if events.len() != usize::from(due) {
            let (place, count) = (expected.place(), events.len());
            self.faults.push(format!("{place}: {count} events {name}, due: {due}"));
        }
        events.first().filter(|_| due).map(|event| bag_of(expected, event))
    }
}

fn check_created(
    mut bag: Attributes,
    expected: &Expected<'_>,
    task: Option<&Task>,
    findings: &mut Findings,
) {
    bag.expect("source", "contextcore.manifest.export");
    bag.expect("task.type", expected.task_type());
    if let Some(task) = task {
        bag.expect("artifact_type", task.kind.as_str());
        bag.expect("target", task.target.as_str());
        bag.expect("priority", task.priority.as_str());
        bag.expect("status", task.status.as_str());
    }
    findings.end(bag);
}

fn check_dependencies(mut bag: Attributes, export: &Export, task: &Task, out: &mut Findings) {
    bag.expect("depends_on", Val::strings(&task.depends_on));
    bag.expect("dependency_count", task.depends_on.len());
    let unresolved = task.depends_on.iter().filter(|id| !export.has_task(id));
    let unresolved: BTreeSet<&String> = unresolved.collect();
    let listed = match bag.take("unresolved") {
        Some(Val::List(ids)) => ids,
        None => Vec::new(),
        Some(other) => vec![other],
    };
    // The conventions do not define whether a repeated edge is listed once or twice.
    let distinct: BTreeSet<&str> = listed.iter().filter_map(Val::as_str).collect();
    if !distinct.iter().eq(unresolved.iter()) {
        bag.fault(format!("unresolved is {listed:?}, expected {unresolved:?}"));
    }
    out.end(bag);
}

fn check_intent(
    mut bag: Attributes,
    export: &Export,
    task: &Task,
    intent: &str,
    steps: usize,
    findings: &mut Findings,
) {
    bag.expect("intent", intent);
    bag.expect("artifact_id", task.id.as_str());
    bag.expect("artifact_type", task.kind.as_str());
    let owner_parameter = task.parameters.get("owner").and_then(Value::as_str);
    let owner = export.owner.as_deref();
    let owner = owner.or(owner_parameter.filter(|owner| !owner.is_empty()));
    let declared =
        export.entry("artifact_types", &task.kind).map(|kind| &kind["parameter_sources"]);
    let declared =
        declared.filter(|sources| steps == 0 && sources.as_object().is_some_and(|s| !s.is_empty()));
    let wanted = json!({
        "schema_version": "v1",
        "artifact_id": task.id,
        "artifact_type": task.kind,
        "intent": intent,
        "owner": owner.unwrap_or(&export.project_id),
        "parameter_sources": declared.unwrap_or(&json!({"source": "onboarding-metadata"})),
    });
    let optional = json!({
        "task_id": task.id,
        "output_convention": {"output_path": task.output_path},
        "acceptance_criteria": export.completeness_markers(&task.kind),
    });
    check_json(&mut bag, &INTENT, wanted, &["parameter_sources"], &optional, findings);
    findings.end(bag);
}

fn check_span_contract(
    mut bag: Attributes,
    expected: &Expected<'_>,
    export: &Export,
    steps: usize,
    findings: &mut Findings,
) {
    bag.expect("schema_version", "v1");
    let status = if expected.is_complete() { "completed" } else { "not_started" };
    let checksum = |key: &str| {
        let of_source = || export.source_checksum.clone().filter(|_| key == "source_checksum");
        Some((key.to_owned(), json!(of_source().or_else(|| export.text(key))?)))
    };
    let checksums: Map<String, Value> =
        ["source_checksum", "artifact_manifest_checksum", "project_context_checksum"]
            .into_iter()
            .filter_map(checksum)
            .collect();
    let metrics =
        json!({"gap_count": expected.count("needed"), "artifact_count": expected.tasks.len()});
    let mut wanted = json!({
        "schema_version": "v1",
        "project_id": export.project_id,
        "trace_id": hex(&expected.trace_id),
        "span_id": hex(&expected.span_id),
        "task_id": expected.task_id,
        "phase": "EXPORT_CONTRACT",
        "status": status,
        "metrics": metrics,
    });
    if let Some(parent) = &expected.parent_task_id {
        wanted["parent_task_id"] = json!(parent);
    }
    let is_shared = matches!(expected.kind, Kind::Task(_)) && steps > 0;
    if !checksums.is_empty() && !is_shared {
        wanted["checksums"] = checksums.into();
    }
    let markers = export.completeness_markers(expected.artifact_type());
    if matches!(expected.kind, Kind::Task(_)) && !markers.is_empty() && !is_shared {
        wanted["acceptance_criteria"] = json!(markers);
    }
    let optional = json!({"acceptance_criteria": markers});
    check_json(&mut bag, &SPAN_CONTRACT, wanted, &["acceptance_criteria"], &optional, findings);
    findings.end(bag);
}

/// Checks a JSON contract: it is valid, has the values of `wanted`, and differs nowhere from
/// `optional`. The keys in `may_shrink` may be incomplete if the whole contract is above the limit.
fn check_json(
    bag: &mut Attributes,
    schema: &Validator,
    wanted: Value,
    may_shrink: &[&str],
    optional: &Value,
    findings: &mut Findings,
) {
    let text = bag.take_text("contract").unwrap_or_default();
    let Ok(Value::Object(contract)) = serde_json::from_str(&text) else {
        bag.fault(format!("contract is not a JSON object: {text:?}"));
        return;
    };
    let contract = Value::Object(contract);
    for error in schema.iter_errors(&contract) {
        bag.fault(format!("contract{}: {error}", error.instance_path()));
    }
    let mut whole = contract.clone();
    let mut shrunk = false;
    for (key, value) in wanted.as_object().unwrap() {
        if contract.get(key) != Some(value) {
            whole[key] = value.clone();
            if may_shrink.contains(&key.as_str()) {
                shrunk = true;
            } else {
                let actual = contract.get(key);
                bag.fault(format!("contract: {key} is {actual:?}, expected {value}"));
            }
        }
    }
    for (key, value) in optional.as_object().unwrap() {
        let actual = contract.get(key).filter(|_| wanted.get(key).is_none());
        let differs = |actual: &Value| match (actual, value) {
            (Value::Object(actual), Value::Object(value)) => {
                value.iter().any(|(key, value)| actual.get(key).is_some_and(|a| a != value))
            }
            (actual, value) => actual != value,
        };
        if let Some(actual) = actual.filter(|actual| differs(actual)) {
            bag.fault(format!("contract: {key} is {actual}, expected {value}"));
        }
    }
    if !shrunk {
        findings.may_be_cut.insert("contract".to_owned());
    } else if whole.to_string().len() > LIMIT {
        findings.cut.insert("contract".to_owned());
    } else {
        bag.fault(format!("contract: {may_shrink:?} incomplete without need: {text}"));
    }
}
