//! A trace as a tree with status marks, in colours on a terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::Previewed;
use crate::base::text::escape_control;
use crate::converter::view::SpanView;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

pub(super) fn of_preview(preview: &Previewed) -> String {
    let mut text = String::new();
    let roots = preview.trees();
    for root in &roots {
        text.push_str(&tree(root));
    }
    let spans: usize = roots.iter().map(|root| root.walk().len()).sum();
    let Previewed { path, trace_id, requests, .. } = preview;
    let _ = writeln!(
        text,
        "{DIM}{}: {spans} spans in {} request(s), trace {trace_id}; nothing was sent{DIM:#}\n",
        path.display(),
        requests.len(),
    );
    text
}

/// Formats one trace.
pub fn tree(root: &SpanView) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{BOLD}{}{BOLD:#}{}", escape_control(&root.name), coverage(root));
    branches(&mut text, root, "");
    text
}

fn coverage(epic: &SpanView) -> String {
    let gaps = epic.number("coverage.total_gaps");
    let percent = epic.attributes.get("coverage.percent").and_then(serde_json::Value::as_f64);
    let percent = percent.map(|percent| format!("{percent:.1} % covered, ")).unwrap_or_default();
    format!("  {DIM}{percent}{gaps} gap(s){DIM:#}")
}

fn branches(text: &mut String, parent: &SpanView, indent: &str) {
    for (index, child) in parent.children.iter().enumerate() {
        let is_last = index + 1 == parent.children.len();
        let (branch, rest) =
            if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let line = match child.name.as_str() {
            "task.update" => update(child),
            "gate.result" => gate(child),
            _ if child.text("task.type") == "task" => task(child),
            _ => story(child),
        };
        let _ = writeln!(text, "{DIM}{indent}{branch}{DIM:#}{line}");
        branches(text, child, &format!("{indent}{rest}"));
    }
}

fn story(story: &SpanView) -> String {
    let done = story.number("task.subtask_completed");
    let count = story.number("task.subtask_count");
    format!("{BOLD}{}{BOLD:#}  {DIM}{done} of {count} done{DIM:#}", escape_control(&story.name))
}

/// Formats a span that was added after the export.
fn update(update: &SpanView) -> String {
    let status = update.text("task.status");
    let style = match status {
        "done" => GREEN,
        "failed" | "blocked" => RED,
        _ => YELLOW,
    };
    format!(
        "{style}▸ {}{style:#}  {DIM}{}{DIM:#}",
        escape_control(status),
        update.text("task.phase")
    )
}

fn gate(gate: &SpanView) -> String {
    let (mark, style) = if gate.is_ok { ("✔", GREEN) } else { ("✘", RED) };
    let id = escape_control(gate.text("gate.id"));
    let details = [gate.text("task.phase"), gate.text("gate.reason")].join("  ");
    format!("{style}{mark} gate {id}{style:#}  {DIM}{}{DIM:#}", escape_control(details.trim_end()))
}

fn task(task: &SpanView) -> String {
    let status = task.text("artifact.status");
    let (mark, style) = match status {
        "exists" => ("✔", GREEN),
        "needed" => ("○", YELLOW),
        "outdated" => ("↻", CYAN),
        _ => ("–", DIM),
    };
    let priority = escape_control(task.text("artifact.priority"));
    let depends_on = task.texts("artifact.depends_on");
    let waits = match depends_on.as_slice() {
        [] => String::new(),
        list => format!("  {DIM}after {}{DIM:#}", escape_control(&list.join(", "))),
    };
    let name = escape_control(task.text("task.id"));
    format!("{style}{mark}{style:#} {name}  {style}{status}{style:#} {DIM}{priority}{DIM:#}{waits}")
}
