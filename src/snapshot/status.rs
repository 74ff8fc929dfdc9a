//! What a file of etcd has in it, as `snapshot status` tells: every page is looked at, and every pair digested.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};

use crate::bbolt::walk::Walk;
use crate::bbolt::{Database, ReadError, Source, check};
use crate::stdx::keyed_hash::KeyedHash;
use crate::wire::key_of;

/// Length of a key of bucket `key`; a tombstone's has a mark behind it.
const REVISION_KEY_BYTES: usize = 17;
const TOMBSTONE_MARK: u8 = b't';
/// A longer version is none.
const VERSION_BYTES_MAX: u64 = 64;

/// What `snapshot status` tells of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over the names of the buckets and their pairs.
    pub hash: u32,
    /// Main revision of the last change.
    pub revision: i64,
    /// Keys whose last change is no deletion.
    pub keys: usize,
    /// Length of the database, without a checksum behind it.
    pub bytes: u64,
    /// The version of the storage; empty before etcd 3.6.
    pub version: String,
}

/// A digest of a key: keys are told apart by it, so that memory does not depend on their length.
type KeyDigest = [u8; 16];

/// Reads all of a file.
///
/// # Errors
/// What is damaged, or is no database of etcd.
pub fn status<S: Source + ?Sized>(database: &Database<'_, S>) -> Result<Status, ReadError> {
    check::check(database)?;
    let meta = database.meta();
    let bytes = meta.pages * u64::from(meta.page_bytes);
    let mut status = Status { bytes, version: storage_version(database)?, ..Status::default() };
    let mut live = HashSet::with_hasher(KeyedHash::new(0));
    let mut buckets = database.buckets()?;
    while buckets.advance()? {
        let name = buckets.key();
        let Some(bucket) = buckets.open_bucket()? else {
            return Err(ReadError::Damaged(format!("nil bucket: {:?}", String::from_utf8_lossy(name))));
        };
        status.hash = crc32c::crc32c_append(status.hash, name);
        let is_key = name == b"key";
        each_pair(bucket, |key, value| {
            status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, key), value);
            if is_key {
                let change = Change::of(key, value)?;
                status.revision = change.revision;
                match change.is_tombstone {
                    true => live.remove(&change.key),
                    false => live.insert(change.key),
                };
            }
            Ok(())
        })?;
    }
    status.keys = live.len();
    Ok(status)
}

struct Change {
    revision: i64,
    is_tombstone: bool,
    key: KeyDigest,
}

impl Change {
    fn of(key: &[u8], value: &[u8]) -> Result<Self, ReadError> {
        let unread = |what| ReadError::Damaged(format!("cannot read {what} of the change at key {key:x?}"));
        let revision = key.first_chunk().filter(|_| key.len() >= REVISION_KEY_BYTES);
        let revision = i64::from_be_bytes(*revision.ok_or_else(|| unread("the revision"))?);
        let is_tombstone = key.len() == REVISION_KEY_BYTES + 1 && key.last() == Some(&TOMBSTONE_MARK);
        // A restore that bumps the revision leaves a change without a value, which counts as one of the empty key.
        let changed = if value.is_empty() { Some(&[][..]) } else { key_of(value) };
        let digest = digest(&SHA256, changed.ok_or_else(|| unread("the value"))?);
        let mut key = KeyDigest::default();
        key.copy_from_slice(&digest.as_ref()[..16]);
        Ok(Self { revision, is_tombstone, key })
    }
}

/// Shows `look` all pairs of a bucket. One value at a time is in memory.
///
/// # Errors
/// What is damaged, and what `look` says.
pub fn each_pair<S: Source + ?Sized>(
    mut bucket: Walk<'_, '_, S>,
    mut look: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut value = Vec::new();
    while bucket.advance()? {
        bucket.read_value(&mut value)?;
        look(bucket.key(), &value)?;
    }
    Ok(())
}

