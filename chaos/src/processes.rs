//! What `/proc` says about the machine: the outside view of "no process is left".

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// One live process (zombies are left out: nothing runs in them).
#[derive(Clone, Debug)]
pub struct Seen {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub parent: i32,
    /// Command line, one entry per argument.
    pub arguments: Vec<String>,
    /// Environment as it was at exec; empty when it may not be read.
    pub environment: Vec<u8>,
    /// Working directory, where it may be read.
    pub directory: Option<PathBuf>,
}

impl Seen {
    fn read(pid: i32) -> Option<Self> {
        let root = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(root.join("stat")).ok()?;
        // The name in parentheses may hold anything, so fields are counted from its end.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        let arguments = fs::read(root.join("cmdline")).ok()?;
        Some(Self {
            pid,
            parent,
            arguments: arguments
                .split(|b| *b == 0)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
            environment: fs::read(root.join("environ")).unwrap_or_default(),
            directory: fs::read_link(root.join("cwd")).ok(),
        })
    }

    /// Whether arguments, environment, working directory or (of the product's programs) open files name `text`.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let names = |path: &Path| contains(path.as_os_str().as_bytes(), text.as_bytes());
        self.arguments.iter().any(|a| a.contains(text))
            || contains(&self.environment, text.as_bytes())
            || self.directory.as_deref().is_some_and(names)
            || self.is_ours() && self.open_files().iter().any(|f| names(f))
    }

    /// Shims clear their environment and go to `/`, so only what they have open tells whose they are.
    fn is_ours(&self) -> bool {
        self.arguments.first().is_some_and(|a| a.contains("stratavore"))
    }

    fn open_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return Vec::new() };
        entries.flatten().filter_map(|e| fs::read_link(e.path()).ok()).collect()
    }

    /// Whether this is a shim or the guardian of one: `stratavore-agent shim RUNNER-EPOCH`.
    #[must_use]
    pub fn is_shim(&self) -> bool {
        self.is_ours() && self.arguments.get(1).is_some_and(|a| a == "shim")
    }

    /// Whether the program's file name is `name`.
    #[must_use]
    pub fn is_program(&self, name: &str) -> bool {
        self.arguments.first().is_some_and(|a| Path::new(a).file_name() == Some(OsStr::new(name)))
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|w| w == needle)
}

/// All live processes but this one.
#[must_use]
pub fn all() -> Vec<Seen> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(Seen::read)
        .collect()
}

/// Processes with an argument equal to `argument`.
#[must_use]
pub fn with_argument(argument: &str) -> Vec<Seen> {
    all().into_iter().filter(|p| p.arguments.iter().any(|a| a == argument)).collect()
}

/// Processes that mention `text` anywhere, guardians of shims among them, and all their descendants.
#[must_use]
pub fn family_of(text: &str) -> Vec<Seen> {
    let everything = all();
    let mut family: BTreeSet<i32> = everything.iter().filter(|p| p.mentions(text)).map(|p| p.pid).collect();
    // A guardian has nothing open at all: it is told by the command line that it shares with its shim.
    let shims: Vec<&Vec<String>> =
        everything.iter().filter(|p| p.is_shim() && family.contains(&p.pid)).map(|p| &p.arguments).collect();
    let guardians = everything.iter().filter(|p| p.is_shim() && shims.contains(&&p.arguments));
    family.extend(guardians.map(|p| p.pid));
    loop {
        let before = family.len();
        let children: Vec<i32> =
            everything.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect();
        family.extend(children);
        if family.len() == before {
            break;
        }
    }
    everything.into_iter().filter(|p| family.contains(&p.pid)).collect()
}

/// Whether a process that is not a zombie has this id.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    Seen::read(pid).is_some()
}

/// Sends a signal; a process that is already gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// SIGKILL for everything that mentions `text` and what descends from it, until nothing of it is left.
pub fn kill_family_of(text: &str) {
    /// Each round finds what the round before missed because it was just being forked.
    const ROUNDS: u32 = 100;
    for _ in 0..ROUNDS {
        let family = family_of(text);
        if family.is_empty() {
            return;
        }
        for process in &family {
            signal(process.pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// SIGKILL for everything that this process has started and that is still below it.
pub fn kill_descendants() {
    let everything = all();
    let mut family = BTreeSet::from([i32::try_from(std::process::id()).unwrap_or(0)]);
    loop {
        let before = family.len();
        let children: Vec<i32> =
            everything.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect();
        family.extend(children);
        if family.len() == before {
            break;
        }
    }
    // This process is not in its own list.
    everything.iter().filter(|p| family.contains(&p.pid)).for_each(|p| signal(p.pid, Signal::KILL));
}

/// Memory of one process in KiB: (VmRSS, Pss); zeros when it is gone.
#[must_use]
pub fn memory_kib(pid: i32) -> (u64, u64) {
    let field = |file: &str, name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).ok().and_then(|text| {
            let line = text.lines().find(|l| l.starts_with(name))?.to_owned();
            line.split_whitespace().nth(1)?.parse().ok()
        })
    };
    (field("status", "VmRSS:").unwrap_or(0), field("smaps_rollup", "Pss:").unwrap_or(0))
}

/// Processor time that the threads of a process have used.
#[must_use]
pub fn cpu_time(pid: i32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let used = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(used).sum())
}

/// Datagrams that this machine has dropped because a socket's buffer was full.
#[must_use]
pub fn udp_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "RcvbufErrors");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_by_argument_environment_and_family_and_gone_after_the_kill() {
        let tag = format!("scan-{}", uuid::Uuid::new_v4());
        let mut child =
            Command::new("sh").args(["-c", "sleep 1000 & wait"]).env("CHAOS_TAG", &tag).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        crate::eventually::eventually_true("shell and sleep are seen", crate::eventually::SOON, || {
            family_of(&tag).len() == 2
        });
        assert!(is_alive(pid));
        kill_family_of(&tag);
        child.wait().unwrap();
        assert!(!is_alive(pid));
        assert!(family_of(&tag).is_empty());
    }
}
