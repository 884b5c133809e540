//! What this host can fence and limit, found out once at the agent's start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use stratavore_proto::v1;

use crate::shim::wire::{ControlFile, FenceOrder};

/// CAP_SYS_ADMIN, as a bit of `CapEff`.
const SYS_ADMIN: u64 = 1 << 21;

/// CPU quota is given per period of this length, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Tells the probes of one process apart.
static PROBES: AtomicU64 = AtomicU64::new(0);

/// Processes and threads of one limited runner: a fork bomb ends here, no build does.
const PIDS_MAX: u64 = 4096;

/// Which fence a start should use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FencePreference {
    /// A cgroup leaf, else (as root) a PID namespace, else the subreaper alone.
    ///
    /// The leaf comes first because it costs 0.1 ms against 1 ms and changes nothing that the command sees. A user
    /// namespace is never taken by itself: in it `sudo` and other set-uid programs do not work.
    #[default]
    Auto,
    Cgroup,
    /// A PID namespace; without root inside a user namespace.
    PidNamespace,
    Weak,
}

/// The facts; see the module.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Directory of the v2 hierarchy below which leaves can be made and killed.
    v2: Option<PathBuf>,
    /// Controllers that leaves below `v2` have.
    v2_controllers: Vec<String>,
    /// (controller, directory) of the v1 hierarchies that we may use.
    v1: Vec<(String, PathBuf)>,
    root: bool,
    user_namespaces: bool,
}

impl Host {
    /// Looks, and makes the directories this agent will use. `scope` tells the agents of one host apart.
    ///
    /// When the agent's own v2 cgroup is delegated and holds no other process, the agent moves into a leaf of it, so
    /// that controllers can be switched on for its siblings.
    #[must_use]
    pub fn prepare(scope: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = effective_capabilities() & SYS_ADMIN != 0;
        let mut host = Self { root, user_namespaces: user_namespaces_allowed(), ..Self::default() };
        let name = format!("stratavore-{scope}");
        if let Some(here) = v2_dir(&mounts, &own) {
            host.use_v2(&here, &name);
        }
        for controller in ["memory", "cpu", "pids"] {
            let dir = v1_dir(&mounts, &own, controller).map(|dir| dir.join(&name));
            if let Some(dir) = dir.filter(|dir| fs::create_dir_all(dir).is_ok() && is_ours(dir)) {
                host.v1.push((controller.to_owned(), dir));
            }
        }
        host
    }

    fn use_v2(&mut self, here: &Path, name: &str) {
        delegate(here, name);
        let base = here.join(name).join("runners");
        if fs::create_dir_all(&base).is_err() || !can_kill(&base) {
            return;
        }
        let available = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["memory", "cpu", "pids"] {
            let on = format!("+{controller}");
            if available.split_whitespace().any(|name| name == controller)
                && fs::write(base.join("cgroup.subtree_control"), on).is_ok()
            {
                self.v2_controllers.push(controller.to_owned());
            }
        }
        self.v2 = Some(base);
    }

