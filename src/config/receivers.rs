//! What a user can set on receivers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::units::{ByteSize, HumanDuration};
use crate::converter::options::SpanOptions;
use crate::fs::task_state::TaskStateConfig;
use crate::plan::ReadOptions;
use crate::receiver::config::WatchConfig;
use crate::writeback::config::WriteBackConfig;

/// The settings that receivers have in common, out of one of them. serde cannot flatten a struct and refuse unknown
/// keys at the same time, so each configuration lists them.
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

/// Watch directories for exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ExportDirConfig {
    /// Where exports are written; one at least. A directory need not exist yet.
    #[cfg_attr(test, schemars(length(min = 1), inner(length(min = 1))))]
    pub directories: Vec<PathBuf>,
    /// Look into sub-directories too. Default: true.
    pub recursive: bool,
    /// Which files are exports: patterns for paths below a directory, with `*`, `**`, `?` and
    /// `[...]`. Default: `**/onboarding-metadata.json`.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub include: Vec<String>,
    /// What is not looked at, directories with all below them. Default: `**/.git`,
    /// `**/node_modules`, `**/target`.
    pub exclude: Vec<String>,
    /// How long a file has to stay unchanged before it is taken. More than 0, at most
    /// `settle_timeout`. Default: 100ms.
    pub settle: HumanDuration,
    /// When a file that never stays unchanged is read all the same. Default: 10s.
    pub settle_timeout: HumanDuration,
    /// How often all directories are scanned, whatever the notifications say. At least 1s.
    /// Default: 30s.
    pub rescan_interval: HumanDuration,
    /// Poll at this interval instead of using file notifications. More than 0. Default: not set;
    /// network file systems, which send none, want it.
    pub poll_interval: Option<HumanDuration>,
    /// A larger file is refused. 1KiB to 1GiB. Default: 64MiB.
    pub max_file_size: ByteSize,
    /// How many exports are worked on at a time. 1 to 64. Default: 4.
    #[cfg_attr(test, schemars(range(min = 1, max = 64)))]
    pub max_concurrent_exports: usize,
    /// Overrides the export's own project id. Default: not set.
    #[cfg_attr(test, schemars(regex(pattern = r"\S")))]
    pub project_id: Option<String>,
    /// An export that carries a `task_trace_id` is done: `skip`. Or it is new all the same, and the
    /// value is replaced: `emit`, for exporters that carry old keys along. Default: skip.
    pub on_existing_trace_id: ExistingTraceId,
    /// What is written into the export afterwards.
    pub write_back: WriteBackConfig,
    /// State files for a task tracker. Default: none.
    pub task_state: Option<TaskStateConfig>,
    /// How an export becomes spans.
    pub spans: SpanOptions,
    /// A file that `directories` names is not looked at. Set for directories that are inferred; no
    /// configuration has it.
    #[serde(skip)]
    pub only_directories: bool,
}

/// What an export that carries a trace id already is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExistingTraceId {
    /// Done.
    #[default]
    Skip,
    /// New, unless the id is the one that was written for exactly this version.
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
    /// Where files are found, and when they are stable.
    pub fn watching(&self) -> WatchConfig {
        WatchConfig { only_directories: self.only_directories, ..watching!(self) }
    }

    /// How exports that are found here are read.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions {
            max_file_size: self.max_file_size.0,
            project_id: self.project_id.clone(),
            emit_existing: self.on_existing_trace_id == ExistingTraceId::Emit,
        }
    }

    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        self.watching().check(at);
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

/// Watch directories for the results of gates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GateResultsConfig {
    /// Where results are written; one at least. A directory need not exist yet.
    #[cfg_attr(test, schemars(length(min = 1), inner(length(min = 1))))]
    pub directories: Vec<PathBuf>,
    /// Look into sub-directories too. Default: true.
    pub recursive: bool,
    /// Which files are results: patterns for paths below a directory. Default:
    /// `**/*gate-result*.json`, `**/*gate-report*.json`, `**/pipeline-report.json`.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub include: Vec<String>,
    /// What is not looked at. Default: `**/.git`, `**/node_modules`, `**/target`.
    pub exclude: Vec<String>,
    /// How long a file has to stay unchanged before it is taken. More than 0, at most
    /// `settle_timeout`. Default: 100ms.
    pub settle: HumanDuration,
    /// When a file that is not complete is given up. Default: 10s.
    pub settle_timeout: HumanDuration,
    /// How often all directories are scanned. At least 1s. Default: 30s.
    pub rescan_interval: HumanDuration,
    /// Poll at this interval instead of using file notifications. More than 0. Default: not set.
    pub poll_interval: Option<HumanDuration>,
    /// A larger file is refused. 1KiB to 1GiB. Default: 64MiB.
    pub max_file_size: ByteSize,
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
    /// Where files are found, and when they are stable.
    pub fn watching(&self) -> WatchConfig {
        watching!(self)
    }

    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        self.watching().check(at);
    }
}
