//! HashKV: the number by which members find out whether they hold the same history.
//!
//! It is etcd's number: CRC-32C over the name of etcd's bucket, then storage key and stored value of every change
//! up to a revision, in order, in etcd's own storage layout. What a compaction has condemned is left out whether it
//! is still there or not, so the number does not depend on how far a sweep has got. At a revision that was compacted
//! itself, the number is the one that the compaction took: see [`compact_hash`](super::compact_hash).
#![forbid(unsafe_code)]

use super::revision::Revision;
use super::schema::split_kv_value;
use super::view::View;
use super::walk::{Interval, Position, Step, Walk};
use crate::btree::{Read, Tree};
use crate::error::Error;
use crate::wire::key_of;

/// A HashKV being computed, in legs. Between two, the caller keeps [`HashKv::pin`] pinned.
pub struct HashKv {
    /// Changes above it do not count.
    revision: i64,
    /// Changes not above it count only if a read at `revision` shows them.
    compact_revision: i64,
    /// The store's revision at the start: the header's.
    current: i64,
    stage: Stage,
    crc: u32,
}

enum Stage {
    /// Looking for one key that etcd would keep: if there is none, nothing at all is condemned.
    AnyKept(Position),
    /// Digesting changes, from this one on.
    Digest {
        from: Revision,
        any_kept: bool,
    },
    Done,
}

/// What HashKV answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The digest.
    pub hash: u32,
    /// The compaction revision it stands for; -1 if there was none.
    pub compact_revision: i64,
    /// The revision up to which it digests.
    pub hash_revision: i64,
    /// The store's revision: the header's.
    pub revision: i64,
}

/// Bytes that are digested, from memory, in the time that a small change takes.
const BYTES_PER_CHANGE: usize = 4096;

/// What digesting a change of `len` bytes costs, in small changes.
pub fn digest_cost(len: usize) -> usize {
    1 + len / BYTES_PER_CHANGE
}

fn everything() -> Interval {
    Interval::new(&[0], &[0])
}

impl HashKv {
    /// The hash up to `revision`; zero for all.
    pub fn new<R: Read>(view: &View<'_, R>, revision: i64) -> Result<Self, Error> {
        // Unlike Range, etcd takes a negative revision at its word here: nothing is below it.
        if revision > 0 && revision < view.compact_revision() {
            return Err(Error::Compacted);
        }
        if revision > view.revision() {
            return Err(Error::FutureRevision);
        }
        let revision = if revision == 0 { view.revision() } else { revision };
        Ok(Self {
            revision,
            compact_revision: view.compact_revision(),
            current: view.revision(),
            stage: Stage::AnyKept(everything().start()),
            crc: crc32c::crc32c(b"key"),
        })
    }

    /// The hash that a compaction to `revision` takes, where the one before it was to `previous`. The store's
    /// revision is left out of it.
    pub fn of_compaction(revision: i64, previous: i64) -> Self {
        Self {
            revision,
            compact_revision: previous,
            current: 0,
            // What changed at `revision` itself is kept, deletions too, so there always is something.
            stage: Stage::Digest { from: Revision::default(), any_kept: true },
            crc: crc32c::crc32c(b"key"),
        }
    }

    /// The revision to pin while this is under way: nothing that died above it may be swept.
    pub fn pin(&self) -> i64 {
        self.compact_revision
    }

