//! Compactions' hashes: taken outside, one after the other, before the sweep takes away what they stand for.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::halt::damaged;
use super::port::{Output, Outputs};
use super::replica::Replica;
use crate::error::Error;
use crate::mvcc::compact_hash::{CompactionDigest, CompactionHashes};
use crate::mvcc::hash::KvHash;

/// Hashes that may be waited for. A compaction that comes sooner goes without: etcd too leaves out one that begins
/// before the last has ended.
const WAITING_MAX: usize = 2;

/// The compactions whose hash is to be taken.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// The compactions whose hash is not there, the oldest first.
    waiting: VecDeque<Span>,
    /// The first is under way.
    begun: bool,
    /// What is under way is of a store that a snapshot has taken the place of: it counts no more.
    is_stale: bool,
    /// Entries up to here were in the log at the start. What a restart replays has had its hash, which does not
    /// outlive the process.
    replayed: u64,
    /// The hashes that were taken.
    pub(super) hashes: CompactionHashes,
}

/// A compaction and the one before it.
#[derive(Clone, Copy, Debug)]
struct Span {
    revision: i64,
    previous: i64,
}

impl Digests {
    /// None, in a process that found log entries up to `replayed`.
    pub(super) fn new(replayed: u64) -> Self {
        Self { replayed, ..Self::default() }
    }

    /// Whether the entry `index` was in the log already when this process began.
    pub(super) fn is_replay(&self, index: u64) -> bool {
        index <= self.replayed
    }

    /// The entry `index` compacted to `revision`, what was compacted to `previous` before.
    pub(super) fn queue(&mut self, index: u64, revision: i64, previous: i64) {
        if !self.is_replay(index) && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(Span { revision, previous });
        }
    }

    /// A snapshot has taken the place of the store.
    pub(super) fn install(&mut self) {
        self.waiting.clear();
        self.is_stale |= self.begun;
    }

    /// Nothing that died above it may be swept.
    pub(super) fn pin(&self) -> Option<i64> {
        self.waiting.front().map(|span| span.previous)
    }
}

impl Replica {
    /// Hands out the next job, once the last has come back.
    pub(super) fn digest_compaction(&mut self, outputs: &mut Outputs) {
        let Some(span) = self.digests.waiting.front() else { return };
        if self.halted.is_halted() {
            // The compaction may not be published.
            return;
        }
        if !std::mem::replace(&mut self.digests.begun, true) {
            let job = CompactionDigest::new(&self.store.readers(), span.revision, span.previous);
            outputs.push(Output::DigestCompaction(Box::new(job)));
        }
    }

    pub(super) fn on_compaction_digested(&mut self, hash: Result<KvHash, Error>) {
        assert!(std::mem::take(&mut self.digests.begun), "a digest was under way");
        if std::mem::take(&mut self.digests.is_stale) {
            return;
        }
        let span = self.digests.waiting.pop_front().expect("the one under way is the first");
        match hash {
            Ok(hash) => {
                assert_eq!((hash.hash_revision, hash.compact_revision), (span.revision, span.previous));
                self.digests.hashes.add(hash);
            }
            Err(_) => {
                let what = format!("the hash of the compaction to {} cannot be taken", span.revision);
                self.halted.halt(damaged(&what));
            }
        }
    }
}
