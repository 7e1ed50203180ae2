//! Guarantees:
//!
//! - A failure that may pass is retried with the same ids, not before the time that the server asks
//!   for.
//! - A permanent refusal is reported once, and the id is not written.
//! - A partial success and a warning are reported, and nothing is sent again.
//! - Only an OTLP response acknowledges a request. A redirect is not followed.
//! - A request that is too large is split until it fits; a span that never fits is refused.
//! - An endpoint that starts late receives every export.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::exports::{Written, presets};
use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol, RetryAfter, spans_of};
use crate::support::program::{Output, PATIENCE};
use crate::support::workspace::Workspace;

/// One small export, and a server with faults.
struct Delivery {
    workspace: Workspace,
    written: Written,
    server: FakeOtlp,
    pipeline: Value,
}

impl Delivery {
    async fn new(protocol: Protocol, faults: impl IntoIterator<Item = Fault>) -> Self {
        let server = FakeOtlp::builder().script(faults).start().await;
        Self::to(server, protocol, Value::Null)
    }

    /// `exporter` overrides the exporter's configuration.
    fn to(server: FakeOtlp, protocol: Protocol, exporter: Value) -> Self {
        let workspace = Workspace::new();
        let written = workspace.export("a", &presets::typical());
        let pipeline = workspace.pipeline(server.endpoint(), protocol, exporter);
        Self { workspace, written, server, pipeline }
    }

    fn once(&self) -> Output {
        self.workspace.configured("once", &self.pipeline).run()
    }

    #[track_caller]
    fn assert_delivered_once(&self) {
        assert_eq!(self.written.snapshot.check(&self.server.accepted()), [""; 0]);
        assert_eq!(self.written.snapshot.check_written_back(), [""; 0]);
    }

    #[track_caller]
    fn assert_refused_for_good(&self, output: Output) {
        output.expect_code(3);
        assert_eq!(self.server.attempts().len(), 1, "a permanent refusal is not retried");
        assert!(self.written.snapshot.is_untouched(), "an id was written for what is not there");
    }

    /// Returns the time between the first and the second attempt.
    fn first_wait(&self) -> Duration {
        let attempts = self.server.attempts();
        attempts[1].at - attempts[0].at
    }
}

fn ids(request: &ExportTraceServiceRequest) -> Vec<Vec<u8>> {
    let spans = spans_of(std::slice::from_ref(request));
    spans.into_iter().map(|span| [span.trace_id, span.span_id].concat()).collect()
}

fn retryable(protocol: Protocol) -> Vec<Fault> {
    match protocol {
        Protocol::Grpc => [
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::OutOfRange,
            Code::DataLoss,
        ]
        .map(Fault::grpc)
        .into(),
        Protocol::Http => [429, 502, 503, 504].map(Fault::http).into(),
    }
}

fn permanent(protocol: Protocol) -> Vec<Fault> {
    match protocol {
        Protocol::Grpc => [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::Unimplemented,
            Code::Internal,
            Code::NotFound,
        ]
        .map(Fault::grpc)
        .into(),
        Protocol::Http => [400, 401, 403, 404, 500, 501].map(Fault::http).into(),
    }
}

#[tokio::test]
async fn transient_failures_are_retried_with_the_same_ids() {
    for protocol in Protocol::BOTH {
        let faults = retryable(protocol);
        let tries = faults.len() + 1;
        let delivery = Delivery::new(protocol, faults).await;
        delivery.once().expect_code(0);
        delivery.assert_delivered_once();
        let attempts = delivery.server.attempts();
        assert_eq!(attempts.len(), tries, "{protocol:?}");
        let first = ids(&attempts[0].request);
        assert!(attempts.iter().all(|attempt| ids(&attempt.request) == first), "{protocol:?}");
    }
}

#[tokio::test]
async fn permanent_failures_are_not_retried() {
    for protocol in Protocol::BOTH {
        for fault in permanent(protocol) {
            let delivery = Delivery::new(protocol, [fault.with_message("no entry")]).await;
            let output = delivery.once().expect_log(&["no entry"]);
            delivery.assert_refused_for_good(output);
        }
    }
}

#[tokio::test]
async fn a_partial_success_is_logged_and_not_sent_again() {
    for protocol in Protocol::BOTH {
        let delivery = Delivery::new(protocol, [Fault::partial(2, "too many of them")]).await;
        let output = delivery.once().expect_log(&["too many of them", "2"]);
        delivery.assert_refused_for_good(output);
    }
}

