//! The agent's side of its zygote (see `shim::zygote`): starts it when it is first needed, and again when it has died.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tracing::warn;

use crate::shim::zygote::{ARGUMENT, TITLE_BYTES};

/// File name of the socket on which it takes orders, beside those of the shims.
const SOCKET: &str = "zygote.sock";

/// The zygote of one launcher.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: PathBuf,
    /// Its stdin is held with it: the end of this process ends the zygote.
    running: Mutex<Option<Child>>,
}

impl Zygote {
    /// Of the agent whose sockets lie in `sockets`; nothing runs yet.
    pub(super) fn new(sockets: &Path) -> Self {
        Self { socket: sockets.join(SOCKET), running: Mutex::new(None) }
    }

    /// A connection for one start. `None` when there is no zygote to be had, or when more starts wait for it than its
    /// socket's backlog holds: the caller then spawns the shim itself.
    pub(super) async fn connect(&self, program: &Path) -> Option<UnixStream> {
        let mut running = self.running.lock().await;
        let lives = running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !lives {
            *running = None;
            match self.spawn(program) {
                Ok(child) => *running = Some(child),
                Err(error) => {
                    warn!(%error, "no zygote can be started; shims are spawned one by one, which is slower");
                    return None;
                }
            }
        }
        UnixStream::connect(&self.socket).await.ok()
    }

    /// The socket listens before the process exists, so the first order need not wait for it.
    fn spawn(&self, program: &Path) -> io::Result<Child> {
        // One agent per directory, so a socket of that name belongs to nobody.
        drop(std::fs::remove_file(&self.socket));
        let listener = UnixListener::bind(&self.socket)?;
        // Padded, so that its children have room for a command line of their own.
        let name = format!("{:TITLE_BYTES$}", self.socket.display());
        Command::new(program)
            .arg0("stratavore-agent")
            .args([ARGUMENT, &name])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::null())
            .spawn()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if self.running.get_mut().is_some() {
            drop(std::fs::remove_file(&self.socket));
        }
    }
}
