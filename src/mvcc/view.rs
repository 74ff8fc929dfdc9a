//! Reading the store at a revision.
#![forbid(unsafe_code)]

use super::leaf_counts::LeafCounts;
use super::revision::Revision;
use super::schema::{IndexEntry, index_prefix, push_index_tail, split_index_key};
use crate::btree::{Read, Snapshot, Tree};
use crate::error::Error;

/// One consistent state of the store: a snapshot on a session core, or a write transaction in the middle of it.
pub struct View<'a, R: Read> {
    read: &'a R,
    /// Main revision of the newest change that is visible here.
    revision: i64,
    compact_revision: i64,
    leaf_counts: Option<&'a LeafCounts>,
}

/// A live revision of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it was put.
    pub revision: Revision,
    /// What the index knows about it.
    pub entry: IndexEntry,
}

impl View<'_, Snapshot<'_>> {
    /// A key is going to be written, so the disk is asked for its place in `Index` already if the store is so large
    /// that most places are cold: what applies the write finds it in memory then. The log takes longer than that.
    /// True if the place can be looked at without waiting for the disk.
    pub fn will_write(&self, key: &[u8]) -> bool {
        !self.read.is_large() || self.read.read_ahead(Tree::Index, &index_prefix(key)).is_none()
    }
}

impl<'a, R: Read> View<'a, R> {
    /// The state that `read` shows.
    pub fn new(read: &'a R) -> Self {
        Self::at(read, read.applied().revision)
    }

    /// The state that `read` shows, whose newest change has main revision `revision`: within a write, one more
    /// than what is applied.
    pub(super) fn at(read: &'a R, revision: i64) -> Self {
        Self { read, revision, compact_revision: read.applied().compact_revision, leaf_counts: None }
    }

    /// Lets Ranges count by leaves. Only for published states, all of the one store that `counts` knows.
    pub fn counting_with(self, counts: &'a LeafCounts) -> Self {
        Self { leaf_counts: Some(counts), ..self }
    }

    /// What is known of leaves whose keys need only be counted.
    pub(super) fn leaf_counts(&self) -> Option<&'a LeafCounts> {
        self.leaf_counts
    }

    /// The state underneath.
    pub fn read(&self) -> &'a R {
        self.read
    }

    /// Main revision of the newest change; 1 in a fresh store.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compaction revision; -1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The revision that a request for `revision` reads at.
    pub fn resolve(&self, revision: i64) -> Result<i64, Error> {
        if revision > self.revision {
            Err(Error::FutureRevision)
        } else if revision <= 0 {
            Ok(self.revision)
        } else if revision < self.compact_revision {
            Err(Error::Compacted)
        } else {
            Ok(revision)
        }
    }

    /// An error if something that a read at `revision` shows may have been swept: nobody holds a pin for it any more.
    pub fn check_kept(&self, revision: i64) -> Result<(), Error> {
        if self.read.applied().swept_revision > revision { Err(Error::Compacted) } else { Ok(()) }
    }

    /// The encoded `KeyValue` that was put at `revision`, which is kept.
    ///
    /// # Errors
    /// When it is not there: index and values are changed together, so one of them is damaged.
    pub(super) fn stored(&self, revision: Revision) -> Result<&'a [u8], Error> {
        self.value_of(revision)?.ok_or(Error::Corrupt)
    }

    /// The live value of `key` at main revision `at`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find(&self, key: &[u8], at: i64) -> Result<Option<Found>, Error> {
        let found = self.find_any(key, Revision::new(at, i64::MAX))?;
        Ok(found.filter(|found| !found.entry.tombstone))
    }

    /// The newest change of `key` that is not above `at`, a deletion too.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_any(&self, key: &[u8], at: Revision) -> Result<Option<Found>, Error> {
        let mut seek = index_prefix(key);
        let prefix_len = seek.len();
        push_index_tail(&mut seek, at);
        let mut cursor = self.read.cursor(Tree::Index);
        cursor.seek(&seek);
        if !cursor.valid() {
            return Ok(None);
        }
        let (prefix, revision) = split_index_key(cursor.key())?;
        if prefix != &seek[..prefix_len] {
            return Ok(None);
        }
        Ok(Some(Found { revision, entry: IndexEntry::decode(cursor.value(), revision.main)? }))
    }
}