#[tokio::test]
async fn a_warning_in_a_success_is_logged_and_changes_nothing() {
    for protocol in Protocol::BOTH {
        let delivery = Delivery::new(protocol, [Fault::partial(0, "mind the gap")]).await;
        delivery.once().expect_code(0).expect_log(&["mind the gap"]);
        delivery.assert_delivered_once();
    }
}

#[tokio::test]
async fn the_hint_of_a_busy_server_is_obeyed() {
    let second = Duration::from_secs(1);
    let exhausted = Fault::grpc(Code::ResourceExhausted).with_retry_info(second);
    let seconds = Fault::http(429).with_retry_after(RetryAfter::Seconds(1));
    let date = Fault::http(503).with_retry_after(RetryAfter::Date(second));
    for (protocol, fault) in
        [(Protocol::Grpc, exhausted), (Protocol::Http, seconds), (Protocol::Http, date)]
    {
        let delivery = Delivery::new(protocol, [fault.clone()]).await;
        delivery.once().expect_code(0);
        delivery.assert_delivered_once();
        let waited = delivery.first_wait();
        assert!(waited >= second, "{fault:?}: only {waited:?}");
        assert!(waited < Duration::from_secs(10), "{fault:?}: {waited:?}");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up_and_tried_again() {
    for protocol in Protocol::BOTH {
        let server = FakeOtlp::builder().script([Fault::Stall]).start().await;
        let delivery = Delivery::to(server, protocol, json!({"timeout": "300ms"}));
        delivery.once().expect_code(0);
        delivery.assert_delivered_once();
        assert_eq!(delivery.server.attempts().len(), 2);
        assert!(delivery.first_wait() >= Duration::from_millis(250));
    }
}

#[tokio::test]
async fn a_cut_connection_is_tried_again() {
    for protocol in Protocol::BOTH {
        let delivery = Delivery::new(protocol, [Fault::Reset, Fault::Reset]).await;
        delivery.once().expect_code(0);
        delivery.assert_delivered_once();
        assert_eq!(delivery.server.attempts().len(), 3);
    }
}

#[tokio::test]
async fn a_success_that_is_not_otlp_is_no_acknowledgement() {
    for protocol in Protocol::BOTH {
        let delivery = Delivery::new(protocol, [Fault::Garbage]).await;
        let output = delivery.once();
        delivery.assert_refused_for_good(output);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for protocol in Protocol::BOTH {
        let delivery = Delivery::new(protocol, [Fault::Redirect]).await;
        let output = delivery.once();
        delivery.assert_refused_for_good(output);
    }
}

#[tokio::test]
async fn oversized_requests_are_halved_until_they_fit() {
    const LIMIT: usize = 60_000;
    for protocol in Protocol::BOTH {
        let server = FakeOtlp::builder().message_limit(LIMIT).start().await;
        let workspace = Workspace::new();
        let snapshot = workspace.export("a", &presets::many(60)).snapshot;
        let pipeline = workspace.pipeline(server.endpoint(), protocol, Value::Null);
        workspace.configured("once", &pipeline).run().expect_code(0);

        let accepted = server.attempts().into_iter().filter(|attempt| attempt.fault == Fault::Ok);
        assert!(accepted.clone().count() > 1);
        assert!(accepted.map(|attempt| attempt.encoded_bytes).all(|size| size <= LIMIT));
        assert_eq!(snapshot.check(&server.accepted()), [""; 0], "{protocol:?}");
        assert_eq!(snapshot.check_written_back(), [""; 0]);
    }
}

#[tokio::test]
async fn a_span_that_fits_nowhere_is_refused_and_not_halved_for_ever() {
    let server = FakeOtlp::builder().message_limit(500).start().await;
    let delivery = Delivery::to(server, Protocol::Grpc, Value::Null);
    delivery.once().expect_code(3);
    assert!(delivery.written.snapshot.is_untouched());
}

#[tokio::test]
async fn an_endpoint_that_comes_up_later_gets_everything() {
    for protocol in Protocol::BOTH {
        let server = FakeOtlp::builder().may_be_unused().start().await;
        let workspace = Workspace::new();
        let snapshot = workspace.export("a", &presets::typical()).snapshot;
        let pipeline = workspace.pipeline(server.endpoint(), protocol, Value::Null);
        let address = server.stop();
        let mut running = workspace.configured("once", &pipeline).spawn();
        // The program has noticed that the endpoint is down.
        running.wait_for_line(&address.port().to_string(), PATIENCE);

        let server = FakeOtlp::builder().at(address).start().await;
        assert_eq!(running.wait(PATIENCE), 0);
        assert_eq!(snapshot.check(&server.accepted()), [""; 0]);
        assert_eq!(snapshot.check_written_back(), [""; 0]);
    }
}
