//! The process between the agent and one runner: owns the terminal, the log, the screen and the process tree.
//!
//! It is the same binary as the agent, entered before any runtime exists, and it outlives the agent. One thread, one
//! `poll` loop. Its start order comes as one message on stdin; its readiness goes out on stdout; from then on a unix
//! socket is the only way to it, and its directory says everything about it:
//! `shim.lock` (held for life), `shim.json`, `exit`, `log/`.

pub mod blank;
pub mod deadline;
mod ended;
pub mod exit;
mod failure;
pub mod fence;
mod footprint;
mod fork;
pub mod identity;
mod ladder;
pub mod log;
mod program;
mod requests;
pub mod screen;
mod serve;
mod signals;
mod state;
mod viewer;
pub mod wire;
pub mod zygote;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use deadline::Deadline;
use exit::Reserved;
use fence::{Fence, descend::Stat, guardian};
use fork::Side;
use identity::Identity;
use log::writer::{Limits, LogWriter};
use program::{Failure, Program};
use screen::{DEFAULT_SIZE, Screen, Size};
use serve::{Parts, Shim};
use state::State;
use wire::{Order, Readiness};

/// What the kernel's OOM killer is told about a shim: it is small and the last one that knows how a runner ended.
const OOM_SCORE_ADJ: &str = "-900";

/// Longest path of a unix socket, the terminating zero included.
pub const SOCKET_PATH_MAX: usize = 108;

/// Where a process that becomes a shim comes from.
#[derive(Debug)]
enum Origin {
    /// Exec'd by the agent, which waits for it.
    Spawned,
    /// Forked by the agent's zygote; its command line is still the zygote's.
    Forked(Option<zygote::Title>),
}

/// Entry of `stratavore-agent shim`.
pub fn main() -> ! {
    run(Origin::Spawned)
}

/// Takes the order from stdin and becomes a shim.
fn run(origin: Origin) -> ! {
    let code = match begin(origin) {
        Ok(()) => 0,
        Err(error) => {
            say(&Readiness { error: error.to_string(), ..Default::default() });
            1
        }
    };
    fork::exit_now(code)
}

/// Tells the agent through stdout, which is a pipe it reads to the end.
fn say(readiness: &Readiness) {
    // An agent that died meanwhile adopts from the directory.
    drop(io::stdout().write_all(&readiness.encode_to_vec()).and_then(|()| io::stdout().flush()));
}

