//! The unary calls of one connection that wait for their answer.
//!
//! A call sits in a slot of its connection; a [`Responder`] is the right to answer it, from wherever on this core
//! and whenever. Whoever comes first takes the call out of its slot: the handler's answer, the deadline, or the
//! end of the connection; the others then find the slot empty or with another stamp and do nothing.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::answer;
use super::frame::message_head;
use super::long::LongAnswer;
use super::stream::StreamState;
use super::{Core, Metadata};
use crate::server::call::method::Method;
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::Account;
use crate::stdx::time::Instant;

/// Bytes of unfinished requests that one connection may make us hold.
const CONNECTION_PARTIAL_MAX: usize = 64 * 1024 * 1024;
/// ... and all connections of a core together.
const CORE_PARTIAL_MAX: usize = 512 * 1024 * 1024;

/// A request as its handler sees it, without the messages.
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// The client's headers.
    pub metadata: Metadata,
    /// When the client stops waiting. The transport answers then; a handler may use it to stop early.
    pub deadline: Option<Instant>,
    /// Who asks.
    pub peer: SocketAddr,
}

/// A call in its slot.
pub(super) struct Pending {
    stamp: u32,
    method: Method,
    stream: Stream,
    /// When the handler got it, if that is counted.
    began: Option<Instant>,
}

/// When to look after which call.
struct Due {
    at: Instant,
    what: What,
}

enum What {
    Unary { key: usize, stamp: u32 },
    Stream(Weak<StreamState>),
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

/// What the calls of one connection share.
pub struct Shared {
    pub(super) core: Rc<Core>,
    pub(super) account: Rc<Account>,
    pub(super) peer: SocketAddr,
    /// Bytes of requests that are not whole, or wait until they may be answered.
    partial_bytes: Cell<usize>,
    pending: RefCell<Slab<Pending>>,
    stamps: Cell<u32>,
    deadlines: RefCell<BinaryHeap<Due>>,
    /// Among the last requests was one that is no read.
    pub(super) writes: Cell<bool>,
    /// The connection's task, woken when an earlier deadline comes in.
    task: RefCell<Option<Waker>>,
}

impl Shared {
    pub(super) fn new(core: Rc<Core>, peer: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            core,
            account: Account::new(),
            peer,
            partial_bytes: Cell::new(0),
            pending: RefCell::new(Slab::new()),
            stamps: Cell::new(0),
            deadlines: RefCell::new(BinaryHeap::new()),
            writes: Cell::new(false),
            task: RefCell::new(None),
        })
    }

    /// Remembers the connection's task, to wake it for an earlier deadline.
    pub(super) fn set_task(&self, waker: &Waker) {
        crate::stdx::waker::keep(&mut self.task.borrow_mut(), waker);
    }

    /// Hands a whole unary request to its handler.
    pub(super) fn dispatch(self: &Rc<Self>, call: Call, message: Bytes, stream: Stream) {
        let (method, deadline) = (call.method, call.deadline);
        let counts = self.core.counters.of(method);
        counts.received.add(1);
        self.core.counters.received_bytes.add(message.len() as u64);
        let stamp = self.stamps.get().wrapping_add(1);
        self.stamps.set(stamp);
        let key = self.pending.borrow_mut().insert(Pending {
            stamp,
            method,
            stream,
            began: self.core.counters.begin(),
        });
        self.core.api.unary(call, message, Responder { shared: self.clone(), key, stamp });
        if let Some(at) = deadline
            && self.holds(key, stamp)
        {
            self.expire_at(at, What::Unary { key, stamp });
        }
    }

    pub(super) fn expire_stream_at(&self, at: Instant, stream: &Rc<StreamState>) {
        self.expire_at(at, What::Stream(Rc::downgrade(stream)));
    }

    fn expire_at(&self, at: Instant, what: What) {
        let mut deadlines = self.deadlines.borrow_mut();
        // Most calls are answered long before their deadline: their entries are thrown out in bulk.
        if deadlines.len() > 2 * self.pending.borrow().len() + 64 {
            deadlines.retain(|due| match &due.what {
                What::Unary { key, stamp } => self.holds(*key, *stamp),
                What::Stream(stream) => stream.strong_count() > 0,
            });
        }
        let earliest = deadlines.peek().is_none_or(|due| at < due.at);
        deadlines.push(Due { at, what });
        if earliest && let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.borrow().peek().map(|due| due.at)
    }

    /// Ends the calls whose deadline has passed.
    pub(super) fn expire(&self, now: Instant) {
        loop {
            let due = {
                let mut deadlines = self.deadlines.borrow_mut();
                if deadlines.peek().is_none_or(|due| due.at > now) {
                    return;
                }
                deadlines.pop().expect("just seen")
            };
            match due.what {
                What::Unary { key, stamp } => {
                    if let Some(pending) = self.take(key, stamp) {
                        self.count_sent(pending.method);
                        self.refuse(
                            pending.method,
                            &pending.stream,
                            pending.began,
                            &Status::deadline_exceeded(),
                        );
                    }
                }
                What::Stream(stream) => {
                    if let Some(stream) = stream.upgrade() {
                        stream.expire();
                    }
                }
            }
        }
    }

    /// Answers with an error, as headers that end the stream. `began` is when a handler got the call, if one did.
    pub(super) fn refuse(&self, method: Method, stream: &Stream, began: Option<Instant>, status: &Status) {
        self.core.counters.end(method, status.code, began);
        self.account.note_write();
        // An error says that the stream is gone already: then nobody waits for this.
        let _ = stream.refuse(&answer::refusal(answer::HTTP_OK, status));
    }

    /// Counts the end of a unary call that reached its handler as a message sent, whether it had one or not: so
    /// does etcd.
    fn count_sent(&self, method: Method) {
        self.core.counters.of(method).sent.add(1);
    }

    /// Counts bytes of unfinished requests, `before` of which were counted already. False when it is too much.
    pub(super) fn count_partial(&self, before: usize, after: usize) -> bool {
        let (connection, core) = (&self.partial_bytes, &self.core.partial_bytes);
        connection.set(connection.get() - before + after);
        core.set(core.get() - before + after);
        connection.get() <= CONNECTION_PARTIAL_MAX && core.get() <= CORE_PARTIAL_MAX
    }

    /// Waits until the connection may answer a message of `bytes`, which counts as unfinished meanwhile.
    pub(super) async fn answerable(&self, bytes: usize) {
        if !self.account.is_full() {
            return;
        }
        let waiting = PartialBytes::count(self, bytes);
        std::future::poll_fn(|cx| self.account.poll_answerable(cx)).await;
        drop(waiting);
    }

    /// Drops every call: the connection is gone.
    pub(super) fn abandon(&self) {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for (_, call) in pending {
            self.count_sent(call.method);
            self.core.counters.end(call.method, Code::Canceled, call.began);
        }
        self.deadlines.borrow_mut().clear();
    }

    fn holds(&self, key: usize, stamp: u32) -> bool {
        self.pending.borrow().get(key).is_some_and(|call| call.stamp == stamp)
    }

    fn take(&self, key: usize, stamp: u32) -> Option<Pending> {
        let mut pending = self.pending.borrow_mut();
        if pending.get(key)?.stamp != stamp {
            return None;
        }
        Some(pending.remove(key))
    }
}

