//! Requests on their way through the replica: who waits for which, and how each ends.
//!
//! ```text
//!   propose, lease, linearizable ──▶ ticket ──▶ lane ──▶ replica
//!                                      │
//!        on_reply, on_read_ready ◀─────┤ each ticket is redeemed once
//!        expire, forget_gone     ◀─────┘
//! ```
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use futures::channel::oneshot;
use raft::eraftpb::ConfChange;

use super::{Session, observer};
use crate::error::Error;
use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::request::{self, Kind};
use crate::response::{self, Response};
use crate::server::grpc::{Code, Responder, Status, frame};
use crate::server::io::{clock, task};
use crate::server::log::slow::Asked;
use crate::server::mesh::Sender;
use crate::session::Tickets;
use crate::stdx::time::{Duration, Instant};

/// What a client is told whose write was applied and whose answer has no room, among the answers not taken or in the
/// lane.
const NO_ROOM: &str = "etcdserver: the request was applied, but its answer has no room";

/// How long after the end of a connection its proposals are looked for, and the time between two slices of that.
const FORGET_DELAY: Duration = Duration::from_millis(2);
/// Tickets in a slice.
const TICKETS_SLICE: usize = 1024;

/// Whether a proposal was applied, and this came of it; otherwise nobody knows what became of the proposal.
fn is_of_apply(error: Error) -> bool {
    use Error::{NoLeader, Timeout, TimeoutDueToLeaderFail, TooManyRequests};
    !matches!(error, TooManyRequests | NoLeader | Timeout | TimeoutDueToLeaderFail)
}

type OnReply = Box<dyn FnOnce(&Rc<Session>, Result<Response, Status>)>;
type OnRead = Box<dyn FnOnce(&Rc<Session>, Result<(), Status>)>;

/// What a ticket stands for.
enum Waiting {
    /// A client waits for the proposal's response.
    Client {
        /// The client.
        reply: Responder,
        /// The id in the header of the entry.
        id: u64,
        /// What it asked for.
        kind: Kind,
        /// When.
        asked: Instant,
        /// Its request, as a part of the entry that was proposed.
        message: Bytes,
    },
    /// One of our own handlers does.
    Handler(OnReply),
    /// A read waits until the replica has applied what was committed when it arrived.
    Read(OnRead),
}

/// Whether proposals of clients that have gone are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forgetting {
    Idle,
    UnderWay,
    /// Others have gone since the search began.
    Again,
}

/// The requests of one core that wait for the replica, and the way there.
pub(super) struct Requests {
    tickets: RefCell<Tickets<Waiting>>,
    replica: Sender<Input>,
    next_id: Cell<u64>,
    id_step: u64,
    forgetting: Cell<Forgetting>,
}

impl Requests {
    /// Nothing waits on `core`. The ids of requests are `first_id` and every `id_step`th after it.
    pub(super) fn new(
        core: u16,
        timeout: Duration,
        replica: Sender<Input>,
        (first_id, id_step): (u64, u64),
    ) -> Self {
        Self {
            tickets: RefCell::new(Tickets::new(core, timeout)),
            replica,
            next_id: Cell::new(first_id),
            id_step,
            forgetting: Cell::new(Forgetting::Idle),
        }
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.tickets.borrow().len()
    }

    fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(self.id_step));
        id
    }
}

impl Session {
    /// An id that no other request of this member has had.
    pub fn request_id(&self) -> u64 {
        self.requests.next_id()
    }

    /// Proposes a request for a client. `message` is its own encoding, checked before.
    pub fn propose(self: &Rc<Self>, kind: Kind, message: &Bytes, reply: Responder) {
        self.propose_as(kind, message, reply, Tickets::issue);
    }

    /// [`Session::propose`] for what may take longer than a request's timeout: the client alone gives up.
    pub fn propose_for_ever(self: &Rc<Self>, kind: Kind, message: &Bytes, reply: Responder) {
        self.propose_as(kind, message, reply, |tickets, _, waiting| tickets.issue_for_ever(waiting));
    }

    fn propose_as(
        self: &Rc<Self>,
        kind: Kind,
        message: &Bytes,
        reply: Responder,
        issue: impl FnOnce(&mut Tickets<Waiting>, Instant, Waiting) -> Ticket,
    ) {
        let id = self.requests.next_id();
        let (entry, message) = request::wrap(id, kind, message);
        if entry.len() > self.member.max_request_bytes {
            observer::refusal(self, kind, Error::RequestTooLarge, Duration::ZERO);
            return reply.fail(&Error::RequestTooLarge.into());
        }
        let asked = clock::now();
        let waiting = Waiting::Client { reply, id, kind, asked, message };
        let ticket = issue(&mut self.requests.tickets.borrow_mut(), asked, waiting);
        self.submit(ticket, Input::Propose { ticket, id, entry });
    }

