//! Status pages: all exports, and the plan of one export. Pure: data in, HTML out. Each page is one
//! file without scripts or external resources, and all text is escaped.

use std::fmt::Write;

use super::graph;
use super::html::escaped;
use crate::base::clock::UnixNanos;
use crate::base::ids::TraceId;
use crate::converter::Converter;
use crate::converter::view::SpanView;
use crate::observe::grafana::Grafana;
use crate::pipeline::status::ExportStatus;
use crate::plan::Plan;
use crate::queue::LaneFigures;

/// Content security policy: only the page's own style.
pub(crate) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";

/// Plans with more tasks show their stories collapsed.
const MAX_OPEN: usize = 100;

const STYLE: &str = include_str!("page.css");

/// The contents of the overview page.
#[derive(Debug)]
pub(crate) struct Overview<'a> {
    pub(crate) exports: &'a [ExportStatus],
    pub(crate) lanes: &'a [LaneFigures],
    /// The reasons for which the program is unhealthy. Empty if it is healthy.
    pub(crate) reasons: &'a [String],
    pub(crate) grafana: Option<&'a Grafana>,
    pub(crate) now: UnixNanos,
}

/// Makes the page with all exports and the queue.
pub(crate) fn overview(overview: &Overview<'_>) -> String {
    let Overview { exports, lanes, reasons, now, .. } = overview;
    let mut body = String::new();
    let well = if reasons.is_empty() { "all is well" } else { "needs a look" };
    let class = if reasons.is_empty() { "good" } else { "bad" };
    let _ = write!(
        body,
        "<header><h1>taskspan</h1><p><span class=\"mark {class}\">{well}</span> \
         {} export(s), at {}</p></header>",
        exports.len(),
        escaped(&now.rfc3339()),
    );
    if !reasons.is_empty() {
        body.push_str("<ul class=\"reasons\">");
        for reason in *reasons {
            let _ = write!(body, "<li>{}</li>", escaped(reason));
        }
        body.push_str("</ul>");
    }
    exports_table(&mut body, overview);
    lanes_table(&mut body, lanes);
    document("taskspan", &body)
}

fn exports_table(body: &mut String, overview: &Overview<'_>) {
    body.push_str("<h2>Exports</h2>");
    if overview.exports.is_empty() {
        body.push_str("<p>There are none below the watched directories.</p>");
        return;
    }
    body.push_str(
        "<table><thead><tr><th>State</th><th>Project</th><th>Coverage</th><th>Trace</th>\
         <th>File</th></tr></thead><tbody>",
    );
    for status in overview.exports {
        let ExportStatus { path, state, reason, trace_id, plan, .. } = status;
        let state = state.as_str();
        let _ = write!(
            body,
            "<tr><td><span class=\"mark {state}\">{state}</span></td><td class=\"name\">"
        );
        if let Some(plan) = plan {
            let _ = write!(body, "{}", escaped(&plan.project.name));
        }
        let _ = write!(body, "</td><td>{}</td><td>", plan.as_ref().map(bar).unwrap_or_default());
        if let Some(id) = trace_id.as_ref().filter(|id| TraceId::from_hex(id).is_some()) {
            let short = id.get(..8).unwrap_or(id);
            let _ = write!(body, "<a href=\"/plan/{}\">{}…</a>", escaped(id), escaped(short));
            body.push_str(&link(overview.grafana, id));
        }
        let _ = write!(body, "</td><td class=\"path\">{}", escaped(path));
        if let Some(reason) = reason {
            let _ = write!(body, "<br><small>{}</small>", escaped(reason));
        }
        body.push_str("</td></tr>");
    }
    body.push_str("</tbody></table>");
}

fn link(grafana: Option<&Grafana>, id: &str) -> String {
    match (grafana, TraceId::from_hex(id)) {
        (Some(grafana), Some(id)) => {
            let url = escaped(&grafana.link(id));
            format!(" <a href=\"{url}\" rel=\"noreferrer\">Grafana</a>")
        }
        _ => String::new(),
    }
}

