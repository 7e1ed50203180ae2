//! Every fault of the fake endpoint has its documented effect, as seen by plain clients.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, Full};
use hyper::http::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::support::fake_otlp::{FakeOtlp, Fault, Protocol, RetryAfter, TestPki};

const SOON: Duration = Duration::from_secs(10);

fn request(name: &str) -> ExportTraceServiceRequest {
    let span = Span { name: name.to_owned(), ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

async fn grpc(server: &FakeOtlp) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(server.endpoint().to_owned()).await.unwrap()
}

async fn grpc_answer(fault: Fault) -> Result<ExportTraceServiceResponse, Status> {
    let server = FakeOtlp::builder().script([fault]).start().await;
    let answer = grpc(&server).await.export(request("a")).await;
    answer.map(tonic::Response::into_inner)
}

struct HttpAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn post(url: &str, body: Vec<u8>, encoding: &str) -> Result<HttpAnswer, String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::post(url).header("Content-Type", "application/x-protobuf");
    if !encoding.is_empty() {
        request = request.header("content-encoding", encoding);
    }
    let request = request.body(Full::from(body)).unwrap();
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(HttpAnswer { status: head.status, headers: head.headers, body })
}

async fn http_answer(fault: Fault) -> Result<HttpAnswer, String> {
    let server = FakeOtlp::builder().script([fault]).start().await;
    let url = format!("{}/v1/traces", server.endpoint());
    post(&url, request("a").encode_to_vec(), "").await
}

#[tokio::test]
async fn grpc_requests_are_decoded_and_counted() {
    let server = FakeOtlp::builder().start().await;
    let mut client = grpc(&server).await.send_compressed(CompressionEncoding::Gzip);
    let long = "x".repeat(10_000);
    client.export(request(&long)).await.unwrap();
    client.export(request("second")).await.unwrap();

    let names: Vec<_> = server.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, [long.as_str(), "second"]);
    let attempt = &server.attempts()[0];
    assert_eq!(attempt.protocol, Protocol::Grpc);
    assert_eq!(attempt.headers["grpc-encoding"], "gzip");
    assert_eq!(attempt.encoded_bytes, request(&long).encoded_len());
    assert!(attempt.wire_bytes < attempt.encoded_bytes / 10, "{}", attempt.wire_bytes);
}

#[tokio::test]
async fn http_requests_are_decoded_and_counted() {
    let server = FakeOtlp::builder().start().await;
    let url = format!("{}/v1/traces", server.endpoint());
    let plain = request("zipped").encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(post(&url, gzip.clone(), "gzip").await.unwrap().status, 200);
    assert_eq!(post(&url, request("plain").encode_to_vec(), "").await.unwrap().status, 200);

    let attempts = server.attempts();
    assert_eq!(attempts[0].protocol, Protocol::Http);
    assert_eq!(attempts[0].path, "/v1/traces");
    assert_eq!(attempts[0].headers["content-type"], "application/x-protobuf");
    assert_eq!((attempts[0].wire_bytes, attempts[0].encoded_bytes), (gzip.len(), plain.len()));
    assert_eq!(attempts[0].request, request("zipped"));
    assert_eq!(server.accepted(), [request("zipped"), request("plain")]);
}

#[tokio::test]
async fn invalid_requests_are_refused_and_recorded() {
    let server = FakeOtlp::builder().http_path("/in/take").start().await;
    let url = |path: &str| format!("{}{path}", server.endpoint());
    assert_eq!(post(&url("/v1/traces"), Vec::new(), "").await.unwrap().status, 404);
    assert_eq!(post(&url("/in/take"), b"\xff\xff".to_vec(), "").await.unwrap().status, 400);
    assert_eq!(post(&url("/in/take"), b"not gzip".to_vec(), "gzip").await.unwrap().status, 400);
    assert_eq!(post(&url("/in/take"), Vec::new(), "").await.unwrap().status, 200);
    assert_eq!(server.attempts().len(), 4);
    assert_eq!(server.accepted().len(), 1);
}

