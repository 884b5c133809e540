//! A TLS stream that remembers why the other end ended it. The HTTP/2 library keeps the words of an error but not
//! the error, and whether a key was removed must not be read out of words.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use stratavore_certs::tls::Refusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where the verdict is left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict(Arc<Mutex<Option<Refusal>>>);

impl Verdict {
    /// Why the other end refused us, if it did.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.0.lock().map_or(None, |refusal| refusal.clone())
    }

    fn note(&self, error: &io::Error) {
        if let Some(found) = Refusal::find(error)
            && let Ok(mut refusal) = self.0.lock()
        {
            refusal.get_or_insert(found);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    verdict: Verdict,
}

impl<S> Watched<S> {
    /// Leaves the verdict on `stream` in `verdict`.
    pub(crate) fn new(stream: S, verdict: Verdict) -> Self {
        Self { stream, verdict }
    }

    fn noted<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        Poll::Ready(result.inspect_err(|error| self.verdict.note(error)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.noted(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.noted(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        self.noted(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
