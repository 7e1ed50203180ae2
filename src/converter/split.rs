//! Splits records into requests within the receiver's message limit. Each request is valid by
//! itself.
//!
//! ```text
//! resource + scope + [record, record, …] ─▶ [resource + scope + records] … each ≤ max bytes
//! ```

use std::marker::PhantomData;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
    encoded_len_varint, message, skip_field,
};

use super::request::{Logs, Request, Traces};
use crate::base::signal::Signal;

/// Encoded records, each as the field that it becomes in a request.
#[derive(Debug)]
pub(crate) struct Fields<R> {
    encoded: Vec<u8>,
    /// The end of each record, as an offset.
    ends: Vec<usize>,
    /// Encoded size of the records alone, in bytes.
    bytes: u64,
    kind: PhantomData<R>,
}

impl<R: Request> Fields<R> {
    /// Returns an empty list with capacity for `bytes` of records.
    pub(crate) fn with_capacity(bytes: usize) -> Fields<R> {
        let encoded = Vec::with_capacity(bytes);
        Fields { encoded, ends: Vec::new(), bytes: 0, kind: PhantomData }
    }

    pub(crate) fn of(records: impl IntoIterator<Item = R::Record>) -> Fields<R> {
        let mut fields = Fields::with_capacity(0);
        records.into_iter().for_each(|record| fields.push(&record));
        fields
    }

    pub(crate) fn push(&mut self, record: &R::Record) {
        let bytes = record.encoded_len() as u64;
        encode_key(SECOND, WireType::LengthDelimited, &mut self.encoded);
        encode_varint(bytes, &mut self.encoded);
        record.encode_raw(&mut self.encoded);
        self.ends.push(self.encoded.len());
        self.bytes += bytes;
    }
}

/// Packs records into encoded requests, in order. A record above the limit gets a request of its
/// own, so that the receiver decides whether to refuse it.
#[derive(Debug)]
pub(crate) struct Packer<R> {
    /// The resource and the scope, encoded as fields of the messages around the records.
    resource: Vec<u8>,
    scope: Vec<u8>,
    max_bytes: usize,
    /// The request being built: space for the header, then the records as fields.
    request: Vec<u8>,
    /// Size of that space, in bytes.
    before: usize,
    packed: Packed,
    kind: PhantomData<R>,
}

/// The result of packing.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) requests: Vec<Bytes>,
    pub(crate) count: usize,
    /// Encoded size of the records alone, in bytes.
    pub(crate) bytes: u64,
}

/// Maximum length of a varint, in bytes.
const MAX_VARINT: usize = 10;
/// Protobuf field 1: `resource_spans` in a request, `resource` in a group, `scope` in a scope group.
const FIRST: u32 = 1;
/// Protobuf field 2: the scope groups in a group, the records in a scope group.
const SECOND: u32 = 2;

impl<R: Request> Packer<R> {
    pub(crate) fn new(
        resource: &Resource,
        scope: &InstrumentationScope,
        max_bytes: usize,
    ) -> Packer<R> {
        let (mut of_group, mut of_scope) = (Vec::new(), Vec::new());
        message::encode(FIRST, resource, &mut of_group);
        message::encode(FIRST, scope, &mut of_scope);
        // The resource and the scope, each with a key and a length before it.
        let before = of_group.len() + of_scope.len() + 2 * (1 + MAX_VARINT);
        Packer {
            resource: of_group,
            scope: of_scope,
            max_bytes,
            request: vec![0; before],
            before,
            packed: Packed::default(),
            kind: PhantomData,
        }
    }

    /// Adds records. Returns the size of all records so far, in bytes.
    pub(crate) fn push(&mut self, fields: &Fields<R>) -> u64 {
        let mut start = 0;
        for &end in &fields.ends {
            let full = self.request_len(self.records() + end - start) > self.max_bytes;
            if full && self.records() > 0 {
                self.close();
                // Reserve the maximum size at once: growing step by step would use up to twice the
                // memory.
                self.request.reserve_exact(self.max_bytes);
            }
            self.request.extend_from_slice(&fields.encoded[start..end]);
            start = end;
        }
        self.packed.count += fields.ends.len();
        self.packed.bytes += fields.bytes;
        self.packed.bytes
    }

    pub(crate) fn finish(mut self) -> Packed {
        if self.records() > 0 {
            self.close();
        }
        self.packed
    }

