//! What one session core shares between its connections: its way into the store, the requests it waits for, its
//! watchers, and the lane to the replica. Lives on one core; nothing in it is locked.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::channel::oneshot;

use super::observer;
use crate::btree::{Read, Reader, Readers, Snapshot};
use crate::config::Gates;
use crate::error::Error;
use crate::limits::{ANSWER_ASSEMBLED_BYTES_MAX, LARGE_STORE_BYTES, SORTED_BYTES_MAX};
use crate::mvcc::View;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::leaf_counts::LeafCounts;
use crate::mvcc::pin::PinSlot;
use crate::mvcc::remembered::PlanMemory;
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::replica::read_gate::ReadGate;
use crate::request::{self, Kind};
use crate::response::{self, Header, Response};
use crate::server::grpc::counters::Counters;
use crate::server::grpc::{Code, Responder, Status, frame};
use crate::server::io::{clock, task};
use crate::server::log::slow::{Asked, Limits};
use crate::server::mesh::{Receiver, Sender};
use crate::server::metrics;
use crate::server::session::gathering::Gathering;
use crate::server::session::line::Line;
use crate::server::session::streams::Streams;
use crate::server::session::watches::Watches;
use crate::session::{self, FromReplica, Shell, Tickets, Transport};
use crate::stdx::time::{Duration, Instant};
use crate::watch::History;

/// What all long answers of a core may remember of their plans together: the pairs of forty lists of 100 000.
const PLAN_BYTES_MAX: usize = 16 << 20;

/// What a client is told whose write was applied and whose answer has no room, among the answers not taken or in the
/// lane.
const NO_ROOM: &str = "etcdserver: the request was applied, but its answer has no room";

/// How long after the end of a connection its proposals are looked for, and the time between two slices of that.
const FORGET_DELAY: Duration = Duration::from_millis(2);
/// Tickets in a slice.
const TICKETS_SLICE: usize = 1024;

/// What is the same on every session core of a member.
pub struct Member {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// Longest entry that is proposed: `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// Operations per transaction: `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// How long a proposal or a ReadIndex may take.
    pub request_timeout: Duration,
    /// Requests that take longer are logged.
    pub slow: Limits,
    /// Name and URLs, as `member list` shows them before they are published.
    pub name: String,
    /// The store's revision when the member started.
    pub start_revision: i64,
    /// Somebody wants to know how many keys there are.
    pub keys_asked: AtomicBool,
    /// `--quota-backend-bytes`, as Status reports it.
    pub quota_bytes: i64,
    /// The hashes that compactions took.
    pub compaction_hashes: CompactionHashes,
    /// Bytes in use at which requests that grow the store are refused; none without a quota.
    pub quota: Option<u64>,
    /// Feature gates, for metrics.
    pub gates: Gates,
    /// The counts of all cores, the replica's last.
    pub metrics: Vec<Arc<metrics::Core>>,
    /// The counts of gRPC calls of all session cores.
    pub rpc: Vec<Arc<Counters>>,
}

impl Member {
    /// Size of the store file and of its part that holds data, as the replica's core counts them.
    pub fn store_bytes(&self) -> (i64, i64) {
        let sum = |read: fn(&metrics::Core) -> i64| self.metrics.iter().map(|core| read(core)).sum();
        (sum(|core| core.store_bytes.get()), sum(|core| core.store_used_bytes.get()))
    }

