//! How much of the answers waits to be written: per connection, per stream, and of all connections of a core.
//!
//! A stream takes any amount of data and keeps what the client's windows or the socket do not take. It charges what it
//! keeps to an account, and releases it when it is written, so a slow client shows as unsent bytes:
//!
//! ```text
//!   unary answers    4 MB and one answer per connection, then its further requests wait; 64 KB while the core is
//!                    exhausted. What is kept for a call until its answer is written counts likewise; see `charge`
//!   streams and      256 KB each, then their producers wait
//!   long answers     16 KB each while those of one connection hold more than 16 MB, or the core is crowded
//!                    none while those of one connection hold more than 32 MB
//!                    none while the core is exhausted and the connection holds anything
//! ```
//!
//! What streams have not sent makes no requests wait: a few slow LISTs must not stop the gets beside them. What is kept
//! to make their answers from does (see `charge`).
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::line::{Line, Place};
use super::memory::{Memory, Outstanding};
use crate::stdx::waker::WakerCell;

/// Unsent bytes of one stream from which on its producer waits.
pub const STREAM_UNSENT_MAX: usize = 256 * 1024;
/// Unsent bytes of one stream down to which its producer then waits.
const STREAM_UNSENT_LOW: usize = STREAM_UNSENT_MAX / 2;
/// Unsent bytes of unary answers from which on a connection's requests wait.
pub const CONNECTION_UNSENT_MAX: usize = 4 * 1024 * 1024;
/// The same while the core is exhausted.
const EXHAUSTED_UNSENT_MAX: usize = 64 * 1024;
/// Unsent bytes of all streams of a connection from which on each may only hold [`CROWDED_UNSENT_MAX`].
const STREAMS_UNSENT_MAX: usize = 16 * 1024 * 1024;
/// Unsent bytes of all streams of a connection from which on none gets any room.
const STREAMS_UNSENT_LIMIT: usize = 2 * STREAMS_UNSENT_MAX;
/// What a stream of a crowded connection or core may hold.
const CROWDED_UNSENT_MAX: usize = 16 * 1024;

/// Bytes of unary answers that wait in the streams of one connection and are not yet in its output.
pub struct Account {
    memory: Rc<Memory>,
    unsent: Cell<usize>,
    /// Unsent bytes of the connection's streams, which `unsent` does not include.
    of_streams: Cell<usize>,
    /// Something was written since the connection last asked; see `keepalive`.
    wrote: Cell<bool>,
    /// Requests that wait until the connection may answer more, in the order in which they came.
    line: Line<()>,
    /// Whoever has requests that are to follow those in line.
    behind: WakerCell,
    /// Streams whose producers wait until others have been written. A stream is in here once at most.
    crowd: RefCell<VecDeque<Rc<StreamAccount>>>,
}

impl Account {
    /// The account of a connection of a core that holds so much.
    pub fn new(memory: Rc<Memory>) -> Rc<Self> {
        Rc::new(Self {
            memory,
            unsent: Cell::new(0),
            of_streams: Cell::new(0),
            wrote: Cell::new(false),
            line: Line::default(),
            behind: WakerCell::default(),
            crowd: RefCell::default(),
        })
    }

    /// Counts what is left to do for a stream that may be gone.
    pub fn outstanding(&self) -> Outstanding {
        Outstanding::new(&self.memory)
    }

    /// Something went out, counted in bytes or not.
    pub fn note_write(&self) {
        self.wrote.set(true);
    }

    /// Whether anything was written since the last call.
    pub fn take_wrote(&self) -> bool {
        self.wrote.replace(false)
    }

    /// Bytes of unary answers waiting.
    pub fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// Whether so much is unsent that the connection's further requests wait.
    pub fn is_full(&self) -> bool {
        self.is_full_with(self.unsent.get())
    }

    /// [`Account::is_full`] without `bytes` of what is unsent.
    pub(super) fn is_full_beside(&self, bytes: usize) -> bool {
        self.is_full_with(self.unsent.get() - bytes)
    }

    fn is_full_with(&self, unsent: usize) -> bool {
        unsent > CONNECTION_UNSENT_MAX || (unsent > EXHAUSTED_UNSENT_MAX && self.memory.is_exhausted())
    }

    /// A place in the line of requests that wait for an answer.
    pub fn line_up(self: &Rc<Self>) -> InLine {
        InLine { account: self.clone(), place: self.line.place(), passed: false }
    }

