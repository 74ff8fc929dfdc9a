//! Costs of requests: what etcd reckons that they add to the store, against the quota.
#![forbid(unsafe_code)]

use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use crate::request::Request;

/// Bytes that a put is charged beside key and value.
const PUT_OVERHEAD: u64 = 256;
/// Bytes that a lease is charged.
pub const LEASE_COST: u64 = 64;

/// What a request may add to the store, as etcd reckons it against its quota.
pub fn cost(request: &Request) -> u64 {
    match request {
        Request::Put(put) => put_cost(put),
        Request::Txn(request) => txn_cost(request),
        Request::LeaseGrant(_) => LEASE_COST,
        _ => 0,
    }
}

/// The cost of a put.
pub fn put_cost(put: &PutRequest) -> u64 {
    put_cost_of(put.key.len() + put.value.len())
}

/// The cost of a put whose key and value have so many bytes together.
pub fn put_cost_of(bytes: usize) -> u64 {
    PUT_OVERHEAD + bytes as u64
}

/// The cost of a transaction: that of its costlier branch.
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let sum = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Op::RequestPut(put)) => put_cost(put),
                Some(Op::RequestTxn(nested)) => txn_cost(nested),
                _ => 0,
            })
            .sum()
    };
    sum(&request.success).max(sum(&request.failure))
}
