//! Crockford's base32 in lower case, without padding: no letter that a person could take for another.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};

/// The digits, in order of value.
pub(crate) const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";

static CROCKFORD: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    specification.encoding().expect("32 distinct ASCII symbols make an encoding")
});

pub(crate) fn encode(bytes: &[u8]) -> String {
    CROCKFORD.encode(bytes)
}

/// `None` unless `text` is the one canonical spelling of exactly `N` bytes.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    CROCKFORD.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// True for `length` digits of the alphabet.
pub(crate) fn is_id(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| ALPHABET.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let text = encode(&[0xff; 16]);
        assert_eq!(text.len(), 26);
        assert_eq!(decode::<16>(&text), Some([0xff; 16]));
        let with_stray_bits = format!("{}z", &text[..25]);
        assert_ne!(with_stray_bits, text);
        assert_eq!(decode::<16>(&with_stray_bits), None);
        assert_eq!(decode::<16>(&text.to_uppercase()), None);
        assert_eq!(decode::<16>(&text[..25]), None);
    }
}
