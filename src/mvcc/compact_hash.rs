//! The hashes that compactions take: what HashKV answers at a revision that was compacted itself.
//!
//! A compaction removes what a hash at its revision stood for, so etcd digests while it removes, and remembers the
//! hashes of the newest compactions until it is restarted. They cover every change since the previous compaction and
//! the older pairs still live; the sweep removes some of that, so they cannot be recomputed.
//!
//! Here the digest is a job outside the replica, over published states, in legs; the sweep of that compaction waits for
//! it. It reads everything stored up to the compaction, as etcd's does: some 0.2 ms of CPU for 1000 changes since the
//! compaction before, and up to 1.4 ms for 1000 older pairs, each of which has to be looked up (`bench/mvcc.rs`).
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::hash::{HashKv, KvHash};
use super::view::View;
use crate::btree::{Reader, Readers};
use crate::error::Error;

/// Hashes that are remembered, those of the highest revisions.
const REMEMBERED: usize = 10;

/// The hash of one compaction being computed.
pub struct CompactionDigest {
    hash: HashKv,
    reader: Reader,
}

impl CompactionDigest {
    /// The hash of the compaction to `revision`; the one before it was to `previous`. Nothing that died above
    /// `previous` may be swept until it is there.
    pub fn new(readers: &Readers, revision: i64, previous: i64) -> Self {
        Self { hash: HashKv::of_compaction(revision, previous), reader: readers.register() }
    }

    /// Digests on for about `budget` changes; the hash, once it is there.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn step(&mut self, budget: usize) -> Result<Option<KvHash>, Error> {
        let snapshot = self.reader.snapshot();
        self.hash.step(&View::new(&snapshot), budget)
    }
}

/// The remembered hashes, shared by the replica, which adds, and the session cores. Touched by no other request than
/// HashKV and compaction.
#[derive(Clone, Debug, Default)]
pub struct CompactionHashes(Arc<Mutex<Vec<KvHash>>>);

impl CompactionHashes {
    /// Remembers the hash of a compaction.
    pub fn add(&self, hash: KvHash) {
        let mut hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hashes.push(hash);
        hashes.sort_by_key(|hash| hash.hash_revision);
        let forgotten = hashes.len().saturating_sub(REMEMBERED);
        hashes.drain(..forgotten);
    }

    /// All of them, in the order of their revisions.
    pub fn list(&self) -> Vec<KvHash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hash of the compaction to `revision`, which is compared as a request has it: zero is the compaction to
    /// zero, if there was one. `current` is the store's revision.
    pub fn get(&self, revision: i64, current: i64) -> Option<KvHash> {
        let hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = hashes.iter().find(|hash| hash.hash_revision == revision)?;
        Some(KvHash { revision: current, ..*hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_highest_revisions_are_remembered() {
        let hashes = CompactionHashes::default();
        for at in 0..12 {
            hashes.add(KvHash { hash: at as u32, compact_revision: at - 1, hash_revision: at, revision: 0 });
        }
        assert_eq!(hashes.get(1, 20), None);
        let expected = KvHash { hash: 2, compact_revision: 1, hash_revision: 2, revision: 20 };
        assert_eq!(hashes.get(2, 20), Some(expected));
        assert_eq!(hashes.get(11, 20).map(|hash| hash.hash), Some(11));
        let revisions: Vec<_> = hashes.list().iter().map(|hash| hash.hash_revision).collect();
        assert_eq!(revisions, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }
}
