//! The KV service.
//!
//! Reads are answered from the newest published state on this core. A small answer is assembled and sent in the
//! same wake-up; a large one is planned, its length announced, and then written slice by slice as the client takes
//! it, with no more than a pinned revision held between two slices.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::decode::{decode, decode_kept};
use super::quota;
use crate::error::Error;
use crate::mvcc::range::Range;
use crate::mvcc::{RangeStream, check, range, txn};
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::replica::apply::{put_cost, txn_cost};
use crate::request::Kind;
use crate::response::{self, Header, Response};
use crate::server::counting::{self, ReadTimes};
use crate::server::grpc::{Incoming, Outgoing, Responder, Status};
use crate::server::io::{clock, task};
use crate::server::log::slow;
use crate::server::session::Session;
use crate::stdx::time::{Duration, Instant};

/// Index entries looked at before other tasks of the core run.
const PLAN_SLICE: usize = 1024;
/// An answer up to this size is assembled and sent at once.
const WHOLE_BYTES_MAX: usize = 64 * 1024;
/// How much of a larger one is copied at a time, before other tasks of the core run. Half of it costs a sixth more CPU for
/// the list; twice as much would hold up others.
const SLICE_BYTES: usize = 128 * 1024;
/// How long a long answer waits at most between two slices while requests wait for the log.
const TURN_MAX: Duration = Duration::from_millis(1);

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
        count_range(session, request, times, &reply, answer.as_ref());
        return reply.send(answer.map_err(Status::from));
    }
    // What fits into one slice of planning and one of writing needs neither task nor pin.
    let begun = session.view(|view| {
        let mut range = Range::new(view, request)?;
        range.remember_in(session.plan_memory());
        if !range.plan(view, PLAN_SLICE) || range.encoded_len(&header) > WHOLE_BYTES_MAX {
            return Ok(Err(range));
        }
        let mut out = BytesMut::with_capacity(range.encoded_len(&header));
        while !range.emit(view, &header, &mut out, usize::MAX) {}
        Ok(Ok(out.freeze()))
    });
    match begun {
        Err(error) => {
            count_range(session, request, times, &reply, Err(&error));
            reply.fail(&Error::into(error));
        }
        Ok(Ok(answer)) => {
            count_range(session, request, times, &reply, Ok(&answer));
            reply.send(Ok(answer));
        }
        Ok(Err(range)) => task::spawn(answer_long(session.clone(), request.clone(), times, range, reply)),
    }
}

fn count_range(
    session: &Session,
    request: &RangeRequest,
    times: ReadTimes,
    reply: &Responder,
    answer: Result<&Bytes, &Error>,
) {
    let read;
    let result = match answer {
        Ok(answer) => {
            read = || slow::Read::of(answer);
            Ok(&read as &dyn Fn() -> slow::Read)
        }
        Err(error) => Err(error),
    };
    counting::range(session, reply.peer(), request, times, result);
}

/// Writes an answer as long as memory and longer: only slices of it are ever in ours.
async fn answer_long(
    session: Rc<Session>,
    request: RangeRequest,
    times: ReadTimes,
    mut range: Range,
    reply: Responder,
) {
    let header = session.header();
    let Some(_pin) = session.pin(range.at()) else { return reply.fail(&Error::Compacted.into()) };
    while !session.view(|view| range.plan(view, PLAN_SLICE)) {
        if !reply.is_wanted() {
            return;
        }
        task::yield_now().await;
    }
    let (bytes, count) = (range.encoded_len(&header), range.count());
    // The rest is up to the client.
    let read = || slow::Read { kvs: range.kvs(), count, bytes };
    counting::range(&session, reply.peer(), &request, times, Ok(&read));
    drop(request);
    let mut answer = reply.stream(bytes);
    loop {
        let Ok(room) = answer.has_room().await else { return };
        let begun = clock::now();
        let bytes = room.min(SLICE_BYTES).min(answer.left());
        let mut slice = BytesMut::with_capacity(bytes);
        let complete = session.view(|view| range.emit(view, &header, &mut slice, bytes));
        answer.write(slice.freeze());
        if complete {
            return answer.finish();
        }
        give_way(&session, begun).await;
    }
}

/// Lets others go on between two slices of a long answer, this one having been begun at `begun`. While requests wait
/// for the log, it takes turns with them: the core, and the client's, would else be busy whenever a write is durable.
async fn give_way(session: &Session, begun: Instant) {
    task::yield_now().await;
    if session.waiting() > 0 {
        task::sleep(clock::now().since(begun).min(TURN_MAX)).await;
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
    if let Err(error) = check::range_stream(&request) {
        return outgoing.finish(Err(error.into()));
    }
    if !request.serializable
        && let Err(status) = session.read_barrier().await
    {
        return outgoing.finish(Err(status));
    }
    let header = session.header();
    let max_request_bytes = session.member.max_request_bytes;
    let begun = session.view(|view| RangeStream::new(view, &request, max_request_bytes));
    let mut stream = match begun {
        Ok(stream) => stream,
        Err(error) => return outgoing.finish(Err(Error::into(error))),
    };
    let Some(_pin) = session.pin(stream.at()) else {
        return outgoing.finish(Err(Error::Compacted.into()));
    };
    while !stream.is_finished() {
        let begun = clock::now();
        let sent = match send_chunk(&session, &mut stream, &header, &mut outgoing).await {
            Ok(sent) => sent,
            Err(status) => return outgoing.finish(Err(status)),
        };
        if !sent {
            break;
        }
        give_way(&session, begun).await;
    }
    outgoing.finish(Ok(()));
}

/// Plans, assembles and sends the next message. False if there is none left.
async fn send_chunk(
    session: &Rc<Session>,
    stream: &mut RangeStream,
    header: &Header,
    outgoing: &mut Outgoing,
) -> Result<bool, Status> {
    while !session.view(|view| stream.plan(view, PLAN_SLICE))? {
        task::yield_now().await;
    }
    if stream.is_finished() {
        return Ok(false);
    }
    outgoing.has_room().await?;
    let mut chunk = BytesMut::with_capacity(stream.message_len(header));
    while !session.view(|view| stream.emit(view, header, &mut chunk, SLICE_BYTES)) {
        task::yield_now().await;
    }
    outgoing.send(chunk.freeze())?;
    Ok(true)
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
    let (request, message) = match decode_kept::<TxnRequest>(&message) {
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
        return answer_txn(session, &request, ReadTimes { asked, began: asked }, reply);
    }
    session.linearizable(move |session, ready| match ready {
        Ok(()) => answer_txn(session, &request, ReadTimes { asked, began: clock::now() }, reply),
        Err(status) => reply.fail(&status),
    });
}

fn answer_txn(session: &Rc<Session>, request: &TxnRequest, times: ReadTimes, reply: Responder) {
    let outcome = session.view(|view| txn::read(view, request));
    let answer = outcome.map(|txn::Outcome { revision, body, ops }| {
        (response::encode(&Response::Txn { revision, body }, &session.header()), ops.ranges)
    });
    let counted = answer.as_ref().map(|(answer, ranges)| (answer, *ranges));
    counting::read_only_txn(session, reply.peer(), request, times, counted);
    reply.send(answer.map(|(answer, _)| answer).map_err(Status::from));
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
