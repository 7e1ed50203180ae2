//! A Markdown summary of the emitted exports, for the page of a CI job. Pure.

use std::fmt::Write;

use super::preview::mermaid;
use crate::base::ids::TraceId;
use crate::converter::Converter;
use crate::converter::view::SpanView;
use crate::observe::grafana::Grafana;
use crate::plan::{Plan, Status};

/// Larger graphs are unreadable, and pages refuse to draw them.
const MAX_DRAWN: usize = 100;

/// An export that has its trace.
pub(crate) struct Emitted {
    /// Path of the metadata file, for people.
    pub(crate) path: String,
    pub(crate) trace_id: TraceId,
    /// Whether this run emitted it.
    pub(crate) is_new: bool,
    /// `None` if the file was replaced or removed since.
    pub(crate) plan: Option<(Plan, Converter)>,
}

/// Makes the summary of all exports of a run.
pub(crate) fn markdown(exports: &[Emitted], grafana: Option<&Grafana>) -> String {
    let mut text = String::new();
    if exports.is_empty() {
        text.push_str("No export was emitted.\n");
    }
    for export in exports {
        let _ = section(&mut text, export, grafana);
    }
    text
}

fn section(text: &mut String, export: &Emitted, grafana: Option<&Grafana>) -> std::fmt::Result {
    let Emitted { path, trace_id, plan, .. } = export;
    let trees = plan.as_ref().map(|(plan, converter)| converter.outline(plan, *trace_id));
    let epic = trees.as_ref().and_then(|trees| trees.first());
    let title = epic.map_or(path.as_str(), |epic| epic.text("task.title"));
    writeln!(text, "## {}\n", plain(title))?;
    if let Some((plan, _)) = plan {
        writeln!(text, "{}\n", coverage(plan))?;
    } else {
        writeln!(text, "The file has been replaced since.\n")?;
    }
    match grafana {
        Some(grafana) => writeln!(text, "Trace [`{trace_id}`]({})\n", grafana.link(*trace_id))?,
        None => writeln!(text, "Trace `{trace_id}`\n")?,
    }
    if let Some(epic) = epic {
        stories(text, epic)?;
    }
    if let Some((plan, _)) = plan {
        match plan.artifacts.len() {
            0 => {}
            count if count > MAX_DRAWN => {
                writeln!(
                    text,
                    "{count} artifacts are too many to draw; `taskspan preview` does.\n"
                )?;
            }
            _ => writeln!(text, "```mermaid\n{}```\n", mermaid::graph(plan))?,
        }
    }
    Ok(())
}

fn coverage(plan: &Plan) -> String {
    let done = plan.artifacts.iter().filter(|it| it.status == Status::Exists).count();
    let (all, gaps) = (plan.artifacts.len(), plan.coverage.total_gaps);
    let percent = plan.coverage.percent.map(|percent| format!("Coverage {percent:.1} %, "));
    format!("{}{done} of {all} artifacts exist, {gaps} to build.", percent.unwrap_or_default())
}

fn stories(text: &mut String, epic: &SpanView) -> std::fmt::Result {
    let stories = epic.walk().into_iter().filter(|it| it.text("task.type") == "story");
    let stories: Vec<&SpanView> = stories.collect();
    if stories.is_empty() {
        return Ok(());
    }
    writeln!(text, "| Story | Exist | All | To build |\n|---|---:|---:|---:|")?;
    for story in stories {
        let title = plain(story.text("task.title"));
        let numbers = ["task.subtask_completed", "artifact.total_count", "artifact.gap_count"];
        let [done, all, gaps] = numbers.map(|key| story.number(key));
        writeln!(text, "| {title} | {done} | {all} | {gaps} |")?;
    }
    writeln!(text)
}

/// Escapes text so that a table, a heading and HTML show it unchanged.
fn plain(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_control() => " ".to_owned(),
        // Each of these can start markup, a link, a formula or a mention.
        c if c.is_ascii_punctuation() && !matches!(c, '-' | ',' | '(' | ')' | '/' | '%') => {
            format!("\\{c}")
        }
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_is_markup() {
        assert_eq!(plain("a|b\n<img src=x> [x](y)"), "a\\|b \\<img src\\=x\\> \\[x\\](y)");
        assert_eq!(plain("$x$ @all http://x.y"), "\\$x\\$ \\@all http\\://x\\.y");
    }
}