#[tokio::test]
async fn after_the_scripted_faults_requests_succeed() {
    let script = [Fault::unavailable(Protocol::Grpc), Fault::invalid(Protocol::Grpc)];
    let server = FakeOtlp::builder().script(script).start().await;
    let mut client = grpc(&server).await;
    assert_eq!(client.export(request("a")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(client.export(request("b")).await.unwrap_err().code(), Code::InvalidArgument);
    client.export(request("c")).await.unwrap();
    client.export(request("d")).await.unwrap();
    let names: Vec<_> = server.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(server.attempts()[0].fault, Fault::unavailable(Protocol::Grpc));
}

#[tokio::test]
async fn forever_means_forever() {
    let server = FakeOtlp::builder().script([Fault::Ok]).forever(Fault::grpc(Code::Aborted));
    let server = server.start().await;
    let mut client = grpc(&server).await;
    client.export(request("a")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.export(request("b")).await.unwrap_err().code(), Code::Aborted);
    }
}

#[tokio::test]
async fn grpc_refusals_carry_message_and_retry_info() {
    let fault = Fault::grpc(Code::ResourceExhausted)
        .with_message("slow down")
        .with_retry_info(Duration::from_millis(2500));
    let status = grpc_answer(fault).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "slow down"));
    // Field 3 (details) contains the type's URL, and 2 s with 500,000,000 ns.
    let details = status.details();
    let has = |bytes: &[u8]| details.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"type.googleapis.com/google.rpc.RetryInfo"));
    assert!(has(&[0x08, 2, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]));
}

#[tokio::test]
async fn http_refusals_carry_both_forms_of_retry_after() {
    let fault = Fault::http(429).with_retry_after(RetryAfter::Seconds(7));
    let answer = http_answer(fault).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.headers["retry-after"].as_bytes()),
        (429, &b"7"[..])
    );

    let fault = Fault::http(503).with_retry_after(RetryAfter::Date(Duration::from_secs(60)));
    let date =
        http_answer(fault).await.unwrap().headers["retry-after"].to_str().unwrap().to_owned();
    assert!(
        date.ends_with(" GMT") && date.len() == "Mon, 23 Nov 2026 06:15:00 GMT".len(),
        "{date}"
    );
}

#[test]
fn dates_are_right() {
    use crate::support::clock::{compact_timestamp, http_date};
    assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(compact_timestamp(1_795_414_500), "20261123T061500Z");
}

#[tokio::test]
async fn partial_success_counts_as_taken() {
    let fault = Fault::partial(3, "too old");
    let over_grpc = grpc_answer(fault.clone()).await.unwrap();
    let over_http = http_answer(fault).await.unwrap();
    let over_http = ExportTraceServiceResponse::decode(over_http.body).unwrap();
    assert_eq!(over_grpc, over_http);
    let partial = over_http.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (3, "too old"));
}

#[tokio::test]
async fn a_stalled_request_is_never_answered() {
    let server = FakeOtlp::builder().forever(Fault::Stall).start().await;
    let mut client = grpc(&server).await;
    let url = format!("{}/v1/traces", server.endpoint());
    let over_http = post(&url, request("b").encode_to_vec(), "");
    let over_grpc = client.export(request("a"));
    let arrived = server.wait_for(|state| state.attempts.len() == 2, SOON);
    tokio::select! {
        answer = over_grpc => panic!("answered: {answer:?}"),
        answer = over_http => panic!("answered: {:?}", answer.map(|answer| answer.status)),
        () = arrived => {}
    }
    assert!(server.accepted().is_empty());
}

#[tokio::test]
async fn a_reset_cuts_the_connection() {
    let status = grpc_answer(Fault::Reset).await.unwrap_err();
    assert!(std::error::Error::source(&status).is_some(), "not a transport error: {status:?}");
    assert!(http_answer(Fault::Reset).await.is_err());
}

