//! A unary answer too long to assemble: written in slices, as fast as the client takes them.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::answer;
use super::calls::Shared;
use super::frame::message_head;
use crate::server::call::method::Method;
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::Account;

/// Writes one message of a length that is known before its content.
///
/// ```text
///   while there is more { room = answer.has_room().await?; answer.write(slice of at most room) }  answer.finish()
/// ```
/// Dropped unfinished, it ends the call with an error: the client throws away what it has.
pub struct LongAnswer {
    method: Method,
    stream: Option<Stream>,
    shared: Rc<Shared>,
    account: Rc<Account>,
    total: usize,
    written: usize,
    /// The message's head is out.
    begun: bool,
}

impl LongAnswer {
    pub(super) fn begin(shared: &Rc<Shared>, call: Option<(Method, Stream)>, total: usize) -> Self {
        let method = call.as_ref().map_or(Method::Range, |call| call.0);
        let stream = call.map(|(_, stream)| stream);
        if let Some(stream) = &stream {
            // An error here and below means that the client has gone; `poll_room` tells.
            let _ = stream.send_head(&answer::HEAD);
        }
        Self {
            method,
            stream,
            shared: shared.clone(),
            account: Account::of_stream(&shared.account),
            total,
            written: 0,
            begun: false,
        }
    }

    /// Bytes still to be written.
    pub fn left(&self) -> usize {
        self.total - self.written
    }

    /// Writes the next slice. More than there is room for is taken too, and waits in memory.
    ///
    /// # Panics
    /// When more is written than was announced: the plan and the walk disagree.
    pub fn write(&mut self, slice: Bytes) {
        assert!(slice.len() <= self.left(), "an answer is as long as it was announced");
        self.written += slice.len();
        let Some(stream) = &self.stream else { return };
        let head = message_head(self.total);
        let head = if self.begun { &[][..] } else { &head };
        self.begun = true;
        let _ = stream.send_data(head, slice, &self.account);
    }

    /// Ready with the number of bytes that may be written without piling up.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Status>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Err(Status::canceled())) };
        if stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Status::canceled()));
        }
        self.account.poll_room(cx).map(Ok)
    }

    /// [`LongAnswer::poll_room`] as a future.
    ///
    /// # Errors
    /// When the client has gone.
    pub async fn has_room(&mut self) -> Result<usize, Status> {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    /// Ends the answer.
    ///
    /// # Panics
    /// When less was written than announced.
    pub fn finish(mut self) {
        assert_eq!(self.left(), 0, "an answer is as long as it was announced");
        if !self.begun {
            self.write(Bytes::new());
        }
        self.close(Ok(()));
    }

    /// Breaks the answer off with an error.
    pub fn fail(mut self, status: &Status) {
        self.close(Err(status));
    }

    fn close(&mut self, result: Result<(), &Status>) {
        let Some(stream) = self.stream.take() else { return };
        let counts = self.shared.core.counters.of(self.method);
        counts.handled[result.map_or_else(|status| status.code, |()| Code::Ok) as usize].add(1);
        counts.sent.add(1);
        self.shared.core.counters.sent_bytes.add(self.written as u64);
        let _ = stream.end(answer::trailers(result));
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
