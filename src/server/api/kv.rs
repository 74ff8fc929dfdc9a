//! The KV service.
//!
//! Reads are answered from the newest published state on this core ([`read`]); writes become entries of the log.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;

use super::answer::{Answer, Caller, Outcome, kept_of};
use super::decode::{decode, decode_kept, decode_streamed};
use super::expected::{self, Expected};
use super::long::{self, Hold};
use super::{quota, read};
use crate::cluster::cost::put_cost;
use crate::error::Error;
use crate::mvcc::{RangeStream, check, range};
use crate::proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use crate::request::Kind;
use crate::server::grpc::{Incoming, Outgoing, Status};
use crate::server::io::{clock, task};
use crate::server::log::slow;
use crate::server::session::Session;
use crate::server::session::observer::{self, ReadTimes};

/// What a RangeStream holds besides its request: mostly the plan of a message.
const STREAM_BYTES: usize = 8 * 1024;

/// `KV/Range`.
pub fn range(session: &Rc<Session>, caller: Caller, message: Bytes) -> Outcome {
    let asked = clock::now();
    let request = decode::<RangeRequest>(message)?;
    if !request.serializable && session.gate().is_learner() {
        return Err(Error::NotSupportedForLearner.into());
    }
    check::range(&request)?;
    if request.serializable || session.gate().is_open() {
        return answer_range(session, caller, request, ReadTimes { asked, began: asked });
    }
    Ok(Answer::read(move |session| {
        answer_range(session, caller, request, ReadTimes { asked, began: clock::now() })
    }))
}

fn answer_range(session: &Session, caller: Caller, request: RangeRequest, times: ReadTimes) -> Outcome {
    if !request.range_end.is_empty() {
        return read::answer(session, caller.peer, request, times);
    }
    let header = session.header();
    let answer = session.view(|view| range::answer(view, &header, &request));
    let read = answer.as_ref().map(|answer| || slow::SlowRead::of_one(answer));
    observer::range(session, caller.peer, &request, times, read);
    Ok(Answer::Now(answer?))
}

/// `KV/RangeStream`.
pub fn range_stream(session: &Rc<Session>, mut incoming: Incoming, mut outgoing: Outgoing) {
    let session = session.clone();
    task::spawn(async move {
        let result = match incoming.only().await {
            Ok(message) => send_stream(&session, message, &mut outgoing).await,
            Err(status) => Err(status),
        };
        outgoing.finish(result);
    });
}

async fn send_stream(session: &Rc<Session>, message: Bytes, outgoing: &mut Outgoing) -> Result<(), Status> {
    let _kept = outgoing.keep(message.len(), kept_of(message.len()) + STREAM_BYTES).await?;
    let request = &decode_streamed::<RangeRequest>(message)?;
    check::range_stream(request)?;
    if !request.serializable {
        session.read_barrier().await?;
    }
    let max_request_bytes = session.member.max_request_bytes;
    let begin = || session.view(|view| RangeStream::new(view, request, max_request_bytes));
    let (stream, pin) = long::pinned(begin()?, RangeStream::pin, |revision| session.pin(revision), begin)?;
    let hold = Hold::new(pin, request.revision > 0);
    long::write_stream(session, &session.header(), hold, stream, outgoing).await
}

/// `KV/Put`.
pub fn put(session: &Rc<Session>, message: &Bytes) -> Outcome {
    let (request, message) = decode_kept::<PutRequest>(message)?;
    // The quota comes first, as in etcd: also what is malformed may be told that there is no space.
    if let Some(refusal) = quota::refusal(session, put_cost(&request)) {
        return refusal;
    }
    check::put(&request)?;
    ask_ahead(session, [&request.key[..]]);
    let expected = if request.prev_kv { session.view(|view| expected::of_put(view, &request)) } else { 0 };
    Ok(Answer::propose_expecting(Expected::Bytes(expected), Kind::Put, message))
}

/// Has the disk asked for keys that are going to be written, without waiting for it: this core has other clients.
pub(super) fn ask_ahead<'k>(session: &Session, keys: impl IntoIterator<Item = &'k [u8]>) {
    if session.member.is_store_large() {
        session.view(|view| keys.into_iter().for_each(|key| _ = view.will_write(key)));
    }
}

/// `KV/DeleteRange`.
pub fn delete_range(session: &Session, message: &Bytes) -> Outcome {
    let (request, message) = decode_kept::<DeleteRangeRequest>(message)?;
    check::delete_range(&request)?;
    let expected = session.view(|view| expected::of_delete(view, &request));
    Ok(Answer::propose_expecting(Expected::Bytes(expected), Kind::DeleteRange, message))
}

/// `KV/Compact`.
pub fn compact(message: &Bytes) -> Outcome {
    let (request, message) = decode_kept::<CompactionRequest>(message)?;
    // One that is answered when all is swept takes as long as that takes, as with etcd.
    Ok(Answer::Propose {
        kind: Kind::Compaction,
        message,
        is_unbounded: request.physical,
        expected: Expected::Bytes(0),
    })
}
