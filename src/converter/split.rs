//! Requests under the receiver's message limit, every one valid by itself.
//!
//! ```text
//! resource + scope + [record, record, …] ─▶ [resource + scope + records] … each ≤ max bytes
//! ```

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encoded_len_varint, skip_field,
};

use super::request::{Logs, Request, Traces};
use crate::signal::Signal;

/// Field tags and lengths of the two enclosing messages, at their largest.
const ENVELOPE_BYTES: usize = 2 * (1 + 10);

/// Packs records in their order. One that is larger than the limit goes alone: it is for the
/// receiver to refuse it, not for us to drop it.
pub fn split<R: Request>(
    resource: &Resource,
    scope: &InstrumentationScope,
    records: Vec<R::Record>,
    max_bytes: u64,
) -> Vec<R> {
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    let request = |records| R::of(resource.clone(), scope.clone(), records);
    let fixed = request(Vec::new()).encoded_len() + ENVELOPE_BYTES;
    let mut requests = Vec::new();
    let mut batch: Vec<R::Record> = Vec::new();
    let mut batch_bytes = fixed;
    for record in records {
        let bytes = framed_len(&record);
        if !batch.is_empty() && batch_bytes.saturating_add(bytes) > max_bytes {
            requests.push(request(std::mem::take(&mut batch)));
            batch_bytes = fixed;
        }
        batch_bytes += bytes;
        batch.push(record);
    }
    if !batch.is_empty() {
        requests.push(request(batch));
    }
    requests
}

/// Two halves of an encoded request that was refused for its size; none when it holds but one
/// record (or is no request of ours).
pub fn halve(signal: Signal, encoded: &[u8]) -> Option<(Bytes, Bytes)> {
    match signal {
        Signal::Traces => halved::<Traces>(encoded),
        Signal::Logs => halved::<Logs>(encoded),
    }
}

fn halved<R: Request>(encoded: &[u8]) -> Option<(Bytes, Bytes)> {
    let (resource, scope, mut records) = R::decode(encoded).ok()?.into_parts()?;
    if records.len() < 2 {
        return None;
    }
    let rest = records.split_off(records.len() / 2);
    let first = R::of(resource.clone(), scope.clone(), records);
    let second = R::of(resource, scope, rest);
    Some((first.encode_to_vec().into(), second.encode_to_vec().into()))
}

/// How many records an encoded request holds. Both signals nest alike, so this walks over them
/// without decoding them.
pub fn count(encoded: &[u8]) -> u64 {
    /// Groups are field 1 of a request; in them scopes are field 2, and in these records.
    const PATH: [u32; 3] = [1, 2, 2];
    fn walk(mut buffer: &[u8], path: &[u32]) -> Option<u64> {
        let Some((field, rest)) = path.split_first() else { return Some(1) };
        let mut found = 0;
        while !buffer.is_empty() {
            let (tag, wire_type) = decode_key(&mut buffer).ok()?;
            if tag == *field && wire_type == WireType::LengthDelimited {
                let len = usize::try_from(decode_varint(&mut buffer).ok()?).ok()?;
                let (inner, after) = buffer.split_at_checked(len)?;
                found += walk(inner, rest)?;
                buffer = after;
            } else {
                skip_field(wire_type, tag, &mut buffer, DecodeContext::default()).ok()?;
            }
        }
        Some(found)
    }
    walk(encoded, &PATH).unwrap_or_default()
}

/// A record as it stands within its list: tag, length, content.
fn framed_len(record: &impl Message) -> usize {
    let len = record.encoded_len();
    1 + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;

    use super::*;

    fn span(number: usize, size: usize) -> Span {
        Span { name: "x".repeat(size), flags: number as u32, ..Span::default() }
    }

    fn numbers(requests: &[Traces]) -> Vec<u32> {
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
            let (resource, scope) = Default::default();
            let requests: Vec<Traces> = split(&resource, &scope, spans, max);
            prop_assert_eq!(numbers(&requests), expected.clone());
            let counts = requests.iter().map(|request| count(&request.encode_to_vec()));
            prop_assert_eq!(counts.sum::<u64>(), expected.len() as u64);
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
            let whole = Traces::of(Resource::default(), InstrumentationScope::default(), spans);
            let mut pending = vec![Bytes::from(whole.encode_to_vec())];
            let mut seen = Vec::new();
            while let Some(bytes) = pending.pop() {
                match halve(Signal::Traces, &bytes) {
                    Some((first, second)) => pending.extend([second, first]),
                    None => seen.push(Traces::decode(bytes).expect("ours")),
                }
            }
            prop_assert_eq!(numbers(&seen), (0..count as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_span_over_the_limit_goes_alone() {
        let spans = vec![span(0, 10), span(1, 9_000), span(2, 10)];
        let (resource, scope) = Default::default();
        assert_eq!(split::<Traces>(&resource, &scope, spans, 4_000).len(), 3);
    }

    #[test]
    fn what_is_not_ours_is_not_halved() {
        assert_eq!(halve(Signal::Traces, b"\xff\xff"), None);
        assert_eq!(halve(Signal::Logs, b"\xff\xff"), None);
    }

    #[test]
    fn log_records_are_halved_as_well() {
        let record = |n: u64| LogRecord { time_unix_nano: n, ..LogRecord::default() };
        let whole = Logs::of(
            Resource::default(),
            InstrumentationScope::default(),
            vec![record(1), record(2), record(3)],
        );
        let (first, second) = halve(Signal::Logs, &whole.encode_to_vec()).expect("three records");
        let times = |bytes: Bytes| -> Vec<u64> {
            let (_, _, records) = Logs::decode(bytes).expect("ours").into_parts().expect("whole");
            records.iter().map(|record| record.time_unix_nano).collect()
        };
        assert_eq!((times(first), times(second)), (vec![1], vec![2, 3]));
    }
}