    /// The fence a start gets here by default: `cgroup`, `pidns` or `weak`.
    #[must_use]
    pub const fn fence(&self) -> &'static str {
        match (&self.v2, self.root) {
            (Some(_), _) => "cgroup",
            (None, true) => "pidns",
            (None, false) => "weak",
        }
    }

    /// What this host can do, by name: `cgroup2`, `pidns`, `userns`, `limit-memory`, `limit-cpu`, `limit-pids`.
    #[must_use]
    pub fn features(&self) -> Vec<String> {
        let mut features = Vec::new();
        features.extend(self.v2.is_some().then(|| "cgroup2".to_owned()));
        features.extend(self.root.then(|| "pidns".to_owned()));
        features.extend(self.user_namespaces.then(|| "userns".to_owned()));
        for controller in ["memory", "cpu", "pids"] {
            features.extend(self.limits(controller).then(|| format!("limit-{controller}")));
        }
        features
    }

    fn limits(&self, controller: &str) -> bool {
        self.v2_controllers.iter().any(|name| name == controller) || self.v1_of(controller).is_some()
    }

    fn v1_of(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, dir)| dir.as_path())
    }

    /// What a shim is told for one epoch. Limits this host cannot set are left out: `features` says so beforehand.
    pub(super) fn order(
        &self,
        key: &str,
        start: &v1::RunnerStart,
        preference: FencePreference,
    ) -> FenceOrder {
        let leaf = self.v2.as_ref().map(|base| base.join(key));
        let wants_leaf = matches!(preference, FencePreference::Auto | FencePreference::Cgroup);
        let wants_namespace = matches!(preference, FencePreference::PidNamespace)
            || (preference == FencePreference::Auto && leaf.is_none() && self.root);
        let mut order = FenceOrder {
            cgroup: leaf.as_deref().filter(|_| wants_leaf).map(text).unwrap_or_default(),
            pid_namespace: wants_namespace,
            user_namespace: wants_namespace && !self.root,
            ..Default::default()
        };
        let limits = [
            ("memory", start.memory_bytes),
            ("cpu", u64::from(start.cpu_milli)),
            ("pids", if start.memory_bytes > 0 || start.cpu_milli > 0 { PIDS_MAX } else { 0 }),
        ];
        for (controller, value) in limits.into_iter().filter(|(_, value)| *value > 0) {
            match &leaf {
                Some(leaf) if wants_leaf && self.v2_controllers.iter().any(|name| name == controller) => {
                    v2_limit(&mut order, leaf, controller, value);
                }
                _ => {
                    if let Some(base) = self.v1_of(controller) {
                        v1_limit(&mut order, &base.join(key), controller, value);
                    }
                }
            }
        }
        order
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn control(dir: &Path, file: &str, value: String) -> ControlFile {
    ControlFile { path: text(&dir.join(file)), value }
}

fn quota(cpu_milli: u64) -> u64 {
    // The kernel refuses quotas below 1 ms.
    (cpu_milli * CPU_PERIOD_US / 1000).max(1000)
}

fn v2_limit(order: &mut FenceOrder, leaf: &Path, controller: &str, value: u64) {
    match controller {
        "memory" => {
            order.limits.push(control(leaf, "memory.max", value.to_string()));
            order.limits.push(control(leaf, "memory.oom.group", "1".into()));
            order.oom_counter = text(&leaf.join("memory.events"));
        }
        "cpu" => order.limits.push(control(leaf, "cpu.max", format!("{} {CPU_PERIOD_US}", quota(value)))),
        _ => order.limits.push(control(leaf, "pids.max", value.to_string())),
    }
}

fn v1_limit(order: &mut FenceOrder, dir: &Path, controller: &str, value: u64) {
    order.join.push(text(dir));
    match controller {
        "memory" => {
            order.limits.push(control(dir, "memory.limit_in_bytes", value.to_string()));
            order.oom_counter = text(&dir.join("memory.oom_control"));
        }
        "cpu" => {
            order.limits.push(control(dir, "cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
            order.limits.push(control(dir, "cpu.cfs_quota_us", quota(value).to_string()));
        }
        _ => order.limits.push(control(dir, "pids.max", value.to_string())),
    }
}

/// Moves this process into a leaf of its own cgroup when that cgroup is delegated and ours alone, and switches the
/// controllers on for the other leaves. Does nothing otherwise: then there are no limits, but the kill works.
fn delegate(here: &Path, name: &str) {
    let controllers = fs::read_to_string(here.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<&str> =
        controllers.split_whitespace().filter(|name| ["memory", "cpu", "pids"].contains(name)).collect();
    if wanted.is_empty() {
        return;
    }
    // The root of the hierarchy may have processes beside leaves.
    if here.join("cgroup.type").exists() {
        let me = std::process::id().to_string();
        let inhabitants = fs::read_to_string(here.join("cgroup.procs")).unwrap_or_default();
        let agent = here.join(name).join("agent");
        let alone = inhabitants.lines().all(|pid| pid == me);
        if !alone || fs::create_dir_all(&agent).is_err() || fs::write(agent.join("cgroup.procs"), me).is_err()
        {
            return;
        }
    } else if fs::create_dir_all(here.join(name)).is_err() {
        return;
    }
    for controller in wanted {
        let on = format!("+{controller}");
        // Each for itself: one that another cgroup holds (cpu with real-time tasks) must not cost the others.
        if fs::write(here.join("cgroup.subtree_control"), &on).is_ok() {
            drop(fs::write(here.join(name).join("cgroup.subtree_control"), &on));
        }
    }
}

/// Whether a leaf below `base` can be made and has `cgroup.kill`.
fn can_kill(base: &Path) -> bool {
    with_probe(base, |probe| fs::OpenOptions::new().write(true).open(probe.join("cgroup.kill")).is_ok())
}

/// Whether directories can be made below `base`: it may have been there before, made by another user.
fn is_ours(base: &Path) -> bool {
    with_probe(base, |_| true)
}

fn with_probe(base: &Path, check: impl FnOnce(&Path) -> bool) -> bool {
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = base.join(format!("probe-{}-{number}", std::process::id()));
    let able = fs::create_dir(&probe).is_ok() && check(&probe);
    drop(fs::remove_dir(&probe));
    able
}

/// Our own cgroup in the v2 hierarchy, if one is mounted.
fn v2_dir(mounts: &str, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| mounted(line, path, |kind, _| kind == "cgroup2"))
}

/// Our own cgroup in the v1 hierarchy of a controller.
fn v1_dir(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next()).flatten()
    })?;
    let is_it =
        |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|option| option == controller);
    mounts.lines().find_map(|line| mounted(line, path, is_it))
}

