//! The exit record: one block of the runner's directory, reserved before the command starts, so that a full
//! disk cannot lose how it ended. `magic | u32 length | u32 check | prost Record`, written in place, then synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::fs::FallocateFlags;

use super::wire::Record;

/// Size of the block. A record with every field and the longest lists stays below it.
pub const EXIT_BYTES: usize = 4096;

/// Leftover processes named in a record; more are only counted (the block is one page).
pub const LEFTOVERS_MAX: usize = 32;

/// Bytes of a message kept in a record, for the same reason.
const MESSAGE_BYTES_MAX: usize = 512;

const MAGIC: &[u8; 8] = b"SVEXIT1\n";
const HEADER: usize = 16;

/// Where the record of a directory lies.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join("exit")
}

/// A reserved, still empty record.
#[derive(Debug)]
pub struct Reserved {
    file: File,
}

impl Reserved {
    /// Creates the file and allocates its block, unless that was done before.
    ///
    /// # Errors
    /// When the disk has not even one block left: then nothing is started.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path(dir))?;
        if file.metadata()?.len() >= EXIT_BYTES as u64 {
            return Ok(Self { file });
        }
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, EXIT_BYTES as u64) {
            Ok(()) => {}
            // Not every file system can reserve; writing the zeros takes the block as well.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                file.write_all_at(&[0; EXIT_BYTES], 0)?
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self { file })
    }

    /// Writes the record in place: it outlives every process, but not yet the power.
    ///
    /// # Errors
    /// As the file system says; the block itself is already there.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        self.file.write_all_at(&encode(record), 0)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// As the device says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let body = bounded(record.clone()).encode_to_vec();
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&check(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Cuts what could outgrow the block.
fn bounded(mut record: Record) -> Record {
    cut(&mut record.message);
    if let Some(observation) = &mut record.observation {
        cut(&mut observation.reason);
        if let Some(exit) = &mut observation.exit {
            cut(&mut exit.reason);
            exit.leftovers.truncate(LEFTOVERS_MAX);
        }
    }
    record
}

fn cut(text: &mut String) {
    let mut end = MESSAGE_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// FNV-1a over the body: it only has to tell a whole record from a torn or empty block.
fn check(body: &[u8]) -> u32 {
    body.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Reads the record of a directory; `None` when the command has not ended (or its record is torn).
///
/// # Errors
/// When the file exists but cannot be read.
pub fn read(dir: &Path) -> io::Result<Option<Record>> {
    let mut bytes = Vec::new();
    match File::open(path(dir)) {
        Ok(file) => file.take(EXIT_BYTES as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(decode(&bytes))
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if check(body) != u32::from_le_bytes(*expected) {
        return None;
    }
    Record::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1;

    use super::*;

    fn record() -> Record {
        let exit = v1::Exit {
            code: Some(5),
            leftovers: vec!["123 sleep".into(); 4 * LEFTOVERS_MAX],
            ..Default::default()
        };
        let observation =
            v1::Observation { runner: "r".into(), rev: 4, exit: Some(exit), ..Default::default() };
        Record {
            observation: Some(observation),
            dropped_bytes: 9,
            message: "x".repeat(10_000),
            ..Default::default()
        }
    }

    #[test]
    fn a_record_comes_back_and_fits_its_block() {
        let dir = tempfile::tempdir().unwrap();
        let reserved = Reserved::create(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None, "reserved is not written");
        reserved.write(&record()).unwrap();
        assert!(encode(&record()).len() <= EXIT_BYTES);
        let back = read(dir.path()).unwrap().unwrap();
        assert_eq!(back.observation.unwrap().exit.unwrap().code, Some(5));
        assert_eq!(back.dropped_bytes, 9);
    }

    #[test]
    fn every_torn_length_reads_as_absent() {
        let whole = encode(&record());
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None);
        }
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        assert_eq!(decode(&flipped), None);
        assert!(decode(&whole).is_some());
    }
}