    /// Proposes a request and hands its response to `then`.
    pub fn propose_then(
        self: &Rc<Self>,
        kind: Kind,
        message: &[u8],
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let id = self.requests.next_id();
        let (entry, _) = request::wrap(id, kind, message);
        let ticket = self.issue(Waiting::Handler(Box::new(then)));
        self.submit(ticket, Input::Propose { ticket, id, entry });
    }

    /// Asks the lessor.
    pub fn lease(
        self: &Rc<Self>,
        call: LeaseCall,
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let ticket = self.issue(Waiting::Handler(Box::new(then)));
        self.submit(ticket, Input::Lease { ticket, call });
    }

    /// [`Session::lease`] for a task that waits.
    ///
    /// # Errors
    /// What the lessor refuses the question with.
    pub async fn ask_lessor(self: &Rc<Self>, call: LeaseCall) -> Result<Response, Status> {
        let (done, wait) = oneshot::channel();
        self.lease(call, move |_, result| {
            // The task may have ended: nobody is left to tell.
            let _ = done.send(result);
        });
        wait.await.unwrap_or_else(|_| Err(Status::stopped()))
    }

    /// Has the members changed.
    pub fn configure(
        self: &Rc<Self>,
        change: ConfChange,
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let ticket = self.issue(Waiting::Handler(Box::new(then)));
        self.submit(ticket, Input::Configure { ticket, change: Box::new(change) });
    }

    /// Has a learner promoted.
    pub fn promote(
        self: &Rc<Self>,
        id: u64,
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let ticket = self.issue(Waiting::Handler(Box::new(then)));
        self.submit(ticket, Input::Promote { ticket, id });
    }

    /// Has leadership moved to another member.
    pub fn move_leader(
        self: &Rc<Self>,
        target: u64,
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let ticket = self.issue(Waiting::Handler(Box::new(then)));
        self.submit(ticket, Input::MoveLeader { ticket, target });
    }

    /// The member is about to stop: if it leads, another one is to lead.
    pub fn resign(&self) {
        // A lane that is full has so much for the replica that leadership moves by an election.
        let _ = self.requests.replica.send(Input::Resign);
    }

    /// Has the replica give back what the store file can do without, however long that takes.
    pub fn defragment(self: &Rc<Self>, then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static) {
        let waiting = Waiting::Handler(Box::new(then));
        let ticket = self.requests.tickets.borrow_mut().issue_for_ever(waiting);
        self.submit(ticket, Input::Defragment { ticket });
    }

    /// Runs `then` once the published state contains everything that was committed before this call: at once
    /// while this member alone decides, else after a ReadIndex round that all reads of this turn share.
    pub fn linearizable(self: &Rc<Self>, then: impl FnOnce(&Rc<Session>, Result<(), Status>) + 'static) {
        if self.gate().is_open() {
            return then(self, Ok(()));
        }
        let ticket = self.issue(Waiting::Read(Box::new(then)));
        self.submit(ticket, Input::ReadIndex { ticket });
    }

    fn issue(&self, waiting: Waiting) -> Ticket {
        self.requests.tickets.borrow_mut().issue(clock::now(), waiting)
    }

    fn submit(self: &Rc<Self>, ticket: Ticket, input: Input) {
        self.arm_timers();
        if self.requests.replica.send(input).is_err() {
            let waiting = self.requests.tickets.borrow_mut().redeem(ticket);
            if let Some(waiting) = waiting {
                self.end(waiting, Error::TooManyRequests);
            }
        }
    }

    /// A reply from the replica. `now` is when its turn began.
    pub fn on_reply(self: &Rc<Self>, now: Instant, ticket: Ticket, result: Result<Response, Error>) {
        let Some(waiting) = self.requests.tickets.borrow_mut().redeem(ticket) else { return };
        match (waiting, result) {
            (Waiting::Client { reply, kind, asked, message, .. }, Ok(response)) => {
                let response = match response.pairs_len() {
                    len if !reply.may_send(len) => Response::Overlong { revision: response.revision(), len },
                    _ => response,
                };
                let pieces = response::encode_pieces(&response, &self.header());
                let length = pieces.iter().map(Bytes::len).sum();
                let request = Asked { kind, message: &message, peer: reply.peer() };
                observer::answer(self, &request, now.since(asked), Ok((&response, length)));
                reply.send_pieces(match response {
                    Response::Overlong { len, .. } if len > ANSWER_ASSEMBLED_BYTES_MAX => {
                        Err(frame::unsendable(len, ANSWER_ASSEMBLED_BYTES_MAX, false))
                    }
                    Response::Overlong { .. } => Err(Status::new(Code::ResourceExhausted, NO_ROOM)),
                    _ => Ok(pieces),
                });
            }
            (Waiting::Client { reply, kind, asked, message, .. }, Err(error)) if is_of_apply(error) => {
                let request = Asked { kind, message: &message, peer: reply.peer() };
                observer::answer(self, &request, now.since(asked), Err(&error));
                reply.fail(&error.into());
            }
            (waiting, Err(error)) => self.end(waiting, error),
            (Waiting::Handler(then), Ok(response)) => then(self, Ok(response)),
            (Waiting::Read(then), Ok(_)) => then(self, Ok(())),
        }
    }

