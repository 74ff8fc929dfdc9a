//! What the clients of one core make it hold, all connections together.
//!
//! Each connection and each stream has bounds of its own; thousands of connections that use theirs up would still fill
//! the memory. So everything that waits on a client is counted here too:
//!
//! ```text
//!   received   header blocks and messages that are not whole, data that nobody has read     128 MB, then what would
//!                                                                                           add to it is refused
//!   streams    open ones                                                              50 000, then a connection that
//!                                                                                           has 100 gets no more
//!   unsent     answers that clients have not taken, and what is kept for calls until        64 MB, then streams get
//!              their answers are written                                                    less room; 128 MB, then
//!                                                                                           next to none; a write
//!                                                                                           that needs much waits,
//!                                                                                           a read that does is
//!                                                                                           refused
//! ```
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;

use super::line::{Line, Place};

/// Bytes of received data from which on more of it is refused.
const RECEIVED_MAX: usize = 128 * 1024 * 1024;
/// What one connection may hold, or begin, although all of them together hold too much.
const RECEIVED_SPARED: usize = 64 * 1024;
const STREAMS_SPARED: usize = 100;
/// Open streams of all connections, and those that have left work behind: each takes up to four kilobytes.
const STREAMS_MAX: usize = 50_000;
/// Unsent bytes from which on each stream may hold less.
const UNSENT_CROWDED: usize = 64 * 1024 * 1024;
/// Unsent bytes from which on a connection may hold a little and no more.
const UNSENT_MAX: usize = 128 * 1024 * 1024;

/// Calls at the head of the line that are asked whether what they need has become free.
const ASKED_MAX: usize = 16;

/// Counts of one core.
#[derive(Default)]
pub struct Memory {
    received: Cell<usize>,
    streams: Cell<usize>,
    unsent: Cell<usize>,
    /// Calls that wait for room, in the order in which they came, and how much each needs.
    line: Line<usize>,
}

impl Memory {
    /// Nothing is held.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// `after` bytes of received data are held where `before` were.
    pub fn count_received(&self, before: usize, after: usize) {
        self.received.set(self.received.get() - before + after);
    }

    /// Received bytes held.
    pub fn held(&self) -> usize {
        self.received.get()
    }

    /// Whether nothing more may be held of what a client sends of whom `bytes` are held already.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.received.get() > RECEIVED_MAX && bytes > RECEIVED_SPARED
    }

    /// A stream begins.
    pub fn open_stream(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// So many streams are over.
    pub fn close_streams(&self, count: usize) {
        self.streams.set(self.streams.get() - count);
    }

    /// Whether a connection that has so many open streams may not have another.
    pub fn has_no_streams_left(&self, open: usize) -> bool {
        self.streams.get() >= STREAMS_MAX && open >= STREAMS_SPARED
    }

    /// `after` bytes wait to be sent where `before` did.
    pub fn count_unsent(&self, before: usize, after: usize) {
        self.unsent.set(self.unsent.get() - before + after);
        if after < before {
            self.wake_one();
        }
    }

    /// Whether `bytes` more may wait to be sent.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.unsent.get() + bytes <= UNSENT_MAX
    }

    /// Wakes a call that waits for no more room than there is.
    fn wake_one(&self) {
        if let Some(waker) = self.line.take_first(ASKED_MAX, |bytes| self.has_room(*bytes)) {
            waker.wake();
        }
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// Whether so much waits to be sent that each stream has to do with less room.
    pub fn is_crowded(&self) -> bool {
        self.unsent.get() > UNSENT_CROWDED
    }

    /// Whether so much waits to be sent that answers have to wait.
    pub fn is_exhausted(&self) -> bool {
        self.unsent.get() > UNSENT_MAX
    }
}

/// What counts as an open stream until it is dropped: work of a stream that may be gone.
pub struct Outstanding(Rc<Memory>);

impl Outstanding {
    /// Counts one more.
    pub(super) fn new(memory: &Rc<Memory>) -> Self {
        memory.open_stream();
        Self(memory.clone())
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.close_streams(1);
    }
}

/// A place in the line of calls that wait for room.
pub(super) struct InLine {
    memory: Rc<Memory>,
    place: Place,
    bytes: usize,
}

impl InLine {
    /// A place behind all others, for a call that needs `bytes`.
    pub(super) fn new(memory: &Rc<Memory>, bytes: usize) -> Self {
        Self { memory: memory.clone(), place: memory.line.place(), bytes }
    }

    /// Has `waker` woken when there is room. A call that was woken and found none keeps its place.
    pub(super) fn register(&self, waker: &Waker) {
        self.memory.line.wait(&self.place, self.bytes, waker);
    }
}

impl Drop for InLine {
    /// A call that was woken and has gone leaves the room to the next.
    fn drop(&mut self) {
        if !self.memory.line.leave(&self.place) {
            self.memory.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local! {
        static OTHER: RefCell<Option<InLine>> = const { RefCell::new(None) };
    }

    /// Ends another call that waits when it is woken.
    struct EndsOther;

    impl std::task::Wake for EndsOther {
        fn wake(self: std::sync::Arc<Self>) {
            OTHER.take();
        }
    }

    #[test]
    fn whoever_is_woken_may_end_others_in_the_line() {
        let memory = Memory::new();
        memory.count_unsent(0, UNSENT_MAX);
        let (first, other) = (InLine::new(&memory, 1), InLine::new(&memory, 1));
        first.register(&Waker::from(std::sync::Arc::new(EndsOther)));
        other.register(Waker::noop());
        OTHER.set(Some(other));
        memory.count_unsent(1, 0);
        assert!(memory.line.len() == 0 && OTHER.take().is_none());
    }

    #[test]
    fn each_side_has_its_bound() {
        let memory = Memory::new();
        memory.count_received(0, RECEIVED_MAX);
        assert!(!memory.is_full(RECEIVED_MAX));
        memory.count_received(0, 1);
        assert!(
            memory.is_full(RECEIVED_SPARED + 1) && !memory.is_full(RECEIVED_SPARED) && !memory.is_crowded()
        );
        memory.count_received(RECEIVED_MAX + 1, 0);
        memory.count_unsent(0, UNSENT_CROWDED + 1);
        assert!(memory.is_crowded() && !memory.is_exhausted());
        memory.count_unsent(UNSENT_CROWDED + 1, UNSENT_MAX + 1);
        assert!(memory.is_exhausted() && !memory.is_full(RECEIVED_MAX));
        (0..STREAMS_MAX).for_each(|_| memory.open_stream());
        assert!(
            memory.has_no_streams_left(STREAMS_SPARED) && !memory.has_no_streams_left(STREAMS_SPARED - 1)
        );
        memory.close_streams(1);
        assert!(!memory.has_no_streams_left(STREAMS_SPARED));
        let outstanding = Outstanding::new(&memory);
        assert!(memory.has_no_streams_left(STREAMS_SPARED), "what its stream has left behind counts");
        drop(outstanding);
        assert!(!memory.has_no_streams_left(STREAMS_SPARED));
    }
}
