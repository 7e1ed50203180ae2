//! Checks each request by itself, as backends do.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use prost::Message;

use super::Settings;
use super::export::Export;
use super::values::Attributes;

const MAX_BYTES: usize = 7 << 19; // 3.5 MiB

/// Checks the size, resource, scope and ids of one request. `index` is its position in the output.
pub fn check(
    index: usize,
    request: &ExportTraceServiceRequest,
    settings: &Settings,
    export: &Export,
) -> Vec<String> {
    let place = format!("request {index}");
    let mut faults = Vec::new();
    let mut fault = |words: String| faults.push(format!("{place}: {words}"));
    if request.encoded_len() > MAX_BYTES {
        fault(format!("{} bytes", request.encoded_len()));
    }
    let mut spans = 0;
    let mut resource_faults = Vec::new();
    for resource_spans in &request.resource_spans {
        match &resource_spans.resource {
            None => fault("no resource".to_owned()),
            Some(resource) => {
                let attributes =
                    Attributes::new(format!("{place}, resource"), &resource.attributes);
                resource_faults.extend(check_resource(attributes, settings, export));
            }
        }
        for scope_spans in &resource_spans.scope_spans {
            match &scope_spans.scope {
                Some(InstrumentationScope { name, version, .. })
                    if name == "taskspan" && version == env!("CARGO_PKG_VERSION") => {}
                other => fault(format!("the scope is {other:?}")),
            }
            for span in &scope_spans.spans {
                spans += 1;
                if span.trace_id.len() != 16 || span.trace_id == [0; 16] {
                    fault(format!("span {:?} has no valid trace id", span.name));
                }
                if span.span_id.len() != 8 || span.span_id == [0; 8] {
                    fault(format!("span {:?} has no valid span id", span.name));
                }
            }
        }
    }
    if spans == 0 {
        fault("no spans".to_owned());
    }
    faults.extend(resource_faults);
    faults
}

fn check_resource(mut resource: Attributes, settings: &Settings, export: &Export) -> Vec<String> {
    resource
        .expect("service.name", settings.service_name.as_deref().unwrap_or("contextcore-export"));
    resource.expect("project.id", export.project_id.as_str());
    resource.expect("project.name", export.project_name.as_str());
    resource.expect("telemetry.distro.name", "taskspan");
    resource.expect("telemetry.distro.version", env!("CARGO_PKG_VERSION"));
    for (key, value) in &settings.resource {
        resource.expect(key, value.as_str());
    }
    resource.finish().0
}