fn storage_version<S: Source + ?Sized>(database: &Database<'_, S>) -> Result<String, ReadError> {
    let Some(mut meta) = database.bucket(b"meta")? else { return Ok(String::new()) };
    while meta.advance()? {
        if meta.key() == b"storageVersion" && meta.value_len() <= VERSION_BYTES_MAX {
            let mut version = vec![0; meta.value_len() as usize];
            meta.value(0, &mut version)?;
            return Ok(String::from_utf8_lossy(&version).into_owned());
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::fuzz::{Buckets, write};
    use crate::stdx::prng::Prng;

    fn change(revision: i64, key: &str, mark: &str) -> (Vec<u8>, Vec<u8>) {
        let mut at = [&revision.to_be_bytes()[..], b"_", &[0; 8]].concat();
        at.extend_from_slice(mark.as_bytes());
        (at, [&[0x0a, key.len() as u8], key.as_bytes()].concat())
    }

    fn status_of(changes: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Status, String> {
        let version = (b"storageVersion".to_vec(), b"3.7.0".to_vec());
        let buckets: Buckets = vec![(b"key".to_vec(), changes), (b"meta".to_vec(), vec![version])];
        let file = write(&buckets, Prng::new(1)).unwrap();
        Database::open(&file[..]).and_then(|database| status(&database)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_counts_while_its_last_change_is_no_deletion() {
        let changes = vec![
            change(2, "a", ""),
            change(3, "b", ""),
            change(4, "a", "t"),
            change(5, "c", ""),
            change(6, "c", "t"),
            change(7, "c", ""),
            (change(9, "", "").0, vec![]),
        ];
        let found = status_of(changes).unwrap();
        assert_eq!((found.revision, found.keys, found.bytes, &found.version[..]), (9, 3, 12_288, "3.7.0"));
    }

    /// A file that is mostly a hole: a long value of zeros on a page with overflow.
    struct Sparse(Vec<u8>, u64);

    impl Source for Sparse {
        fn bytes(&self) -> u64 {
            self.1
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
            into.fill(0);
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
            let there = &self.0[from..];
            let len = there.len().min(into.len());
            into[..len].copy_from_slice(&there[..len]);
            Ok(())
        }
    }

    #[test]
    fn a_value_that_no_request_can_have_brought_is_not_read() {
        use crate::bbolt::layout::PAGE_BYTES;
        const LONG: u64 = 1 << 30;
        // The file of a value that needs two pages, and the same one as if the value were a gigabyte long: the leaf is
        // the first page, with the root behind it.
        let buckets: Buckets = vec![(b"key".to_vec(), vec![(b"k".to_vec(), vec![7; 5000])])];
        let file = write(&buckets, Prng::new(1)).unwrap();
        let leaf = 2 * PAGE_BYTES;
        let mut long = file.clone();
        let overflow = LONG / PAGE_BYTES as u64;
        long[leaf + 12..leaf + 16].copy_from_slice(&(overflow as u32).to_le_bytes());
        long[leaf + 28..leaf + 32].copy_from_slice(&(LONG as u32).to_le_bytes());
        let mut walked = None;
        // The walk of a bucket on that leaf, as a root that is found elsewhere would lead to it.
        let pages = overflow + 16;
        for page in 0..2 {
            let at = page * PAGE_BYTES + 16;
            let meta = &mut long[at..at + 64];
            meta[16..24].copy_from_slice(&2_u64.to_le_bytes());
            meta[40..48].copy_from_slice(&pages.to_le_bytes());
            let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            meta[56..64].copy_from_slice(&sum.to_le_bytes());
        }
        let source = Sparse(long, pages * PAGE_BYTES as u64);
        let database = Database::open(&source).unwrap();
        let found = each_pair(database.buckets().unwrap(), |_, value| {
            walked = Some(value.len());
            Ok(())
        });
        let said = found.unwrap_err().to_string();
        assert!(said.contains("page 2: a value has 1073741824 bytes") && walked.is_none(), "{said}");
    }

    #[test]
    fn changes_that_are_none_are_named() {
        let short = (b"short".to_vec(), vec![]);
        assert!(status_of(vec![short]).unwrap_err().contains("cannot read the revision"));
        let unreadable = (change(2, "a", "").0, b"\x12".to_vec());
        assert!(status_of(vec![unreadable]).unwrap_err().contains("cannot read the value"));
    }
}
