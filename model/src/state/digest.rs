//! The set hash of P24: the sum of the rows' SHA-256, modulo 2^256. Order does not matter, adding and taking away undo
//! each other, and a row that differs in one bit moves all of it.

use std::collections::BTreeMap;

use crate::canonical;
use crate::row::{Row, RowKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest([u64; 4]);

impl Digest {
    pub(super) fn add(&mut self, row: &Row) {
        let mut carry = false;
        for (lane, word) in self.0.iter_mut().zip(words(row)) {
            let (sum, over) = lane.overflowing_add(word);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *lane = sum;
            carry = over || over_again;
        }
    }

    pub(super) fn subtract(&mut self, row: &Row) {
        let mut borrow = false;
        for (lane, word) in self.0.iter_mut().zip(words(row)) {
            let (difference, under) = lane.overflowing_sub(word);
            let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
            *lane = difference;
            borrow = under || under_again;
        }
    }

    pub(super) fn value(self) -> [u8; 32] {
        let mut value = [0; 32];
        for (bytes, lane) in value.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        value
    }
}

/// The digest and the rows that it has not followed yet. A row that many entries of a batch change is hashed once before
/// and once behind all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Following {
    digest: Digest,
    /// Each row as it is contained in `digest`.
    behind: BTreeMap<RowKey, Row>,
}

impl Following {
    pub(super) fn enter(&mut self, row: &Row) {
        self.digest.add(row);
    }

    pub(super) fn leave(&mut self, row: &Row) {
        self.digest.subtract(row);
    }

    /// A row has changed from `before` to what it is now.
    pub(super) fn changed(&mut self, key: &RowKey, before: Option<Row>, now: Option<&Row>) {
        if self.behind.contains_key(key) {
            return;
        }
        match before {
            Some(before) => drop(self.behind.insert(key.clone(), before)),
            None => now.into_iter().for_each(|row| self.enter(row)),
        }
    }

    /// Follows all changes; `get` finds a row as it is now.
    pub(super) fn settled(&self, get: impl Fn(&RowKey) -> Option<Row>) -> Self {
        let mut digest = self.digest;
        for (key, before) in &self.behind {
            let now = get(key);
            if now.as_ref() != Some(before) {
                digest.subtract(before);
                now.iter().for_each(|row| digest.add(row));
            }
        }
        Self { digest, behind: BTreeMap::new() }
    }

    pub(super) fn value(&self, get: impl Fn(&RowKey) -> Option<Row>) -> [u8; 32] {
        self.settled(get).digest.value()
    }
}

/// Follows from the rows, which are compared themselves.
impl PartialEq for Following {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Following {}

fn words(row: &Row) -> [u64; 4] {
    let hash = canonical::hash(row);
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClockRecord;
    use crate::time::Millis;

    fn row(now: u64) -> Row {
        Row::Clock(ClockRecord { now: Millis(now), ..ClockRecord::default() })
    }

    #[test]
    fn order_does_not_matter_and_subtracting_undoes() {
        let (mut there, mut back) = (Digest::default(), Digest::default());
        for now in 0..100 {
            there.add(&row(now));
            back.add(&row(99 - now));
        }
        assert_eq!(there, back);
        for now in 0..100 {
            there.subtract(&row(now));
        }
        assert_eq!(there, Digest::default());
    }

    #[test]
    fn a_row_that_changes_often_is_followed_as_one_that_changed_once() {
        let key = RowKey::Clock;
        let mut following = Following::default();
        following.changed(&key, None, Some(&row(1)));
        for now in 2..=5 {
            following.changed(&key, Some(row(now - 1)), Some(&row(now)));
        }
        let mut expected = Digest::default();
        expected.add(&row(5));
        let get = |_: &RowKey| Some(row(5));
        assert_eq!(following.value(get), expected.value());
        following = following.settled(get);
        assert!(following.behind.is_empty());
        assert_eq!(following.value(|_| panic!("nothing is behind")), expected.value());
        // Gone, and back as it was.
        following.changed(&key, Some(row(5)), None);
        assert_eq!(following.value(|_| None), Digest::default().value());
        following.changed(&key, None, Some(&row(5)));
        assert_eq!(following.value(get), expected.value());
    }

    #[test]
    fn carries_reach_the_last_lane() {
        let mut digest = Digest([u64::MAX; 4]);
        digest.add(&row(1));
        digest.subtract(&row(1));
        assert_eq!(digest, Digest([u64::MAX; 4]));
    }
}
