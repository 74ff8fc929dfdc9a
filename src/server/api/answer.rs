//! What a handler gives back, and what becomes of it.
//!
//! ```text
//!   Now      the message is complete                          ──▶ sent in the same wake-up
//!   Propose  the request becomes an entry of the log          ──▶ sent when the entry is applied
//!   Read     the state must first have all that was committed ──▶ the handler goes on, and gives another answer
//!   Later    a task or the lessor has the answer              ──▶ sent by whoever has it
//! ```
//!
//! A handler replies to nobody: it gives an [`Outcome`], and [`settle`] alone knows the transport's [`Responder`]. Only
//! answers that come later take the responder with them.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use crate::request::Kind;
use crate::server::grpc::{Responder, Status};
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
    },
    /// What to do once the published state has everything that was committed before the call.
    Read(Reading),
    /// What takes the responder and answers later.
    Later(Replying),
}

impl Answer {
    /// A request for the log that ends after the member's time for requests.
    pub fn propose(kind: Kind, message: Bytes) -> Self {
        Self::Propose { kind, message, is_unbounded: false }
    }

    /// See [`Answer::Read`].
    pub fn read(then: impl FnOnce(&Rc<Session>) -> Outcome + 'static) -> Self {
        Self::Read(Box::new(then))
    }

    /// See [`Answer::Later`].
    pub fn later(then: impl FnOnce(&Rc<Session>, Responder) + 'static) -> Self {
        Self::Later(Box::new(then))
    }
}

/// Sees to it that the client gets what a handler gave.
pub fn settle(session: &Rc<Session>, outcome: Outcome, reply: Responder) {
    match outcome {
        Err(status) => reply.fail(&status),
        Ok(Answer::Now(message)) => reply.send(Ok(message)),
        Ok(Answer::Propose { kind, message, is_unbounded: false }) => session.propose(kind, &message, reply),
        Ok(Answer::Propose { kind, message, is_unbounded: true }) => {
            session.propose_for_ever(kind, &message, reply);
        }
        Ok(Answer::Read(then)) => session.linearizable(move |session, ready| match ready {
            Ok(()) => settle(session, then(session), reply),
            Err(status) => reply.fail(&status),
        }),
        Ok(Answer::Later(then)) => then(session, reply),
    }
}
