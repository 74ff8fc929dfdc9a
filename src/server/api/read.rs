//! Reads of the store whose answer may be long: a Range, and a transaction that only reads.
//!
//! An answer that takes one slice of planning and one of writing is sent in the same wake-up, and needs neither task
//! nor pin. For any other a task plans in slices, with what it reads pinned, and then [`long`] writes as fast as the
//! client takes it.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer::{Answer, Outcome, kept_of};
use super::long::{self, Hold, PLAN_SLICE};
use crate::btree::Snapshot;
use crate::error::Error;
use crate::mvcc::range::{Emission, Plan};
use crate::mvcc::txn_read::TxnEmission;
use crate::mvcc::{Planned, Progress, ReadTxn, Slices, View, txn};
use crate::proto::etcdserverpb::{RangeRequest, TxnRequest};
use crate::response::Header;
use crate::server::grpc::Responder;
use crate::server::io::task;
use crate::server::log::slow;
use crate::server::session::observer::{self, ReadTimes};
use crate::server::session::{Pin, Session};

/// An answer up to this size is assembled and sent at once.
const WHOLE_BYTES_MAX: usize = 64 * 1024;

/// A request that only reads.
pub(super) trait Read: Sized + 'static {
    /// How it is planned.
    type Plan: Planned + 'static;

    /// Begins with the state that `view` shows.
    ///
    /// # Errors
    /// When it names a revision that cannot be read.
    fn plan(&self, session: &Session, view: &View<'_, Snapshot<'_>>) -> Result<Self::Plan, Error>;

    /// Whether it names a revision.
    fn names_revision(&self) -> bool;

    /// Bytes that the core holds until this answer is written.
    fn held_bytes(&self, answer: &AnswerTo<Self>) -> usize;

    /// Tells metrics and log of an answer and its length, or of an error.
    fn observe(
        &self,
        session: &Session,
        peer: SocketAddr,
        times: ReadTimes,
        result: Result<(&AnswerTo<Self>, usize), &Error>,
    );
}

/// What a read is answered with.
type AnswerTo<R> = <<R as Read>::Plan as Planned>::Answer;

impl Read for RangeRequest {
    type Plan = Plan;

    fn plan(&self, session: &Session, view: &View<'_, Snapshot<'_>>) -> Result<Plan, Error> {
        let mut plan = Plan::new(view, self)?;
        plan.remember_in(session.plan_memory());
        Ok(plan)
    }

    fn names_revision(&self) -> bool {
        self.revision > 0
    }

    fn held_bytes(&self, answer: &Emission) -> usize {
        answer.held_bytes()
    }

    fn observe(
        &self,
        session: &Session,
        peer: SocketAddr,
        times: ReadTimes,
        result: Result<(&Emission, usize), &Error>,
    ) {
        let read_of = |(answer, bytes): (&Emission, usize)| slow::SlowRead {
            kvs: answer.kvs(),
            count: answer.count(),
            bytes,
        };
        observer::range(session, peer, self, times, result.map(|read| move || read_of(read)));
    }
}

/// What is planned has the request too, and is planned again where a compaction comes first.
impl Read for Rc<TxnRequest> {
    type Plan = ReadTxn;

    fn plan(&self, session: &Session, view: &View<'_, Snapshot<'_>>) -> Result<ReadTxn, Error> {
        Ok(ReadTxn::new(view, self.clone(), session.plan_memory()))
    }

    fn names_revision(&self) -> bool {
        txn::names_revision(self)
    }

    /// The answer holds the request.
    fn held_bytes(&self, answer: &TxnEmission) -> usize {
        kept_of(self.encoded_len()) + answer.held_bytes()
    }

    fn observe(
        &self,
        session: &Session,
        peer: SocketAddr,
        times: ReadTimes,
        result: Result<(&TxnEmission, usize), &Error>,
    ) {
        let result = result.map(|(answer, bytes)| slow::TxnRead {
            succeeded: answer.succeeded(),
            kvs: answer.kvs(),
            bytes,
        });
        observer::read_only_txn(session, peer, self, times, result);
    }
}

