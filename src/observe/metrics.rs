//! Metrics in the text format of Prometheus. Names follow the Collector's. Labels are exporters,
//! states and codes, which bounds the number of series.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder,
};

use crate::base::clock::UnixNanos;
use crate::base::signal::Signal;
use crate::exporter::classify::NOT_CONNECTED;
use crate::pipeline::event::{Event, SendOutcome};
use crate::queue::Queue;
use crate::receiver::ReceiverStatus;

/// From one millisecond to one minute: conversions of any size.
const CONVERSION_BUCKETS: [f64; 10] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];
/// From a request on the same machine to an outage of days.
const DELIVERY_BUCKETS: [f64; 12] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0];

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    started: Instant,
    accepted_exports: IntCounter,
    accepted_spans: IntCounter,
    refused_exports: IntCounter,
    conversion: Histogram,
    delivery: Histogram,
    requests: IntCounterVec,
    sent: [IntCounterVec; 2],
    failed: [IntCounterVec; 2],
    rejected: [IntCounterVec; 2],
    write_backs: IntCounterVec,
    exports: GaugeVec,
    queue_items: GaugeVec,
    queue_bytes: GaugeVec,
    queue_capacity: GaugeVec,
    oldest: Gauge,
    watch_mode: GaugeVec,
    scans: IntCounter,
    overflows: IntCounter,
    /// The counts of the receivers at the last scrape. A reload starts new receivers, which count
    /// from 0.
    receivers: Mutex<(u64, u64)>,
    uptime: Gauge,
}

