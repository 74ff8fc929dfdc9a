//! What clients ask for: few keys, so that requests meet; every value its own, so that none can stand for another.
#![forbid(unsafe_code)]

use std::fmt;

use bytes::Bytes;

use kevel::proto::etcdserverpb::compare::TargetUnion;
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::*;
use kevel::stdx::prng::Prng;

use super::params::Mix;

/// A request of a client.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Ask {
    /// A command for the log.
    Write(Box<InternalRaftRequest>),
    /// A read, linearizable or serializable.
    Range(Box<RangeRequest>),
    /// A transaction that only reads.
    Look(Box<TxnRequest>),
    /// A read that takes as many legs as it is long.
    List(Box<RangeRequest>),
    Stream(Box<RangeRequest>),
    /// HashKV at a revision; zero for the newest.
    Hash(i64),
    KeepAlive(i64),
    TimeToLive(i64),
    Watch(Box<WatchCreateRequest>),
    CancelWatch,
    Progress,
}

impl Ask {
    /// It reads the store, on its session core.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Range(_) | Self::Look(_) | Self::List(_) | Self::Stream(_) | Self::Hash(_))
    }

    /// It may show what is older than what was acknowledged.
    pub fn is_serializable(&self) -> bool {
        matches!(self, Self::Range(read) | Self::List(read) | Self::Stream(read) if read.serializable)
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Write(entry) = self else { return write!(f, "{self:?}") };
        if let Some(put) = &entry.put {
            write!(f, "{put:?}")
        } else if let Some(delete) = &entry.delete_range {
            write!(f, "{delete:?}")
        } else if let Some(txn) = &entry.txn {
            write!(f, "{txn:?}")
        } else {
            write!(f, "{:?}{:?}{:?}", entry.compaction, entry.lease_grant, entry.lease_revoke)?;
            write!(f, "{:?}{:?}", entry.lease_checkpoint, entry.alarm)
        }
    }
}

/// Keys of which a page holds few, since they have little in common.
fn one_of_many(number: u64) -> Bytes {
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("m{number:03}/{spread:016x}{:016x}", spread.rotate_left(17) ^ number).into()
}

/// Where requests come from.
pub struct Workload {
    prng: Prng,
    /// Makes values unique.
    serial: u64,
    /// Ids of leases that were asked for lately.
    leases: Vec<i64>,
    mix: Mix,
    /// Alarms that were raised lately, and perhaps cleared.
    alarms: Vec<(i32, u64)>,
    /// The member, which alarms are about.
    pub member_id: u64,
}

impl Workload {
    /// A workload of its own for every seed.
    pub fn new(prng: Prng, mix: Mix) -> Self {
        Self { prng, serial: 0, leases: vec![], mix, alarms: vec![], member_id: 0 }
    }

    fn key(&mut self) -> Bytes {
        if self.mix.keys > 0 && self.prng.chance(2, 3) {
            let number = self.prng.below(self.mix.keys);
            return one_of_many(number);
        }
        let mut key = vec![b'a' + self.prng.below(4) as u8];
        match self.prng.below(8) {
            0..=4 => key.push(b'0' + self.prng.below(6) as u8),
            5 => {}
            6 => key.extend([0, self.prng.below(3) as u8]),
            // Longer than what a page holds of a key.
            _ => key.extend(vec![b'k'; 200 * self.prng.below(3) as usize]),
        }
        key.into()
    }

    fn range(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.prng.below(6) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(&[0]),
            3 | 4 => vec![key[0] + 1].into(),
            _ => self.key(),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        self.serial += 1;
        let mut value = self.serial.to_string().into_bytes();
        let len = match self.prng.below(64) {
            n if n < self.mix.large => 3000 + self.prng.below(20_000),
            n if n < 20 => 100 + self.prng.below(400),
            _ => 0,
        };
        value.resize(value.len().max(len as usize), b'.');
        value.into()
    }

    fn lease(&mut self) -> i64 {
        match self.leases.len() as u64 {
            0 => 99,
            _ if self.prng.chance(1, 20) => 99,
            count => self.leases[self.prng.below(count) as usize],
        }
    }

