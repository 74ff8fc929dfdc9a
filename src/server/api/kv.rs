//! The KV service.
//!
//! Reads are answered from the newest published state on this core. A small answer is assembled and sent in the
//! same wake-up; a large one is planned, its length announced, and then written slice by slice as the client takes
//! it, with no more than a pinned revision held between two slices.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer::{Answer, Caller, Outcome, kept_of};
use super::decode::{decode, decode_kept, decode_streamed, undecodable};
use super::decode_txn::{Refused, decode_txn};
use super::expected::{self, Expected};
use super::long::{self, Hold, Slices};
use super::planned::{Planned, Step, planned};
use super::quota;
use crate::btree::Snapshot;
use crate::cluster::cost::{put_cost, txn_cost};
use crate::error::Error;
use crate::mvcc::range::{Emission, Plan};
use crate::mvcc::txn_read::TxnEmission;
use crate::mvcc::{RangeStream, ReadTxn, View, check, range, txn};
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::request::Kind;
use crate::response::Header;
use crate::server::grpc::{Incoming, Outgoing, Responder, Status};
use crate::server::io::{clock, task};
use crate::server::log::slow;
use crate::server::session::Session;
use crate::server::session::observer::{self, ReadTimes};

/// Keys of a transaction for which the disk is asked before the transaction is proposed.
const ASKED_MAX: usize = 256;

/// What a RangeStream holds besides its request: mostly the plan of a message.
const STREAM_BYTES: usize = 8 * 1024;

/// An answer up to this size is assembled and sent at once.
const WHOLE_BYTES_MAX: usize = 64 * 1024;

/// `KV/Range`.
pub fn range(session: &Rc<Session>, caller: Caller, message: Bytes) -> Outcome {
    let asked = clock::now();
    let request = decode::<RangeRequest>(message)?;
    check::range(&request)?;
    if request.serializable || session.gate().is_open() {
        return answer_range(session, caller, &request, ReadTimes { asked, began: asked });
    }
    Ok(Answer::read(move |session| {
        answer_range(session, caller, &request, ReadTimes { asked, began: clock::now() })
    }))
}

fn answer_range(session: &Rc<Session>, caller: Caller, request: &RangeRequest, times: ReadTimes) -> Outcome {
    let (peer, header) = (caller.peer, session.header());
    let observe = |read: Result<&dyn Fn() -> slow::Read, &Error>| {
        observer::range(session, peer, request, times, read);
    };
    if request.range_end.is_empty() {
        let answer = session.view(|view| range::answer(view, &header, request));
        match &answer {
            Ok(answer) => observe(Ok(&|| slow::Read::of_one(answer))),
            Err(error) => observe(Err(error)),
        }
        return Ok(Answer::Now(answer?));
    }
    // What fits into one slice of planning and one of writing needs neither task nor pin.
    let begun = session.view(|view| {
        let emission = match Planned::step(new_plan(session, view, request)?, view)? {
            Step::Pending(plan) => return Ok(Begun::Plan(plan)),
            Step::Done(emission) => emission,
        };
        whole(emission, view, &header)
    });
    let progress = match begun {
        Err(error) => {
            observe(Err(&error));
            return Err(error.into());
        }
        Ok(Begun::Whole(answer, emission)) => {
            observe(Ok(&|| read_of(&emission, &header)));
            return Ok(Answer::Now(answer));
        }
        Ok(Begun::Plan(plan)) => Step::Pending(plan),
        Ok(Begun::Long(emission)) => Step::Done(emission),
    };
    let request = request.clone();
    Ok(Answer::later(move |session, reply| {
        task::spawn(answer_long(session.clone(), request, times, progress, reply));
    }))
}

/// How far an answer has come in its first slice.
enum Begun<P, E> {
    /// Its plan takes longer.
    Plan(P),
    /// Its plan stands, and it is long.
    Long(E),
    /// It is complete.
    Whole(Bytes, E),
}

/// Assembles an answer if it is short.
fn whole<P, E: Slices>(
    mut emission: E,
    view: &View<'_, Snapshot<'_>>,
    header: &Header,
) -> Result<Begun<P, E>, Error> {
    let len = emission.len(header);
    if len > WHOLE_BYTES_MAX {
        return Ok(Begun::Long(emission));
    }
    let mut out = BytesMut::with_capacity(len);
    while !emission.emit(view, header, &mut out, usize::MAX)? {}
    Ok(Begun::Whole(out.freeze(), emission))
}

fn new_plan(session: &Session, view: &View<'_, Snapshot<'_>>, request: &RangeRequest) -> Result<Plan, Error> {
    let mut plan = Plan::new(view, request)?;
    plan.remember_in(session.plan_memory());
    Ok(plan)
}

fn read_of(emission: &Emission, header: &Header) -> slow::Read {
    slow::Read { kvs: emission.kvs(), count: emission.count(), bytes: emission.encoded_len(header) }
}