    /// Digests on for about `budget` changes, fewer where they are long; the hash, once it is there.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn step<R: Read>(&mut self, view: &View<'_, R>, budget: usize) -> Result<Option<KvHash>, Error> {
        if let Stage::AnyKept(position) = &self.stage {
            let interval = everything();
            let mut walk = Walk::resume(view, &interval, self.revision, position, budget);
            let any_kept = loop {
                match walk.next()? {
                    Step::Paused => break None,
                    Step::End => break Some(false),
                    Step::Live(found, _) if self.is_remade(view, &walk.key(), found)? => {}
                    Step::Live(..) => break Some(true),
                }
            };
            self.stage = match any_kept {
                None => Stage::AnyKept(walk.position()),
                Some(any_kept) => Stage::Digest { from: Revision::default(), any_kept },
            };
        } else if let Stage::Digest { from, any_kept } = self.stage {
            self.stage = match self.digest(view, from, any_kept, budget)? {
                Some(from) => Stage::Digest { from, any_kept },
                None => Stage::Done,
            };
        }
        Ok(matches!(self.stage, Stage::Done).then_some(KvHash {
            hash: self.crc,
            compact_revision: self.compact_revision,
            hash_revision: self.revision,
            revision: self.current,
        }))
    }

    /// Whether the very write that `self.revision` names deleted `key` before it put it at `found`. etcd takes such
    /// a key for deleted when it looks for what to keep.
    fn is_remade<R: Read>(&self, view: &View<'_, R>, key: &[u8], mut found: Revision) -> Result<bool, Error> {
        while found.main == self.revision && found.sub > 0 {
            match view.find_any(key, Revision::new(found.main, found.sub - 1))? {
                Some(earlier) if earlier.entry.tombstone => {
                    return Ok(earlier.revision.main == self.revision);
                }
                Some(earlier) => found = earlier.revision,
                None => break,
            }
        }
        Ok(false)
    }

    /// One leg; where the next one starts.
    fn digest<R: Read>(
        &mut self,
        view: &View<'_, R>,
        from: Revision,
        any_kept: bool,
        budget: usize,
    ) -> Result<Option<Revision>, Error> {
        let mut cursor = view.read().cursor(Tree::Kv);
        cursor.seek(&from.to_bytes());
        let mut left = budget.max(1);
        while left > 0 {
            if !cursor.valid() {
                return Ok(None);
            }
            let revision = Revision::from_bytes(cursor.key())?;
            if revision.main > self.revision {
                return Ok(None);
            }
            let (tombstone, kv) = split_kv_value(cursor.value())?;
            left = left.saturating_sub(digest_cost(kv.len()));
            if self.counts(view, revision, tombstone, kv, any_kept)? {
                self.crc = crc32c::crc32c_append(self.crc, &etcd_key(revision, tombstone));
                self.crc = crc32c::crc32c_append(self.crc, kv);
            }
            cursor.next();
        }
        if cursor.valid() { Revision::from_bytes(cursor.key()).map(Some) } else { Ok(None) }
    }

    fn counts<R: Read>(
        &self,
        view: &View<'_, R>,
        revision: Revision,
        tombstone: bool,
        kv: &[u8],
        any_kept: bool,
    ) -> Result<bool, Error> {
        if revision.main > self.compact_revision {
            return Ok(true);
        }
        // A tombstone below the compaction is condemned. One at it is kept by some versions of etcd and not by
        // others, and never counts.
        if tombstone {
            return Ok(false);
        }
        // With nothing to keep etcd digests whatever its compaction has left, which is what is alive at it.
        let at = if any_kept { self.revision } else { self.compact_revision };
        let found = view.find(key_of(kv).ok_or(Error::Corrupt)?, at)?;
        Ok(found.is_some_and(|found| found.revision == revision))
    }
}

/// A storage key of etcd's bucket `key`: both parts of the revision, big endian, and a mark on tombstones.
pub fn etcd_key(revision: Revision, tombstone: bool) -> impl core::ops::Deref<Target = [u8]> {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&revision.sub.to_be_bytes());
    key[17] = b't';
    EtcdKey(key, if tombstone { 18 } else { 17 })
}

struct EtcdKey([u8; 18], usize);