    /// Returns the size of the records in the request being built, in bytes.
    fn records(&self) -> usize {
        self.request.len() - self.before
    }

    /// Returns the lengths of the scope group, the group around it, and the request, for `records`
    /// bytes of records.
    fn lens(&self, records: usize) -> [usize; 2] {
        let in_scope = self.scope.len() + records;
        let framed = 1 + encoded_len_varint(in_scope as u64) + in_scope;
        [in_scope, self.resource.len() + framed]
    }

    fn request_len(&self, records: usize) -> usize {
        let [_, in_group] = self.lens(records);
        1 + encoded_len_varint(in_group as u64) + in_group
    }

    fn close(&mut self) {
        let [in_scope, in_group] = self.lens(self.records());
        let mut header = Vec::with_capacity(self.before);
        encode_key(FIRST, WireType::LengthDelimited, &mut header);
        encode_varint(in_group as u64, &mut header);
        header.extend_from_slice(&self.resource);
        encode_key(SECOND, WireType::LengthDelimited, &mut header);
        encode_varint(in_scope as u64, &mut header);
        header.extend_from_slice(&self.scope);
        // The header ends where the records begin, so that the records need not be moved.
        let start = self.before - header.len();
        let mut request = std::mem::replace(&mut self.request, vec![0; self.before]);
        request[start..self.before].copy_from_slice(&header);
        self.packed.requests.push(Bytes::from(request).slice(start..));
    }
}

/// Splits an encoded request that was refused for its size into two halves. `None` if it has a
/// single record, or is not a request of taskspan.
pub(crate) fn halve(signal: Signal, encoded: &[u8]) -> Option<(Bytes, Bytes)> {
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

/// Counts the records of an encoded request. Both signals nest alike, so this skips over the fields
/// without decoding them.
pub(crate) fn count(encoded: &[u8]) -> u64 {
    /// Field numbers: groups in a request, scope groups in a group, records in a scope group.
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

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;

    use super::*;

    fn span(number: usize, size: usize) -> Span {
        Span { name: "x".repeat(size), flags: number as u32, ..Span::default() }
    }

    fn packed(
        resource: &Resource,
        scope: &InstrumentationScope,
        spans: &[Span],
        max: usize,
    ) -> Packed {
        let mut packer = Packer::<Traces>::new(resource, scope, max);
        for spans in spans.chunks(7) {
            packer.push(&Fields::of(spans.iter().cloned()));
        }
        packer.finish()
    }

    fn numbers(requests: &[Traces]) -> Vec<u32> {
        let groups = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = groups.flat_map(|group| &group.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(|span| span.flags).collect()
    }

    proptest! {
        #[test]
        fn requests_keep_every_span_in_order_and_stay_under_the_limit(
            sizes in prop::collection::vec(0_usize..3_000, 0..60),
            max in 4_000_usize..20_000,
            service in ".{0,40}",
        ) {
            let spans: Vec<Span> = sizes.iter().enumerate().map(|(n, &s)| span(n, s)).collect();
            let expected: Vec<u32> = (0..u32::try_from(spans.len()).expect("few")).collect();
            let resource = Resource {
                attributes: vec![crate::converter::attributes::string("service.name", &service)],
                ..Resource::default()
            };
            let scope = crate::converter::scope();
            let packed = packed(&resource, &scope, &spans, max);
            prop_assert_eq!(packed.count, spans.len());
            let bytes: usize = spans.iter().map(Message::encoded_len).sum();
            prop_assert_eq!(packed.bytes, bytes as u64);
            let counts = packed.requests.iter().map(|request| count(request));
            prop_assert_eq!(counts.sum::<u64>(), expected.len() as u64);
            let requests: Vec<Traces> =
                packed.requests.iter().map(|it| Traces::decode(it.clone()).expect("ours")).collect();
            prop_assert_eq!(numbers(&requests), expected);
            for (request, encoded) in requests.iter().zip(&packed.requests) {
                prop_assert!(encoded.len() <= max);
                // The size must match the encoded message to the byte.
                prop_assert_eq!(&request.encode_to_vec(), encoded);
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
        assert_eq!(packed(&resource, &scope, &spans, 4_000).requests.len(), 3);
    }

    #[test]
    fn only_our_requests_are_halved() {
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