/// Writes an answer as long as memory and longer: only slices of it are ever in ours.
async fn answer_long(
    session: Rc<Session>,
    request: RangeRequest,
    times: ReadTimes,
    begun: Step<Plan>,
    mut reply: Responder,
) {
    let header = session.header();
    let again = || session.view(|view| new_plan(&session, view, &request));
    match planned(&session, begun, again, &reply).await {
        Ok(Some((emission, pin))) => {
            // The rest is up to the client.
            let read = || read_of(&emission, &header);
            observer::range(&session, reply.peer(), &request, times, Ok(&read));
            let hold = Hold::new(pin, request.revision > 0);
            drop(request);
            reply.hold(emission.held_bytes());
            long::write(session, header, hold, emission, reply).await;
        }
        Err(error) => {
            observer::range(&session, reply.peer(), &request, times, Err(&error));
            reply.fail(&error.into());
        }
        // The client has gone.
        Ok(None) => {}
    }
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
    let expected = session.view(|view| {
        // The disk is not waited for here: this core has other clients.
        if view.will_write(&request.key) { expected::of_put(view, &request) } else { 0 }
    });
    Ok(Answer::propose_expecting(Expected::Bytes(expected), Kind::Put, message))
}

/// `KV/DeleteRange`.
pub fn delete_range(session: &Session, message: &Bytes) -> Outcome {
    let (request, message) = decode_kept::<DeleteRangeRequest>(message)?;
    check::delete_range(&request)?;
    let expected = session.view(|view| expected::of_delete(view, &request));
    Ok(Answer::propose_expecting(Expected::Bytes(expected), Kind::DeleteRange, message))
}

/// `KV/Txn`. One that cannot write is answered like a Range.
pub fn txn(session: &Rc<Session>, caller: Caller, message: &Bytes) -> Outcome {
    let (request, message) = match decode_txn(message, session.member.max_txn_ops) {
        Ok(decoded) => decoded,
        Err(Refused::Malformed(malformed)) => return Err(undecodable(malformed)),
        Err(Refused::Checked { error, cost }) => {
            return quota::refusal(session, cost).unwrap_or(Err(error.into()));
        }
    };
    if let Some(refusal) = quota::refusal(session, txn_cost(&request)) {
        return refusal;
    }
    check::txn_keys(&request)?;
    if !txn::is_read_only(&request) {
        let calls = session.waiting();
        let expected = session.view(|view| {
            txn::put_keys(&request).take(ASKED_MAX).for_each(|key| _ = view.will_write(key));
            expected::of_txn_beside(calls, view, &request)
        });
        return Ok(Answer::propose_expecting(expected, Kind::Txn, message));
    }
    let asked = clock::now();
    if txn::is_serializable(&request) || session.gate().is_open() {
        return answer_txn(session, caller, request, ReadTimes { asked, began: asked });
    }
    Ok(Answer::read(move |session| {
        answer_txn(session, caller, request, ReadTimes { asked, began: clock::now() })
    }))
}

fn answer_txn(session: &Rc<Session>, caller: Caller, request: TxnRequest, times: ReadTimes) -> Outcome {
    let header = session.header();
    let begun = session.view(|view| {
        let txn = ReadTxn::new(view, request.clone(), session.plan_memory());
        let emission = match Planned::step(txn, view)? {
            Step::Pending(txn) => return Ok(Begun::Plan(txn)),
            Step::Done(emission) => emission,
        };
        whole(emission, view, &header)
    });
    let progress = match begun {
        Err(error) => {
            observer::read_only_txn(session, caller.peer, &request, times, Err(&error));
            return Err(error.into());
        }
        Ok(Begun::Whole(answer, emission)) => {
            let read = txn_read_of(&emission, answer.len());
            observer::read_only_txn(session, caller.peer, &request, times, Ok(read));
            return Ok(Answer::Now(answer));
        }
        Ok(Begun::Plan(txn)) => Step::Pending(txn),
        Ok(Begun::Long(emission)) => Step::Done(emission),
    };
    Ok(Answer::later(move |session, reply| {
        task::spawn(answer_long_txn(session.clone(), request, times, progress, reply));
    }))
}

fn txn_read_of(emission: &TxnEmission, bytes: usize) -> slow::TxnRead<'_> {
    slow::TxnRead { succeeded: emission.succeeded(), kvs: emission.kvs(), bytes }
}

/// [`answer_long`] for a transaction that only reads.
async fn answer_long_txn(
    session: Rc<Session>,
    request: TxnRequest,
    times: ReadTimes,
    begun: Step<ReadTxn>,
    mut reply: Responder,
) {
    let header = session.header();
    let again = || Ok(session.view(|view| ReadTxn::new(view, request.clone(), session.plan_memory())));
    match planned(&session, begun, again, &reply).await {
        Ok(Some((emission, pin))) => {
            let read = txn_read_of(&emission, emission.encoded_len(&header));
            observer::read_only_txn(&session, reply.peer(), &request, times, Ok(read));
            let hold = Hold::new(pin, txn::names_revision(&request));
            reply.hold(kept_of(request.encoded_len()) + emission.held_bytes());
            drop(request);
            long::write(session, header, hold, emission, reply).await;
        }
        Ok(None) => {}
        Err(error) => {
            observer::read_only_txn(&session, reply.peer(), &request, times, Err(&error));
            reply.fail(&error.into());
        }
    }
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
