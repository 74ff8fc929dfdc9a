//! The Lease service, but for its questions. Grants and revocations go through the log; renewals go to the leader's
//! lessor.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{Either, select};
use prost::Message;

use super::answer::{Answer, Outcome};
use super::decode::{decode_kept, decode_streamed};
use super::quota;
use crate::cluster::cost::LEASE_COST;
use crate::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use crate::replica::port::LeaseCall;
use crate::request::Kind;
use crate::response::{self, Response};
use crate::server::grpc::{Incoming, Outgoing, Status};
use crate::server::io::task;
use crate::server::session::Session;
use crate::stdx::waker::WakerCell;

/// `Lease/LeaseGrant`. Who asks for id 0 gets one that nobody else has.
pub fn grant(session: &Rc<Session>, message: &Bytes) -> Outcome {
    let (mut request, message) = decode_kept::<LeaseGrantRequest>(message)?;
    let message = match request.id {
        0 => {
            request.id = fresh_id(session);
            Bytes::from(request.encode_to_vec())
        }
        _ => message,
    };
    quota::refusal(session, LEASE_COST).unwrap_or_else(|| Ok(Answer::propose(Kind::LeaseGrant, message)))
}

/// A request's id without its sign: positive, as lease ids are shown in hexadecimal everywhere.
fn fresh_id(session: &Session) -> i64 {
    loop {
        let id = (session.request_id() & i64::MAX as u64) as i64;
        if id != 0 {
            return id;
        }
    }
}

/// `Lease/LeaseRevoke`.
pub fn revoke(message: &Bytes) -> Outcome {
    let (_, message) = decode_kept::<LeaseRevokeRequest>(message)?;
    Ok(Answer::propose(Kind::LeaseRevoke, message))
}

/// `Lease/LeaseKeepAlive`: one answer per request, in their order, until the client has ended its side.
///
/// A lease that is gone is answered with TTL 0 and the stream goes on.
pub fn keep_alive(session: &Rc<Session>, mut incoming: Incoming, outgoing: Outgoing) {
    let session = session.clone();
    let renewals = Renewals::new(outgoing);
    task::spawn(async move {
        let ended = {
            let serving = std::pin::pin!(poll_fn(|cx| renewals.poll(&session, &mut incoming, cx)));
            let closing = std::pin::pin!(session.streams.closed());
            match select(serving, closing).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(Status::stopped()),
            }
        };
        // Answers that come later find nobody.
        if let Some(outgoing) = renewals.outgoing.take() {
            outgoing.finish(ended);
        }
    });
}

/// Renewals that one stream may have on their way; further requests of it wait.
const RENEWALS_MAX: usize = 64;

/// One stream of renewals. Answers are sent from where they come in, the session loop: the stream's task is woken for
/// requests alone.
struct Renewals {
    outgoing: RefCell<Option<Outgoing>>,
    /// On their way to the replica and back, which keeps their order.
    under_way: Cell<usize>,
    /// How the stream ends once all are answered, or at once if one of them has failed.
    end: RefCell<Option<Result<(), Status>>>,
    failed: Cell<bool>,
    /// The stream's task waits for answers: to go on, or to end.
    waits: Cell<bool>,
    task: WakerCell,
}

impl Renewals {
    fn new(outgoing: Outgoing) -> Rc<Self> {
        Rc::new(Self {
            outgoing: RefCell::new(Some(outgoing)),
            under_way: Cell::new(0),
            end: RefCell::new(None),
            failed: Cell::new(false),
            waits: Cell::new(false),
            task: WakerCell::default(),
        })
    }

    /// Hands on what the client asks for. Ready when the stream is over.
    fn poll(
        self: &Rc<Self>,
        session: &Rc<Session>,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Status>> {
        while self.end.borrow().is_none() && self.under_way.get() < RENEWALS_MAX {
            if self.poll_room(cx).is_pending() {
                self.wait(cx, false);
                return Poll::Pending;
            }
            match incoming.poll_next(cx) {
                Poll::Pending => {
                    self.wait(cx, false);
                    return Poll::Pending;
                }
                Poll::Ready(None) => *self.end.borrow_mut() = Some(Ok(())),
                Poll::Ready(Some(message)) => {
                    match message.and_then(decode_streamed::<LeaseKeepAliveRequest>) {
                        Ok(request) => self.ask(session, request.id),
                        Err(status) => *self.end.borrow_mut() = Some(Err(status)),
                    }
                }
            }
        }
        if (self.failed.get() || self.under_way.get() == 0)
            && let Some(end) = self.end.take()
        {
            return Poll::Ready(end);
        }
        self.wait(cx, true);
        Poll::Pending
    }

    /// Ready while the client takes its answers, or has gone.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.outgoing.borrow_mut().as_mut() {
            Some(outgoing) if outgoing.room() == 0 => outgoing.poll_room(cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    fn wait(&self, cx: &Context<'_>, for_answers: bool) {
        self.waits.set(for_answers);
        self.task.keep(cx.waker());
    }

    fn ask(self: &Rc<Self>, session: &Rc<Session>, id: i64) {
        self.under_way.set(self.under_way.get() + 1);
        let renewals = self.clone();
        session.lease(LeaseCall::KeepAlive { id }, move |session, result| renewals.answer(session, result));
    }

    fn answer(&self, session: &Rc<Session>, result: Result<Response, Status>) {
        self.under_way.set(self.under_way.get() - 1);
        if matches!(result, Ok(Response::LeaseKeepAlive { ttl, .. }) if ttl > 0) {
            session.metrics.leases_renewed.inc();
        }
        if self.failed.get() {
            return; // behind a failure nothing is said any more
        }
        let sent = result.and_then(|response| match self.outgoing.borrow_mut().as_mut() {
            Some(outgoing) => outgoing.send(response::encode(&response, &session.header())),
            None => Ok(()),
        });
        if let Err(status) = sent {
            self.failed.set(true);
            *self.end.borrow_mut() = Some(Err(status));
        }
        if self.failed.get() || self.waits.get() {
            self.task.wake_by_ref();
        }
    }
}
