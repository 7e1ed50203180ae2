//! An OTLP endpoint for tests: real sockets, both protocols on one port, faults on demand.
//!
//! ```text
//! FakeOtlp::builder().script([Fault::grpc(Code::Unavailable)]).start().await
//!     request ─▶ decode ─▶ next fault of the script ─▶ record the attempt ─▶ answer (or not)
//! ```
//!
//! The server has its own thread and runtime, so a test may block on a child process. gRPC is
//! framed by hand (a five-byte prefix and a `grpc-status` trailer), so that bytes on the wire can
//! be counted and invalid answers given.

mod fault;
mod pki;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

pub use fault::{Fault, RetryAfter};
pub use pki::TestPki;

/// An OTLP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    /// Both protocols, for tests that run once per protocol.
    pub const BOTH: [Self; 2] = [Self::Grpc, Self::Http];

    /// The spelling of `--protocol` and `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// A request that arrived, except decoded log requests, with the answer it got.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub protocol: Protocol,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub path: String,
    /// Size of the body in bytes as sent, without the gRPC prefix. Zero if it could not be read.
    pub wire_bytes: usize,
    /// Size of the body in bytes after decompression. Zero if it could not be decompressed.
    pub encoded_bytes: usize,
    /// Empty if the request was refused before the script was used, for example because it could
    /// not be decoded or is above `message_limit`.
    pub request: ExportTraceServiceRequest,
    /// The fault that decided the answer.
    pub fault: Fault,
    pub at: Instant,
}

/// What an endpoint has received so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub attempts: Vec<Attempt>,
    /// Trace requests that were answered with full or partial success, in order.
    pub accepted: Vec<ExportTraceServiceRequest>,
    /// Log requests that were answered with full or partial success, in order.
    pub logs: Vec<ExportLogsServiceRequest>,
    /// Number of decoded log requests, accepted or not.
    pub log_attempts: usize,
}

impl State {
    /// Returns the spans of all accepted requests.
    pub fn spans(&self) -> Vec<Span> {
        spans_of(&self.accepted)
    }

    /// Returns the records of all accepted log requests.
    pub fn log_records(&self) -> Vec<LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| &scope.log_records).cloned().collect()
    }
}

/// Returns the spans of these requests, in order.
pub fn spans_of(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|r| &r.resource_spans);
    resources.flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).cloned().collect()
}

/// The settings of an endpoint that is not started yet.
pub struct Builder {
    address: SocketAddr,
    script: Script,
    log_script: Script,
    of_project: Option<(String, Fault)>,
    log_limit: Option<(usize, Fault)>,
    message_limit: usize,
    http_path: String,
    tls: Option<TlsAcceptor>,
    may_be_unused: bool,
}

impl Builder {
    /// Answers the next trace requests with these faults, one per request. Later ones get `Ok`, or
    /// the fault of `forever`.
    pub fn script(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.next.extend(faults);
        self
    }

    /// Sets the answer to all trace requests after the script.
    pub fn forever(mut self, fault: Fault) -> Self {
        self.script.forever = fault;
        self
    }

    /// Answers the next log requests with these faults, one per request.
    pub fn log_script(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.log_script.next.extend(faults);
        self
    }

    /// Sets the answer to all log requests after their script.
    pub fn log_forever(mut self, fault: Fault) -> Self {
        self.log_script.forever = fault;
        self
    }

    /// Sets the answer to all requests with a span of this project. They do not use up the script.
    pub fn of_project(mut self, project: &str, fault: Fault) -> Self {
        self.of_project = Some((project.to_owned(), fault));
        self
    }

    /// Sets the answer to log requests with more records than this. They do not use up the script.
    pub fn log_limit(mut self, records: usize, fault: Fault) -> Self {
        self.log_limit = Some((records, fault));
        self
    }

    /// Refuses trace requests above this size in bytes, like the Collector (default: 4 MiB).
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.message_limit = bytes;
        self
    }

    /// Sets the path of trace requests over HTTP (default: `/v1/traces`). Unknown paths get a 404.
    pub fn http_path(mut self, path: &str) -> Self {
        self.http_path = path.to_owned();
        self
    }

    /// Uses TLS, without client certificates.
    pub fn tls(mut self, pki: &TestPki) -> Self {
        self.tls = Some(pki.acceptor(false));
        self
    }

    /// Uses TLS, and requires a client certificate.
    pub fn mutual_tls(mut self, pki: &TestPki) -> Self {
        self.tls = Some(pki.acceptor(true));
        self
    }

    /// Listens at the address of an earlier server.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Allows that a test never calls the endpoint.
    pub fn may_be_unused(mut self) -> Self {
        self.may_be_unused = true;
        self
    }

    /// Starts the server and waits until it listens. Fails the test if the address is in use.
    pub async fn start(self) -> FakeOtlp {
        let shared = Arc::new(Shared {
            state: watch::Sender::new(State::default()),
            script: Mutex::new(self.script),
            log_script: Mutex::new(self.log_script),
            of_project: self.of_project,
            log_limit: self.log_limit,
            message_limit: self.message_limit,
            http_path: self.http_path,
        });
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let scheme = if self.tls.is_some() { "https://localhost" } else { "http://127.0.0.1" };
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || serve::run(self.address, self.tls, shared, ready, stopped)
        });
        let address = is_ready.await.expect("the fake endpoint could not bind its address");
        FakeOtlp {
            address,
            endpoint: format!("{scheme}:{}", address.port()),
            shared,
            running: Some((stop, thread)),
            may_be_unused: self.may_be_unused,
        }
    }
}

