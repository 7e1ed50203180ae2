//! Log lines on standard error: text for people, JSON for programs.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Global;
use super::log_writer::{self, Line};
use crate::base::clock::UnixNanos;
use crate::config::{LogEncoding, LogsConfig};

/// Starts logging. `RUST_LOG` overrides `-v`, which overrides the configuration.
pub(crate) fn start(global: &Global, config: &LogsConfig) {
    let configured = config.level.parse::<LevelFilter>().unwrap_or(LevelFilter::INFO);
    let level = match global.verbose {
        0 => configured,
        1 => configured.max(LevelFilter::DEBUG),
        _ => LevelFilter::TRACE,
    };
    // Libraries log only if `RUST_LOG` names them.
    let ours =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("taskspan", level);
    let asked = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (filter, bad) = match asked.map(|directives| directives.parse::<Targets>()) {
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (ours, Some(error)),
        None => (ours, None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Line::default)
        .with_target(false)
        // An error of the log writer cannot be logged.
        .log_internal_errors(false)
        .with_ansi(super::is_rich(&std::io::stderr()));
    let registry = tracing_subscriber::registry();
    let encoding = global.log_format.unwrap_or(config.encoding);
    log_writer::report_dropped_with(match encoding {
        LogEncoding::Text => dropped_as_text,
        LogEncoding::Json => dropped_as_json,
    });
    // If logging was started before, for example by a test, it stays as it is.
    let _ = match encoding {
        LogEncoding::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogEncoding::Json => {
            registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init()
        }
    };
    if let Some(error) = bad {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
}

fn dropped_as_text(count: u64) -> String {
    let now = UnixNanos::now().rfc3339();
    format!("{now}  WARN {}\n", dropped_message(count))
}

fn dropped_as_json(count: u64) -> String {
    let timestamp = UnixNanos::now().rfc3339();
    let line = serde_json::json!({
        "timestamp": timestamp, "level": "WARN", "message": dropped_message(count),
    });
    format!("{line}\n")
}

fn dropped_message(count: u64) -> String {
    format!("{count} log lines were dropped: standard error was not read")
}