    /// The state that a read waits for is published.
    pub fn on_read_ready(self: &Rc<Self>, ticket: Ticket) {
        let Some(waiting) = self.requests.tickets.borrow_mut().redeem(ticket) else { return };
        match waiting {
            Waiting::Read(then) => then(self, Ok(())),
            // The replica gives this permission to reads alone; of anything else nobody knows what became.
            other => self.end(other, Error::Timeout),
        }
    }

    /// Gives up on what has waited too long.
    pub fn expire(self: &Rc<Self>) {
        let now = clock::now();
        loop {
            // Taken out in a statement of its own: ending it may issue new tickets.
            let expired = self.requests.tickets.borrow_mut().expire(now);
            let Some(waiting) = expired else { return };
            self.end(waiting, Error::Timeout);
        }
    }

    /// Whether the log waits for room on the disk, and with it everything that is proposed.
    pub fn log_lacks_room(&self) -> bool {
        self.member.metrics.iter().any(|core| core.wal_lacks_room.get() != 0)
    }

    /// Whether the disk of the store file has no room for a checkpoint. What is proposed may have to wait for it.
    pub fn store_lacks_room(&self) -> bool {
        self.member.metrics.iter().any(|core| core.store_lacks_room.get() != 0)
    }

    /// The member stops and does not wait for the replica: whoever waits hears so.
    pub fn end_waiting(self: &Rc<Self>) {
        let slots = self.requests.tickets.borrow().slots();
        for slot in 0..slots {
            // Taken out in a statement of its own: ending it may issue new tickets.
            let waiting = self.requests.tickets.borrow_mut().take_if(slot, |_| true);
            if let Some(waiting) = waiting {
                self.end(waiting, Error::Stopped);
            }
        }
    }

    /// A connection has ended: nobody waits for the answers to its proposals any more, so they need not be assembled.
    pub fn forget_gone(self: &Rc<Self>) {
        match self.requests.forgetting.get() {
            Forgetting::Idle => {
                self.requests.forgetting.set(Forgetting::UnderWay);
                let session = self.clone();
                task::spawn(async move { session.forget_all_gone().await });
            }
            Forgetting::UnderWay | Forgetting::Again => self.requests.forgetting.set(Forgetting::Again),
        }
    }

    async fn forget_all_gone(self: Rc<Self>) {
        loop {
            // Many connections that end together are seen to together.
            task::sleep(FORGET_DELAY).await;
            self.requests.forgetting.set(Forgetting::UnderWay);
            self.requests.tickets.borrow_mut().shrink();
            let slots = self.requests.tickets.borrow().slots();
            for from in (0..slots).step_by(TICKETS_SLICE) {
                (from..slots.min(from + TICKETS_SLICE)).for_each(|slot| self.forget_if_gone(slot));
                // Clients that come and go all the time cost a small share of the core, however many requests wait.
                task::sleep(FORGET_DELAY).await;
            }
            if self.requests.forgetting.get() == Forgetting::UnderWay {
                return self.requests.forgetting.set(Forgetting::Idle);
            }
        }
    }

    fn forget_if_gone(&self, slot: usize) {
        let is_gone = |waiting: &Waiting| match waiting {
            // The answers to others are short.
            Waiting::Client { reply, kind: Kind::Put | Kind::DeleteRange | Kind::Txn, .. } => {
                !reply.is_wanted()
            }
            _ => false,
        };
        // Taken out in a statement of its own: what is dropped below may be the last that holds on to a connection.
        let gone = self.requests.tickets.borrow_mut().take_if(slot, is_gone);
        if let Some(Waiting::Client { id, .. }) = gone {
            // If the lane is full the answer is assembled, and finds nobody.
            let _ = self.requests.replica.send(Input::Forget { id });
        }
    }

    fn end(self: &Rc<Self>, waiting: Waiting, error: Error) {
        let status = Status::from(error);
        match waiting {
            Waiting::Client { reply, kind, asked, .. } => {
                observer::refusal(self, kind, error, clock::now().since(asked));
                reply.fail(&status);
            }
            Waiting::Handler(then) => then(self, Err(status)),
            Waiting::Read(then) => {
                observer::unconfirmed(self, error);
                then(self, Err(status));
            }
        }
    }

    /// [`Session::linearizable`] for a task that waits.
    ///
    /// # Errors
    /// When no quorum confirms in time.
    pub async fn read_barrier(self: &Rc<Self>) -> Result<(), Status> {
        let (done, wait) = oneshot::channel();
        self.linearizable(move |_, ready| {
            // The task may have ended: nobody is left to tell.
            let _ = done.send(ready);
        });
        wait.await.unwrap_or_else(|_| Err(Status::stopped()))
    }
}