/// Bytes of requests that are held and not answered; counted until dropped.
struct PartialBytes<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl<'a> PartialBytes<'a> {
    fn count(shared: &'a Shared, bytes: usize) -> Self {
        shared.count_partial(0, bytes);
        Self { shared, bytes }
    }
}

impl Drop for PartialBytes<'_> {
    fn drop(&mut self) {
        self.shared.count_partial(self.bytes, 0);
    }
}

/// The right to answer a unary call, once. Dropped without an answer, it answers that the server stops.
pub struct Responder {
    shared: Rc<Shared>,
    key: usize,
    stamp: u32,
}

impl Responder {
    /// Answers with `message`, or with an error.
    pub fn send(self, result: Result<Bytes, Status>) {
        match result {
            Ok(message) => self.send_pieces(message.len(), [message]),
            Err(status) => self.fail(&status),
        }
    }

    /// Answers with one message whose encoding is the concatenation of `pieces`, `total` bytes in all.
    ///
    /// For answers of up to a few hundred kilobytes; [`Responder::stream`] is for those without a bound.
    pub fn send_pieces(self, total: usize, pieces: impl IntoIterator<Item = Bytes>) {
        let Some(call) = self.shared.take(self.key, self.stamp) else { return };
        let shared = &self.shared;
        let head = match message_head(total, false) {
            Ok(head) => head,
            Err(status) => {
                shared.count_sent(call.method);
                return shared.refuse(call.method, &call.stream, call.began, &status);
            }
        };
        shared.core.counters.end(call.method, Code::Ok, call.began);
        shared.core.counters.of(call.method).sent.add(1);
        shared.core.counters.sent_bytes.add(total as u64);
        let stream = &call.stream;
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap_or_default();
        let mut left = total.checked_sub(first.len()).expect("pieces fit into the announced total");
        // Errors below mean that the client has gone: nobody is left to tell.
        let _ = stream.send_head(&answer::HEAD);
        let _ = stream.send_data(&head, first, &shared.account);
        for piece in pieces {
            left = left.checked_sub(piece.len()).expect("pieces fit into the announced total");
            let _ = stream.send_data(&[], piece, &shared.account);
        }
        assert_eq!(left, 0, "pieces fill the announced total");
        let _ = stream.end(answer::OK);
    }

    /// Who asked.
    pub fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    /// Answers with an error.
    pub fn fail(self, status: &Status) {
        if let Some(call) = self.shared.take(self.key, self.stamp) {
            self.shared.count_sent(call.method);
            self.shared.refuse(call.method, &call.stream, call.began, status);
        }
    }

    /// Begins an answer of one message of `total` bytes that is written in slices, as fast as the client takes
    /// them. None if nobody waits for it any more, or if it is too long to be sent, which the client is told.
    pub fn stream(self, total: usize) -> Option<LongAnswer> {
        match message_head(total, false) {
            Ok(head) => {
                let call = self.shared.take(self.key, self.stamp)?;
                Some(LongAnswer::begin(&self.shared, (call.method, call.stream, call.began), head, total))
            }
            Err(status) => {
                self.fail(&status);
                None
            }
        }
    }

    /// Whether the call still waits; `false` when the client went away or its deadline passed.
    pub fn is_wanted(&self) -> bool {
        self.shared.holds(self.key, self.stamp)
    }

    /// Ready when nobody waits for the answer any more.
    pub fn poll_canceled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pending = self.shared.pending.borrow();
        match pending.get(self.key) {
            Some(call) if call.stamp == self.stamp => call.stream.poll_gone(cx),
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(call) = self.shared.take(self.key, self.stamp) {
            self.shared.count_sent(call.method);
            self.shared.refuse(call.method, &call.stream, call.began, &Status::stopped());
        }
    }
}
