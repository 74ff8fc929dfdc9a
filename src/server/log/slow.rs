//! Requests that took too long, in etcd's words: what was asked and by whom, how much, and for how long. Never a value.
//!
//! Two lines: `apply request took too long` for what the store does, from `--warning-apply-duration` on, and `request
//! stats` for all that a client waits for, from `--warning-unary-request-duration` on. Everything here is done after
//! a bound was passed, so a request, whose length is bounded, may be decoded once more. Of answers only that of a Range
//! of one key is.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;

use super::Line;
use super::content;
use crate::error::Error;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use crate::request::Kind;
use crate::response::Response;

/// From when on something is too long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--warning-apply-duration`.
    pub apply: Duration,
    /// `--warning-unary-request-duration`.
    pub request: Duration,
}

impl Limits {
    /// Whether there is anything to log.
    pub fn passed(&self, took: Duration) -> bool {
        took > self.apply || took > self.request
    }
}

/// A proposal of a client.
pub struct Asked<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its encoding.
    pub message: &'a Bytes,
    /// Who asked.
    pub peer: SocketAddr,
}

/// The answer of a Range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRead {
    /// Pairs in it.
    pub kvs: u64,
    /// Its count.
    pub count: i64,
    /// Its length.
    pub bytes: usize,
}

impl SlowRead {
    /// Of the encoded answer of a Range of one key.
    pub fn of_one(answer: &Bytes) -> Self {
        let response = RangeResponse::decode(answer.clone()).unwrap_or_default();
        Self { kvs: response.kvs.len() as u64, count: response.count, bytes: answer.len() }
    }
}

/// The answer of a transaction that only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnRead<'a> {
    /// All conditions held.
    pub succeeded: bool,
    /// Pairs that each Range has found.
    pub kvs: &'a [u64],
    /// Its length.
    pub bytes: usize,
}

/// The answer of a proposal. What is said of it must cost nothing: it may be long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Keys that a DeleteRange has deleted.
    deleted: i64,
    /// All conditions of a Txn held.
    succeeded: bool,
    /// Its length.
    bytes: usize,
}

impl Answered {
    /// Of a response that is `bytes` long.
    pub fn of(response: &Response, bytes: usize) -> Self {
        let answered = Self { bytes, ..Self::default() };
        match response {
            Response::DeleteRange { deleted, .. } => Self { deleted: *deleted, ..answered },
            // Field 2, which is not there if it is false.
            Response::Txn { body, .. } => Self { succeeded: body.first() == Some(&0x10), ..answered },
            Response::Overlong { len, .. } => Self { bytes: *len, ..answered },
            _ => answered,
        }
    }
}

/// What `request stats` says of sizes; -1 where nothing is counted.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    path: &'static str,
    requests: i64,
    request_bytes: i64,
    responses: i64,
    response_bytes: i64,
    content: String,
}

/// Logs a proposal that was answered late; `answer` is none if it was an error.
#[track_caller]
pub fn proposal(asked: &Asked<'_>, took: Duration, answer: Option<Answered>) {
    if let Some(stats) = stats_of(asked, answer) {
        request_stats(&stats, asked.peer, took);
    }
}

fn stats_of(asked: &Asked<'_>, answer: Option<Answered>) -> Option<Stats> {
    let message = asked.message;
    // A request that only our lenient reader could read has no content to show.
    let uncounted = |path| Stats {
        path,
        requests: -1,
        request_bytes: -1,
        responses: -1,
        response_bytes: -1,
        content: String::new(),
    };
    let stats = |path, requests, responses, content| Stats {
        path,
        requests,
        request_bytes: message.len() as i64,
        responses,
        response_bytes: answer.map_or(0, |answer| answer.bytes as i64),
        content,
    };
    Some(match asked.kind {
        Kind::Put => {
            let content = PutRequest::decode(message.clone()).map_or(String::new(), |put| content::put(&put));
            stats("/etcdserverpb.KV/Put", 1, 0, content)
        }
        Kind::DeleteRange => {
            let content = DeleteRangeRequest::decode(message.clone())
                .map_or(String::new(), |delete| content::delete(&delete));
            let deleted = answer.map_or(0, |answer| answer.deleted);
            stats("/etcdserverpb.KV/DeleteRange", 0, deleted, content)
        }
        Kind::Txn => {
            let request = TxnRequest::decode(message.clone()).unwrap_or_default();
            txn_stats(&request, answer.map(|answer| (answer.succeeded, answer.bytes)))
        }
        Kind::Compaction => uncounted("/etcdserverpb.KV/Compact"),
        Kind::LeaseGrant => uncounted("/etcdserverpb.Lease/LeaseGrant"),
        Kind::LeaseRevoke => uncounted("/etcdserverpb.Lease/LeaseRevoke"),
        Kind::Alarm => uncounted("/etcdserverpb.Maintenance/Alarm"),
        _ => return None,
    })
}

