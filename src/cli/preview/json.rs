//! The preview for programs.

use serde_json::{Value, json};

use super::Previewed;
use crate::converter::view::SpanView;

pub(crate) fn document(preview: &Previewed) -> Value {
    let trees = preview.trees();
    let spans: Vec<&SpanView> = trees.iter().flat_map(SpanView::walk).collect();
    let of_type = |task_type: &str| -> Vec<Value> {
        spans
            .iter()
            .filter(|span| span.text("task.type") == task_type)
            .map(|it| entry(it))
            .collect()
    };
    let count =
        |status: &str| spans.iter().filter(|span| span.text("artifact.status") == status).count();
    let (stories, tasks) = (of_type("story"), of_type("task"));
    let totals = json!({
        "spans": spans.len(),
        "stories": stories.len(),
        "tasks": tasks.len(),
        "links": spans.iter().map(|span| span.links.len()).sum::<usize>(),
        "requests": preview.requests.len(),
        "needed": count("needed"),
        "exists": count("exists"),
        "outdated": count("outdated"),
        "skipped": count("skipped"),
    });
    json!({
        "dry_run": true,
        "path": preview.path.display().to_string(),
        "project_id": preview.plan.project.id,
        "trace_id": preview.trace_id.to_string(),
        "would_emit": {
            "epic": of_type("epic").into_iter().next(),
            "stories": stories,
            "tasks": tasks,
            "totals": totals,
        },
        "warnings": preview.warnings,
    })
}

fn entry(span: &SpanView) -> Value {
    json!({
        "name": span.name,
        "span_id": span.span_id,
        "task_id": span.text("task.id"),
        "status": if span.is_ok { "OK" } else { "UNSET" },
        "attributes": span.attributes,
        "events": span.events,
        "depends_on": span.links,
    })
}
