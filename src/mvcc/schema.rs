//! Keys and values of the trees that mvcc owns, byte by byte.
//!
//! ```text
//!   tree      key                                              value
//!   Kv        main 8 BE | sub 8 BE                             0 live, 1 tombstone | encoded mvccpb.KeyValue
//!   Index     escaped user key | 00 | ~main 8 BE | ~sub 4 BE   flags | main-create | version | [lease] | kv length
//!   Garbage   due 8 BE | main 8 BE | sub 4 BE                  (nothing)
//!   LeaseKey  lease id 8 BE | user key                         (nothing)
//! ```
//!
//! The `KeyValue` in `Kv` is byte for byte what etcd would store (a tombstone has only the key), so answers, watch
//! events and `HashKV` copy it. `~main` is `i64::MAX - main`: of one user key the newest revision comes first, and
//! since its first byte is below 0x80, a 00 byte inside a user key, escaped as 00 FF, sorts after the end of
//! a shorter key: byte order of index keys is byte order of user keys, then newest first.
//!
//! `Garbage` lists what a compaction may remove: a value dies at the revision that supersedes it (`due`), a
//! tombstone one revision later, because a compaction at its own revision still owes watchers the deletion.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::revision::{REVISION_BYTES, Revision};
use crate::error::Error;
use crate::wire::{put_varint, take_varint, varint_len};

/// First byte of a `Kv` value.
pub const LIVE: u8 = 0;
/// First byte of a `Kv` value that deletes.
pub const TOMBSTONE: u8 = 1;

/// The revision at the end of an index key.
const INDEX_TAIL: usize = 12;

/// What the index knows about one revision of a key: enough to answer anything but the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The revision deleted the key; everything else is zero.
    pub tombstone: bool,
    /// Main revision of the put that created the key; not above the entry's own.
    pub create_revision: i64,
    /// Puts since then.
    pub version: i64,
    /// The lease it is attached to; 0 for none.
    pub lease: i64,
    /// Length of the encoded `KeyValue`; below 4 GiB.
    pub kv_len: usize,
}

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_LEASE: u8 = 2;

impl IndexEntry {
    /// A deletion.
    pub const fn tombstone() -> Self {
        Self { tombstone: true, create_revision: 0, version: 0, lease: 0, kv_len: 0 }
    }

    /// The stored form of the entry of main revision `main`.
    pub fn encode(&self, main: i64) -> IndexValue {
        let mut value = IndexValue { bytes: [0; INDEX_VALUE_MAX], len: 0 };
        if self.tombstone {
            (value.bytes[0], value.len) = (FLAG_TOMBSTONE, 1);
            return value;
        }
        assert!(self.create_revision <= main, "a key is created before it is changed");
        let mut out = &mut value.bytes[..];
        bytes::BufMut::put_u8(&mut out, if self.lease == 0 { 0 } else { FLAG_LEASE });
        put_varint(&mut out, (main - self.create_revision) as u64);
        put_varint(&mut out, self.version as u64);
        if self.lease != 0 {
            put_varint(&mut out, self.lease as u64);
        }
        put_varint(&mut out, self.kv_len as u64);
        value.len = INDEX_VALUE_MAX - out.len();
        value
    }

    /// The inverse of [`IndexEntry::encode`].
    ///
    /// # Errors
    /// When `value` is nothing that was ever encoded.
    pub fn decode(value: &[u8], main: i64) -> Result<Self, Error> {
        Self::read(value, main).ok_or(Error::Corrupt)
    }

    fn read(value: &[u8], main: i64) -> Option<Self> {
        let (&flags, mut rest) = value.split_first()?;
        if flags & FLAG_TOMBSTONE != 0 {
            return Some(Self::tombstone());
        }
        let age = i64::try_from(take_varint(&mut rest)?).ok()?;
        let version = i64::try_from(take_varint(&mut rest)?).ok()?;
        let lease = if flags & FLAG_LEASE != 0 { take_varint(&mut rest)? as i64 } else { 0 };
        let kv_len = u32::try_from(take_varint(&mut rest)?).ok()? as usize;
        let create_revision = main.checked_sub(age).filter(|&created| created >= 0)?;
        Some(Self { tombstone: false, create_revision, version, lease, kv_len })
    }
}

