//! Requests under the receiver's message limit, every one valid by itself.
//!
//! ```text
//! resource + scope + [span, span, …] ─▶ [resource + scope + spans] … each ≤ max bytes
//! ```

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use prost::encoding::encoded_len_varint;

/// Field tags and lengths of the two enclosing messages, at their largest.
const ENVELOPE_BYTES: usize = 2 * (1 + 10);

/// Packs spans in their order. A span that is larger than the limit goes alone: it is for the
/// receiver to refuse it, not for us to drop it.
pub fn split(
    resource: Resource,
    scope: InstrumentationScope,
    spans: Vec<Span>,
    max_bytes: u64,
) -> Vec<ExportTraceServiceRequest> {
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    let fixed = request(&resource, &scope, Vec::new()).encoded_len() + ENVELOPE_BYTES;
    let mut requests = Vec::new();
    let mut batch: Vec<Span> = Vec::new();
    let mut batch_bytes = fixed;
    for span in spans {
        let bytes = framed_len(&span);
        if !batch.is_empty() && batch_bytes.saturating_add(bytes) > max_bytes {
            requests.push(request(&resource, &scope, std::mem::take(&mut batch)));
            batch_bytes = fixed;
        }
        batch_bytes += bytes;
        batch.push(span);
    }
    if !batch.is_empty() {
        requests.push(request(&resource, &scope, batch));
    }
    requests
}

/// Two halves of an encoded request that was refused for its size; none when it holds but one
/// span (or is no request of ours).
pub fn halve(encoded: &[u8]) -> Option<(Bytes, Bytes)> {
    let mut first = ExportTraceServiceRequest::decode(encoded).ok()?;
    let spans = &mut first.resource_spans.first_mut()?.scope_spans.first_mut()?.spans;
    if spans.len() < 2 {
        return None;
    }
    let rest = spans.split_off(spans.len() / 2);
    let group = first.resource_spans.first()?;
    let resource = group.resource.clone().unwrap_or_default();
    let scope = group.scope_spans.first()?.scope.clone().unwrap_or_default();
    let second = request(&resource, &scope, rest);
    Some((first.encode_to_vec().into(), second.encode_to_vec().into()))
}

fn request(
    resource: &Resource,
    scope: &InstrumentationScope,
    spans: Vec<Span>,
) -> ExportTraceServiceRequest {
    let scope_spans = ScopeSpans { scope: Some(scope.clone()), spans, ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// A span as it stands within its list: tag, length, content.
fn framed_len(span: &Span) -> usize {
    let len = span.encoded_len();
    1 + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(number: usize, size: usize) -> Span {
        Span { name: "x".repeat(size), flags: number as u32, ..Span::default() }
    }

    fn numbers(requests: &[ExportTraceServiceRequest]) -> Vec<u32> {
        let groups = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = groups.flat_map(|group| &group.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(|span| span.flags).collect()
    }

    proptest! {
        #[test]
        fn keeps_every_span_in_order_and_stays_under_the_limit(
            sizes in prop::collection::vec(0_usize..3_000, 0..60),
            max in 4_000_u64..20_000,
        ) {
            let spans: Vec<Span> = sizes.iter().enumerate().map(|(n, &s)| span(n, s)).collect();
            let expected: Vec<u32> = (0..u32::try_from(spans.len()).expect("few")).collect();
            let requests = split(Resource::default(), InstrumentationScope::default(), spans, max);
            prop_assert_eq!(numbers(&requests), expected);
            for request in &requests {
                prop_assert!(request.encoded_len() as u64 <= max);
                let group = &request.resource_spans[0];
                prop_assert!(group.resource.is_some() && group.scope_spans[0].scope.is_some());
                prop_assert!(!group.scope_spans[0].spans.is_empty());
            }
        }

        #[test]
        fn halving_keeps_every_span_and_ends_at_one(count in 1_usize..40) {
            let spans: Vec<Span> = (0..count).map(|n| span(n, 10)).collect();
            let whole = request(&Resource::default(), &InstrumentationScope::default(), spans);
            let mut pending = vec![Bytes::from(whole.encode_to_vec())];
            let mut seen = Vec::new();
            while let Some(bytes) = pending.pop() {
                match halve(&bytes) {
                    Some((first, second)) => pending.extend([second, first]),
                    None => seen.push(ExportTraceServiceRequest::decode(bytes).expect("ours")),
                }
            }
            prop_assert_eq!(numbers(&seen), (0..count as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_span_over_the_limit_goes_alone() {
        let spans = vec![span(0, 10), span(1, 9_000), span(2, 10)];
        let requests = split(Resource::default(), InstrumentationScope::default(), spans, 4_000);
        assert_eq!(requests.len(), 3);
    }

    #[test]
    fn what_is_not_ours_is_not_halved() {
        assert_eq!(halve(b"\xff\xff"), None);
    }
}
