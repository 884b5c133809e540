//! `up --foreground`: every log in one terminal, each line with the name of its process in front.
//!
//! The processes log to their files as ever, and the files are shown: a process must not stumble over a terminal
//! that is gone.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use super::record::Record;
use crate::filter;
use crate::view;

/// Between two looks at the logs.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Read at one look; more waits for the next.
const CHUNK_BYTES: u64 = 256 * 1024;

/// The logs of a local cluster, from now on.
#[derive(Debug)]
pub(crate) struct Tails(Vec<Tail>);

#[derive(Debug)]
struct Tail {
    name: String,
    path: PathBuf,
    offset: u64,
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
}

impl Tails {
    /// Begins at the present end of each log.
    pub(crate) fn new(record: &Record) -> Self {
        let tail = |name: &str, path: &PathBuf| Tail {
            name: name.to_owned(),
            path: path.clone(),
            offset: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            begun: Vec::new(),
        };
        Self(record.members().map(|member| tail(&member.name, &member.log)).collect())
    }

    /// Shows new lines for ever.
    pub(crate) async fn run(&mut self) {
        loop {
            self.show();
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Shows what is new.
    pub(crate) fn show(&mut self) {
        for tail in &mut self.0 {
            for line in tail.lines() {
                view::tell(&format!("{} | {}", tail.name, filter::one_line(&line)));
            }
        }
    }
}

impl Tail {
    fn lines(&mut self) -> Vec<String> {
        // A log that is not there yet, or cannot be read now, is looked at again.
        self.read().unwrap_or(0);
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.begun.split_off(end + 1);
        let complete = std::mem::replace(&mut self.begun, rest);
        String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect()
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.offset {
            // It was begun anew.
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(CHUNK_BYTES).read_to_end(&mut self.begun)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_new_lines_are_shown_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut tail = Tail { name: "x".to_owned(), path: path.clone(), offset: 0, begun: Vec::new() };
        assert!(tail.lines().is_empty());
        std::fs::write(&path, "a\nb").unwrap();
        assert_eq!(tail.lines(), ["a"]);
        std::fs::write(&path, "a\nbc\nd\n").unwrap();
        assert_eq!(tail.lines(), ["bc", "d"]);
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(tail.lines(), ["new"]);
    }
}