    /// Whether the store is so large that most places of it are likely not to be in memory.
    pub fn is_store_large(&self) -> bool {
        u64::try_from(self.store_bytes().0).is_ok_and(|bytes| bytes >= LARGE_STORE_BYTES)
    }
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

/// One session core.
pub struct Session {
    /// Facts about the member.
    pub member: Arc<Member>,
    /// This core's number.
    pub core: u16,
    /// This core's watch streams.
    pub watches: Watches,
    /// This core's other long streams.
    pub streams: Streams,
    /// This core's answers that are gathered before they are sent.
    pub gathering: Rc<Gathering>,
    /// Long transactions that this core decodes, which takes much memory: one after the other.
    pub long_txns: Rc<Line>,
    /// This core's counts of gRPC calls.
    pub counters: Arc<Counters>,
    /// This core's other counts.
    pub metrics: Arc<metrics::Core>,
    readers: Readers,
    reader: RefCell<Reader>,
    pins: RefCell<PinSlot>,
    plan_memory: PlanMemory,
    leaf_counts: LeafCounts,
    tickets: RefCell<Tickets<Waiting>>,
    replica: Sender<Input>,
    gate: Arc<ReadGate>,
    next_id: Cell<u64>,
    id_step: u64,
    forgetting: Cell<Forgetting>,
    /// Someone asked for a turn of the session loop.
    called: Cell<bool>,
    loop_task: RefCell<Option<Waker>>,
    /// The task that runs timers, while none is armed.
    timers_task: RefCell<Option<Waker>>,
}

/// The parts that a core is made of.
pub struct Parts {
    /// Facts about the member.
    pub member: Arc<Member>,
    /// This core's number, and the distance between its request ids.
    pub core: (u16, u16),
    /// The way into the store.
    pub readers: Readers,
    /// This core's pins.
    pub pins: PinSlot,
    /// The lane to the replica.
    pub replica: Sender<Input>,
    /// Whether reads need a round.
    pub gate: Arc<ReadGate>,
    /// Where request ids begin; the same on all cores.
    pub first_id: u64,
    /// Seed of what must not be guessed or synchronised (jitter, hash secrets).
    pub seed: u64,
    /// This core's counts.
    pub metrics: Arc<metrics::Core>,
    /// This core's counts of gRPC calls.
    pub counters: Arc<Counters>,
}

impl Session {
    /// A core without connections.
    pub fn new(parts: Parts) -> Rc<Self> {
        let mut reader = parts.readers.register();
        let revision = reader.snapshot().applied().revision;
        let (core, id_step) = parts.core;
        let watches = Watches::new(&parts.member, revision, parts.seed);
        Rc::new(Self {
            watches,
            streams: Streams::default(),
            gathering: Rc::default(),
            long_txns: Rc::default(),
            core,
            counters: parts.counters,
            metrics: parts.metrics,
            readers: parts.readers,
            reader: RefCell::new(reader),
            pins: RefCell::new(parts.pins),
            plan_memory: PlanMemory::bounded(PLAN_BYTES_MAX, SORTED_BYTES_MAX),
            leaf_counts: LeafCounts::default(),
            tickets: RefCell::new(Tickets::new(core, parts.member.request_timeout)),
            replica: parts.replica,
            gate: parts.gate,
            next_id: Cell::new(parts.first_id + u64::from(core)),
            id_step: u64::from(id_step),
            forgetting: Cell::new(Forgetting::Idle),
            called: Cell::new(false),
            loop_task: RefCell::new(None),
            timers_task: RefCell::new(None),
            member: parts.member,
        })
    }

