//! What a user can set on an `export_dir` receiver.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::METADATA_FILE;
use crate::config::values::{ByteSize, HumanDuration};
use crate::converter::options::SpanOptions;
use crate::plan::ReadOptions;
use crate::task_state::TaskStateConfig;
use crate::writeback::config::WriteBackConfig;

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
    /// Stands in for the export's own project id. Default: not set.
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
        Self {
            directories: Vec::new(),
            recursive: true,
            include: vec![format!("**/{METADATA_FILE}")],
            exclude: ["**/.git", "**/node_modules", "**/target"].map(str::to_owned).into(),
            settle: HumanDuration::from_millis(100),
            settle_timeout: HumanDuration::from_secs(10),
            rescan_interval: HumanDuration::from_secs(30),
            poll_interval: None,
            max_file_size: ByteSize::mib(64),
            max_concurrent_exports: 4,
            project_id: None,
            on_existing_trace_id: ExistingTraceId::Skip,
            write_back: WriteBackConfig::default(),
            task_state: None,
            spans: SpanOptions::default(),
        }
    }
}

impl ExportDirConfig {
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
        if self.directories.is_empty() {
            at("directories", "name at least one directory to watch".into());
        }
        for (index, directory) in self.directories.iter().enumerate() {
            if directory.as_os_str().is_empty() {
                at(&format!("directories.{index}"), "an empty path".into());
            }
        }
        if self.include.is_empty() {
            at("include", "name at least one pattern".into());
        }
        for (key, patterns) in [("include", &self.include), ("exclude", &self.exclude)] {
            for (index, pattern) in patterns.iter().enumerate() {
                if let Err(error) = glob::Pattern::new(pattern) {
                    at(&format!("{key}.{index}"), format!("not a pattern: {error}"));
                }
            }
        }
        if self.settle.is_zero() {
            at("settle", "has to be more than 0".into());
        }
        if self.settle > self.settle_timeout {
            let most = self.settle_timeout;
            let message = format!("has to be at most settle_timeout, which is {most}");
            at("settle", message);
        }
        if self.rescan_interval < HumanDuration::from_secs(1) {
            at("rescan_interval", "has to be 1s or more".into());
        }
        if self.poll_interval.is_some_and(|interval| interval.is_zero()) {
            at("poll_interval", "has to be more than 0".into());
        }
        if !(ByteSize::kib(1)..=ByteSize::mib(1024)).contains(&self.max_file_size) {
            at("max_file_size", "has to be between 1KiB and 1GiB".into());
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
