//! What this machine can do for an agent, as far as it shows without trying: for `doctor`.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::programs;
use crate::cmd::doctor::Check;

/// A node keeps a few hundred files of its database open, an agent a few per runner.
const OPEN_FILES_MIN: u64 = 4096;

/// Checks that need no cluster.
pub(crate) fn checks() -> Vec<Check> {
    vec![programs_found(), cgroups(), namespaces(), open_files()]
}

fn programs_found() -> Check {
    let missing: Vec<&str> = ["stratavored", "stratavore-agent"]
        .into_iter()
        .filter(|name| programs::find(name).is_err())
        .collect();
    if missing.is_empty() {
        return Check::ok("programs", "stratavored and stratavore-agent are here");
    }
    let detail = format!("{} not found beside this program or on PATH", missing.join(" and "));
    Check::warn("programs", detail, "make build; only needed to run nodes or agents on this machine")
}

fn cgroups() -> Check {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(mount) = cgroup2_mount(&mounts) else {
        return Check::warn(
            "cgroup v2",
            "not mounted: process trees are stopped by other means",
            "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
        );
    };
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let dir = Path::new(mount).join(path.trim_start_matches('/'));
    let writable = rustix::fs::access(dir.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    let controllers = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let controllers = controllers.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = if controllers.is_empty() { "no controllers" } else { &controllers };
    if !writable {
        let detail = format!("{mount} is not ours to write: no limits, and trees are stopped by other means");
        return Check::warn(
            "cgroup v2",
            detail,
            "run the agent by its systemd unit (Delegate=yes), or as root",
        );
    }
    let limits = |controller: &str| controllers.contains(controller) || v1_controller(&mounts, controller);
    if !(limits("memory") && limits("cpu")) {
        let detail = format!("{mount}, writable, with {shown}: limits of memory or CPU may not be enforced");
        return Check::warn("cgroup v2", detail, "leave these controllers to cgroup v2 (cgroup_no_v1=all)");
    }
    Check::ok("cgroup v2", format!("{mount}, writable, with {shown}"))
}

fn cgroup2_mount(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next() == Some("cgroup2")).then_some(path)
    })
}

/// Whether a controller is mounted the old way, and ours to use.
fn v1_controller(mounts: &str, controller: &str) -> bool {
    mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, path, "cgroup", options, ..] = fields.as_slice() else { return false };
        options.split(',').any(|option| option == controller)
            && rustix::fs::access(*path, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

fn namespaces() -> Check {
    if rustix::process::geteuid().is_root() {
        return Check::ok("PID namespaces", "running as root");
    }
    let number =
        |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let allowed = number("/proc/sys/user/max_user_namespaces").is_some_and(|max| max > 0)
        && number("/proc/sys/kernel/unprivileged_userns_clone").is_none_or(|on| on > 0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_none_or(|on| on == 0);
    if allowed {
        return Check::ok("PID namespaces", "allowed for this user");
    }
    Check::warn(
        "PID namespaces",
        "not allowed for this user: runners are fenced by cgroup or not at all (fence=weak)",
        "run the agent as root, or allow unprivileged user namespaces",
    )
}

fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile);
    match limit.maximum {
        Some(maximum) if maximum < OPEN_FILES_MIN => Check::warn(
            "open files",
            format!("at most {maximum} per process"),
            format!("raise the limit to {OPEN_FILES_MIN} or more (ulimit -Hn, LimitNOFILE=)"),
        ),
        maximum => {
            Check::ok("open files", maximum.map_or_else(|| "no limit".to_owned(), |n| format!("up to {n}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_among_v1_ones() {
        let mounts =
            "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\nnone /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(cgroup2_mount("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }
}
