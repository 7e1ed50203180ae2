//! Serves health, metrics and a status page over HTTP.
//!
//! ```text
//! events ──────────▶ metrics ─┐
//! queue, receivers, exports ──┼─▶ 127.0.0.1:8888   /metrics, /, /plan/ID
//!                └─▶ health ──┴─▶ 127.0.0.1:13133  /, /live, /ready
//! ```

pub(crate) mod grafana;
mod graph;
mod health;
mod html;
mod metrics;
mod page;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indexmap::IndexMap;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::clock::UnixNanos;
use crate::config::receivers::ExportDirConfig;
use crate::config::service::listening;
use crate::config::{Config, HealthCheckConfig};
use crate::converter::Converter;
use crate::observe::grafana::Grafana;
use crate::pipeline::event::Event;
use crate::pipeline::quarantine::Quarantine;
use crate::pipeline::status::{self, ExportStatus, QueueSnapshot};
use crate::queue::Queue;
use crate::receiver::ReceiverStatus;
use health::Facts;
pub(crate) use metrics::Metrics;
use server::Page;

/// Both servers, bound but not serving yet.
#[derive(Debug)]
pub(crate) struct Observe {
    metrics: Arc<Metrics>,
    metrics_listener: Option<TcpListener>,
    health: Option<(HealthCheckConfig, TcpListener)>,
    exports: Exports,
}

/// How exports are found and converted, for the status page.
#[derive(Debug)]
struct Exports {
    receivers: Vec<ExportDirConfig>,
    converters: Vec<Converter>,
    grafana: Option<Grafana>,
    unhealthy_after: Duration,
    /// Allows one scan of all files at a time.
    looking: Mutex<()>,
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot listen on {address}: {source}")]
pub(crate) struct BindError {
    what: &'static str,
    address: String,
    source: std::io::Error,
}

/// The data that the servers report.
struct Subject {
    queue: Queue,
    quarantine: Quarantine,
    watching: Vec<Arc<ReceiverStatus>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    exports: Exports,
}

impl Observe {
    /// Binds the configured addresses.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound, for example because it is in use.
    pub(crate) async fn bind(
        config: &Config,
        exports: Vec<(ExportDirConfig, Converter)>,
        metrics: Arc<Metrics>,
    ) -> Result<Observe, BindError> {
        let metrics_listener = match &config.service.telemetry.metrics {
            Some(served) => Some(bind("service.telemetry.metrics", &served.address).await?),
            None => None,
        };
        let health = match config.health_check() {
            Some(health) => {
                let listener = bind("health_check", &health.endpoint).await?;
                Some((health.clone(), listener))
            }
            None => None,
        };
        let default = HealthCheckConfig::default();
        let judged = health.as_ref().map_or(&default, |(health, _)| health);
        let unhealthy_after = judged.unhealthy_after.0;
        let (receivers, converters) = exports.into_iter().unzip();
        let (grafana, looking) = (Grafana::of(&config.service), Mutex::default());
        let exports = Exports { receivers, converters, grafana, unhealthy_after, looking };
        Ok(Observe { metrics, metrics_listener, health, exports })
    }

    /// Returns the addresses of metrics and health.
    pub(crate) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let of = |listener: &TcpListener| listener.local_addr().ok();
        let health = self.health.as_ref().and_then(|(_, listener)| of(listener));
        (self.metrics_listener.as_ref().and_then(of), health)
    }

    /// Returns a function that updates metrics and health with each event.
    pub(crate) fn listener(&self) -> impl Fn(&Event) + Send + Sync + use<> {
        let metrics = Arc::clone(&self.metrics);
        move |event| metrics.observe(event)
    }

