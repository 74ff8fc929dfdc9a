//! What can be said about a request before it is proposed: etcd's checks, in its order, with its errors.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::range::is_default_ordering;
use crate::error::Error;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    AlarmRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Checks a Range.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a RangeStream.
pub fn range_stream(request: &RangeRequest) -> Result<(), Error> {
    range(request)?;
    if !is_default_ordering(request) {
        return Err(Error::RangeStreamSort);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(Error::RangeStreamFilter);
    }
    Ok(())
}

/// Checks a Put.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a DeleteRange.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks an Alarm.
pub fn alarm(request: &AlarmRequest) -> Result<(), Error> {
    AlarmAction::try_from(request.action).map_or(Err(Error::UnknownAlarmAction), |_| Ok(()))
}

/// Checks a Txn against the limit on operations.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    txn_fields(request, max_ops)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

fn txn_fields(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Op::RequestRange(request)) => range(request)?,
            Some(Op::RequestPut(request)) => put(request)?,
            Some(Op::RequestDeleteRange(request)) => delete_range(request)?,
            // A nested transaction gets what its parent has left.
            Some(Op::RequestTxn(request)) => txn_fields(request, max_ops - ops)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations writes.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Vec<u8>>,
    deletes: Deletes,
}

/// Looks for a key that is put twice, or put and deleted, by operations that would all run.
///
/// The order matters, and with it what etcd does not see: this level's deletes, then the nested transactions one
/// after the other (a delete in a later one is not held against a put in an earlier), then this level's puts.
fn writes(ops: &[RequestOp]) -> Result<Writes, Error> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Op::RequestDeleteRange(request)) = &op.request {
            all.deletes.insert(request);
        }
    }
    for op in ops {
        let Some(Op::RequestTxn(request)) = &op.request else { continue };
        let success = writes(&request.success)?;
        let failure = writes(&request.failure)?;
        for key in &success.puts {
            if all.puts.contains(key) || all.deletes.contain(key) {
                return Err(Error::DuplicateKey);
            }
        }
        for key in &failure.puts {
            // Only one branch runs, so both may put the same key. A key of an earlier transaction that both put
            // has been refused above.
            if all.puts.contains(key) || all.deletes.contain(key) {
                return Err(Error::DuplicateKey);
            }
        }
        all.puts.extend(success.puts);
        all.puts.extend(failure.puts);
        all.deletes.union(success.deletes);
        all.deletes.union(failure.deletes);
    }
    for op in ops {
        let Some(Op::RequestPut(request)) = &op.request else { continue };
        if all.deletes.contain(&request.key) || !all.puts.insert(request.key.to_vec()) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

/// Deleted keys as disjoint intervals, start to end.
///
/// An end of one zero byte, which elsewhere means no end at all, is compared as it stands here, as etcd does: such
/// an interval is empty, and hides nothing and forbids nothing.
#[derive(Default)]
struct Deletes {
    intervals: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Deletes {
    fn insert(&mut self, request: &DeleteRangeRequest) {
        let start = request.key.to_vec();
        let end = if request.range_end.is_empty() {
            [&request.key[..], &[0]].concat()
        } else {
            request.range_end.to_vec()
        };
        self.insert_interval(start, end);
    }

    fn insert_interval(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        if start >= end {
            return;
        }
        // Swallow every interval that this one touches.
        while let Some((left, right)) = self.intervals.range::<Vec<u8>, _>(..=&end).next_back() {
            if *right < start {
                break;
            }
            let left = left.clone();
            let right = self.intervals.remove(&left).expect("it was just found");
            start = start.min(left);
            end = end.max(right);
        }
        self.intervals.insert(start, end);
    }

    fn union(&mut self, other: Deletes) {
        for (start, end) in other.intervals {
            self.insert_interval(start, end);
        }
    }

    fn contain(&self, key: &[u8]) -> bool {
        let before = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        self.intervals.range::<[u8], _>(before).next_back().is_some_and(|(_, end)| key < &end[..])
    }
}
