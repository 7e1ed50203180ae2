//! The events of a span: which ones, with which attributes, and the JSON they carry.

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

/// A trace estimated over this gives up the contract events of its tasks.
const MAX_TRACE: f64 = 4.5e6;

#[derive(Default)]
pub struct Findings {
    pub faults: Vec<String>,
    pub cut: BTreeSet<String>,
    /// Keys that may be listed as cut although no loss can be seen from here.
    pub may_be_cut: BTreeSet<String>,
}

impl Findings {
    pub fn end(&mut self, bag: Attributes) {
        let (faults, cut) = bag.finish();
        self.faults.extend(faults);
        self.cut.extend(cut);
    }
}

/// Whether the contract events moved to the stories. Estimates differ, hence the tolerance.
pub fn is_slimmed(
    export: &Export,
    expected: &[Expected<'_>],
    spans: &[Span],
    faults: &mut Vec<String>,
) -> bool {
    let is_story = |span: &&Span| {
        let owner = expected.iter().find(|one| one.span_id == span.span_id.as_slice());
        owner.is_some_and(|one| matches!(one.kind, Kind::Story { .. }))
    };
    let size: usize = spans.iter().map(Message::encoded_len).sum();
    let slimmed = spans.iter().filter(is_story).any(|s| !named(s, "task.contract").is_empty());
    let moved: usize = export.tasks.iter().map(|task| rules::size(export, task)).sum();
    let estimate = if slimmed { size + moved } else { size } as f64;
    if slimmed && estimate < 0.9 * MAX_TRACE {
        faults.push(format!("slimmed, although it has some {estimate} bytes in all"));
    }
    if !slimmed && estimate > 1.1 * MAX_TRACE && moved > 0 {
        faults.push(format!("not slimmed, although it has {estimate} bytes"));
    }
    slimmed
}

pub fn check(expected: &Expected<'_>, export: &Export, span: &Span, slimmed: bool) -> Findings {
    let mut findings = Findings::default();
    let known = [
        "task.created",
        "task.contract",
        "task.dependencies",
        "artifact.intent",
        "task.span_contract",
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
    if let Some(bag) = findings.single(expected, span, "task.created", true) {
        check_created(bag, expected, task, &mut findings);
    }
    if let Some(bag) = findings.single(expected, span, "task.span_contract", true) {
        check_span_contract(bag, expected, export, &mut findings);
    }
    if let Some(bag) = findings.single(expected, span, "task.dependencies", depends) {
        check_dependencies(bag, export, task.unwrap(), &mut findings);
    }
    if let Some(bag) = findings.single(expected, span, "artifact.intent", intent.is_some()) {
        check_intent(bag, export, task.unwrap(), intent.unwrap(), &mut findings);
    }
    let contracts: Vec<Attributes> =
        named(span, "task.contract").into_iter().map(|event| bag_of(expected, event)).collect();
    match (&expected.kind, slimmed) {
        (Kind::Task(task), false) => {
            rules::check(&expected.place(), export, task, contracts, &mut findings);
        }
        (Kind::Story { kind, tasks }, true) => {
            rules::check_moved(&expected.place(), export, kind, tasks, contracts, &mut findings);
        }
        _ if contracts.is_empty() => {}
        _ => findings.faults.push(format!("{}: task.contract does not belong", expected.place())),
    }
    findings
}

fn named<'a>(span: &'a Span, name: &str) -> Vec<&'a Event> {
    span.events.iter().filter(|event| event.name == name).collect()
}

fn bag_of(expected: &Expected<'_>, event: &Event) -> Attributes {
    Attributes::new(format!("{}, {}", expected.place(), event.name), &event.attributes)
}

impl Findings {
    /// The one event of this name, if it is due and there.
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
    // Whether a repeated edge is unresolved once or twice is not laid down.
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
    let declared = declared.filter(|sources| sources.as_object().is_some_and(|s| !s.is_empty()));
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
    if !checksums.is_empty() {
        wanted["checksums"] = checksums.into();
    }
    let markers = export.completeness_markers(expected.artifact_type());
    if matches!(expected.kind, Kind::Task(_)) && !markers.is_empty() {
        wanted["acceptance_criteria"] = json!(markers);
    }
    let optional = json!({"acceptance_criteria": markers});
    check_json(&mut bag, &SPAN_CONTRACT, wanted, &["acceptance_criteria"], &optional, findings);
    findings.end(bag);
}

/// A JSON contract: valid, as wanted, and what is not demanded still right when it is there.
/// The keys that `may_shrink` may lose something when the whole is over the limit.
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