/// Whether an index value is that of a deletion.
///
/// # Errors
/// When it is empty, which none is.
pub fn is_tombstone(value: &[u8]) -> Result<bool, Error> {
    value.first().map(|flags| flags & FLAG_TOMBSTONE != 0).ok_or(Error::Corrupt)
}

const INDEX_VALUE_MAX: usize = 1 + 4 * varint_len(u64::MAX);

/// A stored [`IndexEntry`], on the stack.
pub struct IndexValue {
    bytes: [u8; INDEX_VALUE_MAX],
    len: usize,
}

impl core::ops::Deref for IndexValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A key under construction: on the stack while it is short, as nearly all keys are.
#[derive(Clone, Debug)]
pub struct KeyBuf {
    inline: [u8; KEY_INLINE],
    len: usize,
    spill: Vec<u8>,
}

const KEY_INLINE: usize = 128;

impl Default for KeyBuf {
    fn default() -> Self {
        Self { inline: [0; KEY_INLINE], len: 0, spill: Vec::new() }
    }
}

impl KeyBuf {
    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.spill.is_empty() {
            if let Some(room) = self.inline.get_mut(self.len..self.len + bytes.len()) {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
                return;
            }
            self.spill.reserve(2 * (self.len + bytes.len()));
            self.spill.extend_from_slice(&self.inline[..self.len]);
        }
        self.spill.extend_from_slice(bytes);
    }

    /// Cuts back to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if self.spill.is_empty() {
            self.len = self.len.min(len);
        } else {
            self.spill.truncate(len.max(1));
            if len == 0 {
                self.clear();
            }
        }
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        self.len = 0;
        self.spill.clear();
    }
}

impl core::ops::Deref for KeyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.spill.is_empty() { &self.inline[..self.len] } else { &self.spill }
    }
}

/// Appends the escaped, terminated user key: the prefix of all its index keys.
pub fn push_index_prefix(out: &mut KeyBuf, key: &[u8]) {
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|&b| b == 0) {
        out.push(&rest[..=zero]);
        out.push(&[0xff]);
        rest = &rest[zero + 1..];
    }
    out.push(rest);
    out.push(&[0]);
}

/// The prefix of all index keys of a user key.
pub fn index_prefix(key: &[u8]) -> KeyBuf {
    let mut out = KeyBuf::default();
    push_index_prefix(&mut out, key);
    out
}

/// Appends the revision to an index prefix. Seeking the result finds the newest revision that is not above it.
pub fn push_index_tail(out: &mut KeyBuf, revision: Revision) {
    let sub = u32::try_from(revision.sub).unwrap_or(u32::MAX);
    let mut tail = [0; INDEX_TAIL];
    tail[..8].copy_from_slice(&i64::MAX.saturating_sub(revision.main).to_be_bytes());
    tail[8..].copy_from_slice(&(u32::MAX - sub).to_be_bytes());
    out.push(&tail);
}

/// An index key.
pub fn index_key(key: &[u8], revision: Revision) -> KeyBuf {
    assert!(u32::try_from(revision.sub).is_ok(), "more than 2^32 changes in one write");
    let mut out = index_prefix(key);
    push_index_tail(&mut out, revision);
    out
}

/// Prefix and revision of an index key. The prefix ends with its terminator.
///
/// # Errors
/// When `key` is nothing that [`index_key`] has ever made.
#[inline]
pub fn split_index_key(key: &[u8]) -> Result<(&[u8], Revision), Error> {
    let (rest, sub) = key.split_last_chunk::<4>().ok_or(Error::Corrupt)?;
    let (prefix, main) = rest.split_last_chunk::<8>().ok_or(Error::Corrupt)?;
    let main = i64::MAX.checked_sub(i64::from_be_bytes(*main)).ok_or(Error::Corrupt)?;
    if prefix.last() != Some(&0) {
        return Err(Error::Corrupt);
    }
    Ok((prefix, Revision { main, sub: i64::from(u32::MAX - u32::from_be_bytes(*sub)) }))
}

