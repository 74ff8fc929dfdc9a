//! Unary calls and the right to answer them.
//!
//! A call sits in a slot of its connection; a [`Responder`] is the right to answer it, from wherever on this core
//! and whenever. Whoever comes first takes the call out of its slot: the handler's answer, the deadline, or the
//! end of the connection; the others then find the slot empty or with another stamp and do nothing.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use super::Metadata;
use super::answer;
use super::deadlines::What;
use super::frame::message_head;
use super::long::LongAnswer;
use super::packed;
use super::shared::{PartialBytes, Shared};
use crate::server::call::method::Method;
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::InLine;
use crate::server::http2::charge::Charge;
use crate::stdx::time::Instant;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address that it comes from.
    pub address: SocketAddr,
    /// The common name of its certificate, where clients have to show one and it was verified.
    pub common_name: Option<Rc<str>>,
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        Self { address, common_name: None }
    }
}

/// A request as its handler sees it, without the messages.
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// The client's headers.
    pub metadata: Metadata,
    /// When the client stops waiting. The transport answers then; a handler may use it to stop early.
    pub deadline: Option<Instant>,
    /// Who asks.
    pub client: Client,
}

impl Shared {
    /// Hands a whole unary request to its handler.
    pub(super) fn dispatch(self: &Rc<Self>, call: Call, message: Bytes, stream: Stream, packs: bool) {
        let (method, deadline) = (call.method, call.deadline);
        let counts = self.core.counters.of(method);
        counts.received.add(1);
        self.core.counters.received_bytes.add(message.len() as u64);
        let (key, stamp) = self.put(method, stream, packs);
        self.core.api.unary(call, message, Responder::new(self.clone(), key, stamp));
        if let Some(at) = deadline
            && self.holds(key, stamp)
        {
            self.expire_at(at, What::Unary { key, stamp });
        }
    }
}

/// The right to answer a unary call, once. Dropped without an answer, it answers that the server stops.
pub struct Responder {
    shared: Rc<Shared>,
    key: usize,
    stamp: u32,
    /// The answer is sent whatever room there is.
    is_excused: bool,
    /// What is kept for the call until it is answered, if it is worth counting. It is in a place of its own: for most
    /// calls nothing is, and a responder that waits for the log is moved several times.
    kept: Option<Box<Charge>>,
}

impl Responder {
    fn new(shared: Rc<Shared>, key: usize, stamp: u32) -> Self {
        Self { shared, key, stamp, is_excused: false, kept: None }
    }

    fn charge(&mut self) -> &mut Charge {
        self.kept.get_or_insert_with(|| Box::new(Charge::new(&self.shared.account)))
    }

    /// So much of the request, or of room for the answer, is to be kept until the call is answered: further requests of
    /// the client wait if it is too much. True if the core has that room; otherwise [`Responder::granted`] waits for
    /// it.
    #[must_use]
    pub fn keep(&mut self, bytes: usize) -> bool {
        (bytes == 0 && self.kept.is_none()) || self.charge().set(bytes)
    }

    /// Whether the unsent answers of all connections crowd the core.
    pub fn is_crowded(&self) -> bool {
        self.shared.core.memory.is_crowded()
    }

    /// The answer is sent whatever room there is: for calls of which there are few, with answers of a bounded length.
    pub fn excuse(&mut self) {
        self.is_excused = true;
    }

    /// So much is kept already until the call is answered, whether the core has room for it or not.
    pub fn hold(&mut self, bytes: usize) {
        if bytes > 0 || self.kept.is_some() {
            self.charge().hold(bytes);
        }
    }

    /// Waits until the core has room for what is to be kept; a message of `message_bytes` counts as unfinished
    /// meanwhile.
    pub async fn granted(&mut self, message_bytes: usize) {
        let _waiting = PartialBytes::count(&*self.shared, message_bytes);
        if let Some(kept) = &mut self.kept {
            poll_fn(|cx| kept.poll_granted(cx)).await;
        }
    }

    /// Counts a message of `bytes` as unfinished until what is returned is dropped.
    pub fn unread(&self, bytes: usize) -> impl Drop + use<> {
        PartialBytes::count(self.shared.clone(), bytes)
    }

    /// Whether an answer of `bytes` may wait for the client: what is kept for it suffices, or there is more room.
    pub fn may_send(&self, bytes: usize) -> bool {
        match &self.kept {
            _ if bytes == 0 || self.is_excused => true,
            Some(kept) => kept.may_become(bytes),
            None => Charge::new(&self.shared.account).may_become(bytes),
        }
    }

    /// Waits for the turn of this call if its connection may not answer yet; a message of `message_bytes` counts as
    /// unfinished meanwhile. The caller keeps the place until the answer is given.
    pub async fn turn(&self, message_bytes: usize) -> Option<InLine> {
        self.shared.answerable(message_bytes).await
    }

    /// Whether the connection has to wait with further answers.
    pub fn must_wait(&self) -> bool {
        self.shared.account.is_full()
    }

    /// Answers with `message`, or with an error. For answers of up to a few hundred kilobytes; [`Responder::stream`] is
    /// for those without a bound.
    pub fn send(self, result: Result<Bytes, Status>) {
        self.send_pieces(result.map(|message| [message, Bytes::new()]));
    }

    /// [`Responder::send`] of a message in two pieces, the second of which may be long or empty.
    pub fn send_pieces(self, result: Result<[Bytes; 2], Status>) {
        match result {
            Ok(pieces) => self.send_message(pieces),
            Err(status) => self.fail(&status),
        }
    }

    fn send_message(mut self, pieces: [Bytes; 2]) {
        self.kept = None;
        let Some(call) = self.shared.take(self.key, self.stamp) else { return };
        let shared = &self.shared;
        let length = pieces.iter().map(Bytes::len).sum();
        let head = match message_head(length, false) {
            Ok(head) => head,
            Err(status) => {
                shared.count_sent(call.method);
                return shared.refuse(call.method, &call.stream, call.began, &status);
            }
        };
        shared.core.counters.end(call.method, Code::Ok, call.began);
        shared.core.counters.of(call.method).sent.add(1);
        shared.core.counters.sent_bytes.add(length as u64);
        let stream = &call.stream;
        // Errors here mean that the client has gone: nobody is left to tell.
        if call.packs && length <= packed::PACKED_BYTES_MAX {
            let (head, message) = packed::framed(&pieces);
            let _ = stream.send_head(&answer::HEAD_PACKED);
            let _ = stream.send_data(&head, message, &shared.account);
        } else {
            let [first, second] = pieces;
            let _ = stream.send_head(&answer::HEAD);
            let _ = stream.send_data(&head, first, &shared.account);
            let _ = stream.send_data(&[], second, &shared.account);
        }
        let _ = stream.end(answer::OK);
    }

    /// Who asked.
    pub fn peer(&self) -> SocketAddr {
        self.shared.client.address
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
    pub fn stream(mut self, total: usize) -> Option<LongAnswer> {
        match message_head(total, false) {
            Ok(head) => {
                let call = self.shared.take(self.key, self.stamp)?;
                let kept = self.kept.take().map(|kept| *kept);
                let call = (call.method, call.stream, call.began);
                Some(LongAnswer::begin(&self.shared, call, kept, head, total))
            }
            Err(status) => {
                self.fail(&status);
                None
            }
        }
    }

    /// Whether the call still waits; `false` when the client went away or its deadline passed.
    pub fn is_wanted(&self) -> bool {
        self.shared.is_wanted(self.key, self.stamp)
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
