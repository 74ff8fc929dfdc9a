//! How long the answer to a write will be, as the published state has it: what earlier pairs and ranges come to that
//! the write answers. Room for it is kept before the write is proposed.
//!
//! Writes before this one may still change it, so it is no promise. It costs a look at the index for each key that is
//! answered; a write that answers none costs nothing.
#![forbid(unsafe_code)]

use crate::btree::Read;
use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::mvcc::View;
use crate::mvcc::range::{Plan, Progress};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use crate::response::Header;

/// Index entries that are looked at, a single key counting as some; who answers more is taken to answer as much as can
/// be answered.
const BUDGET: usize = 1024;
/// What a single key costs of it.
const FIND_COST: usize = 4;
/// What an operation of a transaction takes besides its pairs.
const OP_BYTES: usize = 32;

/// Of a Put.
pub fn of_put<R: Read>(view: &View<'_, R>, request: &PutRequest) -> usize {
    if request.prev_kv { pair(view, &request.key, view.revision()) } else { 0 }
}

/// Of a DeleteRange.
pub fn of_delete<R: Read>(view: &View<'_, R>, request: &DeleteRangeRequest) -> usize {
    let mut budget = BUDGET;
    let bytes = deleted(view, request, &mut budget);
    if budget == 0 { ANSWER_ASSEMBLED_BYTES_MAX } else { bytes.min(ANSWER_ASSEMBLED_BYTES_MAX) }
}

/// Of a Txn that writes: what both branches come to.
pub fn of_txn<R: Read>(view: &View<'_, R>, request: &TxnRequest) -> usize {
    let (mut bytes, mut budget) = (0, BUDGET);
    let (mut nested, mut txn) = (Vec::new(), Some(request));
    while let Some(request) = txn {
        for op in request.success.iter().chain(&request.failure) {
            bytes += OP_BYTES;
            bytes += match &op.request {
                Some(Op::RequestRange(range)) => pairs(view, range, &mut budget),
                Some(Op::RequestPut(put)) => {
                    budget = budget.saturating_sub(if put.prev_kv { FIND_COST } else { 0 });
                    of_put(view, put)
                }
                Some(Op::RequestDeleteRange(delete)) => deleted(view, delete, &mut budget),
                Some(Op::RequestTxn(inner)) => {
                    nested.push(inner);
                    0
                }
                None => 0,
            };
            if budget == 0 || bytes > ANSWER_ASSEMBLED_BYTES_MAX {
                return ANSWER_ASSEMBLED_BYTES_MAX;
            }
        }
        txn = nested.pop();
    }
    bytes
}

fn deleted<R: Read>(view: &View<'_, R>, request: &DeleteRangeRequest, budget: &mut usize) -> usize {
    if !request.prev_kv {
        return 0;
    }
    let (key, range_end) = (request.key.clone(), request.range_end.clone());
    pairs(view, &RangeRequest { key, range_end, ..RangeRequest::default() }, budget)
}

/// Of a Range. One that cannot be read is an error, which is short.
fn pairs<R: Read>(view: &View<'_, R>, request: &RangeRequest, budget: &mut usize) -> usize {
    if request.range_end.is_empty() {
        *budget = budget.saturating_sub(FIND_COST);
        let is_whole = !(request.count_only || request.keys_only);
        let at = view.resolve(request.revision).unwrap_or_default();
        return if is_whole { pair(view, &request.key, at) } else { request.key.len() };
    }
    let planned = Plan::new(view, request).and_then(|plan| plan.step(view, *budget));
    match planned {
        Ok(Progress::Done(emission)) => {
            *budget = budget.saturating_sub(FIND_COST + emission.count() as usize);
            emission.encoded_len(&Header::default())
        }
        Ok(Progress::Pending(_)) => {
            *budget = 0;
            0
        }
        Err(_) => 0,
    }
}

/// Bytes of the pair that a key has at a revision.
fn pair<R: Read>(view: &View<'_, R>, key: &[u8], at: i64) -> usize {
    view.find(key, at).map_or(0, |found| found.entry.kv_len)
}