/// In the process that the agent spawned or its zygote forked: read the order, take the directory, detach.
fn begin(origin: Origin) -> io::Result<()> {
    let order = read_order()?;
    let dir = PathBuf::from(&order.dir);
    let Some(lock) = take(&dir)? else {
        say(&Readiness { taken: true, error: "the directory is taken".into(), ..Default::default() });
        return Ok(());
    };
    match origin {
        Origin::Spawned => {
            if let Side::Parent(_) = fork::fork()? {
                // The agent waits for this one only.
                return Ok(());
            }
            fork::ignore_hangups();
            fork::stay_small();
        }
        // The rest was done for all of them, before the fork.
        Origin::Forked(Some(title)) => title.write(&order),
        Origin::Forked(None) => {}
    }
    rustix::process::setsid()?;
    let fence = Fence::prepare(&order.fence.clone().unwrap_or_default());
    let fence = match fence {
        Ok(fence) => fence,
        Err(error) => return refuse(&order, &dir, "limits_refused", error.to_string()),
    };
    let Some(leaf) = &fence.leaf else { return shim(order, &dir, fence, lock, None) };
    let (lifeline, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork::fork()? {
        Side::Parent(shim) => {
            drop((held, lock));
            guardian::watch(lifeline, leaf, shim)
        }
        Side::Child => {
            drop(lifeline);
            rustix::process::setsid()?;
            shim(order, &dir, fence, lock, Some(held))
        }
    }
}

fn read_order() -> io::Result<Order> {
    let mut bytes = Vec::new();
    io::stdin().take(wire::ORDER_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > wire::ORDER_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the start order is too long"));
    }
    let order = Order::decode(bytes.as_slice()).map_err(io::Error::other)?;
    if order.dir.is_empty() || order.socket.is_empty() || order.socket.len() >= SOCKET_PATH_MAX {
        let message = "start order without a directory, or with a socket path longer than 107 bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(order)
}

/// Takes the directory for good; `None` when another shim has it or an epoch has ended in it already (P2).
fn take(dir: &Path) -> io::Result<Option<File>> {
    let lock = open_lock(dir)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let used = exit::read(dir)?.is_some() || Identity::read(dir)?.is_some();
    Ok((!used).then_some(lock))
}

fn open_lock(dir: &Path) -> io::Result<File> {
    let path = identity::lock_path(dir);
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Whether whoever connected may give orders: our own user, or root.
fn is_allowed(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == ours || peer.uid.is_root())
}

/// Records a start that failed, durably, and says so.
fn refuse(order: &Order, dir: &Path, reason: &str, message: String) -> io::Result<()> {
    let mut state = State::starting(order.runner.clone(), order.epoch, order.boot_id.clone());
    state.failed(reason, message);
    let reserved = Reserved::create(dir)?;
    reserved.write(state.record())?;
    reserved.sync()?;
    say(&Readiness { record: Some(state.record().clone()), ..Default::default() });
    Ok(())
}

/// The shim proper: everything up to readiness, then the loop. `lock` and `lifeline` are held for life.
fn shim(mut order: Order, dir: &Path, fence: Fence, lock: File, lifeline: Option<OwnedFd>) -> io::Result<()> {
    fork::set_name(c"stratavore-shm");
    record_panics(dir);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let oom_score_adj = lower_oom_score();
    let signals = fork::signal_fd()?;
    let prepared = prepare(&order, dir);
    if prepared.is_err() {
        // The epoch may be started again: its next shim must find no leaf that this one's guardian still empties.
        fence.remove();
        remove_socket(&order);
    }
    let Prepared { reserved, log, listener, mut deadline } = prepared?;
    let (log_dir, size) = (log::dir(dir), size(&order));
    let mut state = State::starting(order.runner.clone(), order.epoch, order.boot_id.clone());
    let mut started = launch(&order, dir, &fence, size, &oom_score_adj, &deadline);
    if started.as_ref().is_err_and(|failure| failure.namespace) {
        // The host promised a namespace and refuses one (a container's /proc, for instance): weak is still a start.
        order.fence.get_or_insert_default().pid_namespace = false;
        started = launch(&order, dir, &fence, size, &oom_score_adj, &deadline);
    }
    let (program, identity) = match started {
        Ok(started) => started,
        Err(failure) => {
            fence.remove();
            remove_socket(&order);
            return fail(state, &reserved, failure);
        }
    };
    state.running(&identity, program.command);
    say(&Readiness { record: Some(state.record().clone()), ..Default::default() });
    deadline.note();
    fork::silence_stdio()?;
    let screen = order.tty.then(|| Screen::new(size));
    let kill_grace_ms = order.kill_grace_ms;
    let socket = order.socket.clone();
    drop(order);
    let mut shim =
        Shim::new(Parts { program, fence, screen, log, log_dir, reserved, state, kill_grace_ms, deadline });
    shim.run(&signals, &listener)?;
    drop(std::fs::remove_file(socket));
    drop((lock, lifeline));
    Ok(())
}

/// What must be there before the command is forked.
struct Prepared {
    reserved: Reserved,
    log: LogWriter,
    listener: UnixListener,
    deadline: Deadline,
}

/// Nothing has run when this fails, so nothing has ended.
fn prepare(order: &Order, dir: &Path) -> io::Result<Prepared> {
    identity::reserve(dir)?;
    Ok(Prepared {
        deadline: Deadline::arm(order.lease.unwrap_or_default(), order.kill_grace_ms, dir)?,
        reserved: Reserved::create(dir)?,
        log: LogWriter::open(&log::dir(dir), limits(order))?,
        listener: listen(Path::new(&order.socket))?,
    })
}

/// Starts the command; its identity is on disk before it execs.
fn launch(
    order: &Order,
    dir: &Path,
    fence: &Fence,
    size: Size,
    oom_score_adj: &Option<Vec<u8>>,
    deadline: &Deadline,
) -> Result<(Program, Identity), Failure> {
    let mut identity = None;
    let program = Program::start(order, fence, size, oom_score_adj, |child, kind| {
        let made = identify(order, child.as_raw_pid(), kind);
        made.write(dir)?;
        // P10: the last look before the gate opens.
        deadline.check()?;
        identity = Some(made);
        Ok(())
    })
    .map_err(|failure| if deadline.is_over() { deadline::too_late() } else { failure })?;
    match identity {
        Some(identity) => Ok((program, identity)),
        None => Err(io::Error::other("the command started without an identity").into()),
    }
}

/// A shim has no log: should it ever panic, the reason is left in its directory.
fn record_panics(dir: &Path) {
    let path = dir.join("shim.panic");
    std::panic::set_hook(Box::new(move |panic| drop(std::fs::write(&path, format!("{panic}\n")))));
}

fn fail(mut state: State, reserved: &Reserved, failure: Failure) -> io::Result<()> {
    state.failed(failure.reason, failure.message);
    reserved.write(state.record())?;
    reserved.sync()?;
    say(&Readiness { record: Some(state.record().clone()), ..Default::default() });
    Ok(())
}

fn limits(order: &Order) -> Limits {
    let default = Limits::default();
    let segments = usize::try_from(order.log_segments).unwrap_or(default.segments);
    Limits {
        segment_bytes: if order.log_segment_bytes == 0 {
            default.segment_bytes
        } else {
            order.log_segment_bytes
        },
        segments: if segments == 0 { default.segments } else { segments },
    }
}

fn size(order: &Order) -> Size {
    if order.rows == 0 || order.cols == 0 { DEFAULT_SIZE } else { Size::clamped(order.rows, order.cols) }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    // The directory is locked, so a socket of that name belongs to nobody.
    drop(std::fs::remove_file(socket));
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn remove_socket(order: &Order) {
    drop(std::fs::remove_file(&order.socket));
}

fn identify(order: &Order, child: i32, kind: fence::Kind) -> Identity {
    let pid = rustix::process::getpid().as_raw_pid();
    let epoch = order.epoch.unwrap_or_default();
    Identity {
        protocol: wire::PROTOCOL_MAX,
        runner: order.runner.clone(),
        incarnation: epoch.incarnation,
        index: epoch.index,
        pid,
        start_ticks: Stat::read(pid).map_or(0, |stat| stat.start_ticks),
        child,
        boot_id: order.boot_id.clone(),
        socket: PathBuf::from(&order.socket),
        fence: kind.name().to_owned(),
        cgroup: order.fence.as_ref().map(|fence| PathBuf::from(&fence.cgroup)).unwrap_or_default(),
        started_at_unix_ms: i64::try_from(log::wall_ms()).unwrap_or(i64::MAX),
    }
}

/// Lowers our own score where that is allowed; returns the value the command goes back to.
fn lower_oom_score() -> Option<Vec<u8>> {
    let path = "/proc/self/oom_score_adj";
    let before = std::fs::read(path).ok()?;
    std::fs::write(path, OOM_SCORE_ADJ).ok()?;
    Some(before)
}
