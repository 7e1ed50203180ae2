//! Log lines on standard error: text for people, JSON for machines.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ if level == LevelFilter::OFF => EnvFilter::new("off"),
        // The libraries below speak up only when asked by name.
        _ => EnvFilter::new(format!("warn,taskspan={level}")),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would be told where nothing can be told.
        .log_internal_errors(false)
        .with_ansi(super::is_rich(&std::io::stderr()));
    // A second start, in a test say, keeps the first.
    let _ = match global.log_format.unwrap_or(config.encoding) {
        LogEncoding::Text => builder.try_init(),
        LogEncoding::Json => builder.json().flatten_event(true).try_init(),
    };
}
