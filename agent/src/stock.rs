//! Blank runner directories made while nothing else was to be done: an order then costs one rename.

use std::path::{Path, PathBuf};

use tracing::debug;

use crate::runner;
use crate::shim::blank;

/// Directories kept ready: a burst of starts larger than that pays for its own files. Each takes 20 KiB of disk.
const STOCK_MAX: usize = 16;

/// The ready ones, below a directory of their own on the same file system as the runners.
#[derive(Debug)]
pub(crate) struct Stock {
    root: PathBuf,
    ready: Vec<PathBuf>,
    /// Names the next one.
    made: u64,
}

impl Stock {
    /// Of an agent that has just started, which a full disk must not prevent. What an earlier one left is removed.
    pub(crate) fn open(root: PathBuf) -> Self {
        if let Err(error) = runner::forget(&root) {
            debug!(%error, "old blank directories cannot be removed");
        }
        Self { root, ready: Vec::new(), made: 0 }
    }

    /// Whether another one should be made.
    pub(crate) fn is_low(&self) -> bool {
        self.ready.len() < STOCK_MAX
    }

    /// Makes one more. A failure, which only makes the next start slower, returns false: trying again can wait.
    pub(crate) fn fill(&mut self) -> bool {
        if !self.is_low() {
            return true;
        }
        self.made += 1;
        let dir = self.root.join(self.made.to_string());
        match std::fs::create_dir_all(&self.root).and_then(|()| blank::make(&dir)) {
            Ok(()) => self.ready.push(dir),
            Err(error) => {
                debug!(%error, "no blank directory can be made ready");
                // What is left of it is removed at the next start at the latest.
                drop(runner::forget(&dir));
                return false;
            }
        }
        true
    }

    /// Moves a ready one to `to`; false when there is none, or when something lies there already.
    pub(crate) fn take(&mut self, to: &Path) -> bool {
        let Some(dir) = self.ready.pop() else { return false };
        let moved = std::fs::rename(&dir, to).is_ok();
        if !moved {
            self.ready.push(dir);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_up_to_its_bound_and_gives_each_once() {
        let temp = tempfile::tempdir().unwrap();
        let mut stock = Stock::open(temp.path().join("stock"));
        assert!(!stock.take(&temp.path().join("a")), "nothing is ready");
        for _ in 0..2 * STOCK_MAX {
            assert!(stock.fill());
        }
        assert!(!stock.is_low());
        for n in 0..STOCK_MAX {
            assert!(stock.take(&temp.path().join(n.to_string())));
        }
        assert!(!stock.take(&temp.path().join("a")));
        assert_eq!(std::fs::read_dir(temp.path().join("stock")).unwrap().count(), 0);
    }

    #[test]
    fn what_lies_at_the_destination_stays() {
        let temp = tempfile::tempdir().unwrap();
        let mut stock = Stock::open(temp.path().join("stock"));
        assert!(stock.fill());
        let used = temp.path().join("used");
        std::fs::create_dir(&used).unwrap();
        std::fs::write(used.join("exit"), "ended").unwrap();
        assert!(!stock.take(&used));
        assert_eq!(std::fs::read(used.join("exit")).unwrap(), b"ended");
        assert!(stock.take(&temp.path().join("new")), "it is still there");
    }

    #[test]
    fn leftovers_of_an_earlier_agent_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("stock/1/log")).unwrap();
        Stock::open(temp.path().join("stock"));
        assert!(!temp.path().join("stock/1").exists());
    }
}
