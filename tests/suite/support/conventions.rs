//! Checks the telemetry of an export against the conventions, without using the product's code.
//!
//! ```text
//! the three files ─▶ Export ─▶ expected spans ─┐
//! requests as received ───────▶ spans ─────────┴▶ all differences, as text
//! ```
//!
//! An empty list means that nothing is wrong. Where the conventions allow several results, each is
//! accepted. Unexpected attributes are faults.

mod events;
mod export;
mod ids;
mod order;
mod requests;
mod rules;
mod spans;
mod values;
mod written_back;

use std::collections::HashMap;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;

use export::{Export, Task};
use spans::{Expected, Kind};

pub use ids::{hex, span_id};
pub use written_back::check_written_back;

/// Settings of a run that change the telemetry.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub project_id: Option<String>,
    pub service_name: Option<String>,
    /// Additional attributes of the resource.
    pub resource: Vec<(String, String)>,
}

/// Checks the requests of one export with default settings. `canonical` and `mtime_ns` are those of
/// the metadata when it was read.
pub fn check(
    export_dir: &Path,
    metadata_before: &[u8],
    mtime_ns: i128,
    canonical: &Path,
    requests: &[ExportTraceServiceRequest],
) -> Vec<String> {
    let trace_id = ids::trace_id(canonical, mtime_ns, metadata_before);
    check_with(&Settings::default(), export_dir, metadata_before, trace_id, requests)
}

/// Like [`check`], with the settings of the run and a given trace id.
pub fn check_with(
    settings: &Settings,
    export_dir: &Path,
    metadata_before: &[u8],
    trace_id: [u8; 16],
    requests: &[ExportTraceServiceRequest],
) -> Vec<String> {
    let project_id = settings.project_id.as_deref();
    let export = match Export::read(export_dir, metadata_before, project_id) {
        Ok(export) => export,
        Err(error) => return vec![format!("the export cannot be read: {error}")],
    };
    let mut faults = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        faults.extend(requests::check(index, request, settings, &export));
    }
    faults.extend(check_trace(&export, trace_id, &super::fake_otlp::spans_of(requests)));
    faults
}

/// Returns the trace id of an export by the published formula.
pub fn trace_id(canonical: &Path, mtime_ns: i128, metadata: &[u8]) -> [u8; 16] {
    ids::trace_id(canonical, mtime_ns, metadata)
}

/// Returns the trace id of an export in hexadecimal.
pub fn trace_id_hex(canonical: &Path, mtime_ns: i128, metadata: &[u8]) -> String {
    hex(&ids::trace_id(canonical, mtime_ns, metadata))
}

/// Returns the requests with spans of one trace. Exports do not share requests, so a request is
/// kept or removed as a whole.
pub fn of_trace(
    requests: &[ExportTraceServiceRequest],
    trace_id: &str,
) -> Vec<ExportTraceServiceRequest> {
    let belongs = |request: &&ExportTraceServiceRequest| {
        let spans = super::fake_otlp::spans_of(std::slice::from_ref(*request));
        spans.iter().any(|span| hex(&span.trace_id) == trace_id)
    };
    requests.iter().filter(belongs).cloned().collect()
}

fn check_trace(export: &Export, trace_id: [u8; 16], spans: &[Span]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut received: HashMap<Vec<u8>, &Span> = HashMap::new();
    for span in spans {
        let place = format!("span {:?}", span.name);
        if span.trace_id != trace_id {
            faults.push(format!("{place}: its trace is {}", hex(&span.trace_id)));
        }
        if received.insert(span.span_id.clone(), span).is_some() {
            faults.push(format!("{place}: sent twice"));
        }
    }

    let expected = expected_spans(export, trace_id);
    let Some(&epic) = received.get(expected[0].span_id.as_slice()) else {
        faults.push("the epic is missing".to_owned());
        return faults;
    };
    let steps = events::steps(export, epic, spans, &mut faults);
    let mut pairs = Vec::new();
    for one in &expected {
        match received.remove(one.span_id.as_slice()) {
            None => faults.push(format!("{} is missing", one.place())),
            Some(span) => {
                faults.extend(one.check(export, span, epic.start_time_unix_nano, steps));
                pairs.push((one, span));
            }
        }
    }
    for span in received.values() {
        faults.push(format!("span {:?} is nobody's", span.name));
    }
    if pairs.len() == expected.len() {
        faults.extend(order::check(export, &pairs));
    }
    faults
}

/// Returns the epic, then each story, then each task.
fn expected_spans(export: &Export, trace_id: [u8; 16]) -> Vec<Expected<'_>> {
    let epic = Expected::new(export, trace_id, Kind::Epic, None);
    let mut expected = Vec::new();
    for kind in export.kinds() {
        let tasks: Vec<&Task> = export.tasks.iter().filter(|task| task.kind == kind).collect();
        expected.push(Expected::new(export, trace_id, Kind::Story { kind, tasks }, Some(&epic)));
    }
    let stories = expected.len();
    for task in &export.tasks {
        let story = expected[..stories].iter().find(|story| story.artifact_type() == task.kind);
        let task = Expected::new(export, trace_id, Kind::Task(task), story);
        expected.push(task);
    }
    expected.insert(0, epic);
    expected
}
