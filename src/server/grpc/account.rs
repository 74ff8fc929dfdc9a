//! How much of what we said waits to be written: per connection, and per stream.
//!
//! h2 takes any amount of data and keeps what the client's windows or the socket do not take. Each [`Frame`]
//! charges its account when it is handed to h2 and releases it when h2 has written it, so a slow client shows as
//! unsent bytes: the connection then answers no further requests, and a stream's producer waits.
//!
//! [`Frame`]: super::frame::Frame
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Unsent bytes of one stream from which on its producer waits.
pub const STREAM_UNSENT_MAX: usize = 256 * 1024;
/// ... and down to which it waits.
const STREAM_UNSENT_LOW: usize = STREAM_UNSENT_MAX / 2;
/// Unsent bytes of all answers of one connection from which on its requests wait.
pub const CONNECTION_UNSENT_MAX: usize = 4 * 1024 * 1024;

/// Bytes that are in h2 and not yet in the connection's output.
pub struct Account {
    unsent: Cell<usize>,
    /// Something was written since the connection last asked; see `keepalive`.
    wrote: Cell<bool>,
    /// The connection's account, when this is a stream's.
    parent: Option<Rc<Account>>,
    /// Waiters are woken when no more than this is unsent.
    low: usize,
    waiters: RefCell<Vec<Waker>>,
}

impl Account {
    /// A connection's account.
    pub fn new() -> Rc<Self> {
        Self::with(None, CONNECTION_UNSENT_MAX)
    }

    /// The account of a stream of a connection.
    pub fn of_stream(connection: &Rc<Account>) -> Rc<Self> {
        Self::with(Some(connection.clone()), STREAM_UNSENT_LOW)
    }

    fn with(parent: Option<Rc<Account>>, low: usize) -> Rc<Self> {
        let (unsent, wrote) = (Cell::new(0), Cell::new(false));
        Rc::new(Self { unsent, wrote, parent, low, waiters: RefCell::new(Vec::new()) })
    }

    /// Bytes went to h2.
    pub fn charge(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() + bytes);
        if let Some(parent) = &self.parent {
            parent.charge(bytes);
        }
    }

    /// Bytes left h2, written or thrown away. Called under h2's lock: wakes, and nothing else.
    pub fn release(&self, bytes: usize) {
        let unsent = self.unsent.get();
        assert!(unsent >= bytes, "what is released was charged");
        self.unsent.set(unsent - bytes);
        self.wrote.set(true);
        if self.unsent.get() <= self.low {
            self.wake();
        }
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }

    /// Something went out that is not counted in bytes.
    pub fn note_write(&self) {
        self.wrote.set(true);
    }

    /// Wakes whoever waits for room.
    pub fn wake(&self) {
        // Waking only queues a task: nobody comes back here while the list is borrowed.
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Bytes waiting.
    pub fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// Whether anything was written since the last call.
    pub fn take_wrote(&self) -> bool {
        self.wrote.replace(false)
    }

    /// What a stream's producer may add now.
    pub fn room(&self) -> usize {
        STREAM_UNSENT_MAX.saturating_sub(self.unsent.get())
    }

    /// Ready when there is room; once it was used up, when half of it is free again.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.room() > 0 {
            return Poll::Ready(self.room());
        }
        self.wait(cx);
        Poll::Pending
    }

    /// Ready when a connection may answer further requests.
    pub fn poll_answerable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_full() {
            self.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Whether so much is unsent that a connection's further requests wait.
    pub fn is_full(&self) -> bool {
        self.unsent.get() > CONNECTION_UNSENT_MAX
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiters = self.waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_charges_its_connection_and_waits_when_full() {
        let connection = Account::new();
        let stream = Account::of_stream(&connection);
        let mut cx = Context::from_waker(Waker::noop());
        stream.charge(STREAM_UNSENT_MAX);
        assert_eq!(connection.unsent(), STREAM_UNSENT_MAX);
        assert!(stream.poll_room(&mut cx).is_pending());
        assert_eq!(stream.waiters.borrow().len(), 1);
        stream.release(10);
        assert_eq!(stream.waiters.borrow().len(), 1, "still above the low mark");
        stream.release(STREAM_UNSENT_MAX - 10);
        assert!(stream.waiters.borrow().is_empty() && stream.poll_room(&mut cx).is_ready());
        assert!(connection.take_wrote() && !connection.take_wrote());
    }
}
