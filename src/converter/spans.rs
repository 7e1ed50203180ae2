//! Epic, stories and tasks as OTLP spans.
//!
//! ```text
//! epic      t0 ─────────────────────────────▶ end of the last task
//! story        ├ first task … last task ┤
//! task         starts at t0 + rank µs and lasts 1 µs; rank: position in build order, from 1
//! ```

use std::collections::{BTreeSet, HashMap};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::Link;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::artifact_types::{ArtifactType, ArtifactTypes};
use super::attributes::{count, double, int, string};
use super::context::{Context, PHASE, SpanTotals};
use super::contracts::{self, SpanContract};
use super::hierarchy::{Hierarchy, Story, hierarchy};
use super::moved::{self, SharedParameters};
use super::redact::Redactor;
use super::slim::Slimming;
use super::span_builder::SpanBuilder;
use super::{Converter, events, order, parameters};
use crate::base::clock::UnixNanos;
use crate::base::ids::{TaskId, TaskType, TraceId};
use crate::plan::{Artifact, Plan, Status};

/// Typical number of attributes of a task.
const USUAL_ATTRIBUTES: usize = 32;

/// The properties that a span describes.
struct TaskFields<'a> {
    task_type: TaskType,
    id: &'a TaskId,
    title: &'a str,
    status: &'static str,
}

/// A part of the plan that becomes one span.
pub(crate) enum Part<'a> {
    Epic,
    /// A story with its index.
    Story(usize, &'a Story<'a>),
    /// A task, by the index of its artifact.
    Task(usize),
}

