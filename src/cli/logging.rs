//! Log lines on standard error: text for people, JSON for machines.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Global;
use crate::config::{LogEncoding, LogsConfig};

/// Starts logging. `RUST_LOG` beats `-v` beats the configuration.
pub fn start(global: &Global, config: &LogsConfig) {
    let configured = config.level.parse::<LevelFilter>().unwrap_or(LevelFilter::INFO);
    let level = match global.verbose {
        0 => configured,
        1 => configured.max(LevelFilter::DEBUG),
        _ => LevelFilter::TRACE,
    };
    // The libraries below speak up only when asked by name.
    let ours =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("taskspan", level);
    let asked = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (filter, bad) = match asked.map(|directives| directives.parse::<Targets>()) {
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (ours, Some(error)),
        None => (ours, None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would be told where nothing can be told.
        .log_internal_errors(false)
        .with_ansi(super::is_rich(&std::io::stderr()));
    let registry = tracing_subscriber::registry();
    // A second start, in a test say, keeps the first.
    let _ = match global.log_format.unwrap_or(config.encoding) {
        LogEncoding::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogEncoding::Json => {
            registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init()
        }
    };
    if let Some(error) = bad {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
}
