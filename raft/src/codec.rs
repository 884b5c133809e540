//! The local envelope around log values and meta cells: version byte, bincode header, checksum, chain.
//!
//! This is the only file that names bincode. It is unmaintained, so nothing that travels or outlives a
//! binary depends on it: the body inside the envelope is protobuf, and the envelope's bytes are pinned by
//! the golden test below.

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};

/// First byte of every envelope. A new layout takes the next number and keeps reading this one.
const VERSION: u8 = 1;

/// Bytes of the checksum behind the envelope.
const CHECKSUM_BYTES: usize = 4;

const BINCODE: Configuration<LittleEndian, Fixint, NoLimit> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding();

/// Why stored bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the value is {0} bytes long, shorter than any envelope")]
    Short(usize),
    #[error("the envelope has version {0}, this build reads version {VERSION}")]
    UnknownVersion(u8),
    #[error("checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("the envelope does not decode")]
    Malformed,
    #[error("the value says it belongs at {found}, it was found at {expected}")]
    Misplaced { expected: u64, found: u64 },
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct Header<'a> {
    /// Log index of an entry, or the number of a meta cell: a value copied to another place is refused.
    place: u64,
    /// Checksum of the entry before this one (0 where there was none): links the log into a chain (P19).
    chain: u32,
    body: &'a [u8],
}

/// A decoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) chain: u32,
    /// This value's own checksum: what the next entry's `chain` must be.
    pub(crate) checksum: u32,
    pub(crate) body: &'a [u8],
}

/// Wraps `body` and returns the bytes with their checksum.
pub(crate) fn seal(place: u64, chain: u32, body: &[u8]) -> (Vec<u8>, u32) {
    let mut bytes = Vec::with_capacity(body.len() + 32);
    bytes.push(VERSION);
    // Encoding integers and a slice into a Vec has no failing path; an empty header would be refused on
    // reading, never taken for something else.
    if let Ok(header) = bincode::encode_to_vec(Header { place, chain, body }, BINCODE) {
        bytes.extend_from_slice(&header);
    }
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    (bytes, checksum)
}

/// Checks and unwraps a value that was stored at `place`.
pub(crate) fn open(place: u64, bytes: &[u8]) -> Result<Record<'_>, CodecError> {
    let Some((sealed, tail)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(CodecError::Short(bytes.len()));
    };
    let Some((version, header)) = sealed.split_first() else {
        return Err(CodecError::Short(bytes.len()));
    };
    let stored = u32::from_le_bytes(*tail);
    let computed = crc32fast::hash(sealed);
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    if *version != VERSION {
        return Err(CodecError::UnknownVersion(*version));
    }
    let (header, read): (Header<'_>, usize) =
        bincode::borrow_decode_from_slice(header, BINCODE).map_err(|_| CodecError::Malformed)?;
    if read + 1 != sealed.len() {
        return Err(CodecError::Malformed);
    }
    if header.place != place {
        return Err(CodecError::Misplaced { expected: place, found: header.place });
    }
    Ok(Record { chain: header.chain, checksum: computed, body: header.body })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a released layout: they must decode for ever.
    const GOLDEN: &[u8] = &[
        1, // version
        7, 0, 0, 0, 0, 0, 0, 0, // place
        0xef, 0xbe, 0xad, 0xde, // chain
        3, 0, 0, 0, 0, 0, 0, 0, // length of the body
        b'a', b'b', b'c', // body
        0x05, 0xa9, 0x60, 0x5d, // CRC-32 of all before
    ];

    #[test]
    fn golden_bytes_decode_and_are_what_seal_writes() {
        let (bytes, checksum) = seal(7, 0xdead_beef, b"abc");
        assert_eq!(bytes, GOLDEN);
        let record = open(7, GOLDEN).expect("golden");
        assert_eq!(record, Record { chain: 0xdead_beef, checksum, body: b"abc" });
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        for byte in 0..GOLDEN.len() {
            for bit in 0..8 {
                let mut bytes = GOLDEN.to_vec();
                bytes[byte] ^= 1 << bit;
                assert!(open(7, &bytes).is_err(), "bit {bit} of byte {byte}");
            }
        }
    }

    #[test]
    fn every_cut_is_refused_and_so_is_another_place() {
        for length in 0..GOLDEN.len() {
            assert!(open(7, &GOLDEN[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(open(8, GOLDEN), Err(CodecError::Misplaced { expected: 8, found: 7 }));
    }

    #[test]
    fn an_unknown_version_names_itself() {
        let mut bytes = GOLDEN.to_vec();
        bytes[0] = 9;
        let end = bytes.len() - CHECKSUM_BYTES;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        assert_eq!(open(7, &bytes), Err(CodecError::UnknownVersion(9)));
    }
}
