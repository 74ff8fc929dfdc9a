//! `KV/Txn`: from the bytes of a request to a proposal or an answer.
//!
//! A short transaction is decoded, checked and proposed at once. A long one, which may have 200 000 operations, has a
//! task that pauses between its steps, so that the other clients of the core wait no longer than for any request. Two
//! questions aside: what it costs and how long its answer will be is asked of all its operations without a pause, which
//! takes a few milliseconds at most. A transaction may take a hundred times as much memory decoded as on the wire, so
//! one of a core is decoded at a time.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;

use super::answer::{Answer, Caller, Outcome, settle};
use super::decode::undecodable;
use super::decode_txn::{Refused, decode_txn, free, is_short};
use super::expected::{self, Expected, Looks};
use super::kv::ask_ahead;
use super::{quota, read};
use crate::cluster::cost::txn_cost;
use crate::mvcc::{duplicate_keys, txn as rules};
use crate::proto::etcdserverpb::TxnRequest;
use crate::request::Kind;
use crate::server::grpc::Responder;
use crate::server::io::{clock, task};
use crate::server::session::Session;
use crate::server::session::observer::ReadTimes;
use crate::stdx::pace::{AtOnce, Pace, at_once};

/// Keys of a transaction for which the disk is asked before the transaction is proposed.
const ASKED_MAX: usize = 256;

/// `KV/Txn`. One that cannot write is answered like a Range. `is_crowded` says whether unsent answers crowd the core.
pub fn txn(
    session: &Rc<Session>,
    looks: &Looks,
    is_crowded: bool,
    caller: Caller,
    message: &Bytes,
) -> Outcome {
    if !is_short(message) {
        let message = message.clone();
        return Ok(Answer::unread(move |session, reply| {
            task::spawn(long_txn(session.clone(), caller, message, reply));
        }));
    }
    match at_once(checked(session, message, &AtOnce)) {
        Err(refusal) => refusal,
        Ok((request, _)) if rules::is_read_only(&request) => answer(session, caller, request),
        Ok((request, kept)) => {
            let look = || answer_bytes(session, &request);
            let expected = looks.expect(session.waiting(), is_crowded, &request, look);
            Ok(propose(session, &request, kept, expected))
        }
    }
}

async fn long_txn(session: Rc<Session>, caller: Caller, message: Bytes, reply: Responder) {
    let unread = reply.unread(message.len());
    let place = session.long_txns.place();
    place.turn().await;
    // The client may have gone meanwhile.
    if !reply.is_wanted() {
        return;
    }
    let pace = task::Paced::default();
    let checked = checked(&session, &message, &pace).await;
    drop(unread);
    match checked {
        Err(refusal) => settle(&session, refusal, message.len(), reply),
        Ok((request, _)) if rules::is_read_only(&request) => {
            settle(&session, answer(&session, caller, request), message.len(), reply);
        }
        Ok((request, kept)) => {
            let expected = Expected::Bytes(answer_bytes(&session, &request));
            settle(&session, Ok(propose(&session, &request, kept, expected)), message.len(), reply);
            free(request, &pace).await;
        }
    }
    drop(place);
}

/// Decodes and checks a transaction in etcd's order; its bytes come as the log keeps them.
///
/// # Errors
/// What it is refused with.
async fn checked(
    session: &Rc<Session>,
    message: &Bytes,
    pace: &impl Pace,
) -> Result<(TxnRequest, Bytes), Outcome> {
    let (request, kept) =
        decode_txn(message, session.member.max_txn_ops, pace).await.map_err(|refused| match refused {
            Refused::Malformed(malformed) => Err(undecodable(malformed)),
            Refused::Checked { error, cost } => {
                quota::refusal(session, cost).unwrap_or_else(|| Err(error.into()))
            }
        })?;
    if let Some(refusal) = quota::refusal(session, txn_cost(&request)) {
        free(request, pace).await;
        return Err(refusal);
    }
    match duplicate_keys::check(&request, pace).await {
        Ok(()) => Ok((request, kept)),
        Err(error) => {
            free(request, pace).await;
            Err(Err(error.into()))
        }
    }
}

/// Bytes of the answer to a transaction that writes.
fn answer_bytes(session: &Session, request: &TxnRequest) -> usize {
    session.view(|view| expected::of_txn(view, request))
}

fn propose(session: &Session, request: &TxnRequest, kept: Bytes, expected: Expected) -> Answer {
    ask_ahead(session, rules::put_keys(request).take(ASKED_MAX));
    Answer::propose_expecting(expected, Kind::Txn, kept)
}

fn answer(session: &Session, caller: Caller, request: TxnRequest) -> Outcome {
    let asked = clock::now();
    if rules::is_serializable(&request) || session.gate().is_open() {
        return read::answer(session, caller.peer, Rc::new(request), ReadTimes { asked, began: asked });
    }
    Ok(Answer::read(move |session| {
        read::answer(session, caller.peer, Rc::new(request), ReadTimes { asked, began: clock::now() })
    }))
}