/// Turns an index prefix into the first index key that can follow all revisions of its user key.
pub fn past_index_prefix(prefix: &mut Vec<u8>) {
    assert_eq!(prefix.last(), Some(&0), "an index prefix ends with its terminator");
    prefix.push(0x80);
}

/// The user key of an index prefix.
pub fn unescape_index_prefix(prefix: &[u8]) -> Cow<'_, [u8]> {
    let escaped = &prefix[..prefix.len() - 1];
    let Some(first) = escaped.iter().position(|&b| b == 0) else { return Cow::Borrowed(escaped) };
    let mut key = Vec::with_capacity(escaped.len());
    key.extend_from_slice(&escaped[..first]);
    let mut rest = &escaped[first..];
    while let Some((&byte, after)) = rest.split_first() {
        key.push(byte);
        // A zero is followed by its escape.
        rest = if byte == 0 { after.get(1..).unwrap_or_default() } else { after };
    }
    Cow::Owned(key)
}

/// Length of [`unescape_index_prefix`].
pub fn user_key_len(prefix: &[u8]) -> usize {
    let escaped = &prefix[..prefix.len() - 1];
    escaped.len() - escaped.iter().filter(|&&b| b == 0).count()
}

/// Length of a key of tree `Garbage`.
pub const GARBAGE_BYTES: usize = 20;

/// A key of tree `Garbage`: the revision `dead` may go once a compaction reaches `due`.
pub fn garbage_key(due: i64, dead: Revision) -> [u8; GARBAGE_BYTES] {
    let mut bytes = [0; GARBAGE_BYTES];
    bytes[..8].copy_from_slice(&due.to_be_bytes());
    bytes[8..16].copy_from_slice(&dead.main.to_be_bytes());
    bytes[16..].copy_from_slice(&(dead.sub as u32).to_be_bytes());
    bytes
}

/// The inverse of [`garbage_key`].
///
/// # Errors
/// When `key` has another length.
pub fn split_garbage_key(key: &[u8]) -> Result<(i64, Revision), Error> {
    let key: &[u8; GARBAGE_BYTES] = key.try_into().map_err(|_| Error::Corrupt)?;
    let (numbers, _) = key.as_chunks::<8>();
    let [due, main] = [numbers[0], numbers[1]].map(i64::from_be_bytes);
    let sub = u32::from_be_bytes([key[16], key[17], key[18], key[19]]);
    Ok((due, Revision { main, sub: i64::from(sub) }))
}

/// A key of tree `LeaseKey`.
pub fn lease_key(lease: i64, key: &[u8]) -> KeyBuf {
    let mut out = KeyBuf::default();
    out.push(&lease.to_be_bytes());
    out.push(key);
    out
}

/// Whether a value in tree `Kv` is a tombstone, and its encoded `KeyValue`.
///
/// # Errors
/// When the value begins with neither mark.
pub fn split_kv_value(value: &[u8]) -> Result<(bool, &[u8]), Error> {
    match value.split_first() {
        Some((&LIVE, kv)) => Ok((false, kv)),
        Some((&TOMBSTONE, kv)) => Ok((true, kv)),
        _ => Err(Error::Corrupt),
    }
}

