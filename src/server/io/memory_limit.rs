//! How much memory the control groups of this process leave it, pages of files included: a container of 2 GB on a
//! machine of 64 has no more than the 2.
//!
//! Linux, `Documentation/admin-guide`: `cgroup-v2.rst` (`memory.max`), `cgroup-v1/memory.rst`
//! (`memory.limit_in_bytes`).
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Component, Path};

/// Where the groups of both versions are found.
const ROOT: &str = "/sys/fs/cgroup";
/// Levels of groups that are looked at: each may have a limit, and systems have some five.
const LEVELS_MAX: usize = 32;

/// The least limit of the groups that this process is in, in bytes; none where no group has one.
pub fn of_this_process() -> Option<u64> {
    least(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(ROOT))
}

/// The least limit among the groups of `memberships`, lines of `/proc/self/cgroup`, and those that contain them.
fn least(memberships: &str, root: &Path) -> Option<u64> {
    memberships.lines().filter_map(|line| of_membership(line, root)).min()
}

/// A line is `number:controllers:/group`; the second version has no controllers.
fn of_membership(line: &str, root: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?.strip_prefix('/')?);
    // A group outside of what this process can see.
    if Path::new(group).components().any(|part| part == Component::ParentDir) {
        return None;
    }
    let (folder, file) = match controllers {
        "" => (root.to_path_buf(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (root.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // Within a container the group may be named as the host sees it, and only its root be there.
    folder
        .join(group)
        .ancestors()
        .take(LEVELS_MAX)
        .take_while(|group| group.starts_with(&folder))
        .filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A folder with these files of one line each.
    fn groups(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("kevel-groups-{name}-{}", std::process::id()));
        for (path, line) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{line}\n")).unwrap();
        }
        root
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_around_it_counts() {
        let root =
            groups("second", &[("a/memory.max", "5000"), ("a/b/memory.max", "max"), ("c/memory.max", "7")]);
        assert_eq!(least("0::/a/b\n", &root), Some(5000));
        assert_eq!(least("0::/\n", &root), None, "the root has none");
        assert_eq!(least("0::/../c\n", &root.join("a")), None, "a group outside of what can be seen");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn groups_of_the_first_version_are_found_by_their_controller() {
        let root = groups(
            "first",
            &[("memory/pod/memory.limit_in_bytes", "900"), ("cpu/memory.limit_in_bytes", "1")],
        );
        let memberships = "3:cpu,cpuacct:/\n2:hugetlb,memory:/pod/container\n1:name=systemd:/x\n0::/\n";
        assert_eq!(least(memberships, &root), Some(900), "the container itself is not there under that name");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        assert_eq!(least("", Path::new("/nowhere")), None);
        assert_eq!(least("0\nno line\n0:memory\n0:memory:x\n0::/x\n", Path::new("/nowhere")), None);
    }
}