    /// Has `waker` woken when the connection may answer requests that are not in the line yet.
    pub fn wake_when_free(&self, waker: &Waker) {
        self.behind.keep(waker);
    }

    /// Wakes the first in line, if the connection may answer it.
    fn wake_first(&self) {
        if self.is_full() {
            return;
        }
        if let Some(waker) = self.line.take_first(1, |()| true).or_else(|| self.behind.take()) {
            waker.wake();
        }
    }

    /// What all connections of the core hold.
    pub(super) fn memory(&self) -> &Rc<Memory> {
        &self.memory
    }

    fn charge(&self, bytes: usize) {
        self.memory.count_unsent(0, bytes);
        self.unsent.set(self.unsent.get() + bytes);
    }

    fn release(&self, bytes: usize) {
        self.memory.count_unsent(bytes, 0);
        self.count_unsent(bytes, 0);
        self.note_write();
    }

    /// `after` bytes are held where `before` were, as far as this connection is concerned.
    pub(super) fn count_unsent(&self, before: usize, after: usize) {
        self.unsent.set(self.unsent.get() - before + after);
        if after < before {
            self.wake_first();
        }
    }

    /// What a stream may hold now that holds `unsent` bytes.
    fn unsent_max(&self, unsent: usize) -> usize {
        let of_streams = self.of_streams.get();
        let is_first = of_streams == unsent;
        if (of_streams > STREAMS_UNSENT_LIMIT || self.memory.is_exhausted()) && !is_first {
            0
        } else if of_streams > STREAMS_UNSENT_MAX || self.memory.is_crowded() {
            CROWDED_UNSENT_MAX
        } else {
            STREAM_UNSENT_MAX
        }
    }

    fn charge_stream(&self, bytes: usize) {
        self.memory.count_unsent(0, bytes);
        self.of_streams.set(self.of_streams.get() + bytes);
    }

    /// Each stream that is written lets a few that wait try again: those have something to be written then, and so on.
    fn release_stream(&self, bytes: usize) {
        const WOKEN: usize = 4;
        self.memory.count_unsent(bytes, 0);
        let of_streams = self.of_streams.get() - bytes;
        self.of_streams.set(of_streams);
        self.note_write();
        let count = if of_streams == 0 { self.crowd.borrow().len() } else { WOKEN };
        for _ in 0..count {
            // Taken out in a statement of its own: waking a producer may end another one.
            let next = self.crowd.borrow_mut().pop_front();
            let Some(stream) = next else { return };
            stream.is_in_crowd.set(false);
            stream.wake();
        }
    }
}

/// The place of a request in the line of those that wait until their connection may answer more.
pub struct InLine {
    account: Rc<Account>,
    place: Place,
    passed: bool,
}

impl InLine {
    /// Ready when the connection may answer this request.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.account.is_full() {
            self.account.line.wait(&self.place, (), cx.waker());
            return Poll::Pending;
        }
        self.passed = true;
        Poll::Ready(())
    }
}

impl Drop for InLine {
    /// Whoever leaves the line lets the next one try: after its answer, or instead of it.
    fn drop(&mut self) {
        let was_waiting = self.account.line.leave(&self.place);
        if self.passed || !was_waiting {
            self.account.wake_first();
        }
    }
}

/// Bytes that wait in one stream.
pub struct StreamAccount {
    connection: Rc<Account>,
    unsent: Cell<usize>,
    /// The producer, while it waits for room.
    producer: WakerCell,
    /// The producer waits for the connection's other streams; see [`Account::crowd`].
    is_in_crowd: Cell<bool>,
}

impl StreamAccount {
    /// The account of a stream of a connection.
    pub fn new(connection: &Rc<Account>) -> Rc<Self> {
        Rc::new(Self {
            connection: connection.clone(),
            unsent: Cell::new(0),
            producer: WakerCell::default(),
            is_in_crowd: Cell::new(false),
        })
    }

