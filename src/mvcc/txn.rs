//! Transactions: what can be said of one by itself, what its operations must not ask for, and what it comes to.
//! [`txn_write`](super::txn_write) executes those that write, [`txn_read`](super::txn_read) answers the others.
#![forbid(unsafe_code)]

use super::condition::FIND_COST;
use super::event::EventBatch;
use super::txn_write::TxnWrite;
use super::view::View;
use super::write::{CHANGE_COST, Growth};
use crate::btree::{Read, WriteTxn};
use crate::error::Error;
use crate::limits::EVENTS_PUBLISHED_MAX;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::response::Response;

/// True if no operation of either branch can write: such a transaction is answered like a Range. etcd API
/// guarantee: a nested transaction counts as a write, whatever is in it.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Op::RequestRange(_))))
}

/// True if some operation names the revision that it reads.
pub fn names_revision(request: &TxnRequest) -> bool {
    ops(request).any(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.revision > 0))
}

/// True if every operation is a serializable Range, so that local state will do.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

/// Keys that the transaction itself puts, in either branch.
pub fn put_keys(request: &TxnRequest) -> impl Iterator<Item = &[u8]> {
    ops(request).filter_map(|op| match &op.request {
        Some(Op::RequestPut(put)) => Some(&put.key[..]),
        _ => None,
    })
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Operations that were executed, as etcd counts them: each as one, whatever it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// Ranges, with those that a put or a deletion needed.
    pub ranges: u32,
    /// Puts.
    pub puts: u32,
    /// Deletions of a key or a range.
    pub deletes: u32,
    /// What they added to the store.
    pub growth: Growth,
}

impl Ops {
    /// Adds a put.
    pub fn put(&mut self, put: &PutRequest) {
        self.puts += 1;
        self.ranges += u32::from(put.prev_kv || put.ignore_value || put.ignore_lease);
    }

    /// Adds a deletion.
    pub fn delete(&mut self, delete: &DeleteRangeRequest) {
        self.deletes += 1;
        self.ranges += u32::from(delete.prev_kv);
    }

    /// All of them.
    pub fn sum(&self) -> u32 {
        self.ranges + self.puts + self.deletes
    }
}

/// What a transaction came to.
pub struct Outcome {
    /// Its answer. An error here is of a Range in it, whose answer could not be read; the writes are done all the same.
    pub response: Result<Response, Error>,
    /// What was executed.
    pub ops: Ops,
}

/// Applies a transaction whole. `reply_wanted` is false where no client waits: Ranges are skipped then.
///
/// # Errors
/// As [`TxnWrite::step`].
pub fn apply(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    lease_exists: &dyn Fn(i64) -> bool,
    reply_wanted: bool,
) -> Result<(Outcome, Option<EventBatch>), Error> {
    let mut write = TxnWrite::new(reply_wanted, EVENTS_PUBLISHED_MAX);
    loop {
        if let Some(result) = write.step(txn, request, lease_exists, &mut { usize::MAX }) {
            return result;
        }
    }
}

/// Values from the store that a transaction may copy and count as a short one all the same: what it copies is charged
/// when it is known.
const VALUES_COPIED_MAX: usize = 4;

/// Whether executing a transaction surely takes hardly more than `budget` index entries, whatever the store holds.
pub fn is_within(request: &TxnRequest, budget: usize) -> bool {
    Estimate { left: budget, values: VALUES_COPIED_MAX }.take(request).is_some()
}

/// What is left behind a part of a transaction.
struct Estimate {
    /// Index entries.
    left: usize,
    /// Values from the store that may still be copied.
    values: usize,
}

impl Estimate {
    /// Takes what a transaction may cost; none if that may be more than is left.
    fn take(&mut self, request: &TxnRequest) -> Option<()> {
        for compare in &request.compare {
            self.left = self.left.checked_sub(FIND_COST)?;
            compare.range_end.is_empty().then_some(())?;
        }
        for op in ops(request) {
            let (cost, copies, end): (_, _, &[u8]) = match &op.request {
                Some(Op::RequestTxn(nested)) => {
                    self.take(nested)?;
                    continue;
                }
                Some(Op::RequestRange(range)) => (CHANGE_COST, true, &range.range_end),
                Some(Op::RequestDeleteRange(delete)) => (CHANGE_COST, delete.prev_kv, &delete.range_end),
                Some(Op::RequestPut(put)) => (CHANGE_COST + FIND_COST, put.prev_kv || put.ignore_value, &[]),
                None => (1, false, &[]),
            };
            self.left = self.left.checked_sub(cost)?;
            self.values = self.values.checked_sub(usize::from(copies))?;
            end.is_empty().then_some(())?;
        }
        Some(())
    }
}

pub(super) fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Unlike a plain Range, etcd compares a negative revision with the compaction too.
pub(super) fn check_range(revision: i64, compact_revision: i64, range: &RangeRequest) -> Result<(), Error> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > revision {
        Err(Error::FutureRevision)
    } else if range.revision < compact_revision {
        Err(Error::Compacted)
    } else {
        Ok(())
    }
}

/// Whether a put can succeed on this state.
pub fn check_put<R: Read>(
    view: &View<'_, R>,
    put: &PutRequest,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<(), Error> {
    if put.lease != 0 && !lease_exists(put.lease) {
        return Err(Error::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && view.find(&put.key, view.revision())?.is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}
