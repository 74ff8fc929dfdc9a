//! What the store should answer: every version of every key in a list, and no cleverness.
//!
//! The model executes the same log as the member and shares no code with it but the generated messages. It keeps
//! all history, whatever was compacted, since an answer about the past is checked as of the time it was given.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::slice::Iter;

use bytes::Bytes;

use kevel::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kevel::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::response_op::Response as OpResponse;
use kevel::proto::etcdserverpb::*;
use kevel::proto::mvccpb::KeyValue;

/// Leases live at least this long, in seconds.
pub const MIN_TTL_SECONDS: i64 = 2;

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// Main revision.
    pub revision: i64,
    /// Sub revision.
    pub sub: i64,
    /// The key.
    pub key: Bytes,
    /// None for a deletion.
    pub kv: Option<KeyValue>,
}

/// The answer to one entry of the log. Headers carry the revision alone.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Answer {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseCheckpoint(LeaseCheckpointResponse),
    Alarm(AlarmResponse),
    /// To what no client asks for.
    Nothing,
}

/// The text of an error.
pub type Refusal = &'static str;

pub const COMPACTED: Refusal = "etcdserver: mvcc: required revision has been compacted";
pub const FUTURE: Refusal = "etcdserver: mvcc: required revision is a future revision";
const KEY_NOT_FOUND: Refusal = "etcdserver: key not found";
const LEASE_NOT_FOUND: Refusal = "etcdserver: requested lease not found";
const LEASE_EXISTS: Refusal = "etcdserver: lease already exists";
const NO_SPACE: Refusal = "etcdserver: mvcc: database space exceeded";
const CORRUPT: Refusal = "etcdserver: corrupt cluster";
const TTL_TOO_LARGE: Refusal = "etcdserver: too large lease TTL";

/// All that the log so far says.
#[derive(Clone, Debug)]
pub struct Model {
    /// Every change, in order.
    pub changes: Vec<Change>,
    /// Positions in `changes` by key, in order.
    pub keys: BTreeMap<Bytes, Vec<usize>>,
    /// Main revision of the last change.
    pub revision: i64,
    /// The compaction revision; -1 before the first compaction.
    pub compacted: i64,
    /// Every revision that a compaction was to.
    pub compactions: BTreeSet<i64>,
    /// TTL in seconds by id.
    pub leases: BTreeMap<i64, i64>,
    /// What checkpoints have left of leases, in seconds by id, and the last entry that said so.
    pub remaining: BTreeMap<i64, (i64, u64)>,
    /// Raised alarms: type, then member.
    pub alarms: BTreeSet<(i32, u64)>,
    /// Entries executed.
    pub index: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            changes: vec![],
            keys: BTreeMap::new(),
            revision: 1,
            compacted: -1,
            compactions: BTreeSet::new(),
            leases: BTreeMap::new(),
            remaining: BTreeMap::new(),
            alarms: BTreeSet::new(),
            index: 0,
        }
    }
}

/// True if `key` is in the interval that a request names.
pub fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

