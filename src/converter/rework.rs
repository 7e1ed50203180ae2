//! Encoded requests made over: times moved, spans picked. Bytes in, bytes out; ids never change.

use std::collections::HashSet;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::clock::UnixNanos;

/// The request with all its times moved by as much as lies between two moments. A backend searches
/// by the spans' own time, so what waited long is sent as of now.
///
/// None when it is no request of ours.
pub fn restamp(encoded: &[u8], made_at: UnixNanos, now: UnixNanos) -> Option<Bytes> {
    let mut request = ExportTraceServiceRequest::decode(encoded).ok()?;
    let moved = |time: &mut u64| *time = (*time).saturating_sub(made_at.0).saturating_add(now.0);
    for span in spans_mut(&mut request) {
        moved(&mut span.start_time_unix_nano);
        moved(&mut span.end_time_unix_nano);
        span.events.iter_mut().for_each(|event| moved(&mut event.time_unix_nano));
    }
    Some(request.encode_to_vec().into())
}

/// The ids of the spans within a request; none of what is no request of ours.
pub fn span_ids(encoded: &[u8]) -> Vec<Vec<u8>> {
    let Ok(mut request) = ExportTraceServiceRequest::decode(encoded) else {
        return Vec::new();
    };
    spans_mut(&mut request).map(|span| std::mem::take(&mut span.span_id)).collect()
}

/// The request with only these spans; none when it has none of them.
pub fn only(encoded: &[u8], wanted: &HashSet<Vec<u8>>) -> Option<Bytes> {
    let mut request = ExportTraceServiceRequest::decode(encoded).ok()?;
    for scope in request.resource_spans.iter_mut().flat_map(|group| &mut group.scope_spans) {
        scope.spans.retain(|span| wanted.contains(&span.span_id));
    }
    let any = spans_mut(&mut request).next().is_some();
    any.then(|| request.encode_to_vec().into())
}

fn spans_mut(request: &mut ExportTraceServiceRequest) -> impl Iterator<Item = &mut Span> {
    let scopes = request.resource_spans.iter_mut().flat_map(|group| &mut group.scope_spans);
    scopes.flat_map(|scope| &mut scope.spans)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::span::Event;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};

    use super::*;

    fn encoded(ids: &[u8]) -> Vec<u8> {
        let spans = ids.iter().map(|id| Span {
            span_id: vec![*id; 8],
            start_time_unix_nano: 1_000 + u64::from(*id),
            end_time_unix_nano: 2_000,
            events: vec![Event { time_unix_nano: 1_500, ..Event::default() }],
            ..Span::default()
        });
        let scope = ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() };
        let group = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![group] }.encode_to_vec()
    }

    #[test]
    fn times_move_and_nothing_else_does() {
        let before = encoded(&[1, 2]);
        let after = restamp(&before, UnixNanos(1_000), UnixNanos(50_000)).expect("ours");
        let mut request = ExportTraceServiceRequest::decode(after.clone()).expect("a request");
        let span = spans_mut(&mut request).next().expect("a span");
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano, span.events[0].time_unix_nano),
            (50_001, 51_000, 50_500)
        );
        let back = restamp(&after, UnixNanos(50_000), UnixNanos(1_000)).expect("ours");
        assert_eq!(back, before);
        assert_eq!(span_ids(&after), span_ids(&before));
    }

    #[test]
    fn spans_are_picked_by_id() {
        let wanted = HashSet::from([vec![2; 8], vec![9; 8]]);
        let picked = only(&encoded(&[1, 2, 3]), &wanted).expect("one of them");
        assert_eq!(span_ids(&picked), [vec![2; 8]]);
        assert_eq!(only(&encoded(&[1, 3]), &wanted), None);
        assert_eq!(restamp(b"\xff", UnixNanos(0), UnixNanos(1)), None);
    }
}