    fn charge(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() + bytes);
        self.connection.charge_stream(bytes);
    }

    fn release(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() - bytes);
        self.connection.release_stream(bytes);
        if self.unsent.get() <= STREAM_UNSENT_LOW {
            self.wake();
        }
    }

    /// Wakes the producer if it waits.
    pub fn wake(&self) {
        self.producer.wake();
    }

    /// Bytes waiting.
    pub fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// What the producer may add now.
    pub fn room(&self) -> usize {
        let unsent = self.unsent.get();
        self.connection.unsent_max(unsent).saturating_sub(unsent)
    }

    /// Ready when there is room; once it was used up, when half of it is free again.
    pub fn poll_room(self: &Rc<Self>, cx: &Context<'_>) -> Poll<usize> {
        let room = self.room();
        if room > 0 {
            return Poll::Ready(room);
        }
        self.producer.keep(cx.waker());
        // A stream that holds something is woken when that is written; what holds nothing has to wait for the others.
        if self.unsent.get() == 0 && !self.is_in_crowd.replace(true) {
            self.connection.crowd.borrow_mut().push_back(self.clone());
        }
        Poll::Pending
    }
}

/// Who is charged for data while it waits.
#[derive(Clone)]
pub enum Owner {
    /// A connection, for a unary answer.
    Connection(Rc<Account>),
    /// A stream, for one of many messages or a slice of a long answer.
    Stream(Rc<StreamAccount>),
}

impl Owner {
    /// Bytes wait.
    pub fn charge(&self, bytes: usize) {
        match self {
            Self::Connection(account) => account.charge(bytes),
            Self::Stream(account) => account.charge(bytes),
        }
    }

    /// Bytes were written or thrown away. Called while the connection's state is borrowed: wakes, and nothing else.
    pub fn release(&self, bytes: usize) {
        match self {
            Self::Connection(account) => account.release(bytes),
            Self::Stream(account) => account.release(bytes),
        }
    }
}

/// An account that data can be charged to.
pub trait Payer {
    /// The account, to be kept as long as the data waits.
    fn owner(self: &Rc<Self>) -> Owner;

    /// Data went out without waiting.
    fn note_write(&self);
}

impl Payer for Account {
    fn owner(self: &Rc<Self>) -> Owner {
        Owner::Connection(self.clone())
    }

    fn note_write(&self) {
        self.note_write();
    }
}

impl Payer for StreamAccount {
    fn owner(self: &Rc<Self>) -> Owner {
        Owner::Stream(self.clone())
    }

