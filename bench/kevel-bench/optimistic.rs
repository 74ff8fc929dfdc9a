//! The transactions of Kubernetes: write if the key's mod revision is still the known one, read it otherwise.
#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};
use kevel::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;

use crate::calls::framed;
use crate::fields::{Fields, header_revision};
use crate::loader::Request;
use crate::template::{Nonce, random_value};

/// Fields of a TxnResponse, a ResponseOp, a RangeResponse and a KeyValue.
const SUCCEEDED: u64 = 2;
const RESPONSES: u64 = 3;
const RESPONSE_RANGE: u64 = 1;
const KVS: u64 = 2;
const MOD_REVISION: u64 = 3;

/// Values of one size, each stamped.
pub struct Values {
    value: Vec<u8>,
    nonce: Nonce,
}

impl Values {
    /// Random values of `size` bytes.
    pub fn new(size: usize, seed: u64, nonce: Nonce) -> Self {
        Self { value: random_value(size, seed), nonce }
    }

    /// A value stamped with `at`.
    pub fn make(&self, at: Instant) -> Bytes {
        let mut value = BytesMut::from(&self.value[..]);
        self.nonce.stamp(at, &mut value);
        value.freeze()
    }
}

/// What a transaction answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It wrote, at this revision.
    Written(i64),
    /// Somebody else had written: the key's mod revision, zero when it is not there.
    Conflict(i64),
}

impl Answer {
    /// Reads an encoded TxnResponse.
    pub fn read(message: &[u8]) -> Self {
        if Fields(message).number(SUCCEEDED) == 1 {
            return Answer::Written(header_revision(message));
        }
        let range = Fields(Fields(message).bytes(RESPONSES)).bytes(RESPONSE_RANGE);
        Answer::Conflict(Fields(Fields(range).bytes(KVS)).number(MOD_REVISION) as i64)
    }

    /// The key's mod revision after it, unless the transaction deleted it.
    pub fn revision(self) -> i64 {
        match self {
            Answer::Written(revision) | Answer::Conflict(revision) => revision,
        }
    }
}

/// Puts `key` if its mod revision is `known`; zero creates it.
pub fn put(key: Bytes, value: Bytes, lease: i64, known: i64) -> Request {
    txn(key.clone(), known, Op::RequestPut(PutRequest { key, value, lease, ..Default::default() }))
}

/// Deletes `key` if its mod revision is `known`.
pub fn delete(key: Bytes, known: i64) -> Request {
    txn(key.clone(), known, Op::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() }))
}

fn txn(key: Bytes, known: i64, success: Op) -> Request {
    let op = |op| RequestOp { request: Some(op) };
    let message = framed(&TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(known)),
            ..Default::default()
        }],
        success: vec![op(success)],
        failure: vec![op(Op::RequestRange(RangeRequest { key, ..Default::default() }))],
    });
    Request { method: Method::Txn, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kevel::proto::etcdserverpb::response_op::Response;
    use kevel::proto::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnResponse};
    use kevel::proto::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn answers_tell_the_revision_to_go_on_with() {
        let header = Some(ResponseHeader { revision: 9, ..Default::default() });
        let written = TxnResponse { header, succeeded: true, responses: vec![] };
        assert_eq!(Answer::read(&written.encode_to_vec()), Answer::Written(9));
        let conflict = |kvs| TxnResponse {
            header,
            succeeded: false,
            responses: vec![ResponseOp {
                response: Some(Response::ResponseRange(RangeResponse { kvs, ..Default::default() })),
            }],
        };
        let kv = KeyValue {
            key: "a".into(),
            create_revision: 2,
            mod_revision: 7,
            version: 3,
            ..Default::default()
        };
        assert_eq!(Answer::read(&conflict(vec![kv]).encode_to_vec()), Answer::Conflict(7));
        assert_eq!(Answer::read(&conflict(vec![]).encode_to_vec()), Answer::Conflict(0));
    }
}
