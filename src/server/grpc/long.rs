//! A unary answer too long to assemble: written in slices, as fast as the client takes them.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::answer;
use super::frame::HEAD_BYTES;
use super::shared::Shared;
use crate::error::Error;
use crate::server::call::method::Method;
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::StreamAccount;
use crate::server::http2::charge::Charge;
use crate::stdx::time::Instant;

/// Writes one message of a length that is known before its content.
///
/// ```text
///   while there is more { room = answer.poll_room(cx)?; answer.write(slice of at most room) }  answer.finish()
/// ```
/// Dropped unfinished, it ends the call with an error: the client throws away what it has.
pub struct LongAnswer {
    method: Method,
    /// None once the answer is ended.
    stream: Option<Stream>,
    shared: Rc<Shared>,
    account: Rc<StreamAccount>,
    /// What is kept of the request to make the answer from.
    kept: Option<Charge>,
    /// The message's head, until it is out.
    head: Option<[u8; HEAD_BYTES]>,
    total: usize,
    written: usize,
    /// When the handler got the call, if that is counted.
    began: Option<Instant>,
}

impl LongAnswer {
    pub(super) fn begin(
        shared: &Rc<Shared>,
        (method, stream, began): (Method, Stream, Option<Instant>),
        kept: Option<Charge>,
        head: [u8; HEAD_BYTES],
        total: usize,
    ) -> Self {
        Self {
            method,
            stream: Some(stream),
            shared: shared.clone(),
            account: StreamAccount::new(&shared.account),
            kept,
            head: Some(head),
            total,
            written: 0,
            began,
        }
    }

    /// Bytes still to be written.
    pub fn left(&self) -> usize {
        self.total - self.written
    }

    /// Writes the next slice. More than there is room for is taken too, and waits in memory. A slice that is longer
    /// than what is left breaks the answer off: what it is written from is damaged.
    pub fn write(&mut self, slice: Bytes) {
        if slice.len() > self.left() {
            return self.close(Err(&Error::Corrupt.into()));
        }
        self.written += slice.len();
        let Some(stream) = &self.stream else { return };
        // An error here means that the client has gone; `poll_room` tells.
        let _ = match self.head.take() {
            Some(head) => {
                stream.send_head(&answer::HEAD).and_then(|()| stream.send_data(&head, slice, &self.account))
            }
            None => stream.send_data(&[], slice, &self.account),
        };
    }

    /// Ready with the number of bytes that may be written without piling up.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Status>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Err(Status::canceled())) };
        if stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Status::canceled()));
        }
        self.account.poll_room(cx).map(Ok)
    }

    /// Ends the answer. One that is shorter than announced ends with an error: what it was written from is damaged.
    pub fn finish(mut self) {
        if self.head.is_some() && self.total == 0 {
            self.write(Bytes::new());
        }
        let result = if self.left() == 0 { Ok(()) } else { Err(Error::Corrupt.into()) };
        self.close(result.as_ref().map(|&()| ()));
    }

    /// Breaks the answer off with an error. A client that has a part of the message already throws that away; not every
    /// client then looks at the error (grpc-go says "unexpected EOF").
    pub fn fail(mut self, status: &Status) {
        self.close(Err(status));
    }

    fn close(&mut self, result: Result<(), &Status>) {
        let Some(stream) = self.stream.take() else { return };
        self.kept = None;
        let counters = &self.shared.core.counters;
        counters.end(self.method, result.map_or_else(|status| status.code, |()| Code::Ok), self.began);
        counters.of(self.method).sent.add(1);
        counters.sent_bytes.add(self.written as u64);
        self.shared.account.note_write();
        // An error means that the client has gone: nobody is left to tell.
        let _ = match (result, &self.head) {
            (Err(status), Some(_)) => stream.refuse(&answer::refusal(answer::HTTP_OK, status)),
            (result, _) => stream.end(answer::trailers(result)),
        };
    }
}

impl Drop for LongAnswer {
    fn drop(&mut self) {
        let gone = self
            .stream
            .as_ref()
            .is_some_and(|it| it.poll_gone(&Context::from_waker(Waker::noop())).is_ready());
        self.close(Err(&if gone { Status::canceled() } else { Status::stopped() }));
    }
}
