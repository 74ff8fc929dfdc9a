//! What a handler gives back, and what becomes of it.
//!
//! ```text
//!   Now      the message is complete                          ──▶ sent in the same wake-up
//!   Propose  the request becomes an entry of the log          ──▶ sent when the entry is applied
//!   Read     the state must first have all that was committed ──▶ the handler goes on, and gives another answer
//!   Unread   the request is too long to be read at once    ──▶ a task reads it, and gives another answer
//!   Later    a task or the lessor has the answer              ──▶ sent by whoever has it
//! ```
//!
//! A handler replies to nobody: it gives an [`Outcome`], and [`settle`] alone knows the transport's [`Responder`]. Only
//! answers that come later take the responder with them.
//!
//! What a call makes the core hold until then is counted for its connection: its request, or room for the answer to a
//! write. So a client that takes no answers gets no further requests in, and one that takes its answers notices
//! nothing.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use super::expected::Expected;
use super::patience::LOOK_INTERVAL;
use crate::error::Error;
use crate::request::Kind;
use crate::server::grpc::{Responder, Status};
use crate::server::io::{clock, task};
use crate::server::session::Session;

/// Who asks, as far as the member knows.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The address that the call comes from.
    pub peer: SocketAddr,
}

/// An answer, or the error that the call ends with.
pub type Outcome = Result<Answer, Status>;

type Reading = Box<dyn FnOnce(&Rc<Session>) -> Outcome>;
type Replying = Box<dyn FnOnce(&Rc<Session>, Responder)>;

/// What a handler has found out.
pub enum Answer {
    /// The message of the answer.
    Now(Bytes),
    /// The request is to be proposed. `message` is its own encoding, checked before.
    Propose {
        /// What is asked for.
        kind: Kind,
        /// The request.
        message: Bytes,
        /// The client alone decides how long it waits. Otherwise the request ends after the member's time for requests.
        is_unbounded: bool,
        /// What is known of the answer, which is assembled when the request is applied.
        expected: Expected,
    },
    /// What to do once the published state has everything that was committed before the call.
    Read(Reading),
    /// What takes the responder and reads the request, in its turn.
    Unread(Replying),
    /// What takes the responder and answers later.
    Later(Replying),
}

impl Answer {
    /// A request for the log with a short answer that ends after the member's time for requests.
    pub fn propose(kind: Kind, message: Bytes) -> Self {
        Self::propose_expecting(Expected::Bytes(0), kind, message)
    }

    /// [`Answer::propose`] for a request whose answer may be long.
    pub fn propose_expecting(expected: Expected, kind: Kind, message: Bytes) -> Self {
        Self::Propose { kind, message, is_unbounded: false, expected }
    }

    /// See [`Answer::Read`].
    pub fn read(then: impl FnOnce(&Rc<Session>) -> Outcome + 'static) -> Self {
        Self::Read(Box::new(then))
    }

    /// See [`Answer::Unread`].
    pub fn unread(then: impl FnOnce(&Rc<Session>, Responder) + 'static) -> Self {
        Self::Unread(Box::new(then))
    }

    /// See [`Answer::Later`].
    pub fn later(then: impl FnOnce(&Rc<Session>, Responder) + 'static) -> Self {
        Self::Later(Box::new(then))
    }
}

/// Sees to it that the client gets what a handler gave to a request of `bytes`.
pub fn settle(session: &Rc<Session>, outcome: Outcome, bytes: usize, mut reply: Responder) {
    match outcome {
        Err(status) => reply.fail(&status),
        Ok(Answer::Now(message)) => reply.send(Ok(message)),
        Ok(Answer::Propose { kind, message, is_unbounded, expected }) => {
            if reply.keep_expected(expected) {
                return propose(session, kind, &message, is_unbounded, reply);
            }
            task::spawn(propose_later(session.clone(), kind, message, is_unbounded, reply));
        }
        Ok(Answer::Read(then)) => {
            if !reply.keep(kept_of(bytes)) {
                return reply.fail(&Error::TooManyRequests.into());
            }
            session.linearizable(move |session, ready| match ready {
                Ok(()) => read(session, then, bytes, reply),
                Err(status) => reply.fail(&status),
            });
        }
        Ok(Answer::Unread(then)) => then(session, reply),
        Ok(Answer::Later(then)) => {
            if !reply.keep(kept_of(bytes)) {
                return reply.fail(&Error::TooManyRequests.into());
            }
            then(session, reply);
        }
    }
}

/// Bytes of a request that are not counted.
const KEPT_FREE: usize = 1024;
/// How many times the bytes of a request are in memory while its answer is planned and written: the message, the
/// bounds, and the places of walks over the index.
const COPIES: usize = 4;

/// What is counted for a request of `bytes` whose answer comes later.
pub(super) fn kept_of(bytes: usize) -> usize {
    COPIES * bytes.saturating_sub(KEPT_FREE)
}

impl Responder {
    /// [`Responder::keep`] for what is expected.
    fn keep_expected(&mut self, expected: Expected) -> bool {
        match expected {
            Expected::Bytes(bytes) => self.keep(bytes),
            Expected::OnePair => {
                self.excuse();
                true
            }
        }
    }
}

fn propose(session: &Rc<Session>, kind: Kind, message: &Bytes, is_unbounded: bool, reply: Responder) {
    if is_unbounded {
        session.propose_for_ever(kind, message, reply);
    } else {
        session.propose(kind, message, reply);
    }
}

/// Proposes a request once the core has room for its answer. The request's time for that is the time for requests. The
/// request is given up when its client has gone.
async fn propose_later(
    session: Rc<Session>,
    kind: Kind,
    message: Bytes,
    is_unbounded: bool,
    mut reply: Responder,
) {
    let deadline = clock::now() + session.member.request_timeout;
    while reply.is_wanted() {
        let now = clock::now();
        if now >= deadline {
            return reply.fail(&Error::TooManyRequests.into());
        }
        // A client that goes does not wake this task.
        let look = deadline.min(now + LOOK_INTERVAL);
        if task::until(look, reply.granted(message.len())).await.is_some() {
            return propose(&session, kind, &message, is_unbounded, reply);
        }
    }
}

/// Goes on with a read whose state is there. Those that waited for the same state do not all get their answers at once
/// if their client takes none.
fn read(session: &Rc<Session>, then: Reading, bytes: usize, mut reply: Responder) {
    reply.hold(0);
    if !reply.must_wait() {
        return settle(session, then(session), bytes, reply);
    }
    let session = session.clone();
    task::spawn(async move {
        let turn = reply.turn(bytes).await;
        if reply.is_wanted() {
            settle(&session, then(&session), bytes, reply);
        }
        drop(turn);
    });
}
