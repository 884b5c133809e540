//! The agent's own socket: how `stop` reaches a running agent. Only the user that runs the agent, and root, are served.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::shell::Input;

/// File name beside the shims' sockets.
pub(crate) const SOCKET: &str = "agent.sock";

/// A request is a few words.
const REQUEST_BYTES_MAX: u64 = 256;

/// One line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// End, leaving runners alive.
    Leave,
    /// Stop every runner, then end.
    StopRunners,
}

/// Serves requests until the process ends.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
}

impl Control {
    /// Binds in `sockets`, replacing what a dead agent left; the data directory's lock says that it is dead.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn bind(sockets: &Path) -> io::Result<Self> {
        let path = sockets.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(path)? })
    }

    pub(crate) async fn run(self, inputs: mpsc::Sender<Input>, leave: CancellationToken) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve(stream, inputs.clone(), leave.clone()));
                }
                Err(error) => {
                    warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Takes one request and then holds the connection: its end tells the caller that the agent is gone.
async fn serve(stream: UnixStream, inputs: mpsc::Sender<Input>, leave: CancellationToken) {
    let allowed = stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw());
    if !allowed {
        return warn!("a request of another user is refused");
    }
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_BYTES_MAX));
    let request = match reader.read_line(&mut line).await {
        Ok(_) => serde_json::from_str::<Request>(&line),
        Err(_) => return,
    };
    match request {
        Ok(Request::Leave) => {
            info!("told to leave; runners live on");
            leave.cancel();
        }
        Ok(Request::StopRunners) => {
            info!("told to stop every runner");
            let _ended = inputs.send(Input::Halt).await;
        }
        Err(error) => {
            let _gone = write.write_all(format!("{error}\n").as_bytes()).await;
            return;
        }
    }
    let _gone = write.write_all(b"taken\n").await;
    std::future::pending::<()>().await;
}

/// Sends `request` to the agent behind `sockets` and waits until it is gone. False when there is none.
///
/// # Errors
/// Those of the socket, and the agent's refusal.
pub(crate) async fn ask(sockets: &Path, request: Request) -> io::Result<bool> {
    let stream = match UnixStream::connect(sockets.join(SOCKET)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    let mut lines = BufReader::new(read).lines();
    match lines.next_line().await? {
        Some(answer) if answer == "taken" => {}
        Some(answer) => return Err(io::Error::other(answer)),
        None => return Ok(true),
    }
    // The end of the agent, however it comes.
    let _gone = lines.next_line().await;
    Ok(true)
}