pub(crate) struct Builder<'a> {
    converter: &'a Converter,
    context: Context<'a>,
    t0: UnixNanos,
    slimming: Slimming,
    /// The artifacts that become tasks.
    artifacts: Vec<&'a Artifact>,
    index_of: HashMap<&'a TaskId, usize>,
    hierarchy: Hierarchy<'a>,
    /// Indices of the dependencies that are tasks of this trace, by task.
    dependencies: Vec<Vec<usize>>,
    ranks: Vec<u64>,
    epic_id: TaskId,
    kinds: ArtifactTypes<'a>,
    /// Shared parameters, by story. Empty unless the trace is slimmed that far.
    shared_parameters: Vec<SharedParameters<'a>>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        converter: &'a Converter,
        plan: &'a Plan,
        trace_id: TraceId,
        t0: UnixNanos,
        slimming: Slimming,
    ) -> Builder<'a> {
        let wanted = |artifact: &&Artifact| {
            converter.spans.include_existing || artifact.status != Status::Exists
        };
        let artifacts: Vec<&Artifact> = plan.artifacts.iter().filter(wanted).collect();
        let index_of: HashMap<&TaskId, usize> =
            artifacts.iter().enumerate().map(|(index, artifact)| (&artifact.id, index)).collect();
        let known = |id: &TaskId| index_of.get(id).copied();
        let dependencies: Vec<Vec<usize>> = artifacts
            .iter()
            .map(|artifact| artifact.depends_on.iter().filter_map(known).collect())
            .collect();
        let hierarchy = hierarchy(&plan.project.id, &artifacts, converter.spans.group_by);
        let shared_parameters = if slimming.has(Slimming::Parameters) {
            let redactor = converter.redaction.of_a_plan();
            let shared = |story: &Story<'_>| {
                let tasks = story.tasks.iter().map(|&task| artifacts[task]);
                SharedParameters::of(tasks, &redactor)
            };
            hierarchy.stories.iter().map(shared).collect()
        } else {
            Vec::new()
        };
        Builder {
            converter,
            t0,
            slimming,
            shared_parameters,
            hierarchy,
            ranks: order::ranks(&dependencies),
            dependencies,
            epic_id: TaskId::new(format!("{}-artifact-generation", plan.project.id)),
            context: Context {
                plan,
                trace_id,
                trace_hex: trace_id.to_string(),
                checksums: contracts::checksums(&plan.export),
            },
            kinds: ArtifactTypes::of(plan),
            artifacts,
            index_of,
        }
    }

    /// Returns the number of spans that are not tasks.
    pub(crate) fn tops(&self) -> u64 {
        1 + self.hierarchy.stories.len() as u64
    }

    /// Returns the epic, the stories, the open tasks and then the other tasks. A backend that
    /// truncates a trace keeps the top of the plan.
    pub(crate) fn parts(&self) -> Vec<Part<'_>> {
        let leaves = self.hierarchy.stories.iter().filter(|story| story.is_leaf);
        let tasks = leaves.flat_map(|story| story.tasks.iter().copied());
        let (open, others): (Vec<usize>, Vec<usize>) =
            tasks.partition(|&task| self.artifacts[task].status.is_open());
        let stories = self.hierarchy.stories.iter().enumerate();
        std::iter::once(Part::Epic)
            .chain(stories.map(|(index, story)| Part::Story(index, story)))
            .chain(open.into_iter().chain(others).map(Part::Task))
            .collect()
    }

    /// Makes the spans of these parts, in order. The attribute buffer is reused: a caller that
    /// takes the attributes costs an allocation for the next span.
    pub(crate) fn each_span(&self, parts: &[Part<'_>], mut each: impl FnMut(&mut Span)) {
        let redactor = self.converter.redaction.of_a_plan();
        let mut room = Vec::new();
        for part in parts {
            room.reserve(USUAL_ATTRIBUTES);
            let mut span = match part {
                Part::Epic => self.epic(room),
                Part::Story(index, story) => self.story(*index, story, room),
                Part::Task(task) => self.task(*task, &redactor, room),
            };
            each(&mut span);
            room = span.attributes;
            room.clear();
        }
    }

    fn epic(&self, room: Vec<KeyValue>) -> Span {
        let Plan { project, coverage, export, .. } = self.context.plan;
        let figures = SpanTotals::of(self.artifacts.iter().copied());
        let title = format!("{} Observability Artifact Generation", project.name);
        let end = self.t0.plus_micros(self.ranks.iter().max().map_or(0, |last| last + 1));
        let status = if figures.is_done() { "done" } else { "todo" };
        let epic =
            TaskFields { task_type: TaskType::Epic, id: &self.epic_id, title: &title, status };
        let mut draft = self.draft(epic, None, (self.t0, end), figures, room);

        let known_int = |key, value: Option<i64>| value.map(|value| int(key, value));
        draft.attributes.extend(known_int("coverage.total_required", coverage.total_required));
        draft.attributes.extend(known_int("coverage.total_existing", coverage.total_existing));
        draft.attributes.push(int("coverage.total_gaps", coverage.total_gaps));
        draft.attributes.push(count("coverage.total_artifacts", self.context.plan.artifacts.len()));
        draft.attributes.extend(coverage.percent.map(|value| double("coverage.percent", value)));
        draft.known_string("project.epic", project.epic.as_deref());
        let export_id = format!("export-{}-{}", project.id, self.t0.compact());
        draft.string("export.id", &export_id);
        for (key, value) in [
            ("export.source_checksum", &export.source_checksum),
            ("export.artifact_manifest_checksum", &export.artifact_manifest_checksum),
            ("export.project_context_checksum", &export.project_context_checksum),
            ("export.generated_at", &export.generated_at),
            ("export.schema_version", &export.schema_version),
            ("export.generation_profile", &export.generation_profile),
        ] {
            draft.known_string(key, value.as_deref());
        }
        draft.string("export.manifest", export.manifest.as_str());
        if self.slimming > Slimming::Whole {
            let steps = draft.cutter.strings("taskspan.slimmed", self.slimming.steps());
            draft.attributes.push(steps);
        }
        draft.events.push(events::created(&mut draft.cutter, TaskType::Epic, None));
        draft.links.extend(self.converter.triggered_by.map(|parent| Link {
            trace_id: parent.trace_id.bytes().to_vec(),
            span_id: parent.span_id.bytes().to_vec(),
            attributes: vec![string("link.type", "triggered_by")],
            ..Link::default()
        }));
        self.finish(draft, figures, None)
    }

    fn story(&self, index: usize, story: &Story<'_>, room: Vec<KeyValue>) -> Span {
        let figures = SpanTotals::of(story.tasks.iter().map(|&task| self.artifacts[task]));
        let parent = story.parent.map_or((TaskType::Epic, &self.epic_id), |parent| {
            (TaskType::Story, &self.hierarchy.stories[parent].id)
        });
        let first = story.tasks.iter().map(|&task| self.ranks[task]).min().unwrap_or(0);
        let last = story.tasks.iter().map(|&task| self.ranks[task]).max().unwrap_or(0);
        let times = (self.t0.plus_micros(first), self.t0.plus_micros(last + 1));
        let status = if figures.is_done() { "done" } else { "todo" };
        let (id, title) = (&story.id, story.title.as_str());
        let story_itself = TaskFields { task_type: TaskType::Story, id, title, status };
        let mut draft = self.draft(story_itself, Some(parent), times, figures, room);

        draft.known_string("artifact.type", story.kind);
        draft.known_string("artifact.target", story.target);
        draft.attributes.push(int("artifact.gap_count", figures.gaps));
        draft.attributes.push(count("artifact.total_count", figures.total));
        let kind = story.kind.map_or(self.kinds.unknown(), |kind| self.kinds.get(kind));
        draft.known_string("expected_output.depth", kind.depth);
        draft.attributes.extend(kind.max_lines.map(|n| int("expected_output.max_lines", n)));
        draft.events.push(events::created(&mut draft.cutter, TaskType::Story, None));
        if story.is_leaf {
            self.moved_from_tasks(&mut draft, index, story);
        }
        self.finish(draft, figures, kind.criteria.as_deref())
    }

    /// Adds the data that is moved from the tasks of a story to the story.
    fn moved_from_tasks(&self, draft: &mut SpanBuilder<'_>, index: usize, story: &Story<'_>) {
        let artifacts: Vec<&Artifact> =
            story.tasks.iter().map(|&task| self.artifacts[task]).collect();
        let (cutter, slimming) = (&mut draft.cutter, self.slimming);
        if slimming.has(Slimming::Shared) {
            let is_of_one_type = story.kind.is_some();
            let kinds = &self.kinds;
            draft.events.extend(moved::contracts_of_types(
                cutter,
                kinds,
                &artifacts,
                slimming,
                is_of_one_type,
            ));
        }
        if slimming.has(Slimming::Contracts) {
            let intents =
                moved::intents_of_types(cutter, &self.context, &self.kinds, &story.id, &artifacts);
            draft.events.extend(intents);
        }
        if let Some(shared) = self.shared_parameters.get(index) {
            draft.events.extend(shared.events(cutter));
        }
    }

    fn task<'b>(&'b self, index: usize, redactor: &Redactor<'b>, room: Vec<KeyValue>) -> Span {
        let artifact = self.artifacts[index];
        let figures = SpanTotals::of(std::iter::once(artifact));
        let kind = self.kinds.get(&artifact.kind);
        let story = &self.hierarchy.stories[self.hierarchy.story_of[index]];
        let parent = Some((TaskType::Story, &story.id));
        let start = self.t0.plus_micros(self.ranks[index]);
        let times = (start, start.plus_micros(1));
        let status = match artifact.status {
            Status::Exists => "done",
            Status::Skipped => "cancelled",
            Status::Needed | Status::Outdated => "todo",
        };
        let (id, title) = (&artifact.id, artifact.name.as_str());
        let task = TaskFields { task_type: TaskType::Task, id, title, status };
        let mut draft = self.draft(task, parent, times, figures, room);
        let parameters = redactor.apply(&artifact.parameters);

        draft.string("artifact.id", artifact.id.as_str());
        draft.string("artifact.type", &artifact.kind);
        draft.string("artifact.target", &artifact.target);
        draft.string("artifact.priority", &artifact.priority);
        draft.string("artifact.status", artifact.status.as_str());
        let depends_on = artifact.depends_on.iter().map(TaskId::as_str);
        let depends_on = draft.cutter.strings("artifact.depends_on", depends_on);
        draft.attributes.push(depends_on);
        draft.known_string("artifact.output_path", artifact.output_path.as_deref());
        draft.known_string("artifact.existing_path", artifact.existing_path.as_deref());
        draft.known_string("task.mapped_id", artifact.mapped_id.as_deref());
        if artifact.entries > 1 {
            draft.attributes.push(count("artifact.duplicate_count", artifact.entries));
        }
        if !artifact.parameters_unresolved.is_empty() {
            let unresolved = artifact.parameters_unresolved.iter().map(String::as_str);
            let unresolved = draft.cutter.strings("artifact.parameters_unresolved", unresolved);
            draft.attributes.push(unresolved);
        }
        kind.describe(&mut draft, self.slimming.has(Slimming::Bare));
        let shared = self.shared_parameters.get(self.hierarchy.story_of[index]);
        for (key, value) in parameters.as_ref() {
            if shared.is_some_and(|shared| shared.has(key, value)) {
                continue;
            }
            let (cutter, key) = (&mut draft.cutter, format!("artifact.parameters.{key}"));
            draft.attributes.extend(parameters::attribute(cutter, key, value));
        }
        let dependencies = self.dependencies[index].as_slice();
        if !self.slimming.has(Slimming::Bare) {
            self.task_events(&mut draft, artifact, kind, &parameters, dependencies.len());
        }
        self.task_links(&mut draft, dependencies);
        self.finish(draft, figures, kind.criteria.as_deref())
    }

    fn task_events(
        &self,
        draft: &mut SpanBuilder<'_>,
        artifact: &Artifact,
        kind: &ArtifactType<'_>,
        parameters: &Map<String, Value>,
        resolved: usize,
    ) {
        let cutter = &mut draft.cutter;
        draft.events.push(events::created(cutter, TaskType::Task, Some(artifact)));
        let is_shared = self.slimming.has(Slimming::Shared);
        if !self.slimming.has(Slimming::Contracts) {
            // The story has the contract and the rules of the type.
            let (rules, contract) = match is_shared {
                true => (artifact.derived_from.as_slice(), None),
                false => (events::rules_of(artifact, kind), kind.contract.as_deref()),
            };
            draft.events.extend(events::contract(cutter, rules, contract, None));
        }
        let depends_on = &artifact.depends_on;
        let mut unresolved: Vec<&TaskId> = Vec::new();
        if resolved < depends_on.len() {
            for id in depends_on.iter().filter(|id| !self.index_of.contains_key(id)) {
                if !unresolved.contains(&id) {
                    unresolved.push(id);
                }
            }
        }
        draft.events.extend(events::dependencies(cutter, depends_on, &unresolved));
        if !self.slimming.has(Slimming::Contracts) {
            let parameters = (parameters, is_shared);
            let intent = events::intent(&self.context, cutter, artifact, kind, parameters);
            draft.events.extend(intent);
        }
    }

    /// Makes one link per dependency on a task of this trace (R3.2, R3.3). Ids are computed, so
    /// forward references, cycles and self-references need no special handling.
    fn task_links(&self, draft: &mut SpanBuilder<'_>, dependencies: &[usize]) {
        let mut linked = BTreeSet::new();
        for task in dependencies.iter().filter(|task| linked.insert(**task)) {
            let id = &self.artifacts[*task].id;
            let attributes = vec![
                draft.cutter.string("link.type", "depends_on"),
                draft.cutter.string("task.id", id.as_str()),
            ];
            draft.links.push(Link {
                trace_id: self.context.trace_id.bytes().to_vec(),
                span_id: self.context.trace_id.span(TaskType::Task, id).bytes().to_vec(),
                attributes,
                ..Link::default()
            });
        }
    }

    /// Starts a span with the attributes that every span has. `attributes` is the capacity for
    /// more.
    fn draft<'b>(
        &self,
        TaskFields { task_type, id, title, status }: TaskFields<'b>,
        parent: Option<(TaskType, &'b TaskId)>,
        (start, end): (UnixNanos, UnixNanos),
        figures: SpanTotals,
        attributes: Vec<KeyValue>,
    ) -> SpanBuilder<'b> {
        // A task has no subtasks. `figures` counts the task itself, for its span contract.
        let (below, below_done) = match task_type {
            TaskType::Task => (0, 0),
            TaskType::Epic | TaskType::Story => (figures.total, figures.completed),
        };
        let mut draft = SpanBuilder {
            task_type,
            task_id: id,
            span_id: self.context.trace_id.span(task_type, id),
            title,
            parent,
            start,
            end,
            done: match task_type {
                TaskType::Task => figures.completed == 1,
                TaskType::Epic | TaskType::Story => figures.is_done(),
            },
            cutter: self.converter.cutter(),
            attributes,
            fixed: 0,
            events: Vec::new(),
            links: Vec::new(),
        };
        draft.string("project.id", &self.context.plan.project.id);
        draft.string("task.id", id.as_str());
        draft.string("task.type", task_type.as_str());
        draft.string("task.title", title);
        draft.string("task.status", status);
        draft.string("task.phase", PHASE);
        draft.known_string("task.parent_id", parent.map(|(_, id)| id.as_str()));
        draft.attributes.push(double("task.percent_complete", figures.percent()));
        draft.attributes.push(count("task.subtask_count", below));
        draft.attributes.push(count("task.subtask_completed", below_done));
        draft.fixed = draft.attributes.len();
        draft
    }

    /// Adds the events that need the whole span, and applies the limits of the environment.
    fn finish(
        &self,
        mut draft: SpanBuilder<'_>,
        figures: SpanTotals,
        criteria: Option<&RawValue>,
    ) -> Span {
        let trace_id = self.context.trace_id;
        let is_task = draft.task_type == TaskType::Task;
        // The story's own contract has the data that all of its tasks share.
        let is_shared = is_task && self.slimming.has(Slimming::Shared);
        let contract = SpanContract {
            task_id: draft.task_id,
            span_id: draft.span_id,
            parent_id: draft.parent.map(|(_, id)| id),
            completed: draft.done,
            figures,
            acceptance_criteria: criteria.filter(|_| !is_shared),
            checksums: self.context.checksums.as_deref().filter(|_| !is_shared),
        };
        if !(is_task && self.slimming.has(Slimming::Contracts)) {
            let event = events::span_contract(&self.context, &mut draft.cutter, &contract);
            draft.events.push(event);
        }
        draft.into_span(trace_id, self.converter.spans.span_names, &self.converter.limits)
    }
}
