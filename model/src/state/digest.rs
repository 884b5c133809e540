//! The set hash of P24: the sum of the rows' SHA-256, modulo 2^256. Order does not matter, adding and taking away undo
//! each other, and a row that differs in one bit moves all of it.

use crate::canonical;
use crate::row::Row;

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
    fn carries_reach_the_last_lane() {
        let mut digest = Digest([u64::MAX; 4]);
        digest.add(&row(1));
        digest.subtract(&row(1));
        assert_eq!(digest, Digest([u64::MAX; 4]));
    }
}
