//! Canonical bytes: one serialisation per value, for digests (P24), payload hashes (P25) and byte counts (P26).
//!
//! Little-endian fixed-width integers, length-prefixed text, sequences and maps, one tag byte before an option, a
//! variant's number before its content. Field names do not enter; field order does.

use serde::ser::{self, Serialize};
use sha2::{Digest as _, Sha256};

/// First of the canonical bytes; a change of any record's fields or of this encoding is a new version (P22).
pub const VERSION: u8 = 1;

/// The canonical bytes of a value.
#[must_use]
pub fn bytes(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.push(VERSION);
    // Every failure of this serializer is one of the type, not of the value; the types here are this crate's own.
    let encoded = value.serialize(&mut Encoder { out: &mut out });
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    out
}

/// SHA-256 over the canonical bytes.
#[must_use]
pub fn hash(value: &impl Serialize) -> [u8; 32] {
    Sha256::digest(bytes(value)).into()
}

#[derive(Debug)]
struct Encoder<'a> {
    out: &'a mut Vec<u8>,
}

/// Something that has no canonical form.
#[derive(Debug, thiserror::Error)]
#[error("no canonical form: {0}")]
struct NotCanonical(String);

impl ser::Error for NotCanonical {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Encoder<'_> {
    fn length(&mut self, length: usize) {
        self.out.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn counted(&mut self, length: Option<usize>) -> Result<(), NotCanonical> {
        let length = length.ok_or_else(|| NotCanonical("a sequence of unknown length".into()))?;
        self.length(length);
        Ok(())
    }
}

macro_rules! fixed_width {
    ($($method:ident $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), NotCanonical> {
            self.out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        })*
    };
}

impl ser::Serializer for &mut Encoder<'_> {
    type Ok = ();
    type Error = NotCanonical;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fixed_width! {
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64,
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), NotCanonical> {
        self.out.push(u8::from(value));
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), NotCanonical> {
        Err(NotCanonical("a float".into()))
    }

    fn serialize_f64(self, _: f64) -> Result<(), NotCanonical> {
        Err(NotCanonical("a float".into()))
    }

    fn serialize_char(self, value: char) -> Result<(), NotCanonical> {
        self.serialize_u32(value.into())
    }

    fn serialize_str(self, value: &str) -> Result<(), NotCanonical> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), NotCanonical> {
        self.length(value.len());
        self.out.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), NotCanonical> {
        self.serialize_bool(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotCanonical> {
        self.out.push(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), NotCanonical> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), NotCanonical> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<(), NotCanonical> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotCanonical> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotCanonical> {
        self.out.extend_from_slice(&index.to_le_bytes());
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, NotCanonical> {
        self.counted(length)?;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, NotCanonical> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, NotCanonical> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotCanonical> {
        self.out.extend_from_slice(&index.to_le_bytes());
        Ok(self)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self, NotCanonical> {
        self.counted(length)?;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, NotCanonical> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotCanonical> {
        self.out.extend_from_slice(&index.to_le_bytes());
        Ok(self)
    }
}

macro_rules! compound {
    ($($trait:ident :: $method:ident,)*) => {
        $(impl ser::$trait for &mut Encoder<'_> {
            type Ok = ();
            type Error = NotCanonical;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotCanonical> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), NotCanonical> {
                Ok(())
            }
        })*
    };
}

compound! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

macro_rules! compound_named {
    ($($trait:ident,)*) => {
        $(impl ser::$trait for &mut Encoder<'_> {
            type Ok = ();
            type Error = NotCanonical;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), NotCanonical> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), NotCanonical> {
                Ok(())
            }
        })*
    };
}

compound_named! { SerializeStruct, SerializeStructVariant, }

impl ser::SerializeMap for &mut Encoder<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotCanonical> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotCanonical> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), NotCanonical> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(serde::Serialize)]
    enum Choice {
        Plain,
        Held(u16),
        Named { a: Option<u8> },
    }

    #[test]
    fn the_bytes_are_these() {
        assert_eq!(bytes(&"ab"), [1, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(bytes(&Choice::Plain), [1, 0, 0, 0, 0]);
        assert_eq!(bytes(&Choice::Held(258)), [1, 1, 0, 0, 0, 2, 1]);
        assert_eq!(bytes(&Choice::Named { a: Some(7) }), [1, 2, 0, 0, 0, 1, 7]);
        assert_eq!(bytes(&Choice::Named { a: None }), [1, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn neighbours_do_not_run_into_each_other() {
        assert_ne!(bytes(&("ab", "c")), bytes(&("a", "bc")));
        assert_ne!(bytes(&vec!["a"]), bytes(&vec!["a", ""]));
        let one = BTreeMap::from([("k", "v")]);
        assert_ne!(bytes(&one), bytes(&BTreeMap::from([("kv", "")])));
    }
}
