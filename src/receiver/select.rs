//! Selects files and directories by the patterns of a receiver. Pure.
//!
//! ```text
//! path ─ root ─▶ relative ─▶ excluded, it or anything above? ─no─▶ included? ─yes─▶ an export
//! ```

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::config::WatchConfig;

/// `*` and `?` stay within one name; `**` does not.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The compiled patterns of a receiver.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    roots: Vec<PathBuf>,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    recursive: bool,
    only_directories: bool,
    /// Whether a name is never an export.
    never: fn(&std::ffi::OsStr) -> bool,
}

impl Selection {
    /// Compiles the patterns. An invalid pattern matches nothing; the configuration refuses it.
    pub(crate) fn new(config: &WatchConfig, never: fn(&std::ffi::OsStr) -> bool) -> Selection {
        let compiled = |patterns: &[String]| {
            patterns.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect()
        };
        Selection {
            roots: config.directories.clone(),
            include: compiled(&config.include),
            exclude: compiled(&config.exclude),
            recursive: config.recursive,
            only_directories: config.only_directories,
            never,
        }
    }

    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Whether a path is an export. A file that the user watches directly always is.
    pub(crate) fn is_export(&self, path: &Path) -> bool {
        let selected = |relative: &Path| {
            (relative.as_os_str().is_empty() && !self.only_directories)
                || (matches_any(&self.include, relative)
                    && !self.is_excluded(relative)
                    && (self.recursive || relative.parent() == Some(Path::new(""))))
        };
        !path.file_name().is_none_or(self.never)
            && self.roots.iter().any(|root| path.strip_prefix(root).is_ok_and(selected))
    }

    /// Like [`Selection::is_export`], for a path in a directory that is scanned. Does not match the
    /// directories above it again, so a deep tree is scanned in linear time.
    pub(crate) fn is_export_here(&self, path: &Path) -> bool {
        let selected = |relative: &Path| {
            matches_any(&self.include, relative)
                && !matches_any(&self.exclude, relative)
                && (self.recursive || relative.parent() == Some(Path::new("")))
        };
        !path.file_name().is_none_or(self.never)
            && self.roots.iter().any(|root| path.strip_prefix(root).is_ok_and(selected))
    }

    /// Whether a directory is scanned.
    pub(crate) fn is_entered(&self, path: &Path) -> bool {
        self.enters(path, |relative| self.is_excluded(relative))
    }

    /// Like [`Selection::is_entered`], for a directory in one that is scanned.
    pub(crate) fn is_entered_from_here(&self, path: &Path) -> bool {
        self.enters(path, |relative| matches_any(&self.exclude, relative))
    }

    fn enters(&self, path: &Path, is_excluded: impl Fn(&Path) -> bool) -> bool {
        self.roots.iter().any(|root| {
            path.strip_prefix(root).is_ok_and(|relative| {
                relative.as_os_str().is_empty() || (self.recursive && !is_excluded(relative))
            })
        })
    }

    fn is_excluded(&self, relative: &Path) -> bool {
        let mut parts = relative.ancestors().filter(|part| !part.as_os_str().is_empty());
        parts.any(|part| matches_any(&self.exclude, part))
    }
}

/// Names that are not UTF-8 are matched with a replacement character for what is not.
fn matches_any(patterns: &[Pattern], relative: &Path) -> bool {
    let relative = relative.to_string_lossy();
    patterns.iter().any(|pattern| pattern.matches_with(&relative, OPTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: Option<&[&str]>, recursive: bool) -> Selection {
        let owned = |patterns: &[&str]| patterns.iter().map(|it| (*it).to_owned()).collect();
        let mut config = WatchConfig {
            directories: vec!["/out".into(), "/target".into()],
            recursive,
            ..WatchConfig::default()
        };
        if !include.is_empty() {
            config.include = owned(include);
        }
        config.exclude = exclude.map_or(config.exclude, owned);
        Selection::new(&config, |name| name == "never.json")
    }

    #[test]
    fn defaults_take_every_metadata_file_outside_of_what_is_skipped() {
        let selection = selection(&[], None, true);
        for (path, taken) in [
            ("/out/onboarding-metadata.json", true),
            ("/out/a/b/onboarding-metadata.json", true),
            ("/target/onboarding-metadata.json", true),
            ("/out/onboarding-metadata.json.bak", false),
            ("/out/.onboarding-metadata.json", false),
            ("/out/target/onboarding-metadata.json", false),
            ("/out/a/node_modules/b/onboarding-metadata.json", false),
            ("/elsewhere/onboarding-metadata.json", false),
            ("/out", true),
        ] {
            assert_eq!(selection.is_export(Path::new(path)), taken, "{path}");
        }
        for (path, entered) in
            [("/out", true), ("/out/a", true), ("/out/.git", false), ("/out/a/.git/x", false)]
        {
            assert_eq!(selection.is_entered(Path::new(path)), entered, "{path}");
        }
    }

    #[test]
    fn patterns_replace_the_defaults() {
        let selection = selection(&["shop/*/meta-?.json", "*.json"], Some(&["**/old"]), true);
        for (path, taken) in [
            ("/out/shop/eu/meta-1.json", true),
            ("/out/shop/eu/de/meta-1.json", false),
            ("/out/any.json", true),
            ("/out/never.json", false),
            ("/out/shop/old/meta-1.json", false),
            ("/out/x/any.json", false),
        ] {
            assert_eq!(selection.is_export(Path::new(path)), taken, "{path}");
        }
        assert!(selection.is_entered(Path::new("/out/target")));
        assert!(!selection.is_entered(Path::new("/out/a/old")));
    }

    #[test]
    fn without_recursion_only_the_directory_itself_counts() {
        let selection = selection(&[], None, false);
        assert!(selection.is_export(Path::new("/out/onboarding-metadata.json")));
        assert!(!selection.is_export(Path::new("/out/a/onboarding-metadata.json")));
        assert!(!selection.is_entered(Path::new("/out/a")));
    }
}