    /// The header that this member's answers carry now.
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.member.cluster_id,
            member_id: self.member.member_id,
            raft_term: self.gate.term(),
        }
    }

    /// Shows `look` the newest published state. Not to be held across an await: nothing can be.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_, Snapshot<'_>>) -> T) -> T {
        let mut reader = self.reader.borrow_mut();
        let snapshot = reader.snapshot();
        look(&View::new(&snapshot).counting_with(&self.leaf_counts))
    }

    /// A reader of its own for a task that gathers an answer from one state, in slices: pages of that state are not
    /// used again meanwhile, so one such task of a core runs at a time, and waits for no client.
    pub fn reader(self: &Rc<Self>) -> OwnReader {
        self.metrics.store_readers.add(1);
        OwnReader { session: self.clone(), reader: self.readers.register() }
    }

    /// An id that no other request of this member has had.
    pub fn request_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(self.id_step));
        id
    }

    /// What long answers of this core may remember of their plans.
    pub fn plan_memory(&self) -> &PlanMemory {
        &self.plan_memory
    }

    /// What decides whether a read needs a ReadIndex round, and the state of raft that clients are told.
    pub fn gate(&self) -> &ReadGate {
        &self.gate
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
        let id = self.request_id();
        let (entry, message) = request::wrap(id, kind, message);
        if entry.len() > self.member.max_request_bytes {
            observer::refusal(self, kind, Error::RequestTooLarge, Duration::ZERO);
            return reply.fail(&Error::RequestTooLarge.into());
        }
        let asked = clock::now();
        let waiting = Waiting::Client { reply, id, kind, asked, message };
        let ticket = issue(&mut self.tickets.borrow_mut(), asked, waiting);
        self.submit(ticket, Input::Propose { ticket, id, entry });
    }

    /// Proposes a request and hands its response to `then`.
    pub fn propose_then(
        self: &Rc<Self>,
        kind: Kind,
        message: &[u8],
        then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static,
    ) {
        let id = self.request_id();
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

    /// Has the replica give back what the store file can do without, however long that takes.
    pub fn defragment(self: &Rc<Self>, then: impl FnOnce(&Rc<Session>, Result<Response, Status>) + 'static) {
        let waiting = Waiting::Handler(Box::new(then));
        let ticket = self.tickets.borrow_mut().issue_for_ever(waiting);
        self.submit(ticket, Input::Defragment { ticket });
    }

    /// Runs `then` once the published state contains everything that was committed before this call: at once
    /// while this member alone decides, else after a ReadIndex round that all reads of this turn share.
    pub fn linearizable(self: &Rc<Self>, then: impl FnOnce(&Rc<Session>, Result<(), Status>) + 'static) {
        if self.gate.is_open() {
            return then(self, Ok(()));
        }
        let ticket = self.issue(Waiting::Read(Box::new(then)));
        self.submit(ticket, Input::ReadIndex { ticket });
    }

    fn issue(&self, waiting: Waiting) -> Ticket {
        self.tickets.borrow_mut().issue(clock::now(), waiting)
    }

    fn submit(self: &Rc<Self>, ticket: Ticket, input: Input) {
        self.arm_timers();
        if self.replica.send(input).is_err() {
            let waiting = self.tickets.borrow_mut().redeem(ticket);
            if let Some(waiting) = waiting {
                self.end(waiting, Error::TooManyRequests);
            }
        }
    }

    /// A reply from the replica. `now` is when its turn began.
    pub fn on_reply(self: &Rc<Self>, now: Instant, ticket: Ticket, result: Result<Response, Error>) {
        let Some(waiting) = self.tickets.borrow_mut().redeem(ticket) else { return };
        match (waiting, result) {
            (Waiting::Client { reply, kind, asked, message, .. }, Ok(response)) => {
                let response = match response.pairs_len() {
                    len if !reply.may_send(len) => Response::Overlong { revision: response.revision(), len },
                    _ => response,
                };
                let answer = response::encode(&response, &self.header());
                let request = Asked { kind, message: &message, peer: reply.peer() };
                observer::answer(self, &request, now.since(asked), Ok((&response, &answer)));
                reply.send(match response {
                    Response::Overlong { len, .. } if len > ANSWER_ASSEMBLED_BYTES_MAX => {
                        Err(frame::unsendable(len, ANSWER_ASSEMBLED_BYTES_MAX, false))
                    }
                    Response::Overlong { .. } => Err(Status::new(Code::ResourceExhausted, NO_ROOM)),
                    _ => Ok(answer),
                });
            }
            (Waiting::Client { reply, kind, asked, message, .. }, Err(error))
                if !matches!(error, Error::TooManyRequests | Error::NoLeader | Error::Timeout) =>
            {
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
        let Some(waiting) = self.tickets.borrow_mut().redeem(ticket) else { return };
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
            let expired = self.tickets.borrow_mut().expire(now);
            let Some(waiting) = expired else { return };
            self.end(waiting, Error::Timeout);
        }
    }

    /// A connection has ended: nobody waits for the answers to its proposals any more, so they need not be assembled.
    pub fn forget_gone(self: &Rc<Self>) {
        match self.forgetting.get() {
            Forgetting::Idle => {
                self.forgetting.set(Forgetting::UnderWay);
                let session = self.clone();
                task::spawn(async move { session.forget_all_gone().await });
            }
            Forgetting::UnderWay | Forgetting::Again => self.forgetting.set(Forgetting::Again),
        }
    }

    async fn forget_all_gone(self: Rc<Self>) {
        loop {
            // Many connections that end together are seen to together.
            task::sleep(FORGET_DELAY).await;
            self.forgetting.set(Forgetting::UnderWay);
            self.tickets.borrow_mut().shrink();
            let slots = self.tickets.borrow().slots();
            for from in (0..slots).step_by(TICKETS_SLICE) {
                (from..slots.min(from + TICKETS_SLICE)).for_each(|slot| self.forget_if_gone(slot));
                // Clients that come and go all the time cost a small share of the core, however many requests wait.
                task::sleep(FORGET_DELAY).await;
            }
            if self.forgetting.get() == Forgetting::UnderWay {
                return self.forgetting.set(Forgetting::Idle);
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
        let gone = self.tickets.borrow_mut().take_if(slot, is_gone);
        if let Some(Waiting::Client { id, .. }) = gone {
            // If the lane is full the answer is assembled, and finds nobody.
            let _ = self.replica.send(Input::Forget { id });
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

    /// Something has begun that has a timeout or an interval.
    pub fn arm_timers(&self) {
        if let Some(task) = self.timers_task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Ready while something has a timeout or an interval; registers the task that runs timers otherwise.
    pub fn poll_timers_armed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting() > 0 || self.watches.is_open() {
            return Poll::Ready(());
        }
        *self.timers_task.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Requests that wait for the replica.
    pub fn waiting(&self) -> usize {
        self.tickets.borrow().len()
    }

    /// Asks for a turn of the session loop.
    pub fn wake_loop(&self) {
        self.called.set(true);
        if let Some(task) = self.loop_task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Ready when a turn was asked for; registers the loop's task otherwise.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.called.take() {
            return Poll::Ready(());
        }
        *self.loop_task.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
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

    /// Keeps what is readable at `revision` until the guard goes. None if it is compacted meanwhile.
    pub fn pin(self: &Rc<Self>, revision: i64) -> Option<Pin> {
        let mut pins = self.pins.borrow_mut();
        let holds = pins.pin(revision, || self.reader.borrow_mut().snapshot().applied().compact_revision);
        holds.then(|| {
            self.metrics.store_readers.add(1);
            Pin { session: self.clone(), revision }
        })
    }
}

/// A turn of the session loop; see [`crate::session::turn`].
pub struct SessionTurn<'a> {
    session: &'a Rc<Session>,
    /// Where the replica's messages come from.
    lane: &'a Receiver<FromReplica>,
    /// When the turn began.
    began: Instant,
    /// Pieces of work since the clock was looked at last.
    pieces: u32,
}

/// How long a turn of the session loop may keep other tasks of the core waiting.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);
/// Pieces of work between two looks at the clock.
const PIECES_UNTIMED: u32 = 4;

impl<'a> SessionTurn<'a> {
    /// A turn that begins now.
    pub fn new(session: &'a Rc<Session>, lane: &'a Receiver<FromReplica>) -> Self {
        Self { session, lane, began: clock::now(), pieces: 0 }
    }
}

impl Shell for SessionTurn<'_> {
    fn on_reply(&mut self, ticket: Ticket, result: Result<Response, Error>) {
        let carried = result.as_ref().map_or(0, Response::pairs_len);
        self.session.on_reply(self.began, ticket, result);
        self.lane.arrived(carried);
    }

    fn on_read_ready(&mut self, ticket: Ticket) {
        self.session.on_read_ready(ticket);
    }

    fn watch<T>(
        &mut self,
        step: impl FnOnce(&mut session::Watches, &dyn History, &mut dyn Transport) -> T,
    ) -> T {
        let session = self.session;
        session.view(|view| session.watches.with(|watches, transport| step(watches, view, transport)))
    }

    fn is_over(&mut self) -> bool {
        self.pieces += 1;
        self.pieces.is_multiple_of(PIECES_UNTIMED) && clock::now().since(self.began) > TURN_TIME_MAX
    }
}

/// A reader of a task's own.
pub struct OwnReader {
    session: Rc<Session>,
    reader: Reader,
}

impl OwnReader {
    /// The newest published state, which stays while this is looked at.
    pub fn snapshot(&mut self) -> Snapshot<'_> {
        self.reader.snapshot()
    }
}

impl Drop for OwnReader {
    fn drop(&mut self) {
        self.session.metrics.store_readers.add(-1);
    }
}

/// A pinned revision.
pub struct Pin {
    session: Rc<Session>,
    revision: i64,
}

impl Pin {
    /// What it keeps readable.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.session.pins.borrow_mut().unpin(self.revision);
        self.session.metrics.store_readers.add(-1);
    }
}