    fn note_write(&self) {
        self.connection.note_write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::waker::Wakes;

    fn connection() -> Rc<Account> {
        Account::new(Memory::new())
    }

    #[test]
    fn a_stream_waits_when_full_and_its_connection_does_not() {
        let connection = connection();
        let stream = StreamAccount::new(&connection);
        let (waker, wakes) = Wakes::new();
        let cx = Context::from_waker(&waker);
        stream.charge(STREAM_UNSENT_MAX);
        assert_eq!((connection.unsent(), connection.of_streams.get()), (0, STREAM_UNSENT_MAX));
        assert!(stream.poll_room(&cx).is_pending());
        stream.release(10);
        assert_eq!(wakes.count(), 0, "still above the low mark");
        stream.release(STREAM_UNSENT_MAX - 10);
        assert!(wakes.count() == 1 && stream.poll_room(&cx).is_ready());
        assert!(connection.take_wrote() && !connection.take_wrote());
        Payer::note_write(&*stream);
        assert!(connection.take_wrote(), "what a stream writes, its connection does");
        assert_eq!((connection.of_streams.get(), connection.memory.unsent()), (0, 0));
    }

    #[test]
    fn unary_answers_fill_their_connection() {
        let connection = connection();
        let cx = Context::from_waker(Waker::noop());
        connection.charge(CONNECTION_UNSENT_MAX + 1);
        let mut place = connection.line_up();
        assert!(connection.is_full() && place.poll(&cx).is_pending());
        connection.release(1);
        assert!(place.poll(&cx).is_ready());
    }

    /// Each answer lets one more request try, however many wait: none is woken for nothing.
    #[test]
    fn requests_wait_in_line_and_are_woken_one_at_a_time() {
        const WAITING: usize = 20_000;
        let connection = connection();
        connection.charge(CONNECTION_UNSENT_MAX + 1);
        let (waker, wakes) = Wakes::new();
        let cx = Context::from_waker(&waker);
        let mut line: Vec<_> = (0..WAITING).map(|_| connection.line_up()).collect();
        for _ in 0..3 {
            assert!(line.iter_mut().all(|place| place.poll(&cx).is_pending()));
        }
        assert_eq!(connection.line.len(), WAITING, "polled again, and in line once");
        connection.release(1);
        assert_eq!(wakes.count(), 1);
        assert!(line[0].poll(&cx).is_ready());
        connection.charge(1);
        line.remove(0);
        assert_eq!(wakes.count(), 1, "its answer has filled the connection again");
        connection.release(1);
        assert_eq!(wakes.count(), 2);
        line.remove(0);
        assert_eq!(wakes.count(), 3, "one that leaves instead of answering lets the next one try");
        line.pop();
        assert_eq!((wakes.count(), connection.line.len()), (3, WAITING - 4));
    }

    thread_local! {
        static ENDING: RefCell<Option<Rc<StreamAccount>>> = const { RefCell::new(None) };
    }

    /// Ends a stream of the same connection when it is woken.
    struct EndsStream;

    impl std::task::Wake for EndsStream {
        fn wake(self: std::sync::Arc<Self>) {
            if let Some(stream) = ENDING.take() {
                stream.release(stream.unsent());
            }
        }
    }

    #[test]
    fn whoever_is_woken_may_end_other_streams() {
        let connection = connection();
        let streams: Vec<_> = (0..3).map(|_| StreamAccount::new(&connection)).collect();
        streams[1..].iter().for_each(|stream| stream.charge(STREAMS_UNSENT_LIMIT));
        let waker = Waker::from(std::sync::Arc::new(EndsStream));
        assert!(streams[0].poll_room(&Context::from_waker(&waker)).is_pending());
        ENDING.set(Some(streams[1].clone()));
        streams[2].release(STREAMS_UNSENT_LIMIT);
        assert!(connection.of_streams.get() == 0 && connection.crowd.borrow().is_empty());
    }

    #[test]
    fn many_slow_streams_get_less_room_each() {
        let connection = connection();
        let streams: Vec<_> = (0..65).map(|_| StreamAccount::new(&connection)).collect();
        streams.iter().for_each(|stream| stream.charge(STREAM_UNSENT_MAX));
        assert_eq!(StreamAccount::new(&connection).room(), CROWDED_UNSENT_MAX);
        streams.iter().for_each(|stream| stream.release(STREAM_UNSENT_MAX));
        assert_eq!(StreamAccount::new(&connection).room(), STREAM_UNSENT_MAX);
    }

    /// Streams whose single messages are larger than what a crowded connection gives them.
    #[test]
    fn no_number_of_slow_streams_fills_the_memory() {
        const MESSAGE: usize = 1024 * 1024;
        let connection = connection();
        let cx = Context::from_waker(Waker::noop());
        let streams: Vec<_> = (0..2000).map(|_| StreamAccount::new(&connection)).collect();
        for stream in &streams {
            if stream.poll_room(&cx).is_ready() {
                stream.charge(MESSAGE);
            }
        }
        assert!(connection.of_streams.get() <= STREAMS_UNSENT_LIMIT + MESSAGE);
        let waiting = connection.crowd.borrow().len();
        assert!(waiting > 1900 && streams.iter().all(|stream| stream.poll_room(&cx).is_pending()));
        assert_eq!(connection.crowd.borrow().len(), waiting, "each waits once");
        // As the client takes what there is, the others get their turn.
        for stream in streams.iter().filter(|stream| stream.unsent() > 0) {
            stream.release(MESSAGE);
        }
        assert!(connection.crowd.borrow().is_empty() && streams[1999].room() > 0);
    }

    #[test]
    fn connections_share_what_the_core_may_hold() {
        let memory = Memory::new();
        let cx = Context::from_waker(Waker::noop());
        let mut stuck = Vec::new();
        for _ in 0..2000 {
            let connection = Account::new(memory.clone());
            for _ in 0..100 {
                let stream = StreamAccount::new(&connection);
                while stream.poll_room(&cx).is_ready() {
                    stream.charge(stream.room());
                }
                stuck.push(stream);
            }
        }
        assert!(memory.is_exhausted() && memory.unsent() < 160 << 20, "{}", memory.unsent());
        let other = Account::new(memory.clone());
        let stream = StreamAccount::new(&other);
        assert_eq!(stream.room(), CROWDED_UNSENT_MAX, "a connection that holds nothing goes on");
        other.charge(EXHAUSTED_UNSENT_MAX + 1);
        assert!(other.is_full());
        stuck.iter().for_each(|stream| stream.release(stream.unsent()));
        assert!(!other.is_full() && stream.room() == STREAM_UNSENT_MAX);
    }
}
