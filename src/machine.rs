//! What the machine, or the container that the process is in, has of memory.

use std::path::Path;

/// Bytes of memory that this process may use; `None` where the system does not say.
pub fn memory() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let total = read(Path::new("/proc/meminfo")).as_deref().and_then(total);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(limit_file).flat_map(|(mount, group, file)| {
        // A limit of any group around ours counts.
        let ancestors: Vec<&Path> = Path::new(group).ancestors().collect();
        let below = |group: &Path| Path::new(mount).join(group.strip_prefix("/").unwrap_or(group)).join(file);
        ancestors
            .into_iter()
            .filter_map(|group| read(&below(group))?.trim().parse().ok())
            .collect::<Vec<u64>>()
    });
    limits.chain(total).min()
}

/// Of a line of `/proc/self/cgroup`: where the hierarchy is mounted, our group in it, and the file of the limit.
fn limit_file(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    match controllers {
        "" => Some(("/sys/fs/cgroup", group, "memory.max")),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            Some(("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24000 kB\n"), Some(24_000 * 1024));
        assert_eq!(limit_file("0::/a/b"), Some(("/sys/fs/cgroup", "/a/b", "memory.max")));
        assert_eq!(
            limit_file("4:cpu,memory:/a:b"),
            Some(("/sys/fs/cgroup/memory", "/a:b", "memory.limit_in_bytes"))
        );
        assert_eq!(limit_file("3:cpuset:/"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory() {
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
