//! What must survive the agent's death besides the runners' directories: the highest state index seen and the
//! connection counter (P14).
//!
//! The file holds two lines of fixed size, each with a checksum, written in turn and in place: a torn write leaves the
//! other one, one fdatasync makes a value durable, and a full disk cannot stop it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;

/// File name in the data directory.
pub(crate) const SEEN_FILE: &str = "seen.json";

/// One slot: a sector, the unit that devices write whole.
const SLOT_BYTES: usize = 512;
const SLOTS: u64 = 2;

/// The durable values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Highest state index of which every start has at least its directory.
    pub index: Epoch,
    /// Number of the newest connection that was tried.
    pub connection: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    incarnation: u64,
    index: u64,
    connection: u64,
    /// Counts writes; the higher valid one counts.
    write: u64,
    check: u64,
}

impl Slot {
    /// FNV-1a over the numbers: finds a torn sector, defends against nothing else.
    fn checksum(&self) -> u64 {
        let numbers = [self.incarnation, self.index, self.connection, self.write];
        numbers
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// The open file. One owner: the data directory's lock holder.
#[derive(Debug)]
pub(crate) struct SeenFile {
    file: File,
    write: u64,
    value: Seen,
}

impl SeenFile {
    /// Opens or creates the file in `dir`.
    ///
    /// # Errors
    /// I/O, and `InvalidData` when neither line is intact although the file is not empty.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SEEN_FILE);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let mut bytes = vec![0; SLOT_BYTES * SLOTS as usize];
        let length = read_up_to(&file, &mut bytes)?;
        let slots = bytes[..length].chunks(SLOT_BYTES).filter_map(parse);
        match slots.max_by_key(|slot| slot.write) {
            Some(slot) => {
                let value =
                    Seen { index: Epoch::new(slot.incarnation, slot.index), connection: slot.connection };
                Ok(Self { file, write: slot.write, value })
            }
            None if length == 0 => Self::fresh(file),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} holds no intact record; if no runner of this host is wanted any more, remove it",
                    path.display()
                ),
            )),
        }
    }

    /// Writes both slots, so that the blocks exist before a disk can run full.
    fn fresh(file: File) -> io::Result<Self> {
        let mut fresh = Self { file, write: 0, value: Seen::default() };
        for _ in 0..SLOTS {
            fresh.save(Seen::default())?;
        }
        fresh.file.sync_all()?;
        Ok(fresh)
    }

    /// What is durable.
    #[must_use]
    pub(crate) const fn value(&self) -> Seen {
        self.value
    }

    /// Makes `value` durable: one in-place write, one fdatasync.
    ///
    /// # Errors
    /// Those of the file system; the value before stays intact.
    pub(crate) fn save(&mut self, value: Seen) -> io::Result<()> {
        let write = self.write + 1;
        let mut slot = Slot {
            incarnation: value.index.incarnation,
            index: value.index.index,
            connection: value.connection,
            write,
            check: 0,
        };
        slot.check = slot.checksum();
        let mut line = serde_json::to_vec(&slot)?;
        line.resize(SLOT_BYTES - 1, b' ');
        line.push(b'\n');
        self.file.write_all_at(&line, (write % SLOTS) * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.write = write;
        self.value = value;
        Ok(())
    }
}

fn read_up_to(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse(line: &[u8]) -> Option<Slot> {
    let slot: Slot = serde_json::from_slice(line).ok()?;
    (slot.check == slot.checksum()).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: u64) -> Seen {
        Seen { index: Epoch::new(1, index), connection: index * 2 }
    }

    #[test]
    fn the_last_value_survives_a_reopen() {
        let temp = tempfile::tempdir().unwrap();
        let mut file = SeenFile::open(temp.path()).unwrap();
        for index in 1..=5 {
            file.save(seen(index)).unwrap();
        }
        assert_eq!(SeenFile::open(temp.path()).unwrap().value(), seen(5));
    }

    #[test]
    fn a_torn_write_leaves_the_value_before() {
        let temp = tempfile::tempdir().unwrap();
        let mut file = SeenFile::open(temp.path()).unwrap();
        file.save(seen(7)).unwrap();
        file.save(seen(8)).unwrap();
        let slot = (file.write % SLOTS) * SLOT_BYTES as u64;
        file.file.write_all_at(b"{\"incarnation\":9", slot).unwrap();
        assert_eq!(SeenFile::open(temp.path()).unwrap().value(), seen(7));
    }

    #[test]
    fn a_file_without_intact_record_is_refused_with_the_way_out() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(SEEN_FILE), "garbage").unwrap();
        let error = SeenFile::open(temp.path()).unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
    }
}