    fn put(&mut self, key: Bytes) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.prng.chance(1, 12), self.prng.chance(1, 12));
        PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if !ignore_lease && self.prng.chance(1, 4) { self.lease() } else { 0 },
            prev_kv: self.prng.chance(1, 3),
            ignore_value,
            ignore_lease,
        }
    }

    /// A put that no deletion before it in the same transaction can make impossible.
    fn plain_put(&mut self, key: Bytes) -> PutRequest {
        let value = self.value();
        PutRequest { ignore_value: false, ignore_lease: false, value, ..self.put(key) }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = self.range();
        let range_end = if self.prng.chance(2, 3) { Bytes::new() } else { range_end };
        DeleteRangeRequest { key, range_end, prev_kv: self.prng.chance(1, 3) }
    }

    fn compare(&mut self, revision: i64) -> Compare {
        let (key, range_end) = self.range();
        let near = revision - self.prng.below(12) as i64;
        let union = match self.prng.below(5) {
            0 => TargetUnion::Version(self.prng.below(3) as i64),
            1 => TargetUnion::CreateRevision(if self.prng.chance(1, 2) { 0 } else { near }),
            2 => TargetUnion::ModRevision(near),
            3 => TargetUnion::Value(self.serial.to_string().into()),
            _ => TargetUnion::Lease(if self.prng.chance(1, 2) { 0 } else { self.lease() }),
        };
        let target = match union {
            TargetUnion::Version(_) => 0,
            TargetUnion::CreateRevision(_) => 1,
            TargetUnion::ModRevision(_) => 2,
            TargetUnion::Value(_) => 3,
            TargetUnion::Lease(_) => 4,
        };
        let range_end = if self.prng.chance(3, 4) { Bytes::new() } else { range_end };
        Compare { result: self.prng.below(4) as i32, target, key, range_end, target_union: Some(union) }
    }

    /// Operations of one branch. Puts have keys of their own, so that no key is given twice.
    fn branch(&mut self, revision: i64, depth: u32, puts: &mut u8) -> Vec<RequestOp> {
        let count = self.prng.below(4);
        let mut ops = Vec::new();
        for _ in 0..count {
            let request = match self.prng.below(8) {
                0..=3 => {
                    *puts += 1;
                    let key = vec![b'p', *puts].into();
                    Op::RequestPut(self.plain_put(key))
                }
                4 => Op::RequestDeleteRange(self.delete()),
                5 if depth == 0 => Op::RequestTxn(self.txn(revision, 1, puts)),
                _ => Op::RequestRange(self.read(revision)),
            };
            ops.push(RequestOp { request: Some(request) });
        }
        ops
    }

    fn txn(&mut self, revision: i64, depth: u32, puts: &mut u8) -> TxnRequest {
        let compare = (0..self.prng.below(3)).map(|_| self.compare(revision)).collect();
        let success = self.branch(revision, depth, puts);
        let failure = self.branch(revision, depth, puts);
        TxnRequest { compare, success, failure }
    }

    fn read(&mut self, revision: i64) -> RangeRequest {
        let (key, range_end) = self.range();
        let mut read = RangeRequest { key, range_end, ..RangeRequest::default() };
        read.limit = if self.prng.chance(1, 3) { self.prng.below(5) as i64 } else { 0 };
        read.revision = match self.prng.below(6) {
            0 => revision - self.prng.below(20) as i64,
            1 => revision + self.prng.below(3) as i64 - 1,
            _ => 0,
        };
        match self.prng.below(12) {
            0 => read.count_only = true,
            1 => read.keys_only = true,
            2 => read.min_mod_revision = revision - 5,
            3 => read.max_create_revision = revision - 5,
            4 => {
                (read.sort_order, read.sort_target) =
                    (1 + self.prng.below(2) as i32, self.prng.below(5) as i32);
            }
            5 => read.sort_order = 2,
            6 => read.max_mod_revision = revision - 5,
            7 => read.min_create_revision = revision - 5,
            _ => {}
        }
        read
    }

    /// The next request of a client that has seen `revision`.
    pub fn next(&mut self, revision: i64) -> Ask {
        let write = |request: InternalRaftRequest| Ask::Write(Box::new(request));
        if let Some(ask) = self.rare(revision) {
            return ask;
        }
        match self.prng.below(100) {
            0..32 => {
                let key = self.key();
                let put = Some(self.put(key));
                write(InternalRaftRequest { put, ..Default::default() })
            }
            32..40 => write(InternalRaftRequest { delete_range: Some(self.delete()), ..Default::default() }),
            40..50 => {
                // A transaction that only reads would not be proposed.
                let mut txn = self.txn(revision, 0, &mut 0);
                let put = self.plain_put(Bytes::from_static(b"t"));
                let branch = if self.prng.chance(1, 3) { &mut txn.failure } else { &mut txn.success };
                branch.push(RequestOp { request: Some(Op::RequestPut(put)) });
                write(InternalRaftRequest { txn: Some(txn), ..Default::default() })
            }
            50..53 => {
                let back = if self.prng.chance(1, 2) { 3 } else { 30 };
                let revision = revision + 1 - self.prng.below(back) as i64;
                let compaction = Some(CompactionRequest { revision, physical: self.prng.chance(1, 2) });
                write(InternalRaftRequest { compaction, ..Default::default() })
            }
            53..58 => {
                let id = if self.prng.chance(1, 10) { self.lease() } else { 100 + self.serial as i64 };
                self.serial += 1;
                self.leases.push(id);
                self.leases.drain(..self.leases.len().saturating_sub(6));
                let long = self.mix.checkpoints && self.prng.chance(1, 2);
                let ttl = self.prng.below(5) as i64 + if long { 30 } else { 0 };
                let lease_grant = Some(LeaseGrantRequest { ttl, id });
                write(InternalRaftRequest { lease_grant, ..Default::default() })
            }
            58..60 => {
                let lease_revoke = Some(LeaseRevokeRequest { id: self.lease() });
                write(InternalRaftRequest { lease_revoke, ..Default::default() })
            }
            60..65 => Ask::KeepAlive(self.lease()),
            65..67 => Ask::TimeToLive(self.lease()),
            67..87 => {
                let mut read = self.read(revision);
                read.serializable = self.prng.chance(1, 2);
                Ask::Range(Box::new(read))
            }
            87 => self.long_read(revision),
            88..93 => Ask::Watch(Box::new(self.watch(revision))),
            93..95 => Ask::CancelWatch,
            _ => Ask::Progress,
        }
    }

    /// What only some worlds have, or have more of.
    fn rare(&mut self, revision: i64) -> Option<Ask> {
        let write = |request: InternalRaftRequest| Some(Ask::Write(Box::new(request)));
        if self.mix.readers > 0 && self.prng.chance(1, self.mix.readers) {
            return Some(self.long_read(revision));
        }
        if self.mix.keys > 0 && self.prng.chance(1, 12) {
            let txn = Some(self.many_puts());
            return write(InternalRaftRequest { txn, ..Default::default() });
        }
        if self.mix.alarms && self.prng.chance(1, 10) {
            let alarm = Some(self.alarm());
            return write(InternalRaftRequest { alarm, ..Default::default() });
        }
        if self.mix.checkpoints && self.prng.chance(1, 8) {
            let mut one = || LeaseCheckpoint { id: self.lease(), remaining_ttl: self.prng.below(3) as i64 };
            let checkpoints = vec![one(), one()];
            let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
            return write(InternalRaftRequest { lease_checkpoint, ..Default::default() });
        }
        None
    }

    /// Neighbouring keys, all in one transaction.
    fn many_puts(&mut self) -> TxnRequest {
        let first = self.prng.below(self.mix.keys);
        let last = self.mix.keys.min(first + 1 + self.prng.below(80));
        let put = |number| {
            let put = self.plain_put(one_of_many(number));
            RequestOp { request: Some(Op::RequestPut(put)) }
        };
        TxnRequest { success: (first..last).map(put).collect(), ..TxnRequest::default() }
    }

    fn alarm(&mut self) -> AlarmRequest {
        let count = self.alarms.len() as u64;
        let clears = self.prng.chance(count.min(2), 3);
        let (alarm, member_id) = match clears {
            true => self.alarms.remove(self.prng.below(count) as usize),
            false if self.prng.chance(1, 6) => (AlarmType::Corrupt as i32, self.member_id),
            false => (self.prng.below(2) as i32, if self.prng.chance(3, 4) { self.member_id } else { 7 }),
        };
        let action = if self.prng.chance(1, 8) { 0 } else { 1 + i32::from(clears) };
        if action == 1 {
            self.alarms.push((alarm, member_id));
        }
        // What the member itself has raised is cleared too.
        if action == 2 && self.prng.chance(1, 2) {
            self.alarms.push((AlarmType::Nospace as i32, self.member_id));
        }
        AlarmRequest { action, member_id, alarm }
    }

    fn long_read(&mut self, revision: i64) -> Ask {
        let mut read = self.read(revision);
        if self.prng.chance(3, 4) {
            (read.key, read.range_end) = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
        }
        if self.prng.chance(1, 4) {
            read.limit = self.prng.below(60) as i64 - 1;
        }
        read.serializable = self.prng.chance(1, 2);
        match self.prng.below(8) {
            0 => Ask::Look(Box::new(self.look(revision))),
            1 | 2 => {
                let back = self.prng.below(12) as i64;
                Ask::Hash(if back < 6 { 0 } else { revision + 7 - back })
            }
            3 | 4 => Ask::Stream(Box::new(RangeRequest {
                key: read.key,
                range_end: read.range_end,
                limit: read.limit,
                // With a negative one, each chunk is read at what is then the newest revision, as etcd does.
                revision: read.revision.max(0),
                serializable: read.serializable,
                keys_only: read.keys_only,
                count_only: read.count_only,
                ..RangeRequest::default()
            })),
            _ => Ask::List(Box::new(read)),
        }
    }

    fn look(&mut self, revision: i64) -> TxnRequest {
        let compare = (0..self.prng.below(3)).map(|_| self.compare(revision)).collect();
        let mut branch = || {
            let count = self.prng.below(4);
            let mut op = || RequestOp { request: Some(Op::RequestRange(self.read(revision))) };
            (0..count).map(|_| op()).collect()
        };
        TxnRequest { success: branch(), failure: branch(), compare }
    }

    fn watch(&mut self, revision: i64) -> WatchCreateRequest {
        let (key, range_end) = self.range();
        let mut filters = vec![];
        filters.extend(self.prng.chance(1, 8).then_some(0));
        filters.extend(self.prng.chance(1, 8).then_some(1));
        WatchCreateRequest {
            key,
            range_end,
            start_revision: match self.prng.below(4) {
                0 | 1 => 0,
                2 => (revision - self.prng.below(25) as i64).max(1),
                _ => revision + 2 - self.prng.below(4) as i64,
            },
            progress_notify: self.prng.chance(1, 2),
            filters,
            prev_kv: self.prng.chance(1, 2),
            watch_id: 0,
            fragment: self.prng.chance(1, 3),
        }
    }
}
