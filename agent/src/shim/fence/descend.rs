//! Finds every descendant of a process. A subreaper's descendants cannot get away: whoever loses its parent becomes
//! its child. So what is asked again and again until nothing is found has found everything.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// All living descendants of `root`, parents before children.
#[must_use]
pub fn descendants(root: i32) -> Vec<i32> {
    if fs::metadata(format!("/proc/{root}/task/{root}/children")).is_ok() {
        let mut found = Vec::new();
        let mut next = children(root);
        while let Some(pid) = next.pop() {
            found.push(pid);
            next.extend(children(pid));
        }
        return found;
    }
    by_scan(root)
}

/// Children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

/// For kernels without `children` files: the whole process table.
fn by_scan(root: i32) -> Vec<i32> {
    let mut by_parent: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = Stat::read(pid) {
            by_parent.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = by_parent.remove(&root).unwrap_or_default();
    while let Some(pid) = next.pop() {
        found.push(pid);
        next.extend(by_parent.remove(&pid).unwrap_or_default());
    }
    found
}

/// Every process id of this host that we may see.
#[must_use]
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Sends one signal to each; those that are gone already are no error.
pub fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        kill_process(pid, signal).ok();
    }
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub name: String,
    pub state: char,
    pub parent: i32,
    pub session: i32,
    /// Since boot, in clock ticks; with the pid it names a process for good.
    pub start_ticks: u64,
}

impl Stat {
    /// `None` when the process is gone.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name may hold anything, parentheses and blanks included, so the fields start behind its last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it still runs (a zombie only waits to be reaped).
    #[must_use]
    pub const fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// `pid name` of those that live, for the exit record.
#[must_use]
pub fn named(pids: &[i32]) -> Vec<String> {
    let living = |pid: &i32| Stat::read(*pid).filter(Stat::alive).map(|stat| format!("{pid} {}", stat.name));
    pids.iter().filter_map(living).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_look_like_fields() {
        let stat =
            Stat::parse("42 (a) b (c)) S 7 42 43 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1").unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.parent, stat.session, stat.start_ticks),
            ("a) b (c)", 7, 43, 98765)
        );
        assert!(Stat::parse("42 (torn").is_none());
    }

    #[test]
    fn both_ways_find_a_grandchild() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let root = i32::try_from(std::process::id()).unwrap();
        let shell = i32::try_from(child.id()).unwrap();
        let start = std::time::Instant::now();
        while children(shell).is_empty() && start.elapsed().as_secs() < 20 {
            std::thread::yield_now();
        }
        let sleeper = children(shell)[0];
        assert!(descendants(root).contains(&sleeper));
        assert!(by_scan(root).contains(&sleeper));
        signal_all(&[shell, sleeper], Signal::KILL);
        child.wait().unwrap();
    }
}