/// Where `path` of a hierarchy lies in the file system, if this line of mountinfo mounts it.
fn mounted(line: &str, path: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, _, options) = (kind.next()?, kind.next()?, kind.next()?);
    if !wanted(name, options) {
        return None;
    }
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let below = path.strip_prefix(root.trim_end_matches('/'))?.trim_start_matches('/');
    Some(Path::new(point).join(below))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(hex.trim(), 16).unwrap_or(0)
}

fn user_namespaces_allowed() -> bool {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    number("/proc/sys/user/max_user_namespaces").is_some_and(|max| max > 0)
        && number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") != Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "9:cpu,cpuacct:/a\n4:memory:/b/c\n0::/user/me\n";

    #[test]
    fn our_directories_are_found_in_every_layout() {
        assert_eq!(v2_dir(HYBRID, OWN), Some("/sys/fs/cgroup/unified/user/me".into()));
        assert_eq!(v1_dir(HYBRID, OWN, "memory"), Some("/sys/fs/cgroup/memory/b/c".into()));
        assert_eq!(v1_dir(HYBRID, OWN, "cpu"), Some("/sys/fs/cgroup/cpu/a".into()));
        assert_eq!(v1_dir(HYBRID, OWN, "pids"), None);
        let container = "40 20 0:28 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(v2_dir(container, "0::/docker/x/y\n"), Some("/sys/fs/cgroup/y".into()));
        assert_eq!(v2_dir(container, "0::/elsewhere\n"), None);
    }

    #[test]
    fn limits_go_to_the_hierarchy_that_has_them() {
        let host = Host {
            v2: Some("/cg/runners".into()),
            v2_controllers: vec!["memory".into()],
            v1: vec![("cpu".into(), "/v1cpu/s".into())],
            ..Host::default()
        };
        let start = v1::RunnerStart { cpu_milli: 500, memory_bytes: 1 << 20, ..Default::default() };
        let order = host.order("r-1.2", &start, FencePreference::Auto);
        assert_eq!(order.cgroup, "/cg/runners/r-1.2");
        assert_eq!(order.join, ["/v1cpu/s/r-1.2"]);
        let set: Vec<(&str, &str)> =
            order.limits.iter().map(|f| (f.path.as_str(), f.value.as_str())).collect();
        assert!(set.contains(&("/cg/runners/r-1.2/memory.max", "1048576")));
        assert!(set.contains(&("/v1cpu/s/r-1.2/cpu.cfs_quota_us", "50000")));
        assert_eq!(host.fence(), "cgroup");
        assert_eq!(
            host.order("r-1.2", &v1::RunnerStart::default(), FencePreference::Weak),
            FenceOrder::default()
        );
    }

    #[test]
    fn without_a_leaf_root_takes_a_namespace_and_others_do_not() {
        let order = |root| {
            Host { root, ..Host::default() }.order("k", &v1::RunnerStart::default(), FencePreference::Auto)
        };
        assert!(order(true).pid_namespace && !order(true).user_namespace);
        assert!(!order(false).pid_namespace);
    }
}