#[tokio::test]
async fn garbage_is_a_success_that_does_not_decode() {
    assert_eq!(grpc_answer(Fault::Garbage).await.unwrap_err().code(), Code::Internal);
    let answer = http_answer(Fault::Garbage).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(ExportTraceServiceResponse::decode(answer.body).is_err());
}

#[tokio::test]
async fn a_redirect_leads_elsewhere() {
    let answer = http_answer(Fault::Redirect).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.headers["location"].as_bytes()),
        (307, &b"/elsewhere"[..])
    );
    assert!(grpc_answer(Fault::Redirect).await.is_err());
}

#[tokio::test]
async fn a_proxy_can_answer_a_grpc_call() {
    // The code depends on the client and the body; tonic reports INTERNAL here.
    assert!(grpc_answer(Fault::http(503)).await.is_err());
}

#[tokio::test]
async fn messages_over_the_limit_are_refused() {
    let server = FakeOtlp::builder().message_limit(1000).start().await;
    let big = request(&"x".repeat(2000));
    let status = grpc(&server).await.export(big.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("larger than max"), "{status:?}");
    let url = format!("{}/v1/traces", server.endpoint());
    assert_eq!(post(&url, big.encode_to_vec(), "").await.unwrap().status, 413);
    assert!(server.accepted().is_empty());
}

#[tokio::test]
async fn an_endpoint_comes_back_where_it_was() {
    let first = FakeOtlp::builder().start().await;
    let mut client = grpc(&first).await;
    client.export(request("before")).await.unwrap();
    let address = first.stop();
    let status = client.export(request("down")).await.unwrap_err();
    assert!(std::error::Error::source(&status).is_some(), "not a transport error: {status:?}");

    let second = FakeOtlp::builder().at(address).start().await;
    assert_eq!(second.address(), address);
    grpc(&second).await.export(request("after")).await.unwrap();
    assert_eq!(second.spans()[0].name, "after");
}

#[tokio::test]
#[should_panic(expected = "nobody called")]
async fn an_endpoint_nobody_called_fails_the_test() {
    drop(FakeOtlp::builder().start().await);
}

#[tokio::test]
async fn an_endpoint_may_be_unused_when_that_is_the_point() {
    drop(FakeOtlp::builder().may_be_unused().start().await);
}

#[tokio::test]
#[should_panic(expected = "not reached")]
async fn waiting_ends_at_the_deadline() {
    let server = FakeOtlp::builder().may_be_unused().start().await;
    server.wait_for(|state| !state.accepted.is_empty(), Duration::from_millis(20)).await;
}

#[tokio::test]
async fn tls_is_spoken_and_a_client_certificate_demanded() {
    let (dir, pki) = (TempDir::new().unwrap(), TestPki::new());
    let files = pki.write_into(dir.path());
    let ca = Certificate::from_pem(fs::read(&files.ca).unwrap());
    let anonymous = ClientTlsConfig::new().ca_certificate(ca.clone());
    let known = anonymous.clone().identity(Identity::from_pem(
        fs::read(&files.client_certificate).unwrap(),
        fs::read(&files.client_key).unwrap(),
    ));
    let export = async |server: &FakeOtlp, tls: &ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(server.endpoint().to_owned()).unwrap();
        let channel = endpoint.tls_config(tls.clone()).unwrap().connect().await;
        let mut client = TraceServiceClient::new(channel.map_err(|error| error.to_string())?);
        client.export(request("a")).await.map_err(|status| status.to_string())
    };

    let server = FakeOtlp::builder().tls(&pki).start().await;
    assert!(server.endpoint().starts_with("https://"));
    export(&server, &anonymous).await.unwrap();
    assert!(export(&server, &ClientTlsConfig::new()).await.is_err(), "an unknown authority");

    let server = FakeOtlp::builder().mutual_tls(&pki).start().await;
    assert!(timeout(SOON, export(&server, &anonymous)).await.unwrap().is_err());
    export(&server, &known).await.unwrap();
    assert_eq!(server.accepted().len(), 1);
}
