//! Removes the directories of ended, acknowledged runners: by age, by number, by size.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::adopt::keys;
use crate::config::AgentSection;
use crate::data_dir::DataDir;
use crate::epoch::RunnerKey;
use crate::runner;
use crate::shell::Input;

/// Between two passes; the first comes one period after the start, out of the way of adoption.
const PERIOD: Duration = Duration::from_secs(600);

/// P4: one day of history per real hour, so a clock that jumps cannot empty the host.
const HISTORY_PER_PASS: Duration = Duration::from_secs(4 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How much may stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    age: Duration,
    count: usize,
    bytes: u64,
}

impl Bounds {
    pub(crate) fn of(config: &AgentSection) -> Self {
        Self {
            age: DAY.saturating_mul(config.retain_days),
            count: config.retain_runners as usize,
            bytes: config.retain_bytes,
        }
    }
}

/// One ended runner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    key: RunnerKey,
    acknowledged: SystemTime,
    bytes: u64,
}

/// Passes until the process ends.
pub(crate) async fn run(dir: DataDir, bounds: Bounds, inputs: mpsc::Sender<Input>) {
    let mut horizon = None;
    loop {
        tokio::time::sleep(PERIOD).await;
        let dir = dir.clone();
        let pass = tokio::task::spawn_blocking(move || pass(&dir, bounds, horizon)).await;
        match pass {
            Ok(Ok((removed, next))) => {
                horizon = next;
                for key in removed {
                    if inputs.send(Input::Forgotten(key)).await.is_err() {
                        return;
                    }
                }
            }
            Ok(Err(error)) => warn!(%error, "ended runners cannot be listed"),
            Err(error) => warn!(%error, "a pass over ended runners failed"),
        }
    }
}

type Pass = (Vec<RunnerKey>, Option<SystemTime>);

fn pass(dir: &DataDir, bounds: Bounds, horizon: Option<SystemTime>) -> io::Result<Pass> {
    let mut ended = Vec::new();
    for key in keys(dir)? {
        if let Ok(meta) = std::fs::metadata(dir.acknowledged(&key)) {
            ended.push(Ended { acknowledged: meta.modified()?, bytes: size(&dir.runner(&key)), key });
        }
    }
    let (remove, horizon) = plan(ended, bounds, horizon, SystemTime::now());
    let mut removed = Vec::new();
    for key in remove {
        match runner::forget(&dir.runner(&key)) {
            Ok(()) => removed.push(key),
            Err(error) => warn!(runner = %key, %error, "an ended runner's directory cannot be removed"),
        }
    }
    if !removed.is_empty() {
        info!(removed = removed.len(), "old output removed");
    }
    Ok((removed, horizon))
}

/// What to remove, and up to when history is now gone by age.
fn plan(
    mut ended: Vec<Ended>,
    bounds: Bounds,
    horizon: Option<SystemTime>,
    now: SystemTime,
) -> (Vec<RunnerKey>, Option<SystemTime>) {
    ended.sort_by_key(|one| std::cmp::Reverse(one.acknowledged));
    let oldest = ended.last().map(|one| one.acknowledged);
    let wanted = now.checked_sub(bounds.age);
    let reachable = horizon.max(oldest).map(|from| from + HISTORY_PER_PASS);
    let horizon = wanted.min(reachable);
    let mut bytes = 0_u64;
    let mut remove = Vec::new();
    for (newer, one) in ended.into_iter().enumerate() {
        bytes = bytes.saturating_add(one.bytes);
        let too_old = horizon.is_some_and(|horizon| one.acknowledged < horizon);
        if too_old || newer >= bounds.count || bytes > bounds.bytes {
            remove.push(one.key);
        }
    }
    (remove, horizon)
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;

    const HOUR: Duration = Duration::from_secs(3600);
    const BOUNDS: Bounds = Bounds { age: Duration::from_secs(7 * 24 * 3600), count: 100, bytes: 1000 };

    fn ended(n: u64, ago: Duration, bytes: u64) -> Ended {
        let key = RunnerKey::new(&format!("{n:010}"), Epoch::new(1, n)).unwrap();
        Ended { key, acknowledged: now() - ago, bytes }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1000 * DAY
    }

    fn removed(ended: Vec<Ended>, bounds: Bounds) -> Vec<u64> {
        plan(ended, bounds, None, now()).0.iter().map(|key| key.epoch().index).collect()
    }

    #[test]
    fn age_number_and_size_each_bound() {
        assert_eq!(removed(vec![ended(1, 8 * DAY, 0), ended(2, 6 * DAY, 0)], BOUNDS), [1]);
        let many = (0..5).map(|n| ended(n, HOUR * u32::try_from(n).unwrap(), 300)).collect::<Vec<_>>();
        assert_eq!(removed(many.clone(), Bounds { count: 2, ..BOUNDS }), [2, 3, 4]);
        assert_eq!(removed(many, BOUNDS), [3, 4], "three of 300 bytes fit 1000");
    }

    #[test]
    fn a_clock_that_jumps_removes_four_hours_of_history_a_pass() {
        let jumped = now() + 400 * DAY;
        let all: Vec<Ended> = (0..48).map(|n| ended(n, HOUR * (48 - u32::try_from(n).unwrap()), 0)).collect();
        let (first, horizon) = plan(all.clone(), BOUNDS, None, jumped);
        assert_eq!(first.len(), 4);
        let rest = all.into_iter().filter(|one| !first.contains(&one.key)).collect();
        assert_eq!(plan(rest, BOUNDS, horizon, jumped).0.len(), 4);
    }
}
