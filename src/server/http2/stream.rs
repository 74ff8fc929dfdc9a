//! A stream, in the hands of whoever serves it.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::account::Payer;
use super::connection::{Http2, State};
use super::hpack::Fields;
use super::slot::{Item, Reading, Stage};
use crate::stdx::waker::keep;

/// A handle. It does not keep the stream open: once the client has taken it back, or it has been ended, everything here
/// answers [`Gone`].
#[derive(Clone)]
pub struct Stream {
    http2: Rc<Http2>,
    key: u32,
    id: u32,
}

/// The stream is over, or its connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Stream {
    pub(super) fn new(http2: Rc<Http2>, key: u32, id: u32) -> Self {
        Self { http2, key, id }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, Gone> {
        self.http2.with(|state| match state.slot(self.key, self.id) {
            Some(_) => Ok(act(state)),
            None => Err(Gone),
        })
    }

    /// The next data of the client; `None` once it has ended its side. What is returned counts as read: the client may
    /// send as much again.
    pub fn poll_data(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        let mut before = None;
        let polled = self.with(|state| {
            let slot = &mut state.slots[self.key as usize];
            if let Some(bytes) = slot.received.take() {
                state.release_unread(self.key, bytes.len());
                return Poll::Ready(Some(bytes));
            }
            if slot.stage == Stage::HalfClosed {
                return Poll::Ready(None);
            }
            before = keep(&mut slot.reader, cx.waker());
            Poll::Pending
        });
        drop(before);
        match polled {
            Ok(polled) => polled.map(|data| data.map(Ok)),
            Err(gone) => Poll::Ready(Some(Err(gone))),
        }
    }

    /// Whatever the client still says is thrown away.
    pub fn stop_reading(&self) {
        let _ = self.with(|state| {
            let slot = &mut state.slots[self.key as usize];
            (slot.reading, slot.reader) = (Reading::Over, None);
            let unread = std::mem::take(&mut slot.received).len();
            if unread > 0 {
                state.release_unread(self.key, unread);
            }
        });
    }

    /// Begins the answer.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn send_head(&self, fields: &Fields) -> Result<(), Gone> {
        self.with(|state| {
            state.sending.write_headers(self.id, false, fields);
            state.wake_task();
        })
    }

    /// Adds `prefix`, a few bytes, and `body` to the answer. What client and socket do not take waits here, counted in
    /// `account`.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn send_data<P: Payer>(&self, prefix: &[u8], body: Bytes, account: &Rc<P>) -> Result<(), Gone> {
        self.with(|state| {
            if prefix.is_empty() && body.is_empty() {
                return;
            }
            let slot = &mut state.slots[self.key as usize];
            state.sending.send(self.key, slot, prefix, body, account);
            state.pump();
            state.wake_task();
        })
    }

    /// Ends the answer, behind what waits to be sent.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn end(&self, trailers: Fields) -> Result<(), Gone> {
        self.with(|state| {
            let slot = &mut state.slots[self.key as usize];
            if slot.queue.is_empty() {
                state.end(self.key, &trailers);
                state.wake_task();
            } else {
                slot.queue.push_back(Item::End(trailers));
            }
        })
    }

    /// Answers with nothing but a head.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn refuse(&self, fields: &Fields) -> Result<(), Gone> {
        self.with(|state| {
            state.end(self.key, fields);
            state.wake_task();
        })
    }

    /// Whether the client has gone or taken the stream back.
    pub fn is_gone(&self) -> bool {
        self.with(|_| ()).is_err()
    }

    /// Ready when the stream is gone.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let before = self.with(|state| keep(&mut state.slots[self.key as usize].watcher, cx.waker()));
        if before.is_ok() { Poll::Pending } else { Poll::Ready(()) }
    }
}
