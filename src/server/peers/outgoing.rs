//! Messages that wait for one stream to another member.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use raft::eraftpb::Message;

use crate::stdx::waker::WakerCell;

/// Messages that may wait for a stream, etcd's own figure.
const MESSAGES_MAX: usize = 4096;
/// Bytes of messages that may wait for a stream. Their entries are shared with the log.
const BYTES_MAX: usize = 64 << 20;
/// What a message takes beside its entries' data, about.
const MESSAGE_BYTES: usize = 256;

/// What waits for one stream. The member on the other side dials it, and may dial it again at any time: the newest
/// connection counts.
#[derive(Default)]
pub struct Outgoing {
    /// Empty while the stream is closed.
    waiting: RefCell<VecDeque<Box<Message>>>,
    /// Of what waits.
    bytes: Cell<usize>,
    /// The number of the connection that counts; none while the stream is closed.
    open: Cell<Option<u64>>,
    /// Connections so far.
    connections: Cell<u64>,
    writer: WakerCell,
}

/// Messages of which nothing was sent.
pub type Unsent = VecDeque<Box<Message>>;

/// What a message takes in memory, about.
pub fn weight(message: &Message) -> usize {
    message.entries.iter().map(|entry| entry.data.len() + MESSAGE_BYTES).sum::<usize>() + MESSAGE_BYTES
}

impl Outgoing {
    /// Whether somebody writes what is pushed.
    pub fn is_open(&self) -> bool {
        self.open.get().is_some()
    }

    /// Takes a message. False if too much waits already.
    pub fn push(&self, message: Box<Message>) -> bool {
        let (length, weight) = (self.waiting.borrow().len(), weight(&message));
        let has_room = length < MESSAGES_MAX && (length == 0 || self.bytes.get() + weight <= BYTES_MAX);
        if has_room {
            self.bytes.set(self.bytes.get() + weight);
            self.waiting.borrow_mut().push_back(message);
            self.writer.wake();
        }
        has_room
    }

    /// The next message.
    pub fn take(&self) -> Option<Box<Message>> {
        let message = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - weight(&message));
        Some(message)
    }

    /// A connection was accepted that counts from now on: its number, and the messages that waited for the one before.
    pub fn open(&self) -> (u64, Unsent) {
        let number = self.connections.get() + 1;
        self.connections.set(number);
        self.open.set(Some(number));
        let unsent = self.clear();
        self.writer.wake();
        (number, unsent)
    }

    /// A connection has ended: the messages that waited for it, if it counted.
    pub fn close(&self, number: u64) -> Unsent {
        if self.open.get() != Some(number) {
            return Unsent::new();
        }
        self.open.set(None);
        self.clear()
    }

    /// The stream ends, whichever connection counts.
    pub fn end(&self) {
        self.open.set(None);
        self.clear();
        self.writer.wake();
    }

    fn clear(&self) -> Unsent {
        self.bytes.set(0);
        self.waiting.take()
    }

    /// Waits for a message. False once the connection of that number counts no more.
    pub async fn ready(&self, number: u64) -> bool {
        poll_fn(|cx| {
            if self.open.get() != Some(number) {
                return Poll::Ready(false);
            }
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(true);
            }
            self.writer.keep(cx.waker());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message(bytes: usize) -> Box<Message> {
        let entries = vec![Entry { data: vec![0; bytes].into(), ..Entry::default() }];
        Box::new(Message { entries, ..Message::default() })
    }

    #[test]
    fn so_many_messages_and_bytes_wait_and_no_more() {
        let outgoing = Outgoing::default();
        assert!((0..MESSAGES_MAX).all(|_| outgoing.push(message(1))) && !outgoing.push(message(1)));
        let outgoing = Outgoing::default();
        assert!(outgoing.push(message(2 * BYTES_MAX)), "one message that is longer than all may be");
        assert!(!outgoing.push(message(1)));
        assert!(outgoing.take().is_some() && outgoing.take().is_none() && outgoing.push(message(1)));
    }

    #[test]
    fn the_newest_connection_counts_and_what_waited_for_another_is_lost() {
        let outgoing = Outgoing::default();
        let (first, unsent) = outgoing.open();
        assert!(outgoing.is_open() && unsent.is_empty());
        outgoing.push(message(1));
        let (second, unsent) = outgoing.open();
        assert!(unsent.len() == 1 && outgoing.take().is_none());
        outgoing.push(message(1));
        assert!(outgoing.close(first).is_empty() && outgoing.is_open(), "an older connection ends");
        assert!(!futures::executor::block_on(outgoing.ready(first)));
        assert!(futures::executor::block_on(outgoing.ready(second)));
        assert!(outgoing.close(second).len() == 1 && !outgoing.is_open());
        assert!(!futures::executor::block_on(outgoing.ready(second)));
        assert_eq!(outgoing.bytes.get(), 0);
    }
}
