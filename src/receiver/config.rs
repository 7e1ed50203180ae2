//! Configuration that receivers share: where files are, and when they are stable.

use std::path::PathBuf;

use super::METADATA_FILE;
use crate::base::units::{ByteSize, HumanDuration};

/// The settings that all receivers have. The defaults are those of `export_dir`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WatchConfig {
    /// Directories with exports; at least one. A directory need not exist yet.
    pub(crate) directories: Vec<PathBuf>,
    /// Whether sub-directories are searched. Default: true.
    pub(crate) recursive: bool,
    /// Patterns for paths below a directory. Default: `**/onboarding-metadata.json`.
    pub(crate) include: Vec<String>,
    /// Patterns for paths to ignore, with everything below them. Default: `**/.git`,
    /// `**/node_modules`, `**/target`.
    pub(crate) exclude: Vec<String>,
    /// How long a file must stay unchanged to be stable. More than 0, at most `settle_timeout`.
    /// Default: 100ms.
    pub(crate) settle: HumanDuration,
    /// A file that keeps changing, or stays incomplete, for this long is given up. Default: 10s.
    pub(crate) settle_timeout: HumanDuration,
    /// Interval of full scans, in addition to file notifications. At least 1s. Default: 30s.
    pub(crate) rescan_interval: HumanDuration,
    /// Poll at this interval instead of using file notifications. More than 0. Default: not set.
    pub(crate) poll_interval: Option<HumanDuration>,
    /// Larger files are refused. 1KiB to 1GiB. Default: 64MiB.
    pub(crate) max_file_size: ByteSize,
    /// Ignore a file that `directories` names. Default: false.
    pub(crate) only_directories: bool,
}

impl Default for WatchConfig {
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
            only_directories: false,
        }
    }
}

impl WatchConfig {
    /// Reports each value that is out of range: key path, message.
    pub(crate) fn check(&self, at: &mut dyn FnMut(&str, String)) {
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
    }
}
