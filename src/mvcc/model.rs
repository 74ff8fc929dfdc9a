//! The same data model as plainly as it can be said: a list of all changes ever made, searched from one end to the
//! other. Slow, obvious, and sharing no code with what it judges.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its main revision.
    pub main: i64,
    /// Its sub revision.
    pub sub: i64,
    /// A deletion; `kv` has only the key then.
    pub delete: bool,
    /// What was stored.
    pub kv: KeyValue,
}

/// Everything that ever happened.
#[derive(Clone, Debug)]
pub struct Model {
    /// All changes, oldest first; compaction only hides them.
    pub changes: Vec<Change>,
    /// The store's revision.
    pub revision: i64,
    /// The compaction revision.
    pub compacted: i64,
    /// Leases that exist.
    pub leases: Vec<i64>,
}

/// An error by etcd's text.
pub type Refusal = &'static str;

const COMPACTED: Refusal = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: Refusal = "etcdserver: mvcc: required revision is a future revision";
const KEY_NOT_FOUND: Refusal = "etcdserver: key not found";
const LEASE_NOT_FOUND: Refusal = "etcdserver: requested lease not found";

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

impl Default for Model {
    fn default() -> Self {
        Self { changes: Vec::new(), revision: 1, compacted: -1, leases: Vec::new() }
    }
}

impl Model {
    /// The live pairs of an interval at a revision, in key order.
    pub fn live(&self, start: &[u8], end: &[u8], at: i64) -> Vec<&Change> {
        let mut newest: Vec<&Change> = Vec::new();
        for change in self.changes.iter().filter(|c| c.main <= at && within(&c.kv.key, start, end)) {
            newest.retain(|other| other.kv.key != change.kv.key);
            newest.push(change);
        }
        newest.retain(|change| !change.delete);
        newest.sort_by(|a, b| a.kv.key.cmp(&b.kv.key));
        newest
    }

    /// Answers a Range on a store whose newest revision, for this reader, is `current`.
    pub fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, Refusal> {
        let at = match request.revision {
            revision if revision > current => return Err(FUTURE),
            revision if revision <= 0 => current,
            revision if revision < self.compacted => return Err(COMPACTED),
            revision => revision,
        };
        let live = self.live(&request.key, &request.range_end, at);
        let mut response =
            RangeResponse { header: header(current), count: live.len() as i64, ..RangeResponse::default() };
        if request.count_only {
            return Ok(response);
        }
        let mut kvs: Vec<KeyValue> = live.iter().map(|change| change.kv.clone()).collect();
        let (order, target) = (request.sort_order(), request.sort_target());
        let default_order =
            order == SortOrder::None || (order == SortOrder::Ascend && target == SortTarget::Key);
        let filters = [
            request.max_mod_revision,
            request.min_mod_revision,
            request.max_create_revision,
            request.min_create_revision,
        ];
        if default_order && filters == [0; 4] && request.limit > 0 {
            kvs.truncate((request.limit as usize).saturating_add(1));
        }
        let [max_mod, min_mod, max_create, min_create] = filters;
        kvs.retain(|kv| max_mod == 0 || kv.mod_revision <= max_mod);
        kvs.retain(|kv| min_mod == 0 || kv.mod_revision >= min_mod);
        kvs.retain(|kv| max_create == 0 || kv.create_revision <= max_create);
        kvs.retain(|kv| min_create == 0 || kv.create_revision >= min_create);
        let compare = |a: &KeyValue, b: &KeyValue| match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match order {
            SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
            SortOrder::Ascend | SortOrder::None => kvs.sort_by(compare),
        }
        if request.limit > 0 && kvs.len() as i64 > request.limit {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.live(key, &[], i64::MAX).first().map(|change| change.kv.clone())
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Refusal> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(LEASE_NOT_FOUND);
        }
        if (request.ignore_value || request.ignore_lease) && self.get(&request.key).is_none() {
            return Err(KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn change(&mut self, sub: &mut i64, delete: bool, kv: KeyValue) {
        self.changes.push(Change { main: self.revision + 1, sub: *sub, delete, kv });
        *sub += 1;
    }

    fn do_put(&mut self, sub: &mut i64, request: &PutRequest) -> PutResponse {
        let old = self.get(&request.key);
        let main = self.revision + 1;
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(1, |kv| kv.version + 1),
            value: match &old {
                Some(kv) if request.ignore_value => kv.value.clone(),
                _ => request.value.clone(),
            },
            lease: match &old {
                Some(kv) if request.ignore_lease => kv.lease,
                _ => request.lease,
            },
        };
        self.change(sub, false, kv);
        PutResponse { header: header(main), prev_kv: old.filter(|_| request.prev_kv) }
    }

    fn do_delete(&mut self, sub: &mut i64, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let old: Vec<KeyValue> = self
            .live(&request.key, &request.range_end, i64::MAX)
            .into_iter()
            .map(|change| change.kv.clone())
            .collect();
        for kv in &old {
            self.change(sub, true, KeyValue { key: kv.key.clone(), ..KeyValue::default() });
        }
        DeleteRangeResponse {
            header: header(self.revision + i64::from(*sub > 0)),
            deleted: old.len() as i64,
            prev_kvs: if request.prev_kv { old } else { Vec::new() },
        }
    }

    fn end(&mut self, sub: i64) {
        self.revision += i64::from(sub > 0);
    }

    /// Applies a Put.
    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refusal> {
        self.check_put(request)?;
        let mut sub = 0;
        let response = self.do_put(&mut sub, request);
        self.end(sub);
        Ok(response)
    }

    /// Applies a DeleteRange.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut sub = 0;
        let response = self.do_delete(&mut sub, request);
        self.end(sub);
        response
    }

    /// Revokes a lease.
    pub fn revoke(&mut self, lease: i64) -> Result<(), Refusal> {
        let at = self.leases.iter().position(|&id| id == lease).ok_or(LEASE_NOT_FOUND)?;
        self.leases.remove(at);
        let attached: Vec<Vec<u8>> = self
            .live(&[0], &[0], i64::MAX)
            .into_iter()
            .filter(|change| change.kv.lease == lease)
            .map(|change| change.kv.key.to_vec())
            .collect();
        let mut sub = 0;
        for key in attached {
            self.do_delete(
                &mut sub,
                &DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() },
            );
        }
        self.end(sub);
        Ok(())
    }

