//! A stream, in the hands of whoever serves it.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::account::Account;
use super::connection::{Http2, State};
use super::frame::Reason;
use super::hpack::Fields;
use super::slot::{Data, Item, Slot, keep};

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

    fn with<T>(&self, act: impl FnOnce(&mut State, &Self) -> Result<T, Gone>) -> Result<T, Gone> {
        self.http2.with(|state| {
            if state.slot(self.key, self.id).is_none() {
                return Err(Gone);
            }
            act(state, self)
        })
    }

    /// The next data of the client; `None` once it has ended its side. What is returned counts as read: the client may
    /// send as much again.
    pub fn poll_data(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        let polled = self.with(|state, _| {
            let slot = &mut state.slots[self.key as usize];
            if let Some(bytes) = slot.received.take() {
                state.release(self.key, bytes.len());
                return Ok(Poll::Ready(Some(bytes)));
            }
            if slot.ended {
                return Ok(Poll::Ready(None));
            }
            keep(&mut slot.reader, cx);
            Ok(Poll::Pending)
        });
        match polled {
            Ok(polled) => polled.map(|data| data.map(Ok)),
            Err(gone) => Poll::Ready(Some(Err(gone))),
        }
    }

    /// Whatever the client still says is thrown away.
    pub fn stop_reading(&self) {
        let _ = self.with(|state, _| {
            let slot = &mut state.slots[self.key as usize];
            (slot.unread, slot.reader) = (true, None);
            let unread = std::mem::take(&mut slot.received).len();
            if unread > 0 {
                state.release(self.key, unread);
            }
            Ok(())
        });
    }

    /// Begins the answer.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn send_head(&self, fields: &Fields) -> Result<(), Gone> {
        self.with(|state, _| {
            state.write_headers(self.id, false, fields);
            state.wake_task();
            Ok(())
        })
    }

    /// Adds `prefix`, a few bytes, and `body` to the answer. What client and socket do not take waits here, counted in `account`.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn send_data(&self, prefix: &[u8], body: Bytes, account: &Rc<Account>) -> Result<(), Gone> {
        self.with(|state, _| {
            let slot = &mut state.slots[self.key as usize];
            let length = prefix.len() + body.len();
            let room = slot.send_window.room().min(state.send_window.room()).min(state.payload_max);
            if length == 0 {
                return Ok(());
            }
            if slot.queue.is_empty() && length <= room && !state.out.is_full() {
                slot.send_window.take(length);
                state.send_window.take(length);
                state.out.data(self.id, prefix, body);
                account.note_write();
            } else {
                slot.queue.push_back(Item::Data(Data::new(prefix, body, account)));
                State::line_up(&mut state.ready, self.key, slot);
                state.pump();
            }
            state.wake_task();
            Ok(())
        })
    }

    /// Ends the answer, behind what waits to be sent.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn end(&self, trailers: Fields) -> Result<(), Gone> {
        self.with(|state, _| {
            let slot = &mut state.slots[self.key as usize];
            if slot.queue.is_empty() {
                state.write_headers(self.id, true, &trailers);
                state.end(self.key);
                state.wake_task();
            } else {
                slot.queue.push_back(Item::End(trailers));
            }
            Ok(())
        })
    }

    /// Answers with nothing but a head.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn refuse(&self, fields: &Fields) -> Result<(), Gone> {
        self.with(|state, _| {
            state.write_headers(self.id, true, fields);
            state.end(self.key);
            state.wake_task();
            Ok(())
        })
    }

    /// Ends the stream without an answer.
    pub fn reset(&self, reason: Reason) {
        let _ = self.with(|state, _| {
            state.reset(self.key, reason);
            state.wake_task();
            Ok(())
        });
    }

    /// Ready when the stream is gone.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let open = self.with(|state, _| {
            let slot: &mut Slot = &mut state.slots[self.key as usize];
            keep(&mut slot.watcher, cx);
            Ok(())
        });
        if open.is_ok() { Poll::Pending } else { Poll::Ready(()) }
    }
}
