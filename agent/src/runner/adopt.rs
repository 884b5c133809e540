//! What a directory says about its epoch, and how the truth is restored where a shim died without a word.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stratavore_proto::v1;

use super::client::Client;
use super::launch::Launcher;
use crate::epoch::RunnerKey;
use crate::shim::deadline;
use crate::shim::exit::{self, Reserved};
use crate::shim::fence::cgroup::Leaf;
use crate::shim::fence::descend::{Stat, all, descendants, named, signal_all};
use crate::shim::identity::{Identity, lock_path};
use crate::shim::log::{
    self,
    writer::{Limits, LogWriter},
};
use crate::shim::wire::Record;

/// Tries before a shim counts as mute. Each waits for an answer as long as any request does, so a shim has some 16
/// seconds: killing one that was merely slow on a loaded host would cost a session.
const CONNECT_TRIES: u32 = 3;

/// Between the tries.
const CONNECT_PAUSE: Duration = Duration::from_millis(700);

/// Between two looks at what a dead shim left behind.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// Looks before what still lives is named as a leftover: five seconds of KILLs.
const SWEEPS_MAX: u32 = 250;

/// Looks at a shim that has let go of its lock before it counts as living elsewhere: two seconds.
const DYING_LOOKS_MAX: u32 = 100;

/// The revision of a record written without a shim: above every one a shim can have counted to, since it counts
/// transitions of one epoch.
const REV_WITHOUT_SHIM: u64 = 1000;

/// What is behind a directory.
#[derive(Debug)]
pub enum Adoption {
    Live(Client),
    Exited(v1::Observation),
    /// The shim died before it could record the end; what it left has been killed, and the record written now.
    ShimLost(v1::Observation),
    /// Nothing ever ran here.
    Empty,
}

/// Why a directory could not be judged. It is neither started nor removed then.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("the runner's directory cannot be read")]
    Io(#[from] io::Error),
    #[error("the shim is starting; look again")]
    Starting,
    /// Nothing is touched: what lives belongs to the directory this one was copied from.
    #[error(
        "the shim of this epoch (pid {pid}) lives but holds another directory: this one is a copy; remove the copy"
    )]
    Copied { pid: i32 },
}

