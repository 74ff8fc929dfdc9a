//! The compactor of apiservers: remembers the revision, and a round later compacts what is older.
//!
//! Each round writes `compact_rev_key` if its version is as known; whoever wins the round compacts to the revision of
//! the round before.
#![forbid(unsafe_code)]

use bytes::Bytes;
use kevel::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::response_op::Response;
use kevel::proto::etcdserverpb::{
    CompactionRequest, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;
use prost::Message;

use super::{COMPACT, CONFLICT};
use crate::calls::framed;
use crate::loader::{Done, Request, Source, Then};

const KEY: &[u8] = b"compact_rev_key";

/// One apiserver's compactor.
#[derive(Default)]
pub struct Compactor {
    /// The key's version, as known.
    version: i64,
    /// The revision of the last round.
    revision: i64,
    answer: Option<TxnResponse>,
    /// What is in flight is a compaction.
    compacts: bool,
}

impl Source for Compactor {
    fn next(&mut self, _client: usize, _intended: Instant) -> Option<Request> {
        let key = Bytes::from_static(KEY);
        let op = |op| vec![RequestOp { request: Some(op) }];
        let value = self.revision.to_string().into();
        let message = framed(&TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Version as i32,
                key: key.clone(),
                target_union: Some(TargetUnion::Version(self.version)),
                ..Default::default()
            }],
            success: op(Op::RequestPut(PutRequest { key: key.clone(), value, ..Default::default() })),
            failure: op(Op::RequestRange(RangeRequest { key, ..Default::default() })),
        });
        Some(Request { method: Method::Txn, message })
    }

    fn on_message(&mut self, _client: usize, message: &Bytes) {
        self.answer = if self.compacts { None } else { TxnResponse::decode(message.clone()).ok() };
    }

    fn on_success(&mut self, _client: usize) -> Then {
        self.compacts = false;
        let Some(answer) = self.answer.take() else { return Then::Done(Done { class: COMPACT, keys: 0 }) };
        let before = std::mem::replace(&mut self.revision, answer.header.unwrap_or_default().revision);
        if !answer.succeeded {
            self.version = match answer.responses.into_iter().next().and_then(|op| op.response) {
                Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.version),
                _ => 0,
            };
            return Then::Done(Done { class: CONFLICT, keys: 0 });
        }
        self.version += 1;
        if before == 0 {
            return Then::Done(Done { class: COMPACT, keys: 0 });
        }
        let message = framed(&CompactionRequest { revision: before, physical: false });
        self.compacts = true;
        Then::Request(Request { method: Method::Compact, message })
    }

    fn on_failure(&mut self, _client: usize) {
        self.compacts = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kevel::proto::etcdserverpb::{CompactionResponse, ResponseHeader};
    use kevel::server::grpc::frame::HEAD_BYTES;

    fn written(revision: i64) -> Bytes {
        let header = Some(ResponseHeader { revision, ..Default::default() });
        TxnResponse { header, succeeded: true, ..Default::default() }.encode_to_vec().into()
    }

    #[test]
    fn a_round_compacts_to_the_round_before() {
        let mut compactor = Compactor::default();
        compactor.on_message(0, &written(5));
        assert!(matches!(compactor.on_success(0), Then::Done(_)), "nothing is remembered yet");
        compactor.on_message(0, &written(9));
        let Then::Request(request) = compactor.on_success(0) else { panic!("a compaction") };
        let compaction =
            CompactionRequest::decode(request.message.slice(HEAD_BYTES..)).expect("a compaction");
        assert_eq!((compaction.revision, compactor.version), (5, 2));
        let header = Some(ResponseHeader { revision: 9, ..Default::default() });
        compactor.on_message(0, &CompactionResponse { header }.encode_to_vec().into());
        assert!(matches!(compactor.on_success(0), Then::Done(Done { class: COMPACT, .. })));
        assert_eq!(compactor.revision, 9, "the compaction's answer is none of a transaction");
    }
}