fn lanes_table(body: &mut String, lanes: &[LaneFigures]) {
    body.push_str(
        "<h2>Queue</h2><table><thead><tr><th>Exporter</th><th>Exports</th><th>Bytes</th>\
         <th>Capacity</th></tr></thead><tbody>",
    );
    for LaneFigures { exporter, items, bytes, capacity } in lanes {
        let capacity = match *capacity {
            u64::MAX => "no limit".to_owned(),
            capacity => capacity.to_string(),
        };
        let exporter = escaped(exporter);
        let _ = write!(
            body,
            "<tr><td>{exporter}</td><td>{items}</td><td>{bytes}</td><td>{capacity}</td></tr>"
        );
    }
    body.push_str("</tbody></table>");
}

/// A bar with the export's own figure for coverage.
fn bar(plan: &Plan) -> String {
    let gaps = plan.coverage.total_gaps;
    match plan.coverage.percent {
        Some(percent) => format!(
            "<meter min=\"0\" max=\"100\" value=\"{:.1}\"></meter> {:.1} %, {gaps} to build",
            percent.clamp(0.0, 100.0),
            // The exporter's figure sometimes exceeds 100 %. Clamp values that can only be errors.
            percent.clamp(-9_999.0, 9_999.0)
        ),
        None => format!("{gaps} to build"),
    }
}

/// Makes the page of one export: stories, tasks and dependencies.
pub(crate) fn plan(
    status: &ExportStatus,
    plan: &Plan,
    converter: &Converter,
    grafana: Option<&Grafana>,
) -> String {
    let id = status.trace_id.as_deref().unwrap_or_default();
    let trace_id = TraceId::from_hex(id);
    let trees = trace_id.map(|id| converter.outline(plan, id));
    let mut body = format!(
        "<header><p><a href=\"/\">all exports</a></p><h1 class=\"path\">{}</h1><p>{} <code>{}</code>{}</p>\
         <p class=\"path\">{}</p></header><h2>Plan</h2>",
        escaped(&plan.project.name),
        bar(plan),
        escaped(id),
        link(grafana, id),
        escaped(&status.path),
    );
    for epic in trees.iter().flatten() {
        let open = plan.artifacts.len() <= MAX_OPEN;
        epic.children.iter().for_each(|story| branch(&mut body, story, open));
    }
    let _ = write!(body, "<h2>Dependencies</h2><div class=\"graph\">{}</div>", graph::svg(plan));
    document(&plan.project.name, &body)
}

fn branch(body: &mut String, span: &SpanView, open: bool) {
    if span.text("task.type") == "task" {
        let status = span.text("artifact.status");
        let _ = write!(
            body,
            "<li><span class=\"mark {}\">{}</span> <code>{}</code> {} <small>{}</small>",
            escaped(status),
            escaped(status),
            escaped(span.text("task.id")),
            escaped(span.text("task.title")),
            escaped(span.text("artifact.priority")),
        );
        let needs = span.texts("artifact.depends_on");
        if !needs.is_empty() {
            let _ = write!(body, " <small>after {}</small>", escaped(&needs.join(", ")));
        }
        body.push_str("</li>");
        return;
    }
    let open = if open { " open" } else { "" };
    let (done, all) = (span.number("task.subtask_completed"), span.number("task.subtask_count"));
    let title = escaped(span.text("task.title"));
    let _ = write!(body, "<details{open}><summary>{title} <small>{done} of {all} exist</small>");
    body.push_str("</summary><ul>");
    span.children.iter().for_each(|child| branch(body, child, !open.is_empty()));
    body.push_str("</ul></details>");
}

fn document(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::status::State;

    #[test]
    fn nothing_in_a_name_is_markup() {
        assert_eq!(escaped("<b a='\"'>&\n"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\\u{a}");
        let status = ExportStatus {
            path: "/<script>alert(1)</script>".into(),
            state: State::Invalid,
            reason: Some("\"><img src=x>".into()),
            trace_id: Some("\" onload=x".into()),
            plan: None,
            receiver: 0,
        };
        let page = overview(&Overview {
            exports: &[status],
            lanes: &[],
            reasons: &["<i>".into()],
            grafana: None,
            now: UnixNanos(0),
        });
        for markup in ["<script", "<img", "<i>", "onload"] {
            assert!(!page.contains(markup), "{markup} in {page}");
        }
    }
}
