//! Configuration of the receivers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::units::{ByteSize, HumanDuration};
use crate::converter::options::SpanOptions;
use crate::fs::task_state::TaskStateConfig;
use crate::plan::ReadOptions;
use crate::receiver::config::WatchConfig;
use crate::writeback::config::WriteBackConfig;

/// Copies the settings that receivers have in common. serde cannot flatten a struct and deny
/// unknown keys at the same time, so each configuration lists them.
macro_rules! watching {
    ($config:expr) => {
        WatchConfig {
            directories: $config.directories.clone(),
            recursive: $config.recursive.clone(),
            include: $config.include.clone(),
            exclude: $config.exclude.clone(),
            settle: $config.settle.clone(),
            settle_timeout: $config.settle_timeout.clone(),
            rescan_interval: $config.rescan_interval.clone(),
            poll_interval: $config.poll_interval.clone(),
            max_file_size: $config.max_file_size.clone(),
            ..WatchConfig::default()
        }
    };
}

/// Watches directories for exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExportDirConfig {
    /// Directories with exports; at least one. A directory need not exist yet.
    #[cfg_attr(test, schemars(length(min = 1), inner(length(min = 1))))]
    pub(crate) directories: Vec<PathBuf>,
    /// Whether sub-directories are searched. Default: true.
    pub(crate) recursive: bool,
    /// Patterns for the paths of exports below a directory, with `*`, `**`, `?` and `[...]`.
    /// Default: `**/onboarding-metadata.json`.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) include: Vec<String>,
    /// Patterns for paths to ignore, with everything below them. Default: `**/.git`,
    /// `**/node_modules`, `**/target`.
    pub(crate) exclude: Vec<String>,
    /// How long a file must stay unchanged before it is read. More than 0, at most
    /// `settle_timeout`. Default: 100ms.
    pub(crate) settle: HumanDuration,
    /// A file that keeps changing for this long is read anyway. Default: 10s.
    pub(crate) settle_timeout: HumanDuration,
    /// Interval of full scans, in addition to file notifications. At least 1s. Default: 30s.
    pub(crate) rescan_interval: HumanDuration,
    /// Poll at this interval instead of using file notifications, for network file systems, which
    /// send none. More than 0. Default: not set.
    pub(crate) poll_interval: Option<HumanDuration>,
    /// Larger files are refused. 1KiB to 1GiB. Default: 64MiB.
    pub(crate) max_file_size: ByteSize,
    /// Exports with more artifacts, or with more than ten times as many dependencies, are refused:
    /// memory grows with their number. 1 to 10000000. Default: 100000.
    #[cfg_attr(test, schemars(range(min = 1, max = 10_000_000)))]
    pub(crate) max_artifacts: usize,
    /// Maximum number of exports processed at the same time. 1 to 64. Default: 4.
    #[cfg_attr(test, schemars(range(min = 1, max = 64)))]
    pub(crate) max_concurrent_exports: usize,
    /// Overrides the project id in the export. Default: not set.
    #[cfg_attr(test, schemars(regex(pattern = r"\S")))]
    pub(crate) project_id: Option<String>,
    /// What to do with an export that already has a `task_trace_id`: `skip` it, or `emit` it and
    /// replace the id, for exporters that carry old keys over. Default: skip.
    pub(crate) on_existing_trace_id: ExistingTraceId,
    /// What is written into the export after delivery.
    pub(crate) write_back: WriteBackConfig,
    /// State files for a task tracker. Default: none.
    pub(crate) task_state: Option<TaskStateConfig>,
    /// How an export becomes spans.
    pub(crate) spans: SpanOptions,
    /// Ignore a file that `directories` names. Set for directories that are inferred; not a
    /// configuration key.
    #[serde(skip)]
    pub(crate) only_directories: bool,
}

/// What to do with an export that already has a trace id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExistingTraceId {
    /// The export is done.
    #[default]
    Skip,
    /// The export is new, unless taskspan wrote the id for exactly this version.
    Emit,
}