/// Makes metrics and registers them. A wrong name is a programming error that any test finds; a
/// running program continues without the metric.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, collector: &C) {
        if let Err(error) = self.registry.register(Box::new(collector.clone())) {
            tracing::error!(%error, "a metric is not served");
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "names are literals; every test of metrics makes them all"
    )]
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let made = IntCounter::new(name, help).expect("a name");
        self.add(&made);
        made
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), labels).expect("a name");
        self.add(&made);
        made
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn gauge(&self, name: &str, help: &str) -> Gauge {
        let made = Gauge::new(name, help).expect("a name");
        self.add(&made);
        made
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let made = GaugeVec::new(Opts::new(name, help), labels).expect("a name");
        self.add(&made);
        made
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let made = Histogram::with_opts(options).expect("a name");
        self.add(&made);
        made
    }

    /// Makes one metric for spans and one for log records.
    fn both(&self, what: &str, help: &str) -> [IntCounterVec; 2] {
        ["spans", "log_records"].map(|records| {
            let name = format!("taskspan_exporter_{what}_{records}_total");
            let help = format!("{} {help}", records.replace('_', " "));
            self.counters(&name, &help, &["exporter"])
        })
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let make = Maker { registry: Registry::new() };
        let info = make.gauges("taskspan_build_info", "What is running.", &["version"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let write_backs = make.counters(
            "taskspan_write_backs_total",
            "Write-backs by outcome: written, superseded, gone, failed (once a reason, not a try).",
            &["outcome"],
        );
        // Export 0 before the first event, which rates need.
        for outcome in ["written", "superseded", "gone", "failed"] {
            let _ = write_backs.with_label_values(&[outcome]);
        }
        Metrics {
            accepted_exports: make
                .counter("taskspan_receiver_accepted_exports_total", "Exports taken in."),
            accepted_spans: make.counter("taskspan_receiver_accepted_spans_total", "Their spans."),
            refused_exports: make.counter(
                "taskspan_receiver_refused_exports_total",
                "Files that cannot be read as an export, or as gate results.",
            ),
            conversion: make.histogram(
                "taskspan_converter_duration_seconds",
                "From a plan to encoded requests.",
                &CONVERSION_BUCKETS,
            ),
            delivery: make.histogram(
                "taskspan_delivery_duration_seconds",
                "From taking an export in to writing its id.",
                &DELIVERY_BUCKETS,
            ),
            requests: make.counters(
                "taskspan_exporter_requests_total",
                "Requests by what came back: a status, timeout, or connection.",
                &["exporter", "code"],
            ),
            sent: make.both("sent", "that were acknowledged."),
            failed: make.both("send_failed", "in requests that failed for now."),
            rejected: make.both("rejected", "that a server refused for good."),
            write_backs,
            exports: make.gauges("taskspan_exports", "Exports in the queue.", &["state"]),
            queue_items: make.gauges(
                "taskspan_exporter_queue_items",
                "Exports that wait for an exporter.",
                &["exporter"],
            ),
            queue_bytes: make.gauges(
                "taskspan_exporter_queue_bytes",
                "Bytes that wait for an exporter, or that it refused.",
                &["exporter"],
            ),
            queue_capacity: make.gauges(
                "taskspan_exporter_queue_capacity_bytes",
                "Its queue_size.",
                &["exporter"],
            ),
            oldest: make.gauge(
                "taskspan_queue_oldest_item_age_seconds",
                "How long the oldest undelivered export has waited.",
            ),
            watch_mode: make.gauges(
                "taskspan_receiver_watch_mode",
                "Receivers by how they learn of changes: events or polling.",
                &["mode"],
            ),
            scans: make.counter("taskspan_receiver_scans_total", "Looks at directories."),
            overflows: make.counter(
                "taskspan_receiver_event_overflows_total",
                "Times that file events were lost and a scan made up for it.",
            ),
            receivers: Mutex::default(),
            uptime: make.gauge("taskspan_process_uptime_seconds", "Since the start."),
            registry: make.registry,
            started: Instant::now(),
        }
    }
}

impl Metrics {
    /// Updates the metrics with an event.
    pub(crate) fn observe(&self, event: &Event) {
        match event {
            Event::Accepted { spans, conversion, .. } => {
                self.accepted_exports.inc();
                self.accepted_spans.inc_by(*spans as u64);
                self.conversion.observe(conversion.as_secs_f64());
            }
            Event::Refused { .. } | Event::ResultsRefused { .. } => self.refused_exports.inc(),
            Event::Answered { exporter, signal, code, outcome, records } => {
                self.requests.with_label_values(&[exporter, code.as_ref()]).inc();
                let of = match signal {
                    Signal::Traces => 0,
                    Signal::Logs => 1,
                };
                let count = |counters: &[IntCounterVec; 2], by: u64| {
                    counters[of].with_label_values(&[exporter]).inc_by(by);
                };
                match outcome {
                    SendOutcome::Accepted => count(&self.sent, *records),
                    SendOutcome::Partial(rejected) => {
                        count(&self.sent, records.saturating_sub(*rejected));
                        count(&self.rejected, *rejected);
                    }
                    SendOutcome::Failed => count(&self.failed, *records),
                    SendOutcome::Rejected => count(&self.rejected, *records),
                }
            }
            Event::Done { written, took, .. } => {
                self.delivery.observe(took.as_secs_f64());
                if *written {
                    self.write_backs.with_label_values(&["written"]).inc();
                }
            }
            Event::Superseded { gone, .. } => {
                let outcome = if *gone { "gone" } else { "superseded" };
                self.write_backs.with_label_values(&[outcome]).inc();
            }
            Event::NotWritten { .. } => self.write_backs.with_label_values(&["failed"]).inc(),
            _ => {}
        }
    }

    /// Returns how long the program has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns all metrics in the text format.
    pub(crate) fn text<'a>(
        &self,
        queue: &Queue,
        watching: impl Iterator<Item = &'a ReceiverStatus>,
    ) -> String {
        // One scrape at a time, because a scrape resets gauges before it sets them.
        let mut last = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        self.update_queue_metrics(queue);
        let (mut modes, mut scans, mut overflows) = ([0_u64; 2], 0, 0);
        for receiver in watching {
            modes[usize::from(receiver.is_polling.load(Ordering::Relaxed))] += 1;
            scans += receiver.scans.load(Ordering::Relaxed);
            overflows += receiver.overflows.load(Ordering::Relaxed);
        }
        for (mode, count) in ["events", "polling"].iter().zip(modes) {
            self.watch_mode.with_label_values(&[mode]).set(number(count));
        }
        let more = |now: u64, before: u64| if now >= before { now - before } else { now };
        self.scans.inc_by(more(scans, last.0));
        self.overflows.inc_by(more(overflows, last.1));
        *last = (scans, overflows);
        self.uptime.set(self.started.elapsed().as_secs_f64());

        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    fn update_queue_metrics(&self, queue: &Queue) {
        for (state, count) in queue.count_by_state() {
            self.exports.with_label_values(&[state]).set(number(count));
        }
        // Remove the gauges of exporters that a reload removed.
        for gauges in [&self.queue_items, &self.queue_bytes, &self.queue_capacity] {
            gauges.reset();
        }
        for lane in queue.lanes() {
            // As above, for counters; the present exporters are known here.
            for counters in [&self.sent, &self.failed, &self.rejected] {
                let of = usize::from(lane.exporter.ends_with(" (logs)"));
                let _ = counters[of].with_label_values(&[&lane.exporter]);
            }
            for code in usual_codes(&lane.exporter) {
                let _ = self.requests.with_label_values(&[lane.exporter.as_str(), code]);
            }
            let labels = [lane.exporter.as_str()];
            self.queue_items.with_label_values(&labels).set(number(lane.items as u64));
            self.queue_bytes.with_label_values(&labels).set(number(lane.bytes));
            // A file exporter has no queue.
            if lane.capacity < u64::MAX {
                self.queue_capacity.with_label_values(&labels).set(number(lane.capacity));
            }
        }
        let now = UnixNanos::now();
        let oldest = queue.health_facts().undelivered;
        let age = oldest.map(|since| now.since(since));
        self.oldest.set(age.unwrap_or_default().as_secs_f64());
    }
}

/// The most frequent codes of an exporter, which are exported as 0 before the first request.
fn usual_codes(exporter: &str) -> &'static [&'static str] {
    let kind = exporter.split(['/', ' ']).next().unwrap_or(exporter);
    match kind {
        "otlp_grpc" | "otlp" => &[
            "OK",
            "INTERNAL",
            "RESOURCE_EXHAUSTED",
            "UNAUTHENTICATED",
            "UNAVAILABLE",
            "timeout",
            NOT_CONNECTED,
        ],
        "otlp_http" | "otlphttp" => &[
            "200",
            "204",
            "400",
            "401",
            "404",
            "429",
            "500",
            "502",
            "503",
            "504",
            "timeout",
            NOT_CONNECTED,
        ],
        _ => &["OK"],
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
fn number(count: u64) -> f64 {
    count as f64
}
