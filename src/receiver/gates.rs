//! What a user can set on a `gate_results` receiver.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::ExportDirConfig;
use crate::config::values::{ByteSize, HumanDuration};

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
        let ExportDirConfig {
            directories,
            recursive,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            ..
        } = ExportDirConfig::default();
        let include = ["**/*gate-result*.json", "**/*gate-report*.json", "**/pipeline-report.json"];
        Self {
            directories,
            recursive,
            include: include.map(str::to_owned).into(),
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
        }
    }
}

impl GateResultsConfig {
    /// How they are found and settle, which is no different from exports.
    pub fn watching(&self) -> ExportDirConfig {
        let Self {
            directories,
            recursive,
            include,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
        } = self.clone();
        ExportDirConfig {
            directories,
            recursive,
            include,
            exclude,
            settle,
            settle_timeout,
            rescan_interval,
            poll_interval,
            max_file_size,
            ..ExportDirConfig::default()
        }
    }

    /// Reports what is out of range: key path, message.
    pub fn check(&self, at: &mut dyn FnMut(&str, String)) {
        self.watching().check(at);
    }
}
