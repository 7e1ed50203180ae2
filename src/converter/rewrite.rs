//! Rewrites encoded requests: shifts times, or keeps only some spans. Ids never change.

use std::collections::HashSet;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::request::{Logs, Request, Traces};
use crate::base::clock::UnixNanos;
use crate::base::signal::Signal;

/// Shifts all times of a request by the difference between two moments. Backends search by the time
/// of a span, so an export that waited long is sent with the present time.
///
/// `None` if this is not a request of taskspan.
pub(crate) fn shift_times(
    signal: Signal,
    encoded: &[u8],
    made_at: UnixNanos,
    now: UnixNanos,
) -> Option<Bytes> {
    match signal {
        Signal::Traces => restamped::<Traces>(encoded, made_at, now),
        Signal::Logs => restamped::<Logs>(encoded, made_at, now),
    }
}

fn restamped<R: Request>(encoded: &[u8], made_at: UnixNanos, now: UnixNanos) -> Option<Bytes> {
    let (resource, scope, mut records) = R::decode(encoded).ok()?.into_parts()?;
    let moved = |time: &mut u64| *time = (*time).saturating_sub(made_at.0).saturating_add(now.0);
    records.iter_mut().for_each(|record| R::shift(record, moved));
    Some(R::of(resource, scope, records).encode_to_vec().into())
}

/// Returns the ids of the spans in a request. Empty if this is not a request of taskspan.
pub(crate) fn span_ids(encoded: &[u8]) -> Vec<Vec<u8>> {
    let Ok(mut request) = ExportTraceServiceRequest::decode(encoded) else {
        return Vec::new();
    };
    spans_mut(&mut request).map(|span| std::mem::take(&mut span.span_id)).collect()
}

/// Returns the request with only the `wanted` spans. `None` if it has none of them.
pub(crate) fn only(encoded: &[u8], wanted: &HashSet<Vec<u8>>) -> Option<Bytes> {
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

    use super::*;

    fn encoded(ids: &[u8]) -> Vec<u8> {
        let spans = ids.iter().map(|id| Span {
            span_id: vec![*id; 8],
            start_time_unix_nano: 1_000 + u64::from(*id),
            end_time_unix_nano: 2_000,
            events: vec![Event { time_unix_nano: 1_500, ..Event::default() }],
            ..Span::default()
        });
        let (resource, scope) = Default::default();
        Traces::of(resource, scope, spans.collect()).encode_to_vec()
    }

    #[test]
    fn times_move_and_nothing_else_does() {
        let before = encoded(&[1, 2]);
        let after = shift_times(Signal::Traces, &before, UnixNanos(1_000), UnixNanos(50_000))
            .expect("ours");
        let mut request = ExportTraceServiceRequest::decode(after.clone()).expect("a request");
        let span = spans_mut(&mut request).next().expect("a span");
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano, span.events[0].time_unix_nano),
            (50_001, 51_000, 50_500)
        );
        let back =
            shift_times(Signal::Traces, &after, UnixNanos(50_000), UnixNanos(1_000)).expect("ours");
        assert_eq!(back, before);
        assert_eq!(span_ids(&after), span_ids(&before));
    }

    #[test]
    fn spans_are_picked_by_id() {
        let wanted = HashSet::from([vec![2; 8], vec![9; 8]]);
        let picked = only(&encoded(&[1, 2, 3]), &wanted).expect("one of them");
        assert_eq!(span_ids(&picked), [vec![2; 8]]);
        assert_eq!(only(&encoded(&[1, 3]), &wanted), None);
        assert_eq!(shift_times(Signal::Traces, b"\xff", UnixNanos(0), UnixNanos(1)), None);
    }
}