/// Of a transaction, and whether it succeeded with how long an answer: only the branch that was taken counts.
fn txn_stats(request: &TxnRequest, answer: Option<(bool, usize)>) -> Stats {
    let branch: &[RequestOp] = match answer {
        Some((true, _)) => &request.success,
        Some((false, _)) => &request.failure,
        None => &[],
    };
    Stats {
        path: "/etcdserverpb.KV/Txn",
        requests: branch.len() as i64,
        request_bytes: branch.iter().map(Message::encoded_len).sum::<usize>() as i64,
        responses: 0,
        response_bytes: answer.map_or(0, |(_, bytes)| bytes as i64),
        content: content::txn(request),
    }
}

/// Logs a Range that took too long, in one line or both.
#[track_caller]
pub fn range(
    limits: Limits,
    peer: SocketAddr,
    request: &RangeRequest,
    took: Duration,
    result: Result<SlowRead, &Error>,
) {
    let content = content::range(request);
    if took > limits.apply {
        let response = result.map(|read| format!("range_response_count:{} size:{}", read.kvs, read.bytes));
        slow_read("read-only range ", took, limits.apply, &content, response);
    }
    if took > limits.request {
        let read = result.ok();
        let stats = Stats {
            path: "/etcdserverpb.KV/Range",
            requests: 0,
            request_bytes: request.encoded_len() as i64,
            responses: read.map_or(0, |read| read.count),
            response_bytes: read.map_or(0, |read| read.bytes as i64),
            content,
        };
        request_stats(&stats, peer, took);
    }
}

/// Logs a transaction that only reads and took too long.
#[track_caller]
pub fn txn(
    limits: Limits,
    peer: SocketAddr,
    request: &TxnRequest,
    took: Duration,
    result: Result<TxnRead<'_>, &Error>,
) {
    if took > limits.apply {
        let response =
            result.map(|read| format!("responses:<{}> size:{}", content::counts(read.kvs), read.bytes));
        slow_read("read-only txn ", took, limits.apply, &content::txn(request), response);
    }
    if took > limits.request {
        let answer = result.ok().map(|read| (read.succeeded, read.bytes));
        request_stats(&txn_stats(request, answer), peer, took);
    }
}

#[track_caller]
fn slow_read(
    prefix: &str,
    took: Duration,
    expected: Duration,
    request: &str,
    response: Result<String, &Error>,
) {
    let line = Line::warn("apply request took too long")
        .duration("took", took)
        .duration("expected-duration", expected)
        .text("prefix", prefix)
        .text("request", request);
    match response {
        Ok(response) => line.text("response", response).write(),
        Err(error) => line.text("response", "").text("error", error.message()).write(),
    }
}

#[track_caller]
fn request_stats(stats: &Stats, peer: SocketAddr, took: Duration) {
    Line::warn("request stats")
        .time("start time", SystemTime::now() - took)
        .duration("time spent", took)
        .text("remote", peer.to_string())
        .text("response type", stats.path)
        .value("request count", stats.requests)
        .value("request size", stats.request_bytes)
        .value("response count", stats.responses)
        .value("response size", stats.response_bytes)
        .text("request content", &stats.content)
        .write();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::TxnResponse;
    use crate::proto::etcdserverpb::request_op::Request as Op;

    fn stats(kind: Kind, message: &impl Message, answer: Option<Answered>) -> Stats {
        let message = Bytes::from(message.encode_to_vec());
        let asked = Asked { kind, message: &message, peer: ([127, 0, 0, 1], 1).into() };
        stats_of(&asked, answer).expect("clients propose this")
    }

    #[test]
    fn counts_and_sizes_are_etcds() {
        let put = PutRequest { key: "k".into(), value: "secret".into(), ..PutRequest::default() };
        let said = stats(Kind::Put, &put, Some(Answered { bytes: 7, ..Answered::default() }));
        assert_eq!((said.requests, said.responses, said.response_bytes), (1, 0, 7));
        assert_eq!(said.request_bytes, put.encoded_len() as i64);
        assert_eq!(said.content, "key:\"k\" value_size:6");

        let delete = DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() };
        let deleted = Response::DeleteRange { revision: 4, deleted: 3, prev_kvs: Bytes::new() };
        let said = stats(Kind::DeleteRange, &delete, Some(Answered::of(&deleted, 9)));
        assert_eq!((said.requests, said.responses, said.content.as_str()), (0, 3, "key:\"k\""));

        let op = RequestOp { request: Some(Op::RequestPut(put)) };
        let bytes = op.encoded_len() as i64;
        let txn = TxnRequest { success: vec![op.clone(), op], ..TxnRequest::default() };
        let taken = TxnResponse { succeeded: true, ..TxnResponse::default() };
        let taken = Response::Txn { revision: 4, body: taken.encode_to_vec().into() };
        let said = stats(Kind::Txn, &txn, Some(Answered::of(&taken, 2)));
        assert_eq!((said.requests, said.request_bytes, said.response_bytes), (2, 2 * bytes, 2));
        let said = stats(Kind::Txn, &txn, None);
        assert_eq!((said.requests, said.request_bytes, said.response_bytes), (0, 0, 0));

        let said = stats(Kind::LeaseGrant, &put_nothing(), None);
        assert_eq!(
            (said.path, said.requests, said.response_bytes),
            ("/etcdserverpb.Lease/LeaseGrant", -1, -1)
        );
    }

    fn put_nothing() -> PutRequest {
        PutRequest::default()
    }
}
