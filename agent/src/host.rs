//! Facts and load of this machine, read from /proc.

use std::fs;
use std::path::Path;

use stratavore_proto::v1;

use crate::disk::Disk;

/// Identifies this boot; a new one proves that nothing of the boot before still runs (P8).
#[must_use]
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// What placement may count on. `features` and `fence` are what the runner layer can enforce here.
#[must_use]
pub(crate) fn facts(slots: u32, features: Vec<String>, fence: &str) -> v1::HostFacts {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    v1::HostFacts {
        slots,
        cpu_milli: (cpus as u64).saturating_mul(1000),
        memory_bytes: meminfo_bytes("MemTotal:"),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        features,
        fence: fence.to_owned(),
    }
}

/// One sample for a load report. What cannot be read is 0.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub load1_milli: u32,
    pub memory_available_bytes: u64,
    pub disk_available_bytes: u64,
}

/// Samples now; `dir` names the file system of the data directory.
#[must_use]
pub(crate) fn load(dir: &Path) -> Load {
    let load1 = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Load {
        load1_milli: load1.split_whitespace().next().and_then(milli).unwrap_or(0),
        memory_available_bytes: meminfo_bytes("MemAvailable:"),
        disk_available_bytes: Disk::new(dir).space().map_or(0, |space| space.available),
    }
}

/// `1.25` as 1250, without floating point.
fn milli(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part.parse().ok()?)
}

fn meminfo_bytes(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let kib =
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts() {
        let facts = facts(7, vec![], "weak");
        assert!(facts.cpu_milli >= 1000 && facts.memory_bytes > 0 && facts.slots == 7);
        assert_eq!(boot_id().len(), 36);
        assert!(load(Path::new("/")).memory_available_bytes > 0);
    }

    #[test]
    fn load_averages_become_thousandths() {
        assert_eq!(milli("1.25"), Some(1250));
        assert_eq!(milli("0.07"), Some(70));
        assert_eq!(milli("x"), None);
    }
}
