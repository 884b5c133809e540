//! The numbered lines of the `lines` probe: proves that a stream lost nothing and doubled nothing.

/// Numbers of all complete lines `L00000000E` in the order of their arrival.
#[must_use]
pub fn numbers(stream: &[u8]) -> Vec<u64> {
    const DIGITS: usize = 8;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = stream.get(at..at + DIGITS + 2) {
        let digits = &token[1..=DIGITS];
        if token[0] == b'L' && token[DIGITS + 1] == b'E' && digits.iter().all(u8::is_ascii_digit) {
            found.push(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')));
            at += token.len();
        } else {
            at += 1;
        }
    }
    found
}

/// What the probe said at its end: how many lines it wrote.
#[must_use]
pub fn total(stream: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(stream);
    let (_, rest) = text.rsplit_once("total ")?;
    rest.split_once('.')?.0.parse().ok()
}

/// Checks that `stream` holds every line from 0 to the announced total, once and in order.
///
/// # Panics
/// At the first line that is lost, doubled or out of order.
#[track_caller]
pub fn assert_whole(stream: &[u8]) {
    let total = total(stream).expect("the announced total has arrived");
    assert_consecutive(&numbers(stream), 0);
    assert_eq!(numbers(stream).len() as u64, total, "lines are missing at the end");
}

/// Checks that `numbers` counts up from `first` by ones.
///
/// # Panics
/// At the first line that is lost, doubled or out of order.
#[track_caller]
pub fn assert_consecutive(numbers: &[u64], first: u64) {
    for (number, expected) in numbers.iter().zip(first..) {
        assert!(*number == expected, "line {number} arrived where {expected} was due");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_stream_passes() {
        assert_whole(b"waiting\nL00000000E\r\nL00000001E\r\ntotal 2.\n");
    }

    #[test]
    #[should_panic(expected = "line 2 arrived where 1 was due")]
    fn a_lost_line_is_found() {
        assert_whole(b"L00000000E\nL00000002E\ntotal 3.\n");
    }

    #[test]
    #[should_panic(expected = "line 0 arrived where 1 was due")]
    fn a_doubled_line_is_found() {
        assert_whole(b"L00000000E\nL00000000E\nL00000001E\ntotal 2.\n");
    }

    #[test]
    #[should_panic(expected = "missing at the end")]
    fn a_cut_end_is_found() {
        assert_whole(b"L00000000E\ntotal 2.\n");
    }
}