impl core::ops::Deref for EtcdKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::{Store, WriteTxn};
    use crate::mvcc::answer_room::AnswerRoom;
    use crate::mvcc::write::{Writer, initialize};
    use crate::mvcc::{compact, txn};
    use crate::proto::etcdserverpb::request_op::Request as Op;
    use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
    use bytes::BytesMut;

    fn put_request(key: &str, value: &str, lease: i64) -> PutRequest {
        let (key, value) = (key.as_bytes().to_vec().into(), value.as_bytes().to_vec().into());
        PutRequest { key, value, lease, ..PutRequest::default() }
    }

    fn delete_request(key: &[u8], range_end: &[u8]) -> DeleteRangeRequest {
        let (key, range_end) = (key.to_vec().into(), range_end.to_vec().into());
        DeleteRangeRequest { key, range_end, prev_kv: false }
    }

    fn put(txn: &mut WriteTxn<'_>, key: &str, value: &str, lease: i64) {
        let mut writer = Writer::begin(txn);
        writer.put(&put_request(key, value, lease)).unwrap();
        writer.finish();
    }

    fn delete(txn: &mut WriteTxn<'_>, key: &[u8], range_end: &[u8]) {
        let mut writer = Writer::begin(txn);
        let request = delete_request(key, range_end);
        writer.delete_range(&request, &mut BytesMut::new(), &mut AnswerRoom::default()).unwrap();
        writer.finish();
    }

    fn digest(txn: &WriteTxn<'_>, mut hash: HashKv) -> KvHash {
        loop {
            if let Some(hash) = hash.step(&View::new(txn), 2).unwrap() {
                return hash;
            }
        }
    }

    fn hash(txn: &WriteTxn<'_>, revision: i64) -> (u32, i64, i64, i64) {
        let hash = digest(txn, HashKv::new(&View::new(txn), revision).unwrap());
        (hash.hash, hash.compact_revision, hash.hash_revision, hash.revision)
    }

    /// The numbers are etcd 3.7.3's own, from `etcdctl endpoint hashkv` after the same requests.
    #[test]
    fn the_numbers_are_etcds() {
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        initialize(txn);
        assert_eq!(hash(txn, 0), (1_084_519_789, -1, 1, 1));

        put(txn, "a", "1", 0);
        put(txn, "b", "2", 0);
        put(txn, "a", "3", 0);
        delete(txn, b"b", b"");
        put(txn, "c", "4", 0x390d_a1fe_23a0_c309);
        put(txn, "b", "5", 0);
        let ops = [
            Op::RequestPut(put_request("t1", "v1", 0)),
            Op::RequestDeleteRange(delete_request(b"a", b"")),
            Op::RequestPut(put_request("t2", "v2", 0)),
        ];
        let success = ops.map(|op| RequestOp { request: Some(op) }).to_vec();
        txn::apply(txn, &TxnRequest { success, ..TxnRequest::default() }, &|_| true, true).unwrap();
        assert_eq!(hash(txn, 0), (1_226_286_324, -1, 8, 8));
        assert_eq!(hash(txn, 3), (1_827_592_406, -1, 3, 8));
        assert_eq!(hash(txn, 5), (1_125_682_900, -1, 5, 8));

        compact::mark(txn, 5).unwrap();
        assert_eq!(digest(txn, HashKv::of_compaction(5, -1)).hash, 1_125_682_900);
        for _ in 0..5 {
            // Whatever the sweep has got to.
            assert_eq!(hash(txn, 0), (3_457_312_934, 5, 8, 8));
            assert_eq!(hash(txn, 6), (2_696_311_859, 5, 6, 8));
            compact::sweep(txn, None, 1).unwrap();
        }

        put(txn, "big", &"x".repeat(300), 0);
        delete(txn, b"\0", b"\0");
        assert_eq!(hash(txn, 0), (3_910_291_201, 5, 10, 10));
        for (compacted, expected) in [(9, 2_002_328_874), (10, 1_084_519_789)] {
            compact::mark(txn, compacted).unwrap();
            assert_eq!(hash(txn, 0), (expected, compacted, 10, 10));
            assert!(compact::sweep(txn, None, usize::MAX).unwrap().done);
            assert_eq!(hash(txn, 10), (expected, compacted, 10, 10));
        }
        let view = View::new(&*txn);
        assert_eq!(HashKv::new(&view, 9).err(), Some(Error::Compacted));
        assert_eq!(HashKv::new(&view, 11).err(), Some(Error::FutureRevision));
    }

    #[test]
    fn a_leg_digests_fewer_changes_where_they_are_long() {
        let legs = |value_len: usize| {
            let mut store = Store::in_memory();
            let txn = &mut store.write();
            initialize(txn);
            for number in 0..100 {
                put(txn, &format!("{number}"), &"x".repeat(value_len), 0);
            }
            let mut hash = HashKv::new(&View::new(&*txn), 0).unwrap();
            (1..).find(|_| hash.step(&View::new(&*txn), 100).unwrap().is_some()).unwrap()
        };
        assert!(legs(10) <= 3);
        assert!(legs(100_000) >= 20);
    }

    /// What etcd keeps at a revision leaves out keys that are deleted and put again in it. With nothing to keep, it
    /// digests the compacted past too.
    #[test]
    fn a_key_made_anew_in_the_revision_is_not_kept() {
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        initialize(txn);
        put(txn, "a", "1", 0);
        put(txn, "b", "2", 0);
        compact::mark(txn, 3).unwrap();
        let ops =
            [Op::RequestDeleteRange(delete_request(b"a", b"\0")), Op::RequestPut(put_request("a", "3", 0))];
        let success = ops.map(|op| RequestOp { request: Some(op) }).to_vec();
        txn::apply(txn, &TxnRequest { success, ..TxnRequest::default() }, &|_| true, true).unwrap();
        let remade = hash(txn, 4);
        put(txn, "c", "4", 0);
        assert_eq!(remade, (2_469_020_438, 3, 4, 4));
        assert_eq!(hash(txn, 4), (2_469_020_438, 3, 4, 5));
        assert_eq!(hash(txn, 5), (2_816_685_294, 3, 5, 5));
    }
}
