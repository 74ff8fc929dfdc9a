//! The two halves of a streaming call, handed to its handler.
//!
//! Neither half knows the other: a handler may read in a task of its own and write from the session loop.
//! [`Outgoing::send`] always takes the message; how much of what was sent still waits for the client shows in
//! [`Outgoing::room`], and a producer that honours it holds at most 256 KB and one message per slow client.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use super::answer;
use super::frame::{HEAD_BYTES, message_head};
use super::messages::Messages;
use super::packed;
use super::reader::Reader;
use super::shared::Shared;
use crate::error::Error;
use crate::server::call::method::{Kind, Method};
use crate::server::call::status::{Code, Status};
use crate::server::http2::Stream;
use crate::server::http2::account::StreamAccount;
use crate::server::http2::charge::Charge;
use crate::stdx::time::Instant;
use crate::stdx::waker::WakerCell;

/// What both halves and the connection's deadlines share.
pub(super) struct StreamState {
    expired: Cell<bool>,
    reader: WakerCell,
    account: Rc<StreamAccount>,
}

impl StreamState {
    /// The deadline has passed: both halves learn it.
    pub(super) fn expire(&self) {
        self.expired.set(true);
        self.reader.wake();
        self.account.wake();
    }
}

/// Both halves of a stream.
pub(super) fn halves(
    shared: &Rc<Shared>,
    method: Method,
    encoding: Option<Box<str>>,
    stream: Stream,
) -> (Incoming, Outgoing, Rc<StreamState>) {
    let account = StreamAccount::new(&shared.account);
    let state = Rc::new(StreamState {
        expired: Cell::new(false),
        reader: WakerCell::default(),
        account: account.clone(),
    });
    let packs = encoding.is_some();
    let reader = Reader::new(stream.clone(), encoding, shared.clone(), Code::Internal);
    let incoming = Incoming { reader, state: state.clone(), shared: shared.clone(), method };
    let began = shared.core.counters.begin();
    let outgoing = Outgoing {
        sending: Sending::Fresh(stream),
        state: state.clone(),
        shared: shared.clone(),
        method,
        began,
        packs,
    };
    (incoming, outgoing, state)
}

/// The client's messages.
pub struct Incoming {
    reader: Reader,
    state: Rc<StreamState>,
    shared: Rc<Shared>,
    method: Method,
}

impl Incoming {
    /// The next message, as long as our own side has not ended. `None` when the client has ended its side; an error
    /// when it went away, its deadline passed, or it sent what is no message: the call should then be finished with
    /// that status.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if self.state.expired.get() {
            return Poll::Ready(Some(Err(Status::deadline_exceeded())));
        }
        let polled = self.reader.poll_message(cx);
        match &polled {
            Poll::Ready(Some(Ok(message))) => {
                self.shared.core.counters.of(self.method).received.add(1);
                self.shared.core.counters.received_bytes.add(message.len() as u64);
            }
            Poll::Pending => self.state.reader.keep(cx.waker()),
            Poll::Ready(_) => {}
        }
        polled
    }

    /// [`Incoming::poll_next`] as a future.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The message of a call whose client sends one.
    ///
    /// # Errors
    /// As [`Incoming::poll_next`]; and when the client has ended its side without a message.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        self.next().await.unwrap_or_else(|| Err(Status::undecodable()))
    }
}

enum Sending {
    /// Nothing was sent.
    Fresh(Stream),
    /// The headers are out.
    Open(Stream),
    /// Finished, or the client has gone.
    Over,
}

/// Our messages. Dropped unfinished, the stream ends with "server stopped", or as canceled if the client has
/// gone.
pub struct Outgoing {
    sending: Sending,
    state: Rc<StreamState>,
    shared: Rc<Shared>,
    method: Method,
    /// When the call began, if that is counted.
    began: Option<Instant>,
    /// The request named gzip, so messages are packed.
    packs: bool,
}

impl Outgoing {
    /// Sends a message.
    ///
    /// # Errors
    /// When the client has gone or its deadline has passed.
    pub fn send(&mut self, message: Bytes) -> Result<(), Status> {
        self.send_pieces(message.len(), [message])
    }

