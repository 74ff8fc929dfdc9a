//! The KV service.
//!
//! Reads are answered from the newest published state on this core. A small answer is assembled and sent in the
//! same wake-up; a large one is planned, its length announced, and then written slice by slice as the client takes
//! it, with no more than a pinned revision held between two slices.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::decode::{decode, decode_kept, decode_txn_kept};
use super::long::{self, Hold, PLAN_SLICE, Slices};
use super::quota;
use crate::btree::Snapshot;
use crate::cluster::cost::{put_cost, txn_cost};
use crate::error::Error;
use crate::mvcc::range::{Emission, Plan, Progress};
use crate::mvcc::txn_read::{TxnEmission, TxnProgress};
use crate::mvcc::{RangeStream, ReadTxn, View, check, range, txn};
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::request::Kind;
use crate::response::Header;
use crate::server::grpc::{Incoming, Outgoing, Responder, Status};
use crate::server::io::{clock, task};
use crate::server::log::slow;
use crate::server::session::observer::{self, ReadTimes};
use crate::server::session::{Pin, Session};

/// An answer up to this size is assembled and sent at once.
const WHOLE_BYTES_MAX: usize = 64 * 1024;

/// `KV/Range`.
pub fn range(session: &Rc<Session>, message: Bytes, reply: Responder) {
    let asked = clock::now();
    let request = match decode::<RangeRequest>(message) {
        Ok(request) => request,
        Err(status) => return reply.fail(&status),
    };
    if let Err(error) = check::range(&request) {
        return reply.fail(&error.into());
    }
    if request.serializable || session.gate().is_open() {
        return answer_range(session, &request, ReadTimes { asked, began: asked }, reply);
    }
    session.linearizable(move |session, ready| match ready {
        Ok(()) => answer_range(session, &request, ReadTimes { asked, began: clock::now() }, reply),
        Err(status) => reply.fail(&status),
    });
}

