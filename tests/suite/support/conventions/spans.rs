//! Checks one span: its ids, its relations to other spans, and each attribute.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

use super::events;
use super::export::{Export, Task};
use super::ids::{hex, span_id};
use super::values::{Attributes, Val, parameter};
use crate::support::clock;

/// The kind of a span, with what it covers.
pub enum Kind<'a> {
    Epic,
    Story { kind: &'a str, tasks: Vec<&'a Task> },
    Task(&'a Task),
}

/// The expected span.
pub struct Expected<'a> {
    pub kind: Kind<'a>,
    pub task_id: String,
    pub parent_task_id: Option<String>,
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    parent_span_id: Vec<u8>,
    name: String,
    /// The tasks that it covers: all, those of its type, or itself.
    pub tasks: Vec<&'a Task>,
}

impl<'a> Expected<'a> {
    /// Computes the expected span from the export. `parent` is the epic of a story, or the story of
    /// a task.
    pub fn new(
        export: &'a Export,
        trace_id: [u8; 16],
        kind: Kind<'a>,
        parent: Option<&Expected<'_>>,
    ) -> Self {
        let project = &export.project_id;
        let (task_id, name, tasks) = match &kind {
            Kind::Epic => (
                format!("{project}-artifact-generation"),
                format!("{} Observability Artifact Generation", export.project_name),
                export.tasks.iter().collect(),
            ),
            Kind::Story { kind, tasks } => (
                format!("{project}-{kind}-artifacts"),
                format!("{} Artifacts", pascal_case(kind)),
                tasks.clone(),
            ),
            Kind::Task(task) => (task.id.clone(), task.id.clone(), vec![*task]),
        };
        Self {
            span_id: span_id(&trace_id, type_name(&kind), &task_id),
            parent_task_id: parent.map(|parent| parent.task_id.clone()),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_id.to_vec()),
            trace_id,
            kind,
            task_id,
            name,
            tasks,
        }
    }

    /// Returns the span's name in messages.
    pub fn place(&self) -> String {
        format!("{} {:?}", self.task_type(), self.task_id)
    }

    /// Returns the value of `task.type`.
    pub fn task_type(&self) -> &'static str {
        type_name(&self.kind)
    }

    /// Returns the artifact type. Empty for an epic.
    pub fn artifact_type(&self) -> &str {
        match &self.kind {
            Kind::Epic => "",
            Kind::Story { kind, .. } => kind,
            Kind::Task(task) => &task.kind,
        }
    }

    /// Returns how many of its tasks have this status.
    pub fn count(&self, status: &str) -> usize {
        self.tasks.iter().filter(|task| task.status == status).count()
    }

    /// Whether no task is needed or outdated. A single task is complete only if it exists.
    pub fn is_complete(&self) -> bool {
        match &self.kind {
            Kind::Task(task) => task.status == "exists",
            _ => self.count("needed") + self.count("outdated") == 0,
        }
    }

    fn task_status(&self) -> &'static str {
        match &self.kind {
            Kind::Task(task) if task.status == "skipped" => "cancelled",
            _ if self.is_complete() => "done",
            _ => "todo",
        }
    }

    fn percent_complete(&self) -> f64 {
        match self.tasks.len() {
            0 => 100.0,
            total => 100.0 * self.count("exists") as f64 / total as f64,
        }
    }

    /// Returns everything that is wrong with a received span. `t0` is the start of the epic in ns
    /// since 1970, and `steps` is the number of slimming steps.
    pub fn check(&self, export: &Export, span: &Span, t0: u64, steps: usize) -> Vec<String> {
        let mut bag = Attributes::new(self.place(), &span.attributes);
        self.check_frame(&mut bag, span);
        self.check_common(&mut bag, export);
        match &self.kind {
            Kind::Epic => self.check_epic(&mut bag, export, t0),
            Kind::Story { .. } => self.check_story(&mut bag, export),
            Kind::Task(task) => self.check_task(&mut bag, export, task, steps),
        }
        let listed: Option<BTreeSet<String>> = match bag.take("taskspan.truncated") {
            None => Some(BTreeSet::new()),
            Some(Val::List(keys)) if !keys.is_empty() => {
                keys.iter().map(|key| key.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        let (mut faults, mut cut) = bag.finish();
        faults.extend(self.check_links(export, span));

        let mut events = events::check(self, export, span, steps);
        faults.append(&mut events.faults);
        cut.extend(events.cut);
        match listed {
            None => faults.push(format!("{}: a malformed taskspan.truncated", self.place())),
            Some(listed) => {
                for key in cut.difference(&listed) {
                    faults.push(format!("{}: {key} was cut and not listed", self.place()));
                }
                for key in listed.difference(&cut).filter(|key| !events.may_be_cut.contains(*key)) {
                    faults.push(format!("{}: {key} is listed and not cut", self.place()));
                }
            }
        }
        faults
    }

    fn check_frame(&self, bag: &mut Attributes, span: &Span) {
        if span.name != self.name {
            bag.fault(format!("its name is {:?}, expected {:?}", span.name, self.name));
        }
        if span.parent_span_id != self.parent_span_id {
            bag.fault(format!("its parent is {:?}", hex(&span.parent_span_id)));
        }
        if span.kind != SpanKind::Internal as i32 {
            bag.fault(format!("its kind is {}", span.kind));
        }
        if span.end_time_unix_nano < span.start_time_unix_nano {
            bag.fault("it ends before it starts");
        }
        let status = span.status.clone().unwrap_or_default();
        let code = if self.is_complete() { StatusCode::Ok } else { StatusCode::Unset };
        if status.code != code as i32 || !status.message.is_empty() {
            bag.fault(format!("its status is {status:?}, expected {code:?}"));
        }
        let dropped =
            [span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count];
        if dropped != [0, 0, 0] {
            bag.fault(format!("dropped attributes, events, links: {dropped:?}"));
        }
    }

    fn check_common(&self, bag: &mut Attributes, export: &Export) {
        bag.expect("project.id", export.project_id.as_str());
        bag.expect("task.id", self.task_id.as_str());
        bag.expect("task.type", self.task_type());
        let title = if let Kind::Task(task) = &self.kind { &task.name } else { &self.name };
        bag.expect("task.title", title.as_str());
        bag.expect("task.status", self.task_status());
        bag.expect("task.phase", "EXPORT_CONTRACT");
        bag.expect_if_known("task.parent_id", self.parent_task_id.as_deref());
        bag.expect("task.percent_complete", Val::Double(self.percent_complete()));
        let (count, completed) = match &self.kind {
            Kind::Task(_) => (0, 0),
            _ => (self.tasks.len(), self.count("exists")),
        };
        bag.expect("task.subtask_count", count);
        bag.expect("task.subtask_completed", completed);
    }

    fn check_epic(&self, bag: &mut Attributes, export: &Export, t0: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let seconds = t0 / 1_000_000_000;
        if seconds > now || now - seconds > 600 {
            bag.fault(format!("it starts at {t0}, which is not the time of emission"));
        }
        let int = |figure: f64| Val::Int(figure as i64);
        let total = |camel, snake| export.coverage(camel, snake).map(int);
        bag.expect_if_known("coverage.total_required", total("totalRequired", "total_required"));
        bag.expect_if_known("coverage.total_existing", total("totalExisting", "total_existing"));
        bag.expect("coverage.total_gaps", export.gap_count);
        bag.expect("coverage.total_artifacts", export.tasks.len());
        bag.expect_if_known("project.epic", export.epic.as_deref());
        let percent = export.coverage("overallCoverage", "overall_coverage");
        bag.expect_if_known("coverage.percent", percent.map(Val::Double));

        let (project, stamp) = (&export.project_id, clock::compact_timestamp(seconds));
        bag.expect("export.id", format!("export-{project}-{stamp}").as_str());
        bag.expect_if_known("export.source_checksum", export.source_checksum.as_deref());
        for key in [
            "artifact_manifest_checksum",
            "project_context_checksum",
            "generated_at",
            "schema_version",
            "generation_profile",
        ] {
            bag.expect_if_known(&format!("export.{key}"), export.text(key).as_deref());
        }
        let manifest = bag.take_text("export.manifest").unwrap_or_default();
        // `events::steps` checks its value.
        bag.take("taskspan.slimmed");
        if !export.manifest_states.contains(&manifest.as_str()) {
            let states = export.manifest_states;
            bag.fault(format!("export.manifest is {manifest:?}, expected {states:?}"));
        }
    }

    fn check_story(&self, bag: &mut Attributes, export: &Export) {
        bag.expect("artifact.type", self.artifact_type());
        bag.expect("artifact.gap_count", self.count("needed"));
        bag.expect("artifact.total_count", self.tasks.len());
        self.check_contract(bag, export, &["max_lines"]);
    }

    fn check_task(&self, bag: &mut Attributes, export: &Export, task: &Task, steps: usize) {
        bag.expect("artifact.id", task.id.as_str());
        bag.expect("artifact.type", task.kind.as_str());
        bag.expect("artifact.target", task.target.as_str());
        bag.expect("artifact.priority", task.priority.as_str());
        bag.expect("artifact.status", task.status.as_str());
        bag.expect("artifact.depends_on", Val::strings(&task.depends_on));
        bag.expect_if_known("artifact.output_path", task.output_path.as_deref());
        bag.expect_if_known("artifact.existing_path", task.existing_path.as_deref());
        bag.expect_if_known("task.mapped_id", task.mapped_id.as_deref());
        if task.entries > 1 {
            bag.expect("artifact.duplicate_count", task.entries);
        }
        if !task.unresolved.is_empty() {
            bag.expect("artifact.parameters_unresolved", Val::strings(&task.unresolved));
        }
        for (key, value) in &task.parameters {
            let name = format!("artifact.parameters.{key}");
            // From the third step on, the story may have a long value in place of the task.
            if steps > 2 && value.to_string().len() > 200 {
                bag.take(&name);
                continue;
            }
            bag.expect_if_known(&name, parameter(key, value));
        }
        // From the fourth step on, a task has no lists; they are in the contract of its story.
        let keys = ["max_lines", "max_tokens", "completeness_markers", "fields"];
        self.check_contract(bag, export, &keys[..if steps < 4 { 4 } else { 2 }]);
    }

    fn check_contract(&self, bag: &mut Attributes, export: &Export, keys: &[&str]) {
        let Some(contract) = export.contract(self.artifact_type()) else {
            return;
        };
        let known = |key: &str| contract.get(key).and_then(|value| parameter("", value));
        bag.expect_if_known("expected_output.depth", known("expected_depth"));
        for key in keys {
            bag.expect_if_known(&format!("expected_output.{key}"), known(key));
        }
    }

    /// Checks that each dependency that is a task has exactly one link, to the computed span id.
    fn check_links(&self, export: &Export, span: &Span) -> Vec<String> {
        let mut faults = Vec::new();
        let mut due: BTreeSet<&str> = match &self.kind {
            Kind::Task(task) => task.depends_on.iter().map(String::as_str).collect(),
            _ => BTreeSet::new(),
        };
        due.retain(|id| export.has_task(id));
        for (index, link) in span.links.iter().enumerate() {
            let place = format!("{}, link {index}", self.place());
            let mut bag = Attributes::new(place, &link.attributes);
            bag.expect("link.type", "depends_on");
            let target = bag.take_text("task.id").unwrap_or_default();
            if !due.remove(target.as_str()) {
                bag.fault(format!("no edge to {target:?}, or not the only link for it"));
            }
            let id = span_id(&self.trace_id, "task", &target);
            if link.trace_id != self.trace_id || link.span_id != id {
                bag.fault(format!("it does not lead to the span of {target:?}"));
            }
            faults.extend(bag.finish().0);
        }
        faults.extend(due.iter().map(|id| format!("{}: no link to {id:?}", self.place())));
        faults
    }
}

fn type_name(kind: &Kind<'_>) -> &'static str {
    match kind {
        Kind::Epic => "epic",
        Kind::Story { .. } => "story",
        Kind::Task(_) => "task",
    }
}

fn pascal_case(kind: &str) -> String {
    let words = kind.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    };
    words.map(capital).collect()
}
