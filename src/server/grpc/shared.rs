//! What the calls of one connection share: the slots in which unary calls wait, their deadlines, and the bytes that
//! their client makes us hold.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::task::Waker;

use slab::Slab;

use super::calls::Client;
use super::deadlines::{Deadlines, What};
use super::stream::StreamState;
use super::{Core, answer};
use crate::server::call::method::Method;
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::{Account, InLine};
use crate::stdx::time::Instant;
use crate::stdx::waker::WakerCell;

/// Bytes of unfinished requests that one connection may make us hold.
const CONNECTION_PARTIAL_MAX: usize = 64 * 1024 * 1024;

/// A call in its slot.
pub(super) struct Pending {
    stamp: u32,
    pub(super) method: Method,
    pub(super) stream: Stream,
    /// The request named gzip, so the answer is packed.
    pub(super) packs: bool,
    /// When the handler got it, if that is counted.
    pub(super) began: Option<Instant>,
}

/// What the calls of one connection share.
pub struct Shared {
    pub(super) core: Rc<Core>,
    pub(super) account: Rc<Account>,
    pub(super) client: Client,
    /// Bytes of requests that are not whole, or wait until they may be answered.
    partial_bytes: Cell<usize>,
    pending: RefCell<Slab<Pending>>,
    stamps: Cell<u32>,
    deadlines: RefCell<Deadlines>,
    /// Among the last requests was one that is no read.
    pub(super) writes: Cell<bool>,
    /// The connection's task, woken when an earlier deadline comes in.
    task: WakerCell,
}

impl Shared {
    pub(super) fn new(core: Rc<Core>, client: Client) -> Rc<Self> {
        Rc::new(Self {
            account: Account::new(core.memory.clone()),
            core,
            client,
            partial_bytes: Cell::new(0),
            pending: RefCell::new(Slab::new()),
            stamps: Cell::new(0),
            deadlines: RefCell::default(),
            writes: Cell::new(false),
            task: WakerCell::default(),
        })
    }

    /// Remembers the connection's task, to wake it for an earlier deadline.
    pub(super) fn set_task(&self, waker: &Waker) {
        self.task.keep(waker);
    }

    pub(super) fn expire_stream_at(&self, at: Instant, stream: &Rc<StreamState>) {
        self.expire_at(at, What::Stream(Rc::downgrade(stream)));
    }

    /// Ends a call at `at` if it has not been answered by then.
    pub(super) fn expire_at(&self, at: Instant, what: What) {
        let mut deadlines = self.deadlines.borrow_mut();
        let is_wanted = |what: &What| match what {
            What::Unary { key, stamp } => self.holds(*key, *stamp),
            What::Stream(stream) => stream.strong_count() > 0,
        };
        let is_earliest = deadlines.push(at, what, self.pending.borrow().len(), is_wanted);
        drop(deadlines);
        if is_earliest {
            self.task.wake_by_ref();
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.borrow().next()
    }

    /// Ends the calls whose deadline has passed.
    pub(super) fn expire(&self, now: Instant) {
        loop {
            let due = self.deadlines.borrow_mut().pop_due(now);
            match due {
                None => return,
                Some(What::Unary { key, stamp }) => {
                    if let Some(pending) = self.take(key, stamp) {
                        self.count_sent(pending.method);
                        let Pending { method, stream, began, .. } = pending;
                        self.refuse(method, &stream, began, &Status::deadline_exceeded());
                    }
                }
                Some(What::Stream(stream)) => {
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
    pub(super) fn count_sent(&self, method: Method) {
        self.core.counters.of(method).sent.add(1);
    }

    /// Counts bytes of unfinished requests, `before` of which were counted already. False when it is too much.
    pub(super) fn count_partial(&self, before: usize, after: usize) -> bool {
        let bytes = self.partial_bytes.get() - before + after;
        self.partial_bytes.set(bytes);
        self.core.memory.count_received(before, after);
        bytes <= CONNECTION_PARTIAL_MAX && !self.core.memory.is_full(bytes)
    }

    /// Waits until the connection may answer a message of `bytes`, which counts as unfinished meanwhile. What is
    /// returned is to be kept until the answer is given: then the next one in line gets its turn.
    pub(super) async fn answerable(&self, bytes: usize) -> Option<InLine> {
        if !self.account.is_full() {
            return None;
        }
        let waiting = PartialBytes::count(self, bytes);
        let mut place = self.account.line_up();
        std::future::poll_fn(|cx| place.poll(cx)).await;
        drop(waiting);
        Some(place)
    }

    /// Drops every call: the connection is gone.
    pub(super) fn abandon(&self) {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        let is_waited_for = !pending.is_empty();
        for (_, call) in pending {
            self.count_sent(call.method);
            self.core.counters.end(call.method, Code::Canceled, call.began);
        }
        if is_waited_for {
            self.core.api.gone();
        }
        self.deadlines.borrow_mut().clear();
    }

    /// Puts a call in a slot: which, and the stamp that tells it from those before.
    pub(super) fn put(&self, method: Method, stream: Stream, packs: bool) -> (usize, u32) {
        let stamp = self.stamps.get().wrapping_add(1);
        self.stamps.set(stamp);
        let began = self.core.counters.begin();
        let call = Pending { stamp, method, stream, packs, began };
        (self.pending.borrow_mut().insert(call), stamp)
    }

    /// Whether a call waits in its slot.
    pub(super) fn holds(&self, key: usize, stamp: u32) -> bool {
        self.pending.borrow().get(key).is_some_and(|call| call.stamp == stamp)
    }

    /// Whether a call waits in its slot, and its client for the answer.
    pub(super) fn is_wanted(&self, key: usize, stamp: u32) -> bool {
        self.pending.borrow().get(key).is_some_and(|call| call.stamp == stamp && !call.stream.is_gone())
    }

    /// Takes a call out of its slot, to be answered.
    pub(super) fn take(&self, key: usize, stamp: u32) -> Option<Pending> {
        let mut pending = self.pending.borrow_mut();
        if pending.get(key)?.stamp != stamp {
            return None;
        }
        Some(pending.remove(key))
    }
}

/// Bytes of requests that are held and not answered; counted until dropped.
pub(super) struct PartialBytes<S: Deref<Target = Shared>> {
    shared: S,
    bytes: usize,
}

impl<S: Deref<Target = Shared>> PartialBytes<S> {
    pub(super) fn count(shared: S, bytes: usize) -> Self {
        shared.count_partial(0, bytes);
        Self { shared, bytes }
    }
}

impl<S: Deref<Target = Shared>> Drop for PartialBytes<S> {
    fn drop(&mut self) {
        self.shared.count_partial(self.bytes, 0);
    }
}
