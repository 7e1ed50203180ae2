//! The memory limit of the control group that this process is in.
//!
//! ```text
//! /proc/self/cgroup ─▶ the group and every group above it ─▶ memory.max, memory.limit_in_bytes ─▶ least
//! ```
//!
//! A container sees its own group as the topmost one. Without a namespace of its own for control
//! groups it reads the path from outside, which does not exist inside; the topmost one still does.

#![expect(clippy::disallowed_methods, reason = "these files are in the memory of the kernel")]

use std::fs;
use std::path::Path;

/// Returns the least limit in bytes. `None` if there is none, or if it cannot be read.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    least(&groups, Path::new("/sys/fs/cgroup"))
}

/// `groups` has one line per hierarchy: its number, its controllers, and the path of the group.
/// `mounted` is where the hierarchies are mounted.
fn least(groups: &str, mounted: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (hierarchy, file) = match controllers {
            // Version 2 has one hierarchy for all controllers.
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                (mounted.join(controllers), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let groups = Path::new(group.trim_start_matches('/')).ancestors();
        // Version 2 writes `max` for no limit, version 1 a number close to the largest.
        let limit = |group| fs::read_to_string(hierarchy.join(group).join(file)).ok();
        groups.filter_map(|group| limit(group)?.trim().parse().ok()).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_least_limit_of_the_group_and_those_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let files = [("pod/memory.max", "300\n"), ("pod/app/memory.max", "max\n")];
        write(root.path(), &files);
        assert_eq!(least("0::/pod/app\n", root.path()), Some(300));
        assert_eq!(least("0::/other\n", root.path()), None);
        write(root.path(), &[("pod/app/memory.max", "200\n")]);
        assert_eq!(least("0::/pod/app\n", root.path()), Some(200));
    }

    #[test]
    fn a_container_finds_its_limit_in_either_version() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("memory.max", "100\n")]);
        assert_eq!(least("0::/\n", root.path()), Some(100));
        write(root.path(), &[("memory/memory.limit_in_bytes", "90\n")]);
        let groups = "8:cpu:/\n4:memory:/path/outside\n0::/\n";
        assert_eq!(least(groups, root.path()), Some(90));
        assert_eq!(least("no such format\n4:memory\n", root.path()), None);
    }
}
