//! How much of what we said waits to be written: per connection, and per stream.
//!
//! A stream takes any amount of data and keeps what the client's windows or the socket do not take. It charges what it
//! keeps to an account, and releases it when it is written, so a slow client shows as unsent bytes:
//!
//! ```text
//!   unary answers    4 MB per connection, then its further requests wait
//!   streams and      256 KB each, then their producers wait; 16 KB each while those of one connection
//!   long answers     together hold more than 16 MB
//! ```
//!
//! Streams do not make requests wait: a few slow LISTs must not stop the gets beside them.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Unsent bytes of one stream from which on its producer waits.
pub const STREAM_UNSENT_MAX: usize = 256 * 1024;
/// ... and down to which it then waits.
const STREAM_UNSENT_LOW: usize = STREAM_UNSENT_MAX / 2;
/// Unsent bytes of unary answers from which on a connection's requests wait.
pub const CONNECTION_UNSENT_MAX: usize = 4 * 1024 * 1024;
/// Unsent bytes of all streams of a connection from which on each may only hold ...
const STREAMS_UNSENT_MAX: usize = 16 * 1024 * 1024;
/// ... this much.
const CROWDED_UNSENT_MAX: usize = 16 * 1024;

/// Bytes that wait in streams and are not yet in the connection's output.
pub struct Account {
    unsent: Cell<usize>,
    /// Unsent bytes of the streams of a connection, which its own do not include.
    of_streams: Cell<usize>,
    /// Something was written since the connection last asked; see `keepalive`.
    wrote: Cell<bool>,
    /// The connection's account, when this is a stream's.
    connection: Option<Rc<Account>>,
    /// Waiters are woken when no more than this is unsent.
    low: usize,
    waiters: RefCell<Vec<Waker>>,
}

impl Account {
    /// A connection's account: its unary answers.
    pub fn new() -> Rc<Self> {
        Self::with(None, CONNECTION_UNSENT_MAX)
    }

    /// The account of a stream of a connection.
    pub fn of_stream(connection: &Rc<Account>) -> Rc<Self> {
        Self::with(Some(connection.clone()), STREAM_UNSENT_LOW)
    }

    fn with(connection: Option<Rc<Account>>, low: usize) -> Rc<Self> {
        Rc::new(Self {
            unsent: Cell::new(0),
            of_streams: Cell::new(0),
            wrote: Cell::new(false),
            connection,
            low,
            waiters: RefCell::new(Vec::new()),
        })
    }

    /// Bytes wait.
    pub fn charge(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() + bytes);
        if let Some(connection) = &self.connection {
            connection.of_streams.set(connection.of_streams.get() + bytes);
        }
    }

    /// Bytes were written or thrown away. Called while the connection's state is borrowed: wakes, and nothing else.
    pub fn release(&self, bytes: usize) {
        let unsent = self.unsent.get();
        assert!(unsent >= bytes, "what is released was charged");
        self.unsent.set(unsent - bytes);
        if self.unsent.get() <= self.low {
            self.wake();
        }
        if let Some(connection) = &self.connection {
            connection.of_streams.set(connection.of_streams.get() - bytes);
        }
        self.note_write();
    }

    /// Something went out, counted in bytes or not.
    pub fn note_write(&self) {
        self.connection.as_deref().unwrap_or(self).wrote.set(true);
    }

    /// Whether anything was written since the last call.
    pub fn take_wrote(&self) -> bool {
        self.wrote.replace(false)
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        // Waking only queues a task: nobody comes back here while the list is borrowed.
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Bytes waiting.
    pub fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// What a stream's producer may add now.
    pub fn room(&self) -> usize {
        let crowded = |connection: &Rc<Account>| connection.of_streams.get() > STREAMS_UNSENT_MAX;
        let unsent_max = match &self.connection {
            Some(connection) if crowded(connection) => CROWDED_UNSENT_MAX,
            _ => STREAM_UNSENT_MAX,
        };
        unsent_max.saturating_sub(self.unsent.get())
    }

    /// Ready when there is room; once it was used up, when half of it is free again.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.room() > 0 {
            return Poll::Ready(self.room());
        }
        self.wait(cx);
        Poll::Pending
    }

    /// Whether so much is unsent that a connection's further requests wait.
    pub fn is_full(&self) -> bool {
        self.unsent.get() > CONNECTION_UNSENT_MAX
    }

    /// Ready when a connection may answer further requests.
    pub fn poll_answerable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_full() {
            self.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
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
    fn a_stream_waits_when_full_and_its_connection_does_not() {
        let connection = Account::new();
        let stream = Account::of_stream(&connection);
        let mut cx = Context::from_waker(Waker::noop());
        stream.charge(STREAM_UNSENT_MAX);
        assert_eq!((connection.unsent(), connection.of_streams.get()), (0, STREAM_UNSENT_MAX));
        assert!(stream.poll_room(&mut cx).is_pending());
        stream.release(10);
        assert_eq!(stream.waiters.borrow().len(), 1, "still above the low mark");
        stream.release(STREAM_UNSENT_MAX - 10);
        assert!(stream.waiters.borrow().is_empty() && stream.poll_room(&mut cx).is_ready());
        assert!(connection.take_wrote() && !connection.take_wrote());
        stream.note_write();
        assert!(connection.take_wrote(), "what a stream writes, its connection does");
        assert_eq!(connection.of_streams.get(), 0);
    }

    #[test]
    fn unary_answers_fill_their_connection() {
        let connection = Account::new();
        let mut cx = Context::from_waker(Waker::noop());
        connection.charge(CONNECTION_UNSENT_MAX + 1);
        assert!(connection.is_full() && connection.poll_answerable(&mut cx).is_pending());
        connection.release(1);
        assert!(connection.poll_answerable(&mut cx).is_ready());
    }

    #[test]
    fn many_slow_streams_get_less_room_each() {
        let connection = Account::new();
        let streams: Vec<_> = (0..65).map(|_| Account::of_stream(&connection)).collect();
        streams.iter().for_each(|stream| stream.charge(STREAM_UNSENT_MAX));
        assert_eq!(Account::of_stream(&connection).room(), CROWDED_UNSENT_MAX);
        streams.iter().for_each(|stream| stream.release(STREAM_UNSENT_MAX));
        assert_eq!(Account::of_stream(&connection).room(), STREAM_UNSENT_MAX);
    }
}
