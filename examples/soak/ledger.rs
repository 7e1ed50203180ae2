//! Records the requests that arrived at the endpoint, and checks repetitions.
//!
//! The sidecar sends one request at a time. If a process sends another request, the acknowledgement
//! of the one before is on disk. So spans may be repeated after an acknowledgement only if the
//! acknowledged request was the last one of a process that was killed.

use std::collections::{HashMap, HashSet};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use crate::support::conventions::hex;
use crate::support::fake_otlp::{Attempt, Fault, spans_of};

/// The header that identifies the sending process.
pub const PROCESS: &str = "x-process";

type SpanKey = (Vec<u8>, Vec<u8>);

struct Arrival {
    process: String,
    acknowledged: bool,
    spans: Vec<SpanKey>,
}

/// All requests so far, and which processes were killed.
#[derive(Default)]
pub struct Ledger {
    arrivals: Vec<Arrival>,
    accepted: Vec<ExportTraceServiceRequest>,
    killed: HashSet<String>,
    pub counts: Counts,
}

/// Number of requests per kind of answer.
#[derive(Debug, Default)]
pub struct Counts {
    pub requests: usize,
    pub acknowledged: usize,
    pub refused: usize,
    pub reset: usize,
    pub stalled: usize,
}

/// The requests that contained spans of earlier requests.
#[derive(Debug, Default)]
pub struct Repetitions {
    /// No earlier request was acknowledged.
    pub in_doubt: usize,
    /// Each acknowledged earlier request was the last one of a process that was killed.
    pub after_a_kill: usize,
    /// All other repetitions, as messages.
    pub unexcused: Vec<String>,
}

/// Returns the name of the process that sent a request. Empty if the header is missing.
pub fn process_of(attempt: &Attempt) -> &str {
    attempt.headers.get(PROCESS).map_or("", String::as_str)
}

impl Ledger {
    /// Records the requests of an endpoint. Must be called once per endpoint, after its last
    /// request.
    pub fn enter(&mut self, attempts: Vec<Attempt>) {
        for attempt in attempts {
            self.counts.requests += 1;
            *match attempt.fault {
                Fault::Ok => &mut self.counts.acknowledged,
                Fault::Reset => &mut self.counts.reset,
                Fault::Stall => &mut self.counts.stalled,
                _ => &mut self.counts.refused,
            } += 1;
            let spans = spans_of(std::slice::from_ref(&attempt.request));
            self.arrivals.push(Arrival {
                process: process_of(&attempt).to_owned(),
                acknowledged: attempt.fault.accepts(),
                spans: spans.into_iter().map(|span| (span.trace_id, span.span_id)).collect(),
            });
            if attempt.fault.accepts() {
                self.accepted.push(attempt.request);
            }
        }
    }

    /// Records that a process was killed.
    pub fn note_kill(&mut self, process: &str) {
        self.killed.insert(process.to_owned());
    }

    /// Returns the ids of all traces that arrived, in hexadecimal.
    pub fn traces(&self) -> HashSet<String> {
        let spans = self.arrivals.iter().flat_map(|arrival| &arrival.spans);
        spans.map(|(trace, _)| hex(trace)).collect()
    }

    /// Returns the acknowledged requests of a trace, each span once. `just_now` are the accepted
    /// requests of the running endpoint.
    pub fn of_trace(
        &self,
        trace_id: &str,
        just_now: &[ExportTraceServiceRequest],
    ) -> Vec<ExportTraceServiceRequest> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for request in self.accepted.iter().chain(just_now) {
            let spans = spans_of(std::slice::from_ref(request));
            if spans.first().map(|span| hex(&span.trace_id)).as_deref() != Some(trace_id) {
                continue;
            }
            let mut request = request.clone();
            let groups = request.resource_spans.iter_mut();
            for scope in groups.flat_map(|group| &mut group.scope_spans) {
                scope.spans.retain(|span| seen.insert(span.span_id.clone()));
            }
            if !spans_of(std::slice::from_ref(&request)).is_empty() {
                found.push(request);
            }
        }
        found
    }

    /// Classifies all requests that contained spans of earlier ones.
    pub fn repetitions(&self) -> Repetitions {
        let mut last_of: HashMap<&str, usize> = HashMap::new();
        for (index, arrival) in self.arrivals.iter().enumerate() {
            last_of.insert(&arrival.process, index);
        }
        let mut before: HashMap<&SpanKey, Vec<usize>> = HashMap::new();
        let mut repetitions = Repetitions::default();
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let mut earlier: HashSet<usize> = HashSet::new();
            for span in &arrival.spans {
                let known = before.entry(span).or_default();
                earlier.extend(&*known);
                known.push(index);
            }
            let acknowledged = earlier.iter().filter(|index| self.arrivals[**index].acknowledged);
            let unexcused = acknowledged.clone().find(|index| {
                let process = self.arrivals[**index].process.as_str();
                !self.killed.contains(process) || last_of[process] != **index
            });
            match unexcused {
                _ if earlier.is_empty() => {}
                Some(&first) => repetitions.unexcused.push(format!(
                    "request {index} of {} brings spans again that request {first} of {} brought \
                     and that were acknowledged",
                    arrival.process, self.arrivals[first].process
                )),
                None if acknowledged.count() > 0 => repetitions.after_a_kill += 1,
                None => repetitions.in_doubt += 1,
            }
        }
        repetitions
    }
}