/// Reads from the newest state of the store.
pub(super) fn answer(session: &Session, peer: SocketAddr, request: impl Read, times: ReadTimes) -> Outcome {
    let header = session.header();
    let begun = session.view(|view| first_slice(request.plan(session, view)?, view, &header));
    let progress = match begun {
        Err(error) => {
            request.observe(session, peer, times, Err(&error));
            return Err(error.into());
        }
        Ok(Begun::Whole(message, answer)) => {
            request.observe(session, peer, times, Ok((&answer, message.len())));
            return Ok(Answer::Now(message));
        }
        Ok(Begun::Long(progress)) => progress,
    };
    Ok(Answer::later(move |session, reply| {
        task::spawn(answer_long(session.clone(), request, times, progress, reply));
    }))
}

/// How far an answer has come in its first slice.
enum Begun<P: Planned> {
    /// It is complete.
    Whole(Bytes, P::Answer),
    /// Its plan takes longer, or it is long.
    Long(Progress<P>),
}

/// Plans for a slice, and assembles the answer if it is short.
fn first_slice<P: Planned>(
    plan: P,
    view: &View<'_, Snapshot<'_>>,
    header: &Header,
) -> Result<Begun<P>, Error> {
    let mut answer = match plan.step(view, PLAN_SLICE)? {
        Progress::Done(answer) => answer,
        pending @ Progress::Pending(_) => return Ok(Begun::Long(pending)),
    };
    let len = answer.encoded_len(header);
    if len > WHOLE_BYTES_MAX {
        return Ok(Begun::Long(Progress::Done(answer)));
    }
    let mut out = BytesMut::with_capacity(len);
    while !answer.emit(view, header, &mut out, usize::MAX)? {}
    Ok(Begun::Whole(out.freeze(), answer))
}

/// Writes an answer as long as memory and longer: only slices of it are ever in ours.
async fn answer_long<R: Read>(
    session: Rc<Session>,
    request: R,
    times: ReadTimes,
    begun: Progress<R::Plan>,
    mut reply: Responder,
) {
    let header = session.header();
    let again = || session.view(|view| request.plan(&session, view));
    match planned(&session, begun, again, &reply).await {
        Ok(Some((answer, pin))) => {
            // The rest is up to the client.
            let read = (&answer, answer.encoded_len(&header));
            request.observe(&session, reply.peer(), times, Ok(read));
            let hold = Hold::new(pin, request.names_revision());
            reply.hold(request.held_bytes(&answer));
            drop(request);
            long::write(session, header, hold, answer, reply).await;
        }
        Err(error) => {
            request.observe(&session, reply.peer(), times, Err(&error));
            reply.fail(&error.into());
        }
        // The client has gone.
        Ok(None) => {}
    }
}

/// Pins the revision that is read and plans to the end; where a compaction has come before the pin, `again` begins
/// anew. Nothing when the client has gone.
///
/// # Errors
/// When what is read has gone.
async fn planned<P: Planned>(
    session: &Rc<Session>,
    begun: Progress<P>,
    again: impl Fn() -> Result<P, Error>,
    reply: &Responder,
) -> Result<Option<(P::Answer, Pin)>, Error> {
    let again = || again().map(Progress::Pending);
    let (mut progress, pin) = long::pinned(begun, Progress::pin, |revision| session.pin(revision), again)?;
    loop {
        let plan = match progress {
            Progress::Done(answer) => return Ok(Some((answer, pin))),
            Progress::Pending(plan) => plan,
        };
        if !reply.is_wanted() {
            return Ok(None);
        }
        if pin.is_lost() {
            return Err(Error::Compacted);
        }
        progress = session.view(|view| plan.step(view, PLAN_SLICE))?;
        task::take_turns().await;
    }
}
