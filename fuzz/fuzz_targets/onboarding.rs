//! Parses any bytes as metadata and converts them: there is one span per artifact, span ids are
//! unique, and every parent and link target exists.

#![no_main]

use std::collections::HashSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use taskspan::base::clock::UnixNanos;
use taskspan::converter::limits::SpanLimits;
use taskspan::converter::options::{ResourceConfig, SpanOptions};
use taskspan::converter::{Converter, Redaction};
use taskspan::base::ids::TraceId;
use taskspan::internals::{Onboarding, ProjectContext, join};
use taskspan::plan::ManifestUse;

fuzz_target!(|bytes: &[u8]| {
    let Ok(onboarding) = Onboarding::parse(bytes) else { return };
    let context = ProjectContext::default();
    let plan = join(onboarding, Err(ManifestUse::Missing), context, None);
    let converter = Converter {
        spans: SpanOptions::default(),
        redaction: Redaction::default(),
        resource: ResourceConfig::default(),
        limits: SpanLimits::default(),
        triggered_by: None,
    };
    let trace_id = TraceId::of_export(Path::new("/x"), 0, bytes);
    let conversion = converter.convert(&plan, trace_id, UnixNanos(1));
    let traces = conversion.traces();
    let spans: Vec<_> = traces
        .iter()
        .flat_map(|request| &request.resource_spans)
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    assert_eq!(spans.len(), conversion.span_count);
    let ids: HashSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), spans.len(), "an id stands for two spans");
    let tasks = spans.iter().filter(|span| {
        span.attributes.iter().any(|attribute| attribute.key == "artifact.id")
    });
    assert_eq!(tasks.count(), plan.artifacts.len());
    for span in &spans {
        let parent = span.parent_span_id.as_slice();
        assert!(parent.is_empty() || ids.contains(parent));
        assert!(span.links.iter().all(|link| ids.contains(link.span_id.as_slice())));
    }
});
