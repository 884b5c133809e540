//! Frames over any byte stream: varint length, then one prost message.
//! Used on QUIC streams between agent and gateway; the shim's socket has its own framing.

use bytes::{Buf, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame: a log entry's bound (P23), so that whatever was replicated also fits one frame.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// A varint of at most this many bytes can name [`FRAME_BYTES_MAX`].
const LENGTH_BYTES_MAX: usize = 4;

/// Room made at once for the rest of a frame.
const READ_BYTES: usize = 128 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes exceeds the bound of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("frame length is not a valid varint")]
    BadLength,
    #[error("stream ended inside a frame")]
    Truncated,
    #[error("frame does not decode")]
    Decode(#[from] prost::DecodeError),
    #[error("stream failed")]
    Io(#[from] std::io::Error),
}

/// Appends one frame to `out`.
///
/// # Errors
/// [`FrameError::TooLong`] when the encoded message exceeds [`FRAME_BYTES_MAX`].
pub fn encode<M: Message>(message: &M, out: &mut BytesMut) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    out.reserve(length + LENGTH_BYTES_MAX);
    prost::encode_length_delimiter(length, out).map_err(|_| FrameError::TooLong(length))?;
    message.encode_raw(out);
    Ok(())
}

/// Takes one message off the front of `buffer`, or `None` when it is not complete yet.
///
/// # Errors
/// A length beyond the bound or undecodable content; the stream is unusable afterwards.
pub fn decode<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, FrameError> {
    let Some((length, header)) = peek_length(buffer)? else { return Ok(None) };
    let missing = (header + length).saturating_sub(buffer.len());
    if missing > 0 {
        // The rest comes in few reads; a forged length alone makes nobody hold a megabyte.
        buffer.reserve(missing.min(READ_BYTES));
        return Ok(None);
    }
    buffer.advance(header);
    Ok(Some(M::decode(buffer.split_to(length))?))
}

fn peek_length(buffer: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0usize;
    for (at, byte) in buffer.iter().take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if length > FRAME_BYTES_MAX {
                return Err(FrameError::TooLong(length));
            }
            return Ok(Some((length, at + 1)));
        }
    }
    if buffer.len() >= LENGTH_BYTES_MAX { Err(FrameError::BadLength) } else { Ok(None) }
}

/// Writes one frame and flushes it.
///
/// # Errors
/// See [`FrameError`]. Not cancel-safe: keep one writer task per stream.
pub async fn write<M: Message, W: AsyncWrite + Unpin>(writer: &mut W, message: &M) -> Result<(), FrameError> {
    let mut out = BytesMut::new();
    encode(message, &mut out)?;
    writer.write_all(&out).await?;
    writer.flush().await?;
    Ok(())
}

/// Reads frames from a stream; keeps what arrived early.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::with_capacity(4096) }
    }

    /// The next message, or `None` at a clean end of stream. Cancel-safe: what was read stays buffered.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when the stream ends inside a frame; others as [`decode`].
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            if let Some(message) = decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{AgentMessage, Observed, agent_message};

    fn sample() -> AgentMessage {
        AgentMessage {
            message: Some(agent_message::Message::Observed(Observed { full: true, ..Default::default() })),
        }
    }

    #[test]
    fn a_frame_survives_any_split() {
        let mut whole = BytesMut::new();
        encode(&sample(), &mut whole).unwrap();
        for at in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..at]);
            assert!(decode::<AgentMessage>(&mut buffer).unwrap().is_none());
            buffer.extend_from_slice(&whole[at..]);
            assert_eq!(decode::<AgentMessage>(&mut buffer).unwrap(), Some(sample()));
        }
    }

    #[tokio::test]
    async fn a_truncated_stream_is_said_and_a_clean_end_is_none() {
        let mut bytes = BytesMut::new();
        encode(&sample(), &mut bytes).unwrap();
        let mut reader = FrameReader::new(&bytes[..bytes.len() - 1]);
        assert!(matches!(reader.next::<AgentMessage>().await, Err(FrameError::Truncated)));
        let mut reader = FrameReader::new(&bytes[..]);
        assert!(reader.next::<AgentMessage>().await.unwrap().is_some());
        assert!(reader.next::<AgentMessage>().await.unwrap().is_none());
    }

    #[test]
    fn an_oversized_length_is_refused_before_anything_is_buffered() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0x7f][..]);
        assert!(matches!(decode::<AgentMessage>(&mut buffer), Err(FrameError::TooLong(_))));
        let mut buffer = BytesMut::from(&[0xff; 8][..]);
        assert!(matches!(decode::<AgentMessage>(&mut buffer), Err(FrameError::BadLength)));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<AgentMessage>(&mut buffer) {}
        }
    }
}