/// A running endpoint. Dropping an endpoint that was never called fails the test, because such a
/// test checks nothing. `Builder::may_be_unused` allows it.
#[must_use]
pub struct FakeOtlp {
    address: SocketAddr,
    endpoint: String,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    may_be_unused: bool,
}

impl FakeOtlp {
    /// Starts with the defaults: a free port of localhost, no TLS, and success for every request.
    pub fn builder() -> Builder {
        Builder {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            script: Script::default(),
            log_script: Script::default(),
            of_project: None,
            log_limit: None,
            message_limit: 4 << 20,
            http_path: "/v1/traces".to_owned(),
            tls: None,
            may_be_unused: false,
        }
    }

    /// Returns the base URL for `--endpoint`, with either protocol.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a copy of everything received so far.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Returns the attempts so far, in order.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.state.borrow().attempts.clone()
    }

    /// Returns the accepted trace requests so far, in order.
    pub fn accepted(&self) -> Vec<ExportTraceServiceRequest> {
        self.shared.state.borrow().accepted.clone()
    }

    /// Returns the spans of all accepted requests so far.
    pub fn spans(&self) -> Vec<Span> {
        self.shared.state.borrow().spans()
    }

    /// Waits until the condition holds. Fails the test after the deadline.
    pub async fn wait_for(&self, mut condition: impl FnMut(&State) -> bool, deadline: Duration) {
        let mut state = self.shared.state.subscribe();
        let reached = tokio::time::timeout(deadline, state.wait_for(|s| condition(s))).await;
        if reached.is_err() {
            let state = self.shared.state.borrow();
            let answers: Vec<_> = state.attempts.iter().map(|a| &a.fault).collect();
            panic!("not reached within {deadline:?}; the endpoint answered {answers:?}");
        }
    }

    /// Closes the listener and all connections at once, as in a crash. Returns the address for
    /// `Builder::at`.
    pub fn stop(self) -> SocketAddr {
        self.address
    }
}

impl Drop for FakeOtlp {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let outcome = thread.join();
            if std::thread::panicking() {
                return;
            }
            outcome.expect("the fake endpoint itself panicked");
            let state = self.shared.state.borrow();
            let used = !state.attempts.is_empty() || state.log_attempts > 0;
            assert!(used || self.may_be_unused, "nobody called {}", self.endpoint);
        }
    }
}

struct Script {
    next: VecDeque<Fault>,
    forever: Fault,
}

impl Default for Script {
    fn default() -> Self {
        Self { next: VecDeque::new(), forever: Fault::Ok }
    }
}

impl Script {
    fn next(&mut self) -> Fault {
        self.next.pop_front().unwrap_or_else(|| self.forever.clone())
    }
}

/// The state that the handle and the serving thread share.
struct Shared {
    state: watch::Sender<State>,
    script: Mutex<Script>,
    log_script: Mutex<Script>,
    of_project: Option<(String, Fault)>,
    log_limit: Option<(usize, Fault)>,
    message_limit: usize,
    http_path: String,
}

impl Shared {
    fn next_fault(&self, request: &ExportTraceServiceRequest) -> Fault {
        let is_of = |project: &str| {
            let spans = spans_of(std::slice::from_ref(request));
            let mut attributes = spans.iter().flat_map(|span| &span.attributes);
            attributes.any(|it| it.key == "project.id" && format!("{it:?}").contains(project))
        };
        match &self.of_project {
            Some((project, fault)) if is_of(project) => fault.clone(),
            _ => self.script.lock().unwrap().next(),
        }
    }

    fn next_log_fault(&self, request: &ExportLogsServiceRequest) -> Fault {
        let scopes = request.resource_logs.iter().flat_map(|it| &it.scope_logs);
        let records: usize = scopes.map(|scope| scope.log_records.len()).sum();
        match &self.log_limit {
            Some((limit, fault)) if records > *limit => fault.clone(),
            _ => self.log_script.lock().unwrap().next(),
        }
    }
}
