//! Stdin as a stream of chunks, without a thread where the kernel can wait for us.
//!
//! Stdin stays in blocking mode: the flag would be shared with the shell that started us. Reading only when poll
//! says so never blocks all the same.

use std::io::{self, IsTerminal, Read};

use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::readable::Readable;

/// One read: a screenful of pasted text, and small enough to be one message.
const CHUNK_BYTES: usize = 32 * 1024;

/// Chunks read ahead from a file by the reading thread.
const CHUNKS_AHEAD: usize = 4;

/// Where typed bytes come from.
#[derive(Debug)]
pub(crate) enum Input {
    /// A terminal, pipe or socket.
    Pollable(Readable),
    /// A regular file, which epoll refuses.
    Threaded(mpsc::Receiver<io::Result<Vec<u8>>>),
    /// Nothing will ever come.
    Absent,
}

/// What stdin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Terminal,
    /// A pipe, socket or file: bytes somebody means to send.
    Stream,
    /// /dev/null, or closed.
    Nothing,
}

/// Looks at stdin without reading from it.
pub(crate) fn kind() -> Kind {
    let stdin = rustix::stdio::stdin();
    if stdin.is_terminal() {
        return Kind::Terminal;
    }
    match rustix::fs::fstat(stdin).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Fifo | FileType::Socket | FileType::RegularFile) => Kind::Stream,
        _ => Kind::Nothing,
    }
}

impl Input {
    /// Begins to read stdin.
    ///
    /// # Errors
    /// When stdin cannot be waited for.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = rustix::stdio::stdin().try_clone_to_owned()?;
        match Readable::new(fd) {
            Ok(fd) => Ok(Self::Pollable(fd)),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => Self::threaded(),
            Err(error) => Err(error),
        }
    }

    fn threaded() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = io::stdin().read(&mut chunk).map(|length| {
                    chunk.truncate(length);
                    chunk
                });
                let last = read.as_ref().map_or(true, Vec::is_empty);
                if sender.blocking_send(read).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Self::Threaded(receiver))
    }

    /// The next bytes; empty at the end of the input. Never returns when there is no input. Cancel-safe.
    ///
    /// # Errors
    /// When reading fails.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Pollable(fd) => read_ready(fd).await,
            Self::Threaded(receiver) => receiver.recv().await.unwrap_or_else(|| Ok(Vec::new())),
            Self::Absent => std::future::pending().await,
        }
    }
}

async fn read_ready(fd: &Readable) -> io::Result<Vec<u8>> {
    loop {
        fd.wait().await?;
        let mut chunk = vec![0; CHUNK_BYTES];
        match rustix::io::read(fd.fd(), &mut chunk) {
            Ok(length) => {
                chunk.truncate(length);
                return Ok(chunk);
            }
            Err(Errno::INTR) => {}
            // The terminal hung up.
            Err(Errno::IO) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}