fn answer_range(session: &Rc<Session>, request: &RangeRequest, times: ReadTimes, reply: Responder) {
    let header = session.header();
    if request.range_end.is_empty() {
        let answer = session.view(|view| range::answer(view, &header, request));
        match &answer {
            Ok(answer) => {
                let read = || slow::Read::of_one(answer);
                observer::range(session, reply.peer(), request, times, Ok(&read));
            }
            Err(error) => observer::range(session, reply.peer(), request, times, Err(error)),
        }
        return reply.send(answer.map_err(Status::from));
    }
    // What fits into one slice of planning and one of writing needs neither task nor pin.
    let begun = session.view(|view| {
        let emission = match new_plan(session, view, request)?.step(view, PLAN_SLICE)? {
            Progress::Pending(plan) => return Ok(Begun::Plan(plan)),
            Progress::Done(emission) => emission,
        };
        whole(emission, view, &header)
    });
    match begun {
        Err(error) => {
            observer::range(session, reply.peer(), request, times, Err(&error));
            reply.fail(&error.into());
        }
        Ok(Begun::Whole(answer, emission)) => {
            let read = || read_of(&emission, &header);
            observer::range(session, reply.peer(), request, times, Ok(&read));
            reply.send(Ok(answer));
        }
        Ok(Begun::Plan(plan)) => {
            task::spawn(answer_long(session.clone(), request.clone(), times, Progress::Pending(plan), reply));
        }
        Ok(Begun::Long(emission)) => {
            task::spawn(answer_long(
                session.clone(),
                request.clone(),
                times,
                Progress::Done(emission),
                reply,
            ));
        }
    }
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
    begun: Progress,
    reply: Responder,
) {
    let header = session.header();
    match plan_long(&session, &request, begun, &reply).await {
        Ok(Some((emission, pin))) => {
            // The rest is up to the client.
            let read = || read_of(&emission, &header);
            observer::range(&session, reply.peer(), &request, times, Ok(&read));
            let hold = Hold::new(pin, request.revision > 0);
            drop(request);
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

/// Pins the revision that is read and plans to the end. Nothing when the client has gone.
async fn plan_long(
    session: &Rc<Session>,
    request: &RangeRequest,
    begun: Progress,
    reply: &Responder,
) -> Result<Option<(Emission, Pin)>, Error> {
    let pin_of = |progress: &Progress| match progress {
        Progress::Pending(plan) => plan.pin(),
        Progress::Done(emission) => emission.pin(),
    };
    let again = || session.view(|view| new_plan(session, view, request).map(Progress::Pending));
    let (mut progress, pin) = long::pinned(begun, pin_of, |revision| session.pin(revision), again)?;
    loop {
        let plan = match progress {
            Progress::Done(emission) => return Ok(Some((emission, pin))),
            Progress::Pending(plan) => plan,
        };
        if !reply.is_wanted() {
            return Ok(None);
        }
        progress = session.view(|view| plan.step(view, PLAN_SLICE))?;
        task::yield_now().await;
    }
}

/// `KV/RangeStream`.
pub fn range_stream(session: &Rc<Session>, mut incoming: Incoming, outgoing: Outgoing) {
    let session = session.clone();
    task::spawn(async move {
        let request = match incoming.next().await {
            Some(Ok(message)) => decode::<RangeRequest>(message),
            Some(Err(status)) => Err(status),
            None => Err(Status::undecodable()),
        };
        match request {
            Ok(request) => answer_stream(session, request, outgoing).await,
            Err(status) => outgoing.finish(Err(status)),
        }
    });
}

async fn answer_stream(session: Rc<Session>, request: RangeRequest, mut outgoing: Outgoing) {
    let result = send_stream(&session, &request, &mut outgoing).await;
    outgoing.finish(result);
}

async fn send_stream(
    session: &Rc<Session>,
    request: &RangeRequest,
    outgoing: &mut Outgoing,
) -> Result<(), Status> {
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
pub fn put(session: &Rc<Session>, message: &Bytes, reply: Responder) {
    let (request, message) = match decode_kept::<PutRequest>(message) {
        Ok(decoded) => decoded,
        Err(status) => return reply.fail(&status),
    };
    // The quota comes first, as in etcd: also what is malformed may be told that there is no space.
    let Some(reply) = quota::admit(session, put_cost(&request), reply) else { return };
    match check::put(&request) {
        Ok(()) => session.propose(Kind::Put, &message, reply),
        Err(error) => reply.fail(&error.into()),
    }
}

/// `KV/DeleteRange`.
pub fn delete_range(session: &Rc<Session>, message: &Bytes, reply: Responder) {
    match decode_kept::<DeleteRangeRequest>(message) {
        Err(status) => reply.fail(&status),
        Ok((request, message)) => match check::delete_range(&request) {
            Err(error) => reply.fail(&error.into()),
            Ok(()) => session.propose(Kind::DeleteRange, &message, reply),
        },
    }
}

/// `KV/Txn`. One that cannot write is answered like a Range.
pub fn txn(session: &Rc<Session>, message: Bytes, reply: Responder) {
    let (request, message) = match decode_txn_kept(&message) {
        Ok(decoded) => decoded,
        Err(status) => return reply.fail(&status),
    };
    let Some(reply) = quota::admit(session, txn_cost(&request), reply) else { return };
    if let Err(error) = check::txn(&request, session.member.max_txn_ops) {
        return reply.fail(&error.into());
    }
    if !txn::is_read_only(&request) {
        return session.propose(Kind::Txn, &message, reply);
    }
    let asked = clock::now();
    if txn::is_serializable(&request) || session.gate().is_open() {
        return answer_txn(session, request, ReadTimes { asked, began: asked }, reply);
    }
    session.linearizable(move |session, ready| match ready {
        Ok(()) => answer_txn(session, request, ReadTimes { asked, began: clock::now() }, reply),
        Err(status) => reply.fail(&status),
    });
}

fn answer_txn(session: &Rc<Session>, request: TxnRequest, times: ReadTimes, reply: Responder) {
    let header = session.header();
    let begun = session.view(|view| {
        let txn = ReadTxn::new(view, request.clone(), session.plan_memory());
        let emission = match txn.step(view, PLAN_SLICE)? {
            TxnProgress::Pending(txn) => return Ok(Begun::Plan(txn)),
            TxnProgress::Done(emission) => emission,
        };
        whole(emission, view, &header)
    });
    match begun {
        Err(error) => {
            observer::read_only_txn(session, reply.peer(), &request, times, Err(&error));
            reply.fail(&error.into());
        }
        Ok(Begun::Whole(answer, emission)) => {
            let read = txn_read_of(&emission, answer.len());
            observer::read_only_txn(session, reply.peer(), &request, times, Ok(read));
            reply.send(Ok(answer));
        }
        Ok(Begun::Plan(txn)) => {
            task::spawn(answer_long_txn(session.clone(), request, times, TxnProgress::Pending(txn), reply));
        }
        Ok(Begun::Long(emission)) => {
            task::spawn(answer_long_txn(session.clone(), request, times, TxnProgress::Done(emission), reply));
        }
    }
}

fn txn_read_of(emission: &TxnEmission, bytes: usize) -> slow::TxnRead<'_> {
    slow::TxnRead { succeeded: emission.succeeded(), kvs: emission.kvs(), bytes }
}

/// [`answer_long`] for a transaction that only reads.
async fn answer_long_txn(
    session: Rc<Session>,
    request: TxnRequest,
    times: ReadTimes,
    begun: TxnProgress,
    reply: Responder,
) {
    let header = session.header();
    match plan_long_txn(&session, &request, begun, &reply).await {
        Ok(Some((emission, pin))) => {
            let read = txn_read_of(&emission, emission.encoded_len(&header));
            observer::read_only_txn(&session, reply.peer(), &request, times, Ok(read));
            let hold = Hold::new(pin, txn::names_revision(&request));
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

/// [`plan_long`] for a transaction that only reads.
async fn plan_long_txn(
    session: &Rc<Session>,
    request: &TxnRequest,
    begun: TxnProgress,
    reply: &Responder,
) -> Result<Option<(TxnEmission, Pin)>, Error> {
    let pin_of = |progress: &TxnProgress| match progress {
        TxnProgress::Pending(txn) => txn.pin(),
        TxnProgress::Done(emission) => emission.pin(),
    };
    let again = || {
        let txn = session.view(|view| ReadTxn::new(view, request.clone(), session.plan_memory()));
        Ok(TxnProgress::Pending(txn))
    };
    let (mut progress, pin) = long::pinned(begun, pin_of, |revision| session.pin(revision), again)?;
    loop {
        let txn = match progress {
            TxnProgress::Done(emission) => return Ok(Some((emission, pin))),
            TxnProgress::Pending(txn) => txn,
        };
        if !reply.is_wanted() {
            return Ok(None);
        }
        progress = session.view(|view| txn.step(view, PLAN_SLICE))?;
        task::yield_now().await;
    }
}

/// `KV/Compact`.
pub fn compact(session: &Rc<Session>, message: &Bytes, reply: Responder) {
    match decode_kept::<CompactionRequest>(message) {
        Err(status) => reply.fail(&status),
        // One that is answered when all is swept takes as long as that takes, as with etcd.
        Ok((request, message)) if request.physical => {
            session.propose_for_ever(Kind::Compaction, &message, reply);
        }
        Ok((_, message)) => session.propose(Kind::Compaction, &message, reply),
    }
}