    /// Applies, or just answers, a Txn.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let before = self.clone();
        before.check_txn(request)?;
        let live = before.live(&[0], &[0], i64::MAX);
        let mut keys: BTreeSet<Bytes> = live.iter().map(|change| change.kv.key.clone()).collect();
        before.check_kept(request, &mut keys)?;
        let mut sub = 0;
        let mut response = self.do_txn(&before, &mut sub, request);
        self.end(sub);
        response.header = header(self.revision);
        Ok(response)
    }

    fn check_txn(&self, request: &TxnRequest) -> Result<(), Refusal> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        for op in if succeeded { &request.success } else { &request.failure } {
            match op.request.as_ref().expect("validated") {
                Op::RequestRange(range) => match range.revision {
                    0 => {}
                    revision if revision > self.revision => return Err(FUTURE),
                    revision if revision < self.compacted => return Err(COMPACTED),
                    _ => {}
                },
                Op::RequestPut(put) => self.check_put(put)?,
                Op::RequestDeleteRange(_) => {}
                Op::RequestTxn(nested) => self.check_txn(nested)?,
            }
        }
        Ok(())
    }

    /// Plays the writes on the keys alone: a put that keeps value or lease needs its key at that moment.
    fn check_kept(&self, request: &TxnRequest, keys: &mut BTreeSet<Bytes>) -> Result<(), Refusal> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        for op in if succeeded { &request.success } else { &request.failure } {
            match op.request.as_ref().expect("validated") {
                Op::RequestPut(put) if (put.ignore_value || put.ignore_lease) && !keys.contains(&put.key) => {
                    return Err(KEY_NOT_FOUND);
                }
                Op::RequestPut(put) => {
                    keys.insert(put.key.clone());
                }
                Op::RequestDeleteRange(delete) => {
                    keys.retain(|key| !within(key, &delete.key, &delete.range_end))
                }
                Op::RequestTxn(nested) => self.check_kept(nested, keys)?,
                Op::RequestRange(_) => {}
            }
        }
        Ok(())
    }

    fn do_txn(&mut self, before: &Model, sub: &mut i64, request: &TxnRequest) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| before.holds(compare));
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().expect("validated") {
                Op::RequestRange(range) => {
                    let current = self.revision + i64::from(*sub > 0);
                    OpResponse::ResponseRange(self.range(range, current).expect("checked"))
                }
                Op::RequestPut(put) => OpResponse::ResponsePut(self.do_put(sub, put)),
                Op::RequestDeleteRange(delete) => {
                    OpResponse::ResponseDeleteRange(self.do_delete(sub, delete))
                }
                Op::RequestTxn(nested) => OpResponse::ResponseTxn(self.do_txn(before, sub, nested)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: header(0), succeeded, responses }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let live = self.live(&compare.key, &compare.range_end, i64::MAX);
        if live.is_empty() {
            let by_value = compare.target == CompareTarget::Value as i32;
            return !by_value && Self::relation_holds(compare, &KeyValue::default());
        }
        live.iter().all(|change| Self::relation_holds(compare, &change.kv))
    }

    fn relation_holds(compare: &Compare, kv: &KeyValue) -> bool {
        let (actual, operand) = match (CompareTarget::try_from(compare.target), &compare.target_union) {
            (Ok(CompareTarget::Value), Some(TargetUnion::Value(v))) => {
                return Self::verdict(compare, kv.value.cmp(v));
            }
            (Ok(CompareTarget::Value), _) => return Self::verdict(compare, kv.value[..].cmp(&[])),
            (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(n))) => (kv.create_revision, *n),
            (Ok(CompareTarget::Create), _) => (kv.create_revision, 0),
            (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(n))) => (kv.mod_revision, *n),
            (Ok(CompareTarget::Mod), _) => (kv.mod_revision, 0),
            (Ok(CompareTarget::Version), Some(TargetUnion::Version(n))) => (kv.version, *n),
            (Ok(CompareTarget::Version), _) => (kv.version, 0),
            (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(n))) => (kv.lease, *n),
            (Ok(CompareTarget::Lease), _) => (kv.lease, 0),
            (Err(_), _) => (0, 0),
        };
        Self::verdict(compare, actual.cmp(&operand))
    }

    fn verdict(compare: &Compare, ordering: std::cmp::Ordering) -> bool {
        match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => ordering.is_eq(),
            Ok(CompareResult::NotEqual) => ordering.is_ne(),
            Ok(CompareResult::Greater) => ordering.is_gt(),
            Ok(CompareResult::Less) => ordering.is_lt(),
            Err(_) => true,
        }
    }

    /// Compacts.
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(COMPACTED);
        }
        if revision > self.revision {
            return Err(FUTURE);
        }
        self.compacted = revision;
        Ok(())
    }

    /// What a store that is swept up to `swept` still holds: the newest change of each key not above it, unless
    /// that is an older deletion, and everything later.
    pub fn stored(&self, swept: i64) -> Vec<&Change> {
        self.changes
            .iter()
            .enumerate()
            .filter(|(at, change)| {
                let superseded =
                    self.changes[at + 1..].iter().any(|c| c.kv.key == change.kv.key && c.main <= swept);
                let old_deletion = change.delete && change.main < swept;
                change.main > swept || !(superseded && !Self::kept_deletion(change, swept) || old_deletion)
            })
            .map(|(_, change)| change)
            .collect()
    }

    /// A deletion at the compaction itself stays, even under a later put of the same revision.
    fn kept_deletion(change: &Change, swept: i64) -> bool {
        change.delete && change.main == swept
    }

    /// HashKV, from the list of rules.
    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64, i64), Refusal> {
        if revision > 0 && revision < self.compacted {
            return Err(COMPACTED);
        }
        if revision > self.revision {
            return Err(FUTURE);
        }
        let revision = if revision == 0 { self.revision } else { revision };
        // A key that the very write of this revision deletes before it puts it is not kept.
        let remade = |put: &Change| {
            let same_write = |c: &Change| c.main == revision && c.sub < put.sub && c.kv.key == put.kv.key;
            put.main == revision && self.changes.iter().any(|c| c.delete && same_write(c))
        };
        let live = self.live(&[0], &[0], revision);
        let any_kept = live.iter().any(|change| !remade(change));
        let keep: Vec<(i64, i64)> = live.iter().map(|change| (change.main, change.sub)).collect();
        let stored = self.stored(self.compacted.min(revision)).into_iter();
        let digested = stored.filter(|change| {
            let condemned =
                change.main <= self.compacted && any_kept && !keep.contains(&(change.main, change.sub));
            change.main <= revision && !condemned && !(change.delete && change.main == self.compacted)
        });
        Ok((Self::digest(digested), self.compacted, revision))
    }

    /// The hash that a compaction to `revision` takes after one to `previous`: all that changed in between, and what
    /// is older and lives.
    pub fn compaction_hash(&self, revision: i64, previous: i64) -> u32 {
        let live = self.live(&[0], &[0], revision);
        let lives = |change: &Change| live.iter().any(|l| (l.main, l.sub) == (change.main, change.sub));
        Self::digest(self.changes.iter().filter(|c| c.main <= revision && (c.main > previous || lives(c))))
    }

    fn digest<'a>(changes: impl Iterator<Item = &'a Change>) -> u32 {
        let mut digested = b"key".to_vec();
        for change in changes {
            digested.extend_from_slice(&change.main.to_be_bytes());
            digested.push(b'_');
            digested.extend_from_slice(&change.sub.to_be_bytes());
            if change.delete {
                digested.push(b't');
            }
            digested.extend_from_slice(&change.kv.encode_to_vec());
        }
        crc32c::crc32c(&digested)
    }
}