impl Launcher {
    /// Reads the truth from a directory.
    ///
    /// # Errors
    /// When it cannot be read, or its shim is between its lock and its first line.
    pub async fn adopt(&self, dir: &Path) -> Result<Adoption, AdoptError> {
        if let Some(lock) = try_lock(dir)? {
            return self.without_shim(dir, lock).await;
        }
        for attempt in 0..CONNECT_TRIES {
            if attempt > 0 {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
            if let Some(identity) = Identity::read(dir)?
                && let Ok(client) = Client::connect(&identity.socket).await
            {
                return Ok(Adoption::Live(client));
            }
            // It may have ended while we tried.
            if let Some(lock) = try_lock(dir)? {
                return self.without_shim(dir, lock).await;
            }
        }
        let Some(identity) = Identity::read(dir)? else { return Err(AdoptError::Starting) };
        kill_exactly(identity.pid, identity.start_ticks);
        for _ in 0..SWEEPS_MAX {
            tokio::time::sleep(SWEEP_PAUSE).await;
            if let Some(lock) = try_lock(dir)? {
                return self.without_shim(dir, lock).await;
            }
        }
        Err(AdoptError::Starting)
    }

    /// No shim lives: the record, or what can be said without one. `lock` keeps a new shim out meanwhile.
    async fn without_shim(&self, dir: &Path, lock: File) -> Result<Adoption, AdoptError> {
        if let Some(record) = exit::read(dir)? {
            return Ok(record.observation.map_or(Adoption::Empty, Adoption::Exited));
        }
        let Some(identity) = Identity::read(dir)? else { return Ok(Adoption::Empty) };
        let rebooted = identity.boot_id != self.boot_id();
        if !rebooted && outlives_its_lock(&identity).await {
            return Err(AdoptError::Copied { pid: identity.pid });
        }
        let leftovers = if rebooted { Vec::new() } else { sweep(&identity).await };
        let observation = lost(dir, &identity, rebooted, leftovers)?;
        drop(lock);
        Ok(Adoption::ShimLost(observation))
    }
}

/// The shim's lock; `None` while a shim holds it. A directory without one has had no shim.
fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock_path(dir))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the recorded shim lives although it does not hold the lock of this directory. A dying one lets go of its lock
/// a moment before it is gone.
async fn outlives_its_lock(identity: &Identity) -> bool {
    let lives = || {
        Stat::read(identity.pid).is_some_and(|stat| stat.start_ticks == identity.start_ticks && stat.alive())
    };
    for _ in 0..DYING_LOOKS_MAX {
        if !lives() {
            return false;
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    lives()
}

/// KILL to one process, never to another that got its number.
fn kill_exactly(pid: i32, start_ticks: u64) {
    let Some(number) = Pid::from_raw(pid) else { return };
    let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else { return };
    // Whoever the handle names cannot change any more: compare now, then signal.
    if Stat::read(pid).is_some_and(|stat| stat.start_ticks == start_ticks) {
        pidfd_send_signal(handle, Signal::KILL).ok();
    }
}

/// Kills what is left of a tree whose shim is dead, again and again until nothing is found; what cannot be killed is
/// named.
async fn sweep(identity: &Identity) -> Vec<String> {
    let leaf = Leaf::open(&identity.cgroup).ok().filter(|_| !identity.cgroup.as_os_str().is_empty());
    for _ in 0..SWEEPS_MAX {
        if let Some(leaf) = &leaf {
            leaf.kill();
        }
        let left = left_behind(identity, leaf.as_ref());
        if named(&left).is_empty() {
            if let Some(leaf) = &leaf {
                leaf.remove();
            }
            return Vec::new();
        }
        signal_all(&left, Signal::KILL);
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    named(&left_behind(identity, leaf.as_ref()))
}

/// Processes of a dead shim's runner: in its leaf, with its mark in the environment, in its session, or below those.
fn left_behind(identity: &Identity, leaf: Option<&Leaf>) -> Vec<i32> {
    let mut found: Vec<i32> = leaf.map(Leaf::processes).unwrap_or_default();
    let id = format!("STRATAVORE_RUNNER_ID={}", identity.runner);
    let epoch = format!("STRATAVORE_EPOCH={}.{}", identity.incarnation, identity.index);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for pid in all().into_iter().filter(|pid| *pid != own) {
        let Some(stat) = Stat::read(pid) else { continue };
        // Older than the shim: cannot be its descendant, whatever its numbers say.
        if stat.start_ticks < identity.start_ticks {
            continue;
        }
        if stat.session == identity.child || marked(pid, &id, &epoch) {
            found.push(pid);
        }
    }
    for pid in found.clone() {
        found.extend(descendants(pid));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn marked(pid: i32, id: &str, epoch: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let has = |wanted: &str| environment.split(|byte| *byte == 0).any(|var| var == wanted.as_bytes());
    has(id) && has(epoch)
}

/// Writes the record of an epoch whose shim cannot.
fn lost(
    dir: &Path,
    identity: &Identity,
    rebooted: bool,
    leftovers: Vec<String>,
) -> io::Result<v1::Observation> {
    let log = LogWriter::open(&log::dir(dir), Limits::default());
    let log_end = log.map_or(0, |mut log| {
        log.end_of_output();
        log.end()
    });
    let reason = match rebooted {
        true => "host_rebooted",
        false if deadline::has_passed(dir) => deadline::REASON,
        false => "shim_lost",
    };
    let observation = v1::Observation {
        runner: identity.runner.clone(),
        epoch: Some(v1::Epoch { incarnation: identity.incarnation, index: identity.index }),
        rev: REV_WITHOUT_SHIM,
        state: v1::RunnerState::Failed.into(),
        exit: Some(v1::Exit { reason: reason.to_owned(), leftovers, ..Default::default() }),
        reason: reason.to_owned(),
        log_end,
        started_at_unix_ms: identity.started_at_unix_ms,
        ended_at_unix_ms: now_unix_ms(),
        fence: identity.fence.clone(),
        ..Default::default()
    };
    persist(dir, &observation, String::new())?;
    drop(fs::remove_file(&identity.socket));
    Ok(observation)
}

fn persist(dir: &Path, observation: &v1::Observation, message: String) -> io::Result<()> {
    let record = Record { observation: Some(observation.clone()), message, ..Default::default() };
    let reserved = Reserved::create(dir)?;
    reserved.write(&record)?;
    reserved.sync()
}

/// Records durably that an epoch never started, for starts that fail without a shim.
///
/// # Errors
/// As the file system says.
pub fn record_failure(
    dir: &Path,
    key: &RunnerKey,
    reason: &str,
    message: &str,
) -> io::Result<v1::Observation> {
    let observation = v1::Observation {
        runner: key.runner().to_owned(),
        epoch: Some(key.epoch().into()),
        rev: REV_WITHOUT_SHIM,
        state: v1::RunnerState::Failed.into(),
        exit: Some(v1::Exit { reason: reason.to_owned(), ..Default::default() }),
        reason: reason.to_owned(),
        ended_at_unix_ms: now_unix_ms(),
        ..Default::default()
    };
    fs::create_dir_all(dir)?;
    persist(dir, &observation, message.to_owned())?;
    Ok(observation)
}

/// Removes an ended directory, logs included.
///
/// # Errors
/// As the file system says.
pub fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn now_unix_ms() -> i64 {
    i64::try_from(log::wall_ms()).unwrap_or(i64::MAX)
}
