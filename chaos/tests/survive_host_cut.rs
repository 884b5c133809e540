//! Survival 3 of the cluster: a host is cut off for longer than lease and hold. Its `stop` runners are dead by their deadline,
//! with the agent killed and with a shim stopped; only then they are replaced, under higher epochs; its `keep` runner is
//! shown lost and is back after healing. No instant with two incarnations: each holds a lock on one file for its life, and
//! the processes are looked at every 50 ms.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{Lease, LocalFarm, Plan};
use stratavore_chaos::network::Network;
use stratavore_chaos::processes::{self, is_alive, with_argument};

/// Short, so that the test need not wait for minutes; the proportions are those of the defaults.
const LEASE: Lease = Lease { ttl_ms: 6_000, renew_ms: 1_000, kill_grace_ms: 3_000, hold_ms: 10_000 };

/// From one look at the processes to the next.
const SCAN_EVERY: Duration = Duration::from_millis(50);

/// The deadline is 99 % of the hold after the last granted renewal; the rest is for a loaded machine's scheduler.
const DEAD_WITHIN: Duration = Duration::from_millis(LEASE.hold_ms + 2_000);

/// Kept by one incarnation at a time, or it is written down.
struct Single {
    name: &'static str,
    lock: PathBuf,
    /// An argument that its process alone has.
    word: String,
}

impl Single {
    fn new(farm: &LocalFarm, name: &'static str) -> Self {
        let word = format!("single-{name}-{}", uuid::Uuid::new_v4().simple());
        Self { name, lock: farm.path(&format!("lock-{name}")), word }
    }

    fn violations(&self) -> PathBuf {
        self.lock.with_extension("violations")
    }

    /// Takes the lock for as long as its process lives; a second holder says so.
    fn script(&self, probe: &Path) -> String {
        let (lock, violations) = (self.lock.display(), self.violations().display().to_string());
        format!(
            "exec 9>>{lock}; flock -n 9 || {{ echo $STRATAVORE_EPOCH >>{violations}; exit 1; }}; exec {} hold {}",
            probe.display(),
            self.word
        )
    }

    fn launch(&self, farm: &LocalFarm, flags: &[&str]) -> String {
        let script = self.script(&farm.binaries().probe());
        let flags = [&["--name", self.name], flags].concat();
        farm.running("demo", &flags, &["sh", "-c", &script])
    }
}

/// Process id of the shim of a runner on host 0, as it wrote it down.
fn shim_of(farm: &LocalFarm, runner: &str) -> i32 {
    let runners = farm.agents[0].data.join("runners");
    let entries = std::fs::read_dir(&runners).expect("the agent's runners").flatten();
    let own = entries.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(runner));
    let facts =
        std::fs::read(own.expect("the runner's directory").join("shim.json")).expect("the shim's facts");
    let facts: serde_json::Value = serde_json::from_slice(&facts).expect("JSON");
    facts["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
}

/// Looks at all processes until told to stop; the words that two processes had at one instant.
fn scan(words: &[String], enough: &AtomicBool) -> Vec<String> {
    let mut doubled = Vec::new();
    while !enough.load(Ordering::Acquire) {
        let all = processes::all();
        let count = |word: &String| all.iter().filter(|process| process.arguments.contains(word)).count();
        doubled.extend(words.iter().filter(|word| count(word) > 1).cloned());
        std::thread::sleep(SCAN_EVERY);
    }
    doubled
}

fn on_host(farm: &LocalFarm, at: usize, flags: &[&str], single: &Single) -> String {
    // Not pinned to it: a runner that is could not be replaced elsewhere.
    let other = format!("host-{}", 1 - at);
    farm.cli_until_ok(&["hosts", "cordon", &other]);
    let id = single.launch(farm, flags);
    farm.cli_until_ok(&["hosts", "uncordon", &other]);
    id
}

#[test]
fn p11_a_host_that_is_cut_off_ends_what_may_be_replaced_and_keeps_the_rest() {
    if !Network::is_possible() {
        return eprintln!("not tested: cutting networks needs root");
    }
    let mut farm = Plan::default().nodes(3).agents(2).networked().lease(LEASE).start();
    farm.project("demo");
    eventually("the leases to be bounded", SOON, || {
        let hosts = farm.cli(&["hosts", "-o", "json"]).ok().items("HostList");
        if hosts.iter().all(|host| host["lease"] == "bounded") { Ok(()) } else { Err(format!("{hosts:?}")) }
    });
    let [plain, frozen, kept] = ["plain", "frozen", "kept"].map(|name| Single::new(&farm, name));
    let plain_id = on_host(&farm, 0, &["--on-disconnect", "stop"], &plain);
    let frozen_id = on_host(&farm, 0, &["--on-disconnect", "stop"], &frozen);
    let kept_id = on_host(&farm, 0, &["--on-disconnect", "keep"], &kept);
    let before = [&plain_id, &frozen_id, &kept_id].map(|id| farm.runner(id));
    assert!(before.iter().all(|runner| runner["host"] == "host-0"), "{before:?}");
    let pids = [&plain_id, &frozen_id, &kept_id].map(|id| farm.pid_of(id));
    let shim = shim_of(&farm, &frozen_id);
    let words = [&plain, &frozen, &kept].map(|single| single.word.clone());
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scanner = scope.spawn(|| scan(&words, &enough));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            farm.cut_host(0);
            let cut = Instant::now();
            farm.kill_agent(0);
            processes::signal(shim, Signal::STOP);
            eventually_true("both replaceable runners to be dead", DEAD_WITHIN, || {
                !is_alive(pids[0]) && !is_alive(pids[1])
            });
            assert!(cut.elapsed() > Duration::from_millis(LEASE.ttl_ms), "dead before the lease was over");
            for (id, old) in [(&plain_id, &before[0]), (&frozen_id, &before[1])] {
                let new = farm.await_runner_that(id, "to be replaced", |runner| {
                    runner["state"] == "running" && runner["host"] == "host-1"
                });
                assert!(index(&new) > index(old), "{new} after {old}");
            }
            let lost = farm.await_runner(&kept_id, "lost");
            assert_eq!(lost["epoch"], before[2]["epoch"]);
            assert!(is_alive(pids[2]), "a kept runner died");
            farm.heal_host(0);
            farm.start_agent(0);
            let back = farm.await_runner(&kept_id, "running");
            assert_eq!((&back["pid"], &back["epoch"]), (&before[2]["pid"], &before[2]["epoch"]));
        }));
        enough.store(true, Ordering::Release);
        let doubled = scanner.join().expect("the scanner");
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(doubled.is_empty(), "two incarnations at one instant: {doubled:?}");
    });
    for single in [&plain, &frozen, &kept] {
        let violations = std::fs::read_to_string(single.violations()).unwrap_or_default();
        assert!(violations.is_empty(), "{}: two held the lock: {violations}", single.name);
        assert_eq!(with_argument(&single.word).len(), 1, "{} does not run once", single.name);
    }
}

/// The log index in an epoch `incarnation.index`.
fn index(runner: &serde_json::Value) -> u64 {
    let epoch = runner["epoch"].as_str().unwrap_or_default();
    epoch.split_once('.').and_then(|(_, index)| index.parse().ok()).expect("an epoch")
}