impl Default for ExportDirConfig {
    fn default() -> Self {
        let WatchConfig {
            directories,
            recursive,
            include,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            ..
        } = WatchConfig::default();
        Self {
            directories,
            recursive,
            include,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            max_artifacts: 100_000,
            max_concurrent_exports: 4,
            project_id: None,
            on_existing_trace_id: ExistingTraceId::Skip,
            write_back: WriteBackConfig::default(),
            task_state: None,
            spans: SpanOptions::default(),
            only_directories: false,
        }
    }
}

impl ExportDirConfig {
    /// Returns the settings for finding files and for waiting until they are stable.
    pub(crate) fn watching(&self) -> WatchConfig {
        WatchConfig { only_directories: self.only_directories, ..watching!(self) }
    }

    /// Returns the options for reading exports of this receiver.
    pub(crate) fn read_options(&self) -> ReadOptions {
        ReadOptions {
            max_file_size: self.max_file_size.0,
            max_artifacts: self.max_artifacts,
            max_memory: u64::MAX,
            project_id: self.project_id.clone(),
            emit_existing: self.on_existing_trace_id == ExistingTraceId::Emit,
        }
    }

    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        self.watching().check(at);
        if !(1..=10_000_000).contains(&self.max_artifacts) {
            at("max_artifacts", "has to be between 1 and 10000000".into());
        }
        if !(1..=64).contains(&self.max_concurrent_exports) {
            at("max_concurrent_exports", "has to be between 1 and 64".into());
        }
        if self.project_id.as_deref().is_some_and(|id| id.trim().is_empty()) {
            at("project_id", "is empty; leave it out to use the export's own".into());
        }
        if self.task_state.as_ref().is_some_and(|it| it.directory.as_os_str().is_empty()) {
            at("task_state.directory", "an empty path".into());
        }
        self.spans.check(&mut |path, message| at(&format!("spans.{path}"), message));
    }
}

/// Watches directories for gate results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GateResultsConfig {
    /// Directories with gate results; at least one. A directory need not exist yet.
    #[cfg_attr(test, schemars(length(min = 1), inner(length(min = 1))))]
    pub(crate) directories: Vec<PathBuf>,
    /// Whether sub-directories are searched. Default: true.
    pub(crate) recursive: bool,
    /// Patterns for the paths of results below a directory. Default: `**/*gate-result*.json`,
    /// `**/*gate-report*.json`, `**/pipeline-report.json`.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(crate) include: Vec<String>,
    /// Patterns for paths to ignore. Default: `**/.git`, `**/node_modules`, `**/target`.
    pub(crate) exclude: Vec<String>,
    /// How long a file must stay unchanged before it is read. More than 0, at most
    /// `settle_timeout`. Default: 100ms.
    pub(crate) settle: HumanDuration,
    /// A file that is incomplete for this long is refused. Default: 10s.
    pub(crate) settle_timeout: HumanDuration,
    /// Interval of full scans. At least 1s. Default: 30s.
    pub(crate) rescan_interval: HumanDuration,
    /// Poll at this interval instead of using file notifications. More than 0. Default: not set.
    pub(crate) poll_interval: Option<HumanDuration>,
    /// Larger files are refused. 1KiB to 1GiB. Default: 64MiB.
    pub(crate) max_file_size: ByteSize,
}

impl Default for GateResultsConfig {
    fn default() -> Self {
        let include = ["**/*gate-result*.json", "**/*gate-report*.json", "**/pipeline-report.json"];
        let WatchConfig {
            directories,
            recursive,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            ..
        } = WatchConfig::default();
        Self {
            directories,
            recursive,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            include: include.map(str::to_owned).into(),
        }
    }
}

impl GateResultsConfig {
    /// Returns the settings for finding files and for waiting until they are stable.
    pub(crate) fn watching(&self) -> WatchConfig {
        watching!(self)
    }

    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
        self.watching().check(at);
    }
}
