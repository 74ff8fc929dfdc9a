//! Transactions within transactions, deeper than prost reads.
//!
//! prost reads a hundred messages within one another, which are fifty transactions; etcd takes as many as its bound of
//! operations allows. So what prost refuses is read here: transactions and operations by hand, and whatever stands
//! in an operation that is no transaction by prost.
//!
//! ```text
//!   TxnRequest { compare = 1, success = 2, failure = 3 }
//!                             RequestOp { range = 1, put = 2, delete = 3, txn = 4 }
//!                                                                         TxnRequest ...
//! ```
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

/// Transactions within one another that are read. Each takes some stack here, when it is checked, and when it is
/// applied.
const DEPTH_MAX: usize = 256;

/// Why bytes are no transaction that can be read.
#[derive(Debug, PartialEq)]
pub enum Unreadable {
    /// They are no message.
    Malformed(DecodeError),
    /// More transactions stand within one another than [`DEPTH_MAX`].
    TooDeep,
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A transaction, whose keys and values stay in `message`. Fields of another type than expected are left out, as Go
/// leaves them out.
///
/// # Errors
/// When the bytes are no transaction, or one that is too deep.
pub fn decode(message: Bytes) -> Result<TxnRequest, Unreadable> {
    match TxnRequest::decode(message.clone()) {
        Ok(request) => Ok(request),
        Err(_) => txn(message, DEPTH_MAX),
    }
}

fn txn(mut bytes: Bytes, depth_left: usize) -> Result<TxnRequest, Unreadable> {
    let depth_left = depth_left.checked_sub(1).ok_or(Unreadable::TooDeep)?;
    let mut request = TxnRequest::default();
    while let Some((number, field, whole)) = next(&mut bytes)? {
        match number {
            1 => request.compare.push(Compare::decode(field)?),
            2 => request.success.push(operation(field, depth_left)?),
            3 => request.failure.push(operation(field, depth_left)?),
            _ => drop(whole),
        }
    }
    Ok(request)
}

fn operation(mut bytes: Bytes, depth_left: usize) -> Result<RequestOp, Unreadable> {
    let mut operation = RequestOp::default();
    while let Some((number, field, whole)) = next(&mut bytes)? {
        match (number, &mut operation.request) {
            (4, Some(Request::RequestTxn(before))) => {
                // A message that comes twice is one that goes on.
                let TxnRequest { compare, success, failure } = txn(field, depth_left)?;
                before.compare.extend(compare);
                before.success.extend(success);
                before.failure.extend(failure);
            }
            (4, other) => *other = Some(Request::RequestTxn(txn(field, depth_left)?)),
            _ => operation.merge(whole)?,
        }
    }
    Ok(operation)
}

/// The next field that has a length: its number, its bytes, and these with what stands before them. Others are skipped:
/// neither message has any.
fn next(bytes: &mut Bytes) -> Result<Option<(u32, Bytes, Bytes)>, DecodeError> {
    while bytes.has_remaining() {
        let before = bytes.clone();
        let (number, wire_type) = decode_key(bytes)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, bytes, DecodeContext::default())?;
            continue;
        }
        let mut counted = bytes.clone();
        let length = decode_varint(&mut counted)?;
        // What skipping takes is as long as it says.
        skip_field(wire_type, number, bytes, DecodeContext::default())?;
        let whole = before.slice(..before.len() - bytes.len());
        let field = counted.slice(..usize::try_from(length).unwrap_or(usize::MAX).min(counted.len()));
        return Ok(Some((number, field, whole)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::RangeRequest;

    fn range(key: &str) -> RequestOp {
        let range = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        RequestOp { request: Some(Request::RequestRange(range)) }
    }

    /// So many transactions within one another, each beside a range.
    fn nested(depth: usize) -> TxnRequest {
        let mut request = TxnRequest { success: vec![range("inmost")], ..TxnRequest::default() };
        for level in 1..depth {
            let within = RequestOp { request: Some(Request::RequestTxn(request)) };
            let compare = vec![Compare { key: "k".into(), ..Compare::default() }];
            let failure = vec![range(&level.to_string()), within];
            request = TxnRequest { compare, success: vec![range("s")], failure };
        }
        request
    }

    #[test]
    fn nested_transactions_are_read_however_deep_etcd_takes_them() {
        for depth in [1, 49, 60, 127, DEPTH_MAX] {
            let request = nested(depth);
            assert_eq!(decode(request.encode_to_vec().into()).as_ref(), Ok(&request), "{depth}");
            assert_eq!(txn(request.encode_to_vec().into(), DEPTH_MAX), Ok(request), "by hand");
        }
    }

    #[test]
    fn a_client_cannot_use_up_the_stack() {
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            let mut operation = Vec::new();
            prost::encoding::encode_key(4, WireType::LengthDelimited, &mut operation);
            prost::encoding::encode_varint(bytes.len() as u64, &mut operation);
            let length = operation.len() + bytes.len();
            let mut outer = Vec::new();
            prost::encoding::encode_key(2, WireType::LengthDelimited, &mut outer);
            prost::encoding::encode_varint(length as u64, &mut outer);
            // Built from the inside, so the bytes that come in front are collected in reverse.
            bytes.extend(operation.into_iter().rev().chain(outer.into_iter().rev()));
        }
        bytes.reverse();
        assert_eq!(decode(bytes.into()), Err(Unreadable::TooDeep));
    }

    #[test]
    fn what_is_broken_within_stays_broken() {
        let deep = nested(100).encode_to_vec();
        for length in [deep.len() - 1, deep.len() / 2, 3] {
            assert!(matches!(decode(deep[..length].to_vec().into()), Err(Unreadable::Malformed(_))));
        }
    }
}
