//! The numbers that HashKV and compactions should give, computed from all history.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use prost::Message;

use super::model::{COMPACTED, Change, FUTURE, Model, Refusal};
use kevel::proto::mvccpb::KeyValue;

impl Model {
    /// What HashKV gives for a revision that a client names; zero is the newest.
    pub fn hash_kv_at(&self, revision: i64, current: i64, compacted: i64) -> Result<Option<u32>, Refusal> {
        if revision > current {
            return Err(FUTURE);
        }
        if revision > 0 && revision < compacted {
            return Err(COMPACTED);
        }
        Ok(self.hash_kv(if revision == 0 { current } else { revision }, compacted))
    }

    /// The hash that HashKV gives for a revision, computed as etcd's contract describes it. None if nothing is kept at
    /// that revision: then etcd's number depends on how far a compaction has got.
    pub fn hash_kv(&self, revision: i64, compacted: i64) -> Option<u32> {
        let alive = self.alive(revision);
        // A key that the very write of this revision deleted before it put it is not kept.
        let remade = |&&at: &&usize| {
            let put = &self.changes[at];
            let deletes = |c: &Change| c.revision == put.revision && c.kv.is_none() && c.key == put.key;
            put.revision == revision && self.changes[..at].iter().rev().take(put.sub as usize).any(deletes)
        };
        let is_any_kept = alive.iter().any(|at| !remade(&at));
        is_any_kept.then(|| self.digest(revision, compacted, &alive))
    }

    /// The hash that a compaction to `revision` takes after one to `previous`.
    pub fn compaction_hash(&self, revision: i64, previous: i64) -> u32 {
        self.digest(revision, previous, &self.alive(revision))
    }

    /// Where the pairs that live at `revision` were put.
    fn alive(&self, revision: i64) -> BTreeSet<usize> {
        let newest = |positions: &Vec<usize>| {
            let at = *positions.iter().rev().find(|&&at| self.changes[at].revision <= revision)?;
            self.changes[at].kv.is_some().then_some(at)
        };
        self.keys.values().filter_map(newest).collect()
    }

    fn digest(&self, revision: i64, compacted: i64, alive: &BTreeSet<usize>) -> u32 {
        let mut hash = crc32c::crc32c(b"key");
        for (at, change) in self.changes.iter().enumerate() {
            if change.revision > revision {
                break;
            }
            if change.revision <= compacted && !alive.contains(&at) {
                continue;
            }
            let tombstone = change.kv.is_none();
            let mut key = change.revision.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend(change.sub.to_be_bytes());
            key.extend(tombstone.then_some(b't'));
            let bare = KeyValue { key: change.key.clone(), ..KeyValue::default() };
            let value = change.kv.as_ref().unwrap_or(&bare).encode_to_vec();
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
        }
        hash
    }
}