impl Model {
    /// The value of `key` at a main revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let positions = self.keys.get(key)?;
        let last = positions.iter().rev().find(|&&at| self.changes[at].revision <= revision)?;
        self.changes[*last].kv.as_ref()
    }

    /// Live pairs of an interval at a main revision, in key order.
    pub fn pairs(&self, start: &[u8], end: &[u8], revision: i64) -> Vec<&KeyValue> {
        let keys = self.keys.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded));
        let keys = keys.take_while(|(key, _)| *end == [0] || within(key, start, end));
        keys.filter_map(|(key, _)| self.get(key, revision)).collect()
    }

    /// Answers a Range when the store's newest revision is `current`.
    pub fn range(
        &self,
        request: &RangeRequest,
        current: i64,
        compacted: i64,
    ) -> Result<RangeResponse, Refusal> {
        let at = match request.revision {
            ..=0 => current,
            future if future > current => return Err(FUTURE),
            old if old < compacted => return Err(COMPACTED),
            at => at,
        };
        let pairs = self.pairs(&request.key, &request.range_end, at);
        let count = pairs.len() as i64;
        let mut response = RangeResponse { header: header(current), count, ..RangeResponse::default() };
        if request.count_only {
            return Ok(response);
        }
        let inside =
            |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        let mut kvs: Vec<KeyValue> = pairs.into_iter().cloned().collect();
        kvs.retain(|kv| inside(kv.mod_revision, request.min_mod_revision, request.max_mod_revision));
        kvs.retain(|kv| inside(kv.create_revision, request.min_create_revision, request.max_create_revision));
        // Among equals the order of keys stays, up and down.
        let compare = |a: &KeyValue, b: &KeyValue| match request.sort_target() {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match request.sort_order() {
            // Unsorted with a target is a quirk of etcd that this model leaves to the differential test.
            SortOrder::None => {}
            SortOrder::Ascend => kvs.sort_by(compare),
            SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        }
        if request.limit > 0 && kvs.len() as i64 > request.limit {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = 0;
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    /// Answers a RangeStream, all its messages put together: the count is that of the pairs sent, and of what is behind
    /// them if there is more.
    pub fn range_stream(
        &self,
        request: &RangeRequest,
        current: i64,
        compacted: i64,
    ) -> Result<RangeResponse, Refusal> {
        let mut whole = self.range(request, current, compacted)?;
        if !request.count_only && !whole.more {
            whole.count = whole.kvs.len() as i64;
        }
        Ok(whole)
    }

    /// Answers a transaction that only reads.
    pub fn look(&self, txn: &TxnRequest, current: i64, compacted: i64) -> Result<TxnResponse, Refusal> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare, current));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let ranges = || {
            ops.iter().map(|op| match &op.request {
                Some(Op::RequestRange(range)) => range,
                other => panic!("judge: {other:?} in a transaction that only reads"),
            })
        };
        for range in ranges() {
            check_range(range, current, compacted)?;
        }
        let answer = |range| {
            let range = self.range(range, current, compacted).expect("checked before");
            ResponseOp { response: Some(OpResponse::ResponseRange(range)) }
        };
        let responses = ranges().map(answer).collect();
        Ok(TxnResponse { header: header(current), succeeded, responses })
    }

    /// Nothing is read or written through the log while the alarm CORRUPT is raised.
    pub fn is_corrupt(&self) -> bool {
        self.alarms.iter().any(|raised| raised.0 == AlarmType::Corrupt as i32)
    }

    /// The error of a request that a raised alarm forbids.
    fn forbidden(&self, entry: &InternalRaftRequest) -> Result<(), Refusal> {
        let reads_or_writes = entry.put.is_some()
            || entry.delete_range.is_some()
            || entry.txn.is_some()
            || entry.compaction.is_some()
            || entry.lease_grant.is_some()
            || entry.lease_revoke.is_some();
        if reads_or_writes && self.is_corrupt() {
            return Err(CORRUPT);
        }
        let is_full = self.alarms.iter().any(|raised| raised.0 == AlarmType::Nospace as i32);
        if grows(entry) && is_full { Err(NO_SPACE) } else { Ok(()) }
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let (alarm, member_id) = (request.alarm, request.member_id);
        let one = vec![AlarmMember { member_id, alarm }];
        let all = alarm == AlarmType::None as i32;
        match request.action {
            0 => {
                let wanted = self.alarms.iter().filter(|raised| all || raised.0 == alarm);
                wanted.map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
            }
            1 if all => vec![],
            1 => {
                self.alarms.insert((alarm, member_id));
                one
            }
            _ if self.alarms.remove(&(alarm, member_id)) => one,
            _ => vec![],
        }
    }

    /// Executes the next entry of the log.
    pub fn apply(&mut self, entry: &InternalRaftRequest) -> Result<Answer, Refusal> {
        self.forbidden(entry)?;
        if let Some(request) = &entry.alarm {
            let alarms = self.alarm(request);
            return Ok(Answer::Alarm(AlarmResponse { header: header(self.revision), alarms }));
        }
        if let Some(request) = &entry.lease_checkpoint {
            for checkpoint in &request.checkpoints {
                if self.leases.contains_key(&checkpoint.id) {
                    self.remaining.insert(checkpoint.id, (checkpoint.remaining_ttl, self.index));
                }
            }
            let response = LeaseCheckpointResponse { header: header(self.revision) };
            return Ok(Answer::LeaseCheckpoint(response));
        }
        if let Some(put) = &entry.put {
            self.check_put(put)?;
            let mut write = Write::begin(self);
            let put = write.put(put);
            return Ok(Answer::Put(put));
        }
        if let Some(delete) = &entry.delete_range {
            return Ok(Answer::DeleteRange(Write::begin(self).delete_range(delete)));
        }
        if let Some(txn) = &entry.txn {
            let mut path = Vec::new();
            self.take_path(txn, &mut path);
            self.check_txn(txn, &mut path.iter())?;
            let live = self.pairs(&[0], &[0], self.revision);
            let mut keys = live.iter().map(|kv| kv.key.clone()).collect();
            check_kept(txn, &mut path.iter(), &mut keys)?;
            let mut write = Write::begin(self);
            let mut response = write.txn(txn, &mut path.iter());
            response.header = header(write.revision());
            return Ok(Answer::Txn(response));
        }
        if let Some(compaction) = &entry.compaction {
            if compaction.revision <= self.compacted {
                return Err(COMPACTED);
            }
            if compaction.revision > self.revision {
                return Err(FUTURE);
            }
            self.compacted = compaction.revision;
            self.compactions.insert(compaction.revision);
            return Ok(Answer::Compaction(CompactionResponse { header: header(self.revision) }));
        }
        if let Some(grant) = &entry.lease_grant {
            if grant.id == 0 {
                return Err(LEASE_NOT_FOUND);
            }
            if grant.ttl > 9_000_000_000 {
                return Err(TTL_TOO_LARGE);
            }
            if self.leases.contains_key(&grant.id) {
                return Err(LEASE_EXISTS);
            }
            let ttl = grant.ttl.max(MIN_TTL_SECONDS);
            self.leases.insert(grant.id, ttl);
            self.remaining.remove(&grant.id);
            let error = String::new();
            let response = LeaseGrantResponse { header: header(self.revision), id: grant.id, ttl, error };
            return Ok(Answer::LeaseGrant(response));
        }
        if let Some(revoke) = &entry.lease_revoke {
            if self.leases.remove(&revoke.id).is_none() {
                return Err(LEASE_NOT_FOUND);
            }
            self.remaining.remove(&revoke.id);
            let attached = self.attached(revoke.id);
            let mut write = Write::begin(self);
            attached.into_iter().for_each(|key| write.change(key, None));
            return Ok(Answer::LeaseRevoke(LeaseRevokeResponse { header: header(write.revision()) }));
        }
        Ok(Answer::Nothing)
    }

    /// The keys that hang on a lease, in order.
    pub fn attached(&self, lease: i64) -> Vec<Bytes> {
        let live = |key: &&Bytes| self.get(key, self.revision).is_some_and(|kv| kv.lease == lease);
        self.keys.keys().filter(live).cloned().collect()
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Refusal> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(LEASE_NOT_FOUND);
        }
        if (put.ignore_value || put.ignore_lease) && self.get(&put.key, self.revision).is_none() {
            return Err(KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn take_path(&self, txn: &TxnRequest, path: &mut Vec<bool>) {
        let success = txn.compare.iter().all(|compare| self.holds(compare, self.revision));
        path.push(success);
        for op in if success { &txn.success } else { &txn.failure } {
            if let Some(Op::RequestTxn(nested)) = &op.request {
                self.take_path(nested, path);
            }
        }
    }

    fn check_txn(&self, txn: &TxnRequest, path: &mut Iter<'_, bool>) -> Result<(), Refusal> {
        let success = *path.next().expect("one branch for every transaction on the path");
        for op in if success { &txn.success } else { &txn.failure } {
            match op.request.as_ref().expect("an operation") {
                Op::RequestRange(range) => check_range(range, self.revision, self.compacted)?,
                Op::RequestPut(put) => self.check_put(put)?,
                Op::RequestTxn(nested) => self.check_txn(nested, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare, revision: i64) -> bool {
        let pairs = self.pairs(&compare.key, &compare.range_end, revision);
        if pairs.is_empty() {
            let missing = KeyValue::default();
            return compare.target() != CompareTarget::Value && holds_for(compare, &missing);
        }
        pairs.into_iter().all(|kv| holds_for(compare, kv))
    }
}

/// Whether a Range in a transaction can be answered. Unlike one of its own, it is taken at its word when negative.
fn check_range(range: &RangeRequest, current: i64, compacted: i64) -> Result<(), Refusal> {
    match range.revision {
        future if future > current => Err(FUTURE),
        old if old != 0 && old < compacted => Err(COMPACTED),
        _ => Ok(()),
    }
}

/// Whether a request may make the store larger, as etcd reckons it against the quota.
pub fn grows(entry: &InternalRaftRequest) -> bool {
    entry.put.is_some() || entry.lease_grant.is_some() || entry.txn.as_ref().is_some_and(puts)
}

fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}

/// Plays the writes on the live keys alone: a put that keeps value or lease needs its key at that moment.
fn check_kept(
    txn: &TxnRequest,
    path: &mut Iter<'_, bool>,
    keys: &mut BTreeSet<Bytes>,
) -> Result<(), Refusal> {
    let success = *path.next().expect("one branch for every transaction on the path");
    for op in if success { &txn.success } else { &txn.failure } {
        match op.request.as_ref().expect("an operation") {
            Op::RequestPut(put) if (put.ignore_value || put.ignore_lease) && !keys.contains(&put.key) => {
                return Err(KEY_NOT_FOUND);
            }
            Op::RequestPut(put) => {
                keys.insert(put.key.clone());
            }
            Op::RequestDeleteRange(delete) => {
                keys.retain(|key| !within(key, &delete.key, &delete.range_end));
            }
            Op::RequestTxn(nested) => check_kept(nested, path, keys)?,
            Op::RequestRange(_) => {}
        }
    }
    Ok(())
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let number = |value: i64, target: Option<i64>| value.cmp(&target.unwrap_or(0));
    let union = compare.target_union.as_ref();
    let order = match compare.target() {
        CompareTarget::Version => number(
            kv.version,
            union.and_then(|u| if let TargetUnion::Version(v) = u { Some(*v) } else { None }),
        ),
        CompareTarget::Create => number(
            kv.create_revision,
            union.and_then(|u| if let TargetUnion::CreateRevision(v) = u { Some(*v) } else { None }),
        ),
        CompareTarget::Mod => number(
            kv.mod_revision,
            union.and_then(|u| if let TargetUnion::ModRevision(v) = u { Some(*v) } else { None }),
        ),
        CompareTarget::Lease => {
            number(kv.lease, union.and_then(|u| if let TargetUnion::Lease(v) = u { Some(*v) } else { None }))
        }
        CompareTarget::Value => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.as_ref().cmp(&[]),
        },
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

/// A write transaction: its changes share a main revision, which exists once there is one.
struct Write<'m> {
    model: &'m mut Model,
    changed: i64,
}

impl<'m> Write<'m> {
    fn begin(model: &'m mut Model) -> Self {
        Self { model, changed: 0 }
    }

    /// The store's revision as this transaction sees it.
    fn revision(&self) -> i64 {
        self.model.revision
    }

    fn change(&mut self, key: Bytes, kv: Option<KeyValue>) {
        if self.changed == 0 {
            self.model.revision += 1;
        }
        let at = self.model.changes.len();
        self.model.keys.entry(key.clone()).or_default().push(at);
        self.model.changes.push(Change { revision: self.model.revision, sub: self.changed, key, kv });
        self.changed += 1;
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let old = self.model.get(&put.key, self.model.revision).cloned();
        let revision = self.model.revision + i64::from(self.changed == 0);
        let before = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if old.is_some() { before.create_revision } else { revision },
            mod_revision: revision,
            version: before.version + 1,
            value: if put.ignore_value { before.value } else { put.value.clone() },
            lease: if put.ignore_lease { before.lease } else { put.lease },
        };
        self.change(put.key.clone(), Some(kv));
        PutResponse { header: header(revision), prev_kv: old.filter(|_| put.prev_kv) }
    }

    fn delete_range(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let pairs = self.model.pairs(&delete.key, &delete.range_end, self.model.revision);
        let pairs: Vec<KeyValue> = pairs.into_iter().cloned().collect();
        for kv in &pairs {
            self.change(kv.key.clone(), None);
        }
        DeleteRangeResponse {
            header: header(self.model.revision),
            deleted: pairs.len() as i64,
            prev_kvs: if delete.prev_kv { pairs } else { vec![] },
        }
    }

    fn txn(&mut self, txn: &TxnRequest, path: &mut Iter<'_, bool>) -> TxnResponse {
        let succeeded = *path.next().expect("one branch for every transaction on the path");
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            let response = match op.request.as_ref().expect("an operation") {
                Op::RequestRange(range) => {
                    let (current, compacted) = (self.model.revision, self.model.compacted);
                    let range = self.model.range(range, current, compacted).expect("checked before");
                    OpResponse::ResponseRange(range)
                }
                Op::RequestPut(put) => OpResponse::ResponsePut(self.put(put)),
                Op::RequestDeleteRange(delete) => OpResponse::ResponseDeleteRange(self.delete_range(delete)),
                Op::RequestTxn(nested) => OpResponse::ResponseTxn(self.txn(nested, path)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: header(0), succeeded, responses }
    }
}