    /// Serves until `finished`. `stop` is cancelled when the program is asked to stop.
    pub(crate) fn serve(
        self,
        (queue, quarantine): (Queue, Quarantine),
        watching: Vec<Arc<ReceiverStatus>>,
        stop: CancellationToken,
        finished: &CancellationToken,
    ) -> JoinSet<()> {
        let Observe { metrics, metrics_listener, health, exports } = self;
        let subject = Arc::new(Subject { queue, quarantine, watching, metrics, stop, exports });
        let mut servers = JoinSet::new();
        if let Some(listener) = metrics_listener {
            let subject = Arc::clone(&subject);
            let answer = move |path: &str| match path {
                "/metrics" => subject.metrics_page(),
                "/" => subject.overview(),
                path => match path.strip_prefix("/plan/") {
                    Some(id) => subject.plan(id),
                    None => Page::not_found(),
                },
            };
            servers.spawn(server::serve(listener, Arc::new(answer), finished.clone()));
        }
        if let Some((config, listener)) = health {
            let answer = move |path: &str| match path {
                path if path == config.path => subject.health(config.unhealthy_after.0),
                "/live" => subject.live(),
                "/ready" => subject.ready(),
                _ => Page::not_found(),
            };
            servers.spawn(server::serve(listener, Arc::new(answer), finished.clone()));
        }
        servers
    }
}

impl Subject {
    fn facts(&self) -> Facts {
        let now = UnixNanos::now();
        let age = |since: UnixNanos| now.since(since);
        let unreadable = self.watching.iter().flat_map(|watching| watching.unreadable());
        let troubles = self.queue.health_facts();
        Facts {
            undelivered: troubles.undelivered.map(age),
            unwritten: troubles.unwritten.map(|(since, reason)| (age(since), reason)),
            refused: troubles.refused,
            queue: self.queue.health().borrow().clone(),
            unreadable: unreadable.collect(),
            looking: self.watching.iter().filter_map(|it| it.looking_for()).max(),
            has_looked: self.watching.iter().all(|it| it.scans.load(Ordering::Relaxed) > 0),
            is_stopping: self.stop.is_cancelled(),
        }
    }

    fn page(&self, reasons: &[String]) -> Page {
        let body = health::body(reasons, self.metrics.uptime());
        Page::json(if reasons.is_empty() { 200 } else { 503 }, &body)
    }

    fn health(&self, unhealthy_after: Duration) -> Page {
        self.page(&self.facts().unhealthy(unhealthy_after))
    }

    /// The program is alive if it answers.
    fn live(&self) -> Page {
        self.page(&[])
    }

    fn ready(&self) -> Page {
        self.page(&self.facts().unready())
    }

    /// Returns every export. Only the export with the id `whole` has its plan, the others have
    /// figures only, which bounds memory to one plan.
    fn statuses(&self, whole: Option<&str>) -> Vec<ExportStatus> {
        let mut queue = QueueSnapshot::new(self.queue.list(), Vec::new());
        let paths = status::paths(&self.exports.receivers, &self.quarantine);
        let read = paths.into_iter().map(|path| {
            let found = path.read();
            queue.add_done(self.queue.are_done(found.version().as_slice()));
            let mut status = found.status(&queue);
            let is_whole = whole.is_some() && status.trace_id.as_deref() == whole;
            if let Some(plan) = status.plan.as_mut().filter(|_| !is_whole) {
                plan.artifacts = Vec::new();
                plan.types = IndexMap::new();
            }
            status
        });
        read.collect()
    }

    fn overview(&self) -> Page {
        let Ok(_alone) = self.exports.looking.try_lock() else { return Page::busy() };
        Page::html(page::overview(&page::Overview {
            exports: &self.statuses(None),
            lanes: &self.queue.lanes(),
            reasons: &self.facts().unhealthy(self.exports.unhealthy_after),
            grafana: self.exports.grafana.as_ref(),
            now: UnixNanos::now(),
        }))
    }

    fn plan(&self, id: &str) -> Page {
        let Ok(_alone) = self.exports.looking.try_lock() else { return Page::busy() };
        let status =
            self.statuses(Some(id)).into_iter().find(|it| it.trace_id.as_deref() == Some(id));
        let shown = status.as_ref().and_then(|status| {
            let converter = self.exports.converters.get(status.receiver)?;
            let grafana = self.exports.grafana.as_ref();
            Some(page::plan(status, status.plan.as_ref()?, converter, grafana))
        });
        shown.map_or_else(Page::not_found, Page::html)
    }

    fn metrics_page(&self) -> Page {
        let watching = self.watching.iter().map(AsRef::as_ref);
        let text = self.metrics.text(&self.queue, watching);
        Page::new(200, "text/plain; version=0.0.4; charset=utf-8", text)
    }
}

async fn bind(what: &'static str, address: &str) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(listening(address).as_ref()).await;
    bound.map_err(|source| BindError { what, address: address.to_owned(), source })
}
