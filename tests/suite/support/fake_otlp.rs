//! An OTLP endpoint for tests: real sockets, both protocols on one port, faults on demand.
//!
//! ```text
//! FakeOtlp::builder().script([Fault::grpc(Code::Unavailable)]).start().await
//!     request ─▶ decode ─▶ next fault of the script ─▶ record the attempt ─▶ answer (or not)
//! ```
//!
//! The server has its own thread and runtime, so a test may block on a child process. gRPC is
//! framed by hand (a five-byte prefix and two trailers per call), so that bytes on the wire can be
//! counted and invalid answers given.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    pub const BOTH: [Self; 2] = [Self::Grpc, Self::Http];

    /// The spelling of `--protocol` and `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// A trace request that arrived, whatever the answer was.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub protocol: Protocol,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub path: String,
    /// Size of the body on the wire, without the gRPC frame.
    pub wire_bytes: usize,
    /// Size of the body after decompression.
    pub encoded_bytes: usize,
    /// Empty if the body could not be decoded, which `fault` shows.
    pub request: ExportTraceServiceRequest,
    /// The answer.
    pub fault: Fault,
    pub at: Instant,
}

#[derive(Clone, Debug, Default)]
pub struct State {
    pub attempts: Vec<Attempt>,
    /// Requests that were answered with success (or partial success), in order.
    pub accepted: Vec<ExportTraceServiceRequest>,
    /// Log requests that were answered with success. They have their own script.
    pub logs: Vec<ExportLogsServiceRequest>,
    /// Number of all log requests.
    pub log_attempts: usize,
}

impl State {
    pub fn spans(&self) -> Vec<Span> {
        spans_of(&self.accepted)
    }

    pub fn log_records(&self) -> Vec<LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| &scope.log_records).cloned().collect()
    }
}

pub fn spans_of(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|r| &r.resource_spans);
    resources.flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).cloned().collect()
}

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
    /// One fault per request, then `Ok` (or the fault of `forever`).
    pub fn script(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.next.extend(faults);
        self
    }

    /// Sets the answer to every request after the script.
    pub fn forever(mut self, fault: Fault) -> Self {
        self.script.forever = fault;
        self
    }

    /// Sets the script for log requests.
    pub fn log_script(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.log_script.next.extend(faults);
        self
    }

    pub fn log_forever(mut self, fault: Fault) -> Self {
        self.log_script.forever = fault;
        self
    }

    /// Sets the answer to every request with a span of this project, regardless of the script.
    pub fn of_project(mut self, project: &str, fault: Fault) -> Self {
        self.of_project = Some((project.to_owned(), fault));
        self
    }

    /// Sets the answer to log requests with more records than this.
    pub fn log_limit(mut self, records: usize, fault: Fault) -> Self {
        self.log_limit = Some((records, fault));
        self
    }

    /// Refuses messages larger than this, like the Collector (default 4 MiB).
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.message_limit = bytes;
        self
    }

    /// Sets the path of HTTP traces (default `/v1/traces`). Other paths are answered with 404.
    pub fn http_path(mut self, path: &str) -> Self {
        self.http_path = path.to_owned();
        self
    }

    pub fn tls(mut self, pki: &TestPki) -> Self {
        self.tls = Some(pki.acceptor(false));
        self
    }

    /// Uses TLS with client certificates.
    pub fn mutual_tls(mut self, pki: &TestPki) -> Self {
        self.tls = Some(pki.acceptor(true));
        self
    }

    /// Listens at the address of an earlier server.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// For tests in which the endpoint must not be called.
    pub fn may_be_unused(mut self) -> Self {
        self.may_be_unused = true;
        self
    }

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

/// A running endpoint. Dropping one that was never called fails the test, because it tested
/// nothing.
#[must_use]
pub struct FakeOtlp {
    address: SocketAddr,
    endpoint: String,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    may_be_unused: bool,
}

impl FakeOtlp {
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.state.borrow().attempts.clone()
    }

    pub fn accepted(&self) -> Vec<ExportTraceServiceRequest> {
        self.shared.state.borrow().accepted.clone()
    }

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

    /// Closes the listener and all connections at once, like a crash. Returns the address for
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