const _: () = assert!(REVISION_BYTES == 16 && KEY_INLINE >= 64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    fn random_key(prng: &mut Prng) -> Vec<u8> {
        let alphabet = [0, 0, 1, 0x7f, 0x80, 0xfe, 0xff, b'a'];
        (0..1 + prng.below(5)).map(|_| alphabet[prng.below(8) as usize]).collect()
    }

    #[test]
    fn index_keys_sort_by_user_key_then_newest_first() {
        let mut prng = Prng::new(3);
        let mut keys: Vec<(Vec<u8>, Revision)> = (0..3000)
            .map(|_| {
                (
                    random_key(&mut prng),
                    Revision::new(prng.below(4) as i64 * 0x7f7f_7f7f, prng.below(3) as i64),
                )
            })
            .collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        for pair in keys.windows(2) {
            let [a, b] = [0, 1].map(|i: usize| index_key(&pair[i].0, pair[i].1));
            assert_eq!(a.cmp(&*b), if pair[0] == pair[1] { 0.cmp(&0) } else { 0.cmp(&1) }, "{pair:?}");
            let (prefix, revision) = split_index_key(&a).unwrap();
            assert_eq!((unescape_index_prefix(prefix).as_ref(), revision), (&pair[0].0[..], pair[0].1));
            assert_eq!(user_key_len(prefix), pair[0].0.len());
            let mut past = prefix.to_vec();
            past_index_prefix(&mut past);
            assert!(*a < *past);
            assert_eq!(pair[0].0 == pair[1].0, *b < *past, "{pair:?}");
        }
    }

    #[test]
    fn entries_and_garbage_read_back() {
        let mut prng = Prng::new(5);
        for _ in 0..1000 {
            let main = (prng.next_u64() >> 1 >> prng.below(60)) as i64;
            let entry = IndexEntry {
                tombstone: false,
                create_revision: main - prng.below(main as u64 + 1) as i64,
                version: (prng.next_u64() >> 1) as i64,
                lease: if prng.chance(1, 2) { 0 } else { prng.next_u64() as i64 },
                kv_len: prng.below(1 << 32) as usize,
            };
            assert_eq!(IndexEntry::decode(&entry.encode(main), main), Ok(entry));
            let dead = Revision::new(main, prng.below(1 << 32) as i64);
            assert_eq!(split_garbage_key(&garbage_key(main, dead)), Ok((main, dead)));
        }
        assert_eq!(IndexEntry::decode(&IndexEntry::tombstone().encode(5), 5), Ok(IndexEntry::tombstone()));
    }

    #[test]
    fn records_that_nobody_wrote_are_errors() {
        for value in [&[][..], &[0], &[0, 1, 1], &[0, 1, 1, 0x80], &[FLAG_LEASE, 1, 1, 1], &[0; 0]] {
            assert_eq!(IndexEntry::decode(value, 7), Err(Error::Corrupt), "{value:x?}");
        }
        assert_eq!(IndexEntry::decode(&[0, 8, 1, 1], 7), Err(Error::Corrupt), "no revision is negative");
        let huge = [&[0][..], &[0xff; 9], &[1, 1, 1]].concat();
        assert_eq!(
            IndexEntry::decode(&huge, 7),
            Err(Error::Corrupt),
            "a key is created before it is changed"
        );
        let long = [&[0, 1, 1][..], &[0x80; 4], &[0x7f]].concat();
        assert_eq!(IndexEntry::decode(&long, 7), Err(Error::Corrupt), "no pair is so long");
        assert_eq!(is_tombstone(&[]), Err(Error::Corrupt));
        let key = index_key(b"k", Revision::new(5, 0)).to_vec();
        for damaged in [&key[1..], &key[key.len() - 12..], &[], &[0; 3]] {
            let is_whole = split_index_key(damaged).is_ok();
            assert_eq!(is_whole, damaged.len() == 13, "{damaged:x?}");
        }
        let mut later = key.clone();
        later[2] = 0xff;
        assert_eq!(split_index_key(&later), Err(Error::Corrupt), "a revision is not negative");
        assert_eq!(split_garbage_key(&[0; GARBAGE_BYTES - 1]), Err(Error::Corrupt));
        assert_eq!(
            (split_kv_value(&[]), split_kv_value(&[7, 0])),
            (Err(Error::Corrupt), Err(Error::Corrupt))
        );
        assert_eq!(unescape_index_prefix(&[b'k', 0, 0]).as_ref(), [b'k', 0], "an escape that is cut off");
    }

    #[test]
    fn a_key_buffer_spills_without_losing_a_byte() {
        let (mut buf, mut expected) = (KeyBuf::default(), Vec::new());
        for i in 0..200u8 {
            buf.push(&[i, i]);
            expected.extend_from_slice(&[i, i]);
            assert_eq!(&*buf, &expected[..]);
        }
        buf.truncate(3);
        assert_eq!(&*buf, [0, 0, 1]);
        buf.truncate(0);
        assert!(buf.is_empty());
    }
}
