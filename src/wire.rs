//! Protobuf by hand, for the few messages whose bytes are stored, measured before they are written, or copied
//! from pages into answers: `mvccpb.KeyValue` and the pieces of KV responses.
//!
//! Written bytes are canonical: fields in number order, defaults omitted. `HashKV` depends on it.
#![forbid(unsafe_code)]

use bytes::BufMut;

/// Length of `value` as a varint.
pub const fn varint_len(value: u64) -> usize {
    // ceil(bits / 7) for 1 to 64 bits, without a division by 7.
    ((63 - (value | 1).leading_zeros() as usize) * 9 + 73) / 64
}

/// Appends `value` as a varint.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    let mut bytes = [0; 10];
    let mut len = 0;
    while value >= 0x80 {
        bytes[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    bytes[len] = value as u8;
    out.put_slice(&bytes[..=len]);
}

/// Takes a varint off the front of `bytes`; none if there is none.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Length of a varint field with a one-byte tag; nothing when it holds the default.
pub const fn int_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

/// Appends a varint field unless it holds the default. Field numbers here are all below 16.
pub fn put_int_field(out: &mut impl BufMut, field: u8, value: i64) {
    if value != 0 {
        out.put_u8(field << 3);
        put_varint(out, value as u64);
    }
}

/// Length of a length-delimited field with a one-byte tag, default or not.
pub const fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Appends tag and length of a length-delimited field; its `len` bytes have to follow.
pub fn put_bytes_head(out: &mut impl BufMut, field: u8, len: usize) {
    out.put_u8(field << 3 | 2);
    put_varint(out, len as u64);
}

/// Appends a whole length-delimited field, default or not.
pub fn put_bytes_field(out: &mut impl BufMut, field: u8, bytes: &[u8]) {
    put_bytes_head(out, field, bytes.len());
    out.put_slice(bytes);
}

/// An `mvccpb.KeyValue`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// The user's key; never empty.
    pub key: &'a [u8],
    /// Main revision of the put that created it.
    pub create_revision: i64,
    /// Main revision of this change.
    pub mod_revision: i64,
    /// Puts since its creation.
    pub version: i64,
    /// The user's value.
    pub value: &'a [u8],
    /// The lease it is attached to; 0 for none.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Length of the encoding.
    pub const fn encoded_len(&self) -> usize {
        self.head_len()
            + if self.value.is_empty() { 0 } else { bytes_field_len(self.value.len()) }
            + int_field_len(self.lease)
    }

    /// Length of the fields before the value: key, both revisions and version.
    pub const fn head_len(&self) -> usize {
        bytes_field_len(self.key.len())
            + int_field_len(self.create_revision)
            + int_field_len(self.mod_revision)
            + int_field_len(self.version)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_bytes_field(out, 1, self.key);
        put_int_field(out, 2, self.create_revision);
        put_int_field(out, 3, self.mod_revision);
        put_int_field(out, 4, self.version);
        if !self.value.is_empty() {
            put_bytes_field(out, 5, self.value);
        }
        put_int_field(out, 6, self.lease);
    }

    /// Reads an encoding of our own making; none for anything else.
    pub fn decode(mut bytes: &'a [u8]) -> Option<Self> {
        let mut kv = KeyValue::default();
        while let Some((&tag, rest)) = bytes.split_first() {
            bytes = rest;
            let number = take_varint(&mut bytes)?;
            match tag {
                0x10 => kv.create_revision = number as i64,
                0x18 => kv.mod_revision = number as i64,
                0x20 => kv.version = number as i64,
                0x30 => kv.lease = number as i64,
                0x0a | 0x2a => {
                    let (field, rest) = bytes.split_at_checked(usize::try_from(number).ok()?)?;
                    bytes = rest;
                    *(if tag == 0x0a { &mut kv.key } else { &mut kv.value }) = field;
                }
                _ => return None,
            }
        }
        Some(kv)
    }
}

/// The key of an encoded `KeyValue`, which is its first field; none for bytes that begin otherwise.
pub fn key_of(encoded: &[u8]) -> Option<&[u8]> {
    let mut rest = encoded.strip_prefix(&[0x0a])?;
    let len = usize::try_from(take_varint(&mut rest)?).ok()?;
    rest.get(..len)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use prost::Message;

    use super::*;
    use crate::proto::mvccpb;
    use crate::stdx::prng::Prng;

    #[test]
    fn a_varint_is_as_long_as_it_says_and_reads_back() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) | 1] {
                let mut out = BytesMut::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                let mut rest = &out[..];
                assert_eq!(take_varint(&mut rest), Some(value));
                assert!(rest.is_empty());
            }
        }
        assert_eq!(varint_len(u64::MAX), 10);
        assert_eq!(varint_len(0), 1);
    }

    #[test]
    fn a_key_value_has_the_bytes_that_the_generated_code_writes() {
        let mut prng = Prng::new(1);
        for _ in 0..2000 {
            let (key, value) = (vec![7; 1 + prng.below(300) as usize], vec![9; prng.below(300) as usize]);
            let number = |p: &mut Prng| (p.next_u64() >> p.below(65).min(63)) as i64;
            let ours = KeyValue {
                key: &key,
                create_revision: number(&mut prng),
                mod_revision: number(&mut prng),
                version: number(&mut prng),
                value: &value,
                lease: number(&mut prng),
            };
            let mut out = BytesMut::new();
            ours.encode(&mut out);
            let theirs = mvccpb::KeyValue {
                key: key.clone().into(),
                create_revision: ours.create_revision,
                mod_revision: ours.mod_revision,
                version: ours.version,
                value: value.clone().into(),
                lease: ours.lease,
            };
            assert_eq!(out, theirs.encode_to_vec());
            assert_eq!(out.len(), ours.encoded_len());
            assert_eq!(KeyValue::decode(&out), Some(ours));
            assert_eq!(key_of(&out), Some(&key[..]));
        }
    }

    #[test]
    fn bytes_that_nobody_wrote_are_no_pair() {
        for bytes in [&[0x0a, 2, b'k'][..], &[0x0a], &[0x2a, 0x80], &[0x10, 0xff], &[0x3a, 0], &[0x80; 12]] {
            assert_eq!(KeyValue::decode(bytes), None, "{bytes:x?}");
        }
        for bytes in [&[][..], &[0x12, 1, b'k'], &[0x0a], &[0x0a, 2, b'k']] {
            assert_eq!(key_of(bytes), None, "{bytes:x?}");
        }
        let long = [&[0x0a][..], &[0xff; 9], &[1, b'k']].concat();
        assert_eq!((KeyValue::decode(&long), key_of(&long)), (None, None));
        assert_eq!(take_varint(&mut &[0x80; 11][..]), None);
    }
}