    /// Sends one message whose encoding is the concatenation of `pieces`, `total` bytes in all.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub fn send_pieces(
        &mut self,
        total: usize,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), Status> {
        if self.state.expired.get() {
            return Err(Status::deadline_exceeded());
        }
        if self.packs && total <= packed::PACKED_BYTES_MAX {
            let pieces: Vec<Bytes> = pieces.into_iter().collect();
            self.send_packed(&pieces)?;
            self.shared.core.counters.of(self.method).sent.add(1);
            self.shared.core.counters.sent_bytes.add(total as u64);
            return Ok(());
        }
        let head = message_head(total, true)?;
        let account = self.state.account.clone();
        let Some(stream) = self.open() else { return Err(Status::canceled()) };
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap_or_default();
        let mut sent = first.len();
        stream.send_data(&head, first, &account).map_err(|_| Status::canceled())?;
        for piece in pieces {
            sent += piece.len();
            stream.send_data(&[], piece, &account).map_err(|_| Status::canceled())?;
        }
        assert_eq!(sent, total, "pieces fill the announced total");
        self.shared.core.counters.of(self.method).sent.add(1);
        self.shared.core.counters.sent_bytes.add(total as u64);
        Ok(())
    }

    /// Sends the next slice of a message, which begins with this one if its length is given.
    ///
    /// # Errors
    /// As [`Outgoing::send`]; and when the message is too long to be sent.
    pub fn send_slice(&mut self, begins: Option<usize>, slice: Bytes) -> Result<(), Status> {
        if self.state.expired.get() {
            return Err(Status::deadline_exceeded());
        }
        let head = begins.map(|total| message_head(total, true)).transpose()?;
        let account = self.state.account.clone();
        let length = slice.len();
        let Some(stream) = self.open() else { return Err(Status::canceled()) };
        let head = head.as_ref().map_or(&[][..], |head| &head[..]);
        stream.send_data(head, slice, &account).map_err(|_| Status::canceled())?;
        self.shared.core.counters.of(self.method).sent.add(u64::from(begins.is_some()));
        self.shared.core.counters.sent_bytes.add(length as u64);
        Ok(())
    }

    /// Sends collected messages, and `rest`, the body of the last of them if it was left out.
    ///
    /// # Errors
    /// As [`Outgoing::send`]; and when one of them is too long to be sent, which ends the stream.
    pub fn send_messages(&mut self, messages: &mut Messages, rest: Option<Bytes>) -> Result<(), Status> {
        let (bytes, count) = match messages.take() {
            Ok(taken) => taken,
            Err(status) => {
                self.close(Err(status.clone()));
                return Err(status);
            }
        };
        if self.state.expired.get() {
            return Err(Status::deadline_exceeded());
        }
        if self.packs {
            return self.send_messages_packed(bytes, rest);
        }
        let account = self.state.account.clone();
        let Some(stream) = self.open() else { return Err(Status::canceled()) };
        let sent = bytes.len() + rest.as_ref().map_or(0, Bytes::len) - HEAD_BYTES * count as usize;
        for piece in [Some(bytes), rest].into_iter().flatten() {
            stream.send_data(&[], piece, &account).map_err(|_| Status::canceled())?;
        }
        self.shared.core.counters.of(self.method).sent.add(count);
        self.shared.core.counters.sent_bytes.add(sent as u64);
        Ok(())
    }

    fn send_packed(&mut self, pieces: &[Bytes]) -> Result<(), Status> {
        let account = self.state.account.clone();
        let Some(stream) = self.open() else { return Err(Status::canceled()) };
        let (head, message) = packed::framed(pieces);
        stream.send_data(&head, message, &account).map_err(|_| Status::canceled())
    }

    /// Sends collected messages one by one.
    fn send_messages_packed(&mut self, mut bytes: Bytes, rest: Option<Bytes>) -> Result<(), Status> {
        let mut rest = rest.unwrap_or_default();
        while let Some(&[_, a, b, c, d]) = bytes.first_chunk::<HEAD_BYTES>() {
            bytes.advance(HEAD_BYTES);
            let total = u32::from_be_bytes([a, b, c, d]) as usize;
            let body = bytes.split_to(total.min(bytes.len()));
            let missing = total - body.len();
            self.send_pieces(total, [body, rest.split_to(missing)])?;
        }
        Ok(())
    }

    /// Waits until the connection may answer a request of `bytes`, as unary calls wait, and counts from then on what is
    /// kept of it. What is returned is to be held as long as the request is.
    ///
    /// # Errors
    /// When the client has gone, or the core has no room.
    pub async fn keep(&mut self, bytes: usize, kept: usize) -> Result<Charge, Status> {
        let shared = self.shared.clone();
        let mut turn = std::pin::pin!(shared.answerable(bytes));
        let _place = poll_fn(|cx| match self.poll_gone(cx) {
            Poll::Ready(status) => Poll::Ready(Err(status)),
            Poll::Pending => turn.as_mut().poll(cx).map(Ok),
        })
        .await?;
        let mut charge = Charge::new(&shared.account);
        if charge.set(kept) { Ok(charge) } else { Err(Error::TooManyRequests.into()) }
    }

    /// Sends the headers, if they are not out yet.
    fn open(&mut self) -> Option<&Stream> {
        if matches!(self.sending, Sending::Fresh(_))
            && let Sending::Fresh(stream) = std::mem::replace(&mut self.sending, Sending::Over)
        {
            let head = if self.packs { &answer::HEAD_PACKED } else { &answer::HEAD };
            if stream.send_head(head).is_ok() {
                self.sending = Sending::Open(stream);
            }
        }
        match &self.sending {
            Sending::Open(stream) => Some(stream),
            _ => None,
        }
    }

    /// What may be sent now without piling up: zero once 256 KB wait for the client. A stream that holds nothing may
    /// send one message at least.
    pub fn room(&self) -> usize {
        let is_empty = self.state.account.unsent() == 0;
        self.state.account.room().max(usize::from(is_empty))
    }

    /// Ready with [`Outgoing::room`] when there is some; once it was used up, when half of it is free again. An
    /// error when the client has gone. Who waits here is also woken when the client goes.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Status>> {
        if let Poll::Ready(status) = self.poll_gone(cx) {
            return Poll::Ready(Err(status));
        }
        self.state.account.poll_room(cx).map(Ok)
    }

    /// Ready when the client has gone or its deadline has passed.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.state.expired.get() {
            return Poll::Ready(Status::deadline_exceeded());
        }
        let gone = match &self.sending {
            Sending::Fresh(stream) | Sending::Open(stream) => stream.poll_gone(cx),
            Sending::Over => Poll::Ready(()),
        };
        gone.map(|()| Status::canceled())
    }

    /// Ends the stream.
    pub fn finish(mut self, result: Result<(), Status>) {
        self.close(result);
    }

    fn close(&mut self, result: Result<(), Status>) {
        let core = &self.shared.core;
        let code = result.as_ref().map_or_else(|status| status.code, |()| Code::Ok);
        core.counters.end(self.method, code, self.began);
        if self.method.kind() == Kind::BidiStream {
            // The end of what the client says is one more message to etcd's counters.
            core.counters.of(self.method).received.add(1);
        }
        self.shared.account.note_write();
        // Errors below mean that the client has gone: nobody is left to tell.
        let _ = match (std::mem::replace(&mut self.sending, Sending::Over), result) {
            (Sending::Fresh(stream), Err(status)) => {
                stream.refuse(&answer::refusal(answer::HTTP_OK, &status))
            }
            (Sending::Fresh(stream), Ok(())) => {
                stream.send_head(&answer::HEAD).and_then(|()| stream.end(answer::OK))
            }
            (Sending::Open(stream), result) => stream.end(answer::trailers(result.as_ref().map(|&()| ()))),
            (Sending::Over, _) => Ok(()),
        };
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if matches!(self.sending, Sending::Over) {
            return;
        }
        let gone = self.poll_gone(&mut Context::from_waker(Waker::noop()));
        let status = match gone {
            Poll::Ready(status) => status,
            Poll::Pending => Status::stopped(),
        };
        self.close(Err(status));
    }
}
