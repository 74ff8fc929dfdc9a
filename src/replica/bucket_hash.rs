//! The answer to the Hash RPC: a digest of all buckets that etcd would have, in their order and layout.
//!
//! etcd keeps everything in one bbolt file and digests it: bucket by bucket in order of names, the name, then every
//! key and value. Our trees hold the same facts, so the same bytes can be put together from them, and for the same
//! history of requests and members the number is etcd's. Where etcd itself depends on the moment (how far a
//! compaction has got), so does this.
#![forbid(unsafe_code)]

use crate::btree::{Read, Tree};
use crate::error::Error;
use crate::mvcc::hash::{digest_cost, etcd_key};
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::split_kv_value;
use crate::snapshot::buckets::{self, Bucket, is_digested};

/// Hash being computed, in legs.
pub struct BucketHash {
    stage: Stage,
    crc: u32,
    /// The store's revision at the start; later changes don't count.
    revision: i64,
}

enum Stage {
    /// The buckets before `key`, which are small.
    Head,
    /// Bucket `key`, from this change on.
    Key(Revision),
    /// Bucket `lease`, from this id on.
    Lease([u8; 8]),
    /// The buckets behind it, which are small.
    Tail,
    Done,
}

impl BucketHash {
    /// The hash of what `read` shows.
    pub fn new(read: &impl Read) -> Self {
        Self { stage: Stage::Head, crc: 0, revision: read.applied().revision }
    }

    /// Digests on for about `budget` entries; the hash, once it is there.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn step(&mut self, read: &impl Read, budget: usize) -> Result<Option<u32>, Error> {
        self.stage = match self.stage {
            Stage::Head => self.head(read)?,
            Stage::Key(from) => self.changes(read, from, budget)?,
            Stage::Lease(from) => self.leases(read, from, budget)?,
            Stage::Tail => self.tail(read)?,
            Stage::Done => Stage::Done,
        };
        Ok(matches!(self.stage, Stage::Done).then_some(self.crc))
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) {
        self.feed(key);
        self.feed(value);
    }

    fn buckets(&mut self, buckets: &[Bucket]) {
        for bucket in buckets {
            self.feed(bucket.name.as_bytes());
            for (key, value) in bucket.pairs.iter().filter(|(key, _)| is_digested(bucket.name, key)) {
                self.pair(key, value);
            }
        }
    }

    fn head(&mut self, read: &impl Read) -> Result<Stage, Error> {
        self.buckets(&buckets::before_key(read)?);
        self.feed(b"key");
        Ok(Stage::Key(Revision::default()))
    }

    fn changes(&mut self, read: &impl Read, from: Revision, budget: usize) -> Result<Stage, Error> {
        let mut cursor = read.cursor(Tree::Kv);
        cursor.seek(&from.to_bytes());
        let mut left = budget.max(1);
        while left > 0 {
            let revision = if cursor.valid() { Some(Revision::from_bytes(cursor.key())?) } else { None };
            let Some(revision) = revision.filter(|revision| revision.main <= self.revision) else {
                self.feed(b"lease");
                return Ok(Stage::Lease([0; 8]));
            };
            let (tombstone, kv) = split_kv_value(cursor.value())?;
            self.pair(&etcd_key(revision, tombstone), kv);
            left = left.saturating_sub(digest_cost(kv.len()));
            cursor.next();
        }
        Ok(Stage::Key(if cursor.valid() { Revision::from_bytes(cursor.key())? } else { PAST }))
    }

    fn leases(&mut self, read: &impl Read, from: [u8; 8], budget: usize) -> Result<Stage, Error> {
        let mut cursor = read.cursor(Tree::Lease);
        cursor.seek(&from);
        for _ in 0..budget {
            if !cursor.valid() {
                return Ok(Stage::Tail);
            }
            self.pair(cursor.key(), cursor.value());
            cursor.next();
        }
        if !cursor.valid() {
            return Ok(Stage::Tail);
        }
        cursor.key().try_into().map(Stage::Lease).map_err(|_| Error::Corrupt)
    }

    fn tail(&mut self, read: &impl Read) -> Result<Stage, Error> {
        self.buckets(&buckets::after_lease(read, read.applied().swept_revision)?);
        Ok(Stage::Done)
    }
}

/// Behind every change there can be.
const PAST: Revision = Revision::new(i64::MAX, i64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::{Store, WriteTxn};
    use crate::mvcc::compact;
    use crate::mvcc::write::initialize;
    use crate::proto::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, PutRequest};
    use crate::proto::membershippb::{Attributes, ClusterVersionSetRequest, Member, RaftAttributes};
    use crate::replica::apply::{State, apply};
    use crate::request::Request;
    use crate::stdx::time::Instant;

    /// The number is etcd 3.7.3's own, after the same requests to a cluster of the same member.
    #[test]
    fn the_number_is_etcds() {
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        initialize(txn);
        let mut state = State::restore(txn, 2, 1).unwrap();
        let member = Member {
            id: 0xbdae_9bbc_11dd_390d,
            raft_attributes: Some(RaftAttributes {
                peer_urls: vec!["http://127.0.0.1:23801".into()],
                is_learner: false,
            }),
            member_attributes: Some(Attributes {
                name: "default".into(),
                client_urls: vec!["http://127.0.0.1:23791".into()],
            }),
        };
        state.cluster.set_member(txn, member);
        let mut run = |txn: &mut WriteTxn<'_>, request| {
            apply(txn, &mut state, Instant::default(), &request, true).unwrap().reply.unwrap();
        };
        run(txn, Request::ClusterVersionSet(ClusterVersionSetRequest { ver: "3.7.0".into() }));
        for id in [0x390d_a1fe_23a0_c307, 0x390d_a1fe_23a0_c309] {
            run(txn, Request::LeaseGrant(LeaseGrantRequest { id, ttl: 1000 }));
        }
        // Eight writes whose content a compaction has removed, then five keys that are deleted in revision 10.
        for _ in 0..7 {
            run(txn, Request::Put(PutRequest { key: "b".into(), ..PutRequest::default() }));
        }
        let ops = ["big", "c", "t1", "t2"].map(|key| {
            let put = PutRequest { key: key.into(), ..PutRequest::default() };
            crate::proto::etcdserverpb::RequestOp {
                request: Some(crate::proto::etcdserverpb::request_op::Request::RequestPut(put)),
            }
        });
        let success = ops.to_vec();
        run(txn, Request::Txn(crate::proto::etcdserverpb::TxnRequest { success, ..Default::default() }));
        let everything =
            DeleteRangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), prev_kv: false };
        run(txn, Request::DeleteRange(everything));
        assert_eq!(txn.applied().revision, 10);
        compact::mark(txn, 10).unwrap();
        assert!(compact::sweep(txn, None, usize::MAX).unwrap().done);

        for budget in [1, 2, 1000] {
            let mut hash = BucketHash::new(&*txn);
            let number = loop {
                if let Some(number) = hash.step(&*txn, budget).unwrap() {
                    break number;
                }
            };
            assert_eq!(number, 632_500_716);
        }
    }
}
