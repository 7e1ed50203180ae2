use super::*;

#[derive(Debug, PartialEq)]
enum Kind {
    Retry(Delivery),
    TooLarge,
    Refused,
}
use Delivery::{InDoubt, NotDelivered};

fn kind(reply: &Reply) -> Kind {
    match reply {
        Reply::Retry { delivery, .. } => Kind::Retry(*delivery),
        Reply::TooLarge { .. } => Kind::TooLarge,
        Reply::Refused { .. } => Kind::Refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_grpc_code() {
    let cases = [
        (Code::Cancelled, Kind::Retry(InDoubt)),
        (Code::Unknown, Kind::Refused),
        (Code::InvalidArgument, Kind::Refused),
        (Code::DeadlineExceeded, Kind::Retry(InDoubt)),
        (Code::NotFound, Kind::Refused),
        (Code::AlreadyExists, Kind::Refused),
        (Code::PermissionDenied, Kind::Refused),
        (Code::ResourceExhausted, Kind::Retry(NotDelivered)),
        (Code::FailedPrecondition, Kind::Refused),
        (Code::Aborted, Kind::Retry(InDoubt)),
        (Code::OutOfRange, Kind::Retry(InDoubt)),
        (Code::Unimplemented, Kind::Refused),
        (Code::Internal, Kind::Refused),
        (Code::Unavailable, Kind::Retry(NotDelivered)),
        (Code::DataLoss, Kind::Retry(InDoubt)),
        (Code::Unauthenticated, Kind::Refused),
    ];
    for (code, expected) in cases {
        assert_eq!(kind(&grpc(code, "injected", None, false)), expected, "{code:?}");
    }
}

#[test]
fn a_broken_connection_is_retried_whatever_its_status() {
    for code in [Code::Unknown, Code::Internal, Code::Unavailable] {
        let reply = grpc(code, "transport error", None, true);
        assert_eq!(kind(&reply), Kind::Retry(InDoubt), "{code:?}");
    }
}

#[test]
fn a_gateway_that_lost_its_server_leaves_the_request_in_doubt() {
    let gateway = "grpc-status header missing, mapped from HTTP status code 504";
    assert_eq!(kind(&grpc(Code::Unavailable, gateway, None, false)), Kind::Retry(InDoubt));
    let cut = "protocol error: received message with missing grpc-status trailer";
    assert_eq!(kind(&grpc(Code::Unknown, cut, None, false)), Kind::Retry(InDoubt));
    let envoy = "upstream connect error or disconnect/reset before headers";
    assert_eq!(kind(&http(Signal::Traces, 503, envoy, None)), Kind::Retry(InDoubt));
    let wait = Some(Duration::from_secs(1));
    assert_eq!(kind(&http(Signal::Traces, 503, envoy, wait)), Kind::Retry(NotDelivered));
}

#[test]
fn size_is_recognised_by_its_words() {
    let messages = [
        (Code::ResourceExhausted, "grpc: received message larger than max (6354327 vs. 4194304)"),
        (
            Code::OutOfRange,
            "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
        ),
    ];
    for (code, message) in messages {
        assert_eq!(kind(&grpc(code, message, None, false)), Kind::TooLarge, "{message}");
    }
    // Recognized under every code, because a gateway may use its own.
    let go = "rpc error: code = ResourceExhausted desc = grpc: received message larger than max \
              (4408817 vs. 4194304)";
    for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Aborted] {
        assert_eq!(kind(&grpc(code, go, None, false)), Kind::TooLarge, "{code:?}");
    }
    for status in [400, 413, 429, 500, 502, 503, 504] {
        for signal in [Signal::Traces, Signal::Logs] {
            assert_eq!(kind(&http(signal, status, go, None)), Kind::TooLarge, "{status}");
        }
    }
    // Loki stored the other lines, so the request must not be split and sent again.
    let line = "error at least one label pair is required; entry too large";
    assert_eq!(kind(&http(Signal::Logs, 400, line, None)), Kind::Refused);
    assert_eq!(
        kind(&grpc(Code::ResourceExhausted, "rate limit exceeded", None, false)),
        Kind::Retry(NotDelivered)
    );
}

#[test]
fn http_statuses() {
    let cases = [
        (400, "", Kind::Refused),
        (400, "request body too large", Kind::TooLarge),
        (401, "", Kind::Refused),
        (403, "", Kind::Refused),
        (404, "", Kind::Refused),
        (408, "", Kind::Refused),
        (413, "", Kind::TooLarge),
        (400, "<h1>400 Request Header Or Cookie Too Large</h1>", Kind::Refused),
        (431, "Request Header Fields Too Large", Kind::Refused),
        (414, "Request-URI Too Large", Kind::Refused),
        (429, "", Kind::Retry(NotDelivered)),
        (500, "", Kind::Refused),
        (501, "", Kind::Refused),
        (502, "", Kind::Retry(InDoubt)),
        (503, "", Kind::Retry(NotDelivered)),
        (504, "", Kind::Retry(InDoubt)),
        (301, "", Kind::Refused),
        (307, "", Kind::Refused),
    ];
    for (status, body, expected) in cases {
        assert_eq!(kind(&http(Signal::Traces, status, body, None)), expected, "{status} {body}");
    }
}

#[test]
fn retry_after_in_both_forms() {
    let now = httpdate::parse_http_date("Mon, 23 Nov 2026 06:15:00 GMT").expect("a date");
    let cases = [
        ("7", Some(7)),
        (" 0 ", Some(0)),
        ("100000", Some(600)),
        ("Mon, 23 Nov 2026 06:15:30 GMT", Some(30)),
        ("Mon, 23 Nov 2026 06:14:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ];
    for (text, seconds) in cases {
        assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn retry_info_is_found_among_the_details() {
    let info = |seconds, nanos| {
        let delay = RetryInfo { retry_delay: Some(Wait { seconds, nanos }) };
        let any = Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: delay.encode_to_vec(),
        };
        let other = Any { type_url: "type.googleapis.com/x".into(), value: vec![1] };
        retry_info(&RpcStatus { details: vec![other, any] }.encode_to_vec())
    };
    assert_eq!(info(5, 500_000_000), Some(Duration::from_millis(5_500)));
    assert_eq!(info(7_000, 0), Some(MAX_SERVER_WAIT));
    assert_eq!(info(-1, 0), None);
    assert_eq!(retry_info(b"\xff"), None);
}

#[test]
fn acknowledgements() {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    let answer = |rejected_spans, message: &str| {
        let partial =
            ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() };
        let response = ExportTraceServiceResponse { partial_success: Some(partial) };
        acknowledgement(&response.encode_to_vec())
    };
    assert_eq!(acknowledgement(b""), Reply::Accepted);
    assert_eq!(answer(0, ""), Reply::Accepted);
    assert_eq!(answer(3, "x"), Reply::Partial { rejected: 3, message: "x".into() });
    assert_eq!(answer(-1, ""), Reply::Accepted);
    assert_eq!(answer(-1, "hm"), Reply::Partial { rejected: 0, message: "hm".into() });
    assert_eq!(answer(0, "hm"), Reply::Partial { rejected: 0, message: "hm".into() });
    assert_eq!(kind(&acknowledgement(b"<html>Sign in</html>")), Kind::Refused);
}
