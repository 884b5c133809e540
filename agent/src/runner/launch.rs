//! Starts a shim: forked by the zygote, else a plain spawn of our own binary (never a fork of this fat process), one
//! message in, one out.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use stratavore_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::{Client, ClientError};
use super::environment::Base;
use super::host::{FencePreference, Host};
use super::zygote::Zygote;
use crate::epoch::{Epoch, KeyError, RunnerKey};
use crate::shim::identity::boot_id;
use crate::shim::screen::Size;
use crate::shim::wire::{Lease, Order, Readiness};
use crate::shim::{SOCKET_PATH_MAX, exit};

/// A shim says that it is ready within milliseconds; under the worst load this host may see, well within this.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The binary that is running, even when an upgrade has replaced the file.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// One epoch to be started.
#[derive(Debug, Clone)]
pub struct StartSpec {
    pub runner: String,
    pub epoch: v1::Epoch,
    pub start: v1::RunnerStart,
    /// Of the terminal; `None` = 40 rows of 120 columns.
    pub size: Option<v1::WindowSize>,
    /// Between TERM and KILL.
    pub kill_grace: Duration,
    pub fence: FencePreference,
    /// P10: armed before the command is forked.
    pub lease: Lease,
}

/// Why nothing runs now.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("this epoch was started here before; adopt its directory")]
    Exists,
    /// The command could not be started; the record is in the directory.
    #[error("the command did not start: {}", .0.reason)]
    Failed(Box<v1::Observation>),
    #[error(
        "{path} is longer than a socket's path may be ({SOCKET_PATH_MAX} bytes); choose a shorter socket directory"
    )]
    SocketPath { path: String },
    #[error("the runner's key is not valid")]
    Key(#[from] KeyError),
    #[error("the shim could not be started")]
    Spawn(#[source] io::Error),
    #[error("the shim did not start: {0}")]
    Shim(String),
    #[error("the shim did not say that it is ready within {} s", READY_TIMEOUT.as_secs())]
    Mute,
    #[error("the shim started but its socket does not answer")]
    Connect(#[source] ClientError),
}

/// Starts and adopts shims. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    sockets: PathBuf,
    zygote: Zygote,
    program: PathBuf,
    base: Base,
    boot_id: String,
    log_limits: (u64, u32),
}

impl Launcher {
    /// `sockets` is a directory of mode 0700 with a path of at most 80 bytes.
    #[must_use]
    pub fn new(host: Host, sockets: PathBuf) -> Self {
        Self {
            shared: Arc::new(Shared {
                host,
                zygote: Zygote::new(&sockets),
                sockets,
                program: OWN_PROGRAM.into(),
                base: Base::of_agent(),
                boot_id: boot_id(),
                log_limits: (0, 0),
            }),
        }
    }

    /// Starts shims from another binary than the running one (tests and benchmarks).
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        self.changed(|shared| shared.program = program)
    }

    /// Bounds of each runner's output log: bytes per segment, segments kept. 0 = the default (4 of 16 MiB).
    #[must_use]
    pub fn with_log_limits(self, segment_bytes: u64, segments: u32) -> Self {
        self.changed(|shared| shared.log_limits = (segment_bytes, segments))
    }

    fn changed(self, change: impl FnOnce(&mut Shared)) -> Self {
        let Shared { host, sockets, program, base, boot_id, log_limits, .. } = &*self.shared;
        let mut shared = Shared {
            host: host.clone(),
            sockets: sockets.clone(),
            zygote: Zygote::new(sockets),
            program: program.clone(),
            base: base.clone(),
            boot_id: boot_id.clone(),
            log_limits: *log_limits,
        };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }

    /// This host's facts.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    pub(super) fn boot_id(&self) -> &str {
        &self.shared.boot_id
    }

    /// Starts one epoch in `dir`, which may exist if it is empty; returns when the command has been exec'd.
    ///
    /// # Errors
    /// See [`StartError`]; only after [`StartError::Mute`] and [`StartError::Connect`] may something run: adopt then.
    pub async fn start(&self, dir: &Path, spec: StartSpec) -> Result<Client, StartError> {
        let key = RunnerKey::new(&spec.runner, Epoch::from(&spec.epoch))?;
        let order = self.order(dir, &key, spec)?;
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_used(dir)?,
            Err(error) => return Err(StartError::Spawn(error)),
        }
        let readiness = tokio::time::timeout(READY_TIMEOUT, self.shim(&key, &order)).await;
        let readiness = readiness.map_err(|_| StartError::Mute)?.map_err(StartError::Spawn)?;
        if readiness.taken {
            return Err(StartError::Exists);
        }
        let observation = match readiness.record.and_then(|record| record.observation) {
            Some(observation) => observation,
            None if readiness.error.is_empty() => {
                return Err(StartError::Shim("it ended without a word".into()));
            }
            None => return Err(StartError::Shim(readiness.error)),
        };
        if observation.state() == v1::RunnerState::Failed {
            return Err(StartError::Failed(Box::new(observation)));
        }
        Client::connect(Path::new(&order.socket)).await.map_err(StartError::Connect)
    }

    fn order(&self, dir: &Path, key: &RunnerKey, spec: StartSpec) -> Result<Order, StartError> {
        let shared = &self.shared;
        let socket = shared.sockets.join(format!("{key}.sock")).to_string_lossy().into_owned();
        if socket.len() >= SOCKET_PATH_MAX {
            return Err(StartError::SocketPath { path: socket });
        }
        // The shim keeps its working directory: the paths it is given must not depend on it.
        let dir = std::path::absolute(dir).map_err(StartError::Spawn)?;
        let size = spec.size.map(|size| Size::clamped(size.rows, size.cols));
        Ok(Order {
            runner: spec.runner,
            epoch: Some(spec.epoch),
            dir: dir.to_string_lossy().into_owned(),
            socket,
            command: shared.base.command(&spec.start),
            env: shared.base.compose(&spec.start, key.runner(), key.epoch()),
            workdir: shared.base.workdir(&spec.start),
            tty: spec.start.tty,
            rows: size.map_or(0, |size| size.rows.into()),
            cols: size.map_or(0, |size| size.cols.into()),
            kill_grace_ms: u64::try_from(spec.kill_grace.as_millis()).unwrap_or(u64::MAX),
            boot_id: shared.boot_id.clone(),
            fence: Some(shared.host.order(&key.to_string(), &spec.start, spec.fence)),
            log_segment_bytes: shared.log_limits.0,
            log_segments: shared.log_limits.1,
            lease: Some(spec.lease),
        })
    }

    /// Starts the zygote before the first runner needs it. Without it the first start does.
    pub async fn warm_up(&self) {
        drop(self.shared.zygote.connect(&self.shared.program).await);
    }

    /// Makes a shim and waits for its word.
    async fn shim(&self, key: &RunnerKey, order: &Order) -> io::Result<Readiness> {
        match self.shared.zygote.connect(&self.shared.program).await {
            Some(stream) => fork(stream, order).await,
            None => self.spawn(key, order).await,
        }
    }

    /// No `pre_exec`, no uid change: the standard library then uses `posix_spawn`, which costs the same from a parent
    /// of any size.
    async fn spawn(&self, key: &RunnerKey, order: &Order) -> io::Result<Readiness> {
        let mut shim = tokio::process::Command::new(&self.shared.program)
            .arg0("stratavore-agent")
            .args(["shim", &key.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (stdin, stdout) = (shim.stdin.take(), shim.stdout.take());
        if let Some(mut stdin) = stdin {
            stdin.write_all(&order.encode_to_vec()).await?;
        }
        let mut bytes = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut bytes).await?;
        }
        shim.wait().await?;
        Readiness::decode(bytes.as_slice()).map_err(io::Error::other)
    }
}

async fn fork(mut zygote: UnixStream, order: &Order) -> io::Result<Readiness> {
    zygote.write_all(&order.encode_to_vec()).await?;
    zygote.shutdown().await?;
    let mut bytes = Vec::new();
    zygote.read_to_end(&mut bytes).await?;
    Readiness::decode(bytes.as_slice()).map_err(io::Error::other)
}

/// A directory in which something was started already is not started again (P2).
fn refuse_used(dir: &Path) -> Result<(), StartError> {
    let used = exit::read(dir).map_err(StartError::Spawn)?.is_some()
        || crate::shim::identity::Identity::read(dir).map_err(StartError::Spawn)?.is_some();
    if used { Err(StartError::Exists) } else { Ok(()) }
}
