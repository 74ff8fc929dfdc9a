//! What a session core holds of answers that are gathered before they are sent.
//!
//! The keys of a lease and the list of leases stand in trees without revisions, so their answers cannot be written
//! slice by slice as the client takes them: they are gathered from one state of the store, and then sent. One answer of
//! a core is gathered at a time, and all that are gathered and not sent hold no more than [`GATHERED_BYTES_MAX`]
//! together:
//!
//! ```text
//!   line_up ──▶ first in line: gathers ──▶ turn dropped, the next one gathers
//!                  │      ▲
//!                  │      └── nothing is held any more
//!                  └── others hold too much ──▶ throws away what it has, and waits; clients that take nothing are
//!                                               broken off meanwhile
//! ```
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::line::{Line, Place};
use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::stdx::waker::WakerCell;

/// Bytes that all gathered answers of a core hold together.
pub const GATHERED_BYTES_MAX: usize = ANSWER_ASSEMBLED_BYTES_MAX;

/// The gathered answers of one core.
#[derive(Default)]
pub struct Gathering {
    /// Those that gather or wait for it.
    line: Rc<Line>,
    /// Bytes of all answers.
    held: Cell<usize>,
    /// The one whose turn it is, while it waits until nothing is held.
    waiting: WakerCell,
}

impl Gathering {
    /// A place behind all others that want to gather.
    pub fn line_up(self: &Rc<Self>) -> GatheringTurn {
        GatheringTurn { gathering: self.clone(), place: self.line.place() }
    }

    /// An answer that holds nothing yet.
    pub fn begin(self: &Rc<Self>) -> Held {
        Held { gathering: self.clone(), bytes: 0 }
    }

    /// Whether an answer cannot be gathered before others are sent.
    pub fn is_held_up(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// A place in the line of those that gather. Dropped, it lets the next one begin.
pub struct GatheringTurn {
    gathering: Rc<Gathering>,
    place: Place,
}

impl GatheringTurn {
    /// Ready when it is this one's turn.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.place.poll(cx)
    }

    /// Ready when no answer is held.
    pub fn poll_empty(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.gathering.held.get() == 0 {
            drop(self.gathering.waiting.take());
            return Poll::Ready(());
        }
        self.gathering.waiting.keep(cx.waker());
        Poll::Pending
    }
}

impl Drop for GatheringTurn {
    fn drop(&mut self) {
        if self.place.is_first() {
            drop(self.gathering.waiting.take());
        }
    }
}

/// Why an answer may not hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It alone would hold more than all may.
    TooLong,
    /// Others hold too much.
    Crowded,
}

/// Bytes that one answer holds, counted until dropped.
pub struct Held {
    gathering: Rc<Gathering>,
    bytes: usize,
}

impl Held {
    /// The answer holds `bytes` bytes in all.
    ///
    /// # Errors
    /// When that is too much.
    pub fn set(&mut self, bytes: usize) -> Result<(), Full> {
        let held = self.gathering.held.get() - self.bytes + bytes;
        self.gathering.held.set(held);
        self.bytes = bytes;
        if bytes > GATHERED_BYTES_MAX {
            Err(Full::TooLong)
        } else if held > GATHERED_BYTES_MAX {
            Err(Full::Crowded)
        } else {
            Ok(())
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = self.gathering.held.get() - self.bytes;
        self.gathering.held.set(held);
        if held == 0 {
            self.gathering.waiting.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::stdx::waker::{Acts, Wakes};

    #[test]
    fn one_gathers_at_a_time_in_the_order_of_the_line() {
        let gathering = Rc::<Gathering>::default();
        let (waker, wakes) = Wakes::new();
        let cx = Context::from_waker(&waker);
        let mut line: Vec<GatheringTurn> = (0..4).map(|_| gathering.line_up()).collect();
        let ready: Vec<bool> = line.iter_mut().map(|turn| turn.poll(&cx).is_ready()).collect();
        assert_eq!(ready, [true, false, false, false]);
        drop(line.remove(2));
        assert_eq!(wakes.count(), 0, "whoever leaves the line before its turn wakes nobody");
        drop(line.remove(0));
        assert_eq!(wakes.count(), 1);
        assert!(line[0].poll(&cx).is_ready() && line[1].poll(&cx).is_pending());
    }

    #[test]
    fn an_answer_that_finds_no_room_waits_until_the_others_are_sent() {
        let gathering = Rc::<Gathering>::default();
        let (waker, wakes) = Wakes::new();
        let cx = Context::from_waker(&waker);
        let (mut first, mut second) = (gathering.begin(), gathering.begin());
        assert_eq!(first.set(GATHERED_BYTES_MAX - 10), Ok(()));
        let mut turn = gathering.line_up();
        assert_eq!((second.set(10), second.set(11)), (Ok(()), Err(Full::Crowded)));
        drop(second);
        assert!(turn.poll_empty(&cx).is_pending() && gathering.is_held_up());
        drop(first);
        assert_eq!(wakes.count(), 1);
        assert!(turn.poll_empty(&cx).is_ready() && !gathering.is_held_up());
        let mut alone = gathering.begin();
        assert_eq!(alone.set(GATHERED_BYTES_MAX), Ok(()));
        assert_eq!(alone.set(GATHERED_BYTES_MAX + 1), Err(Full::TooLong));
        drop(alone);
        assert_eq!(gathering.held.get(), 0);
    }

    #[test]
    fn one_that_goes_while_it_waits_holds_nobody_up() {
        let gathering = Rc::<Gathering>::default();
        let cx = Context::from_waker(Waker::noop());
        let mut held = gathering.begin();
        held.set(1).unwrap();
        let mut turn = gathering.line_up();
        assert!(turn.poll_empty(&cx).is_pending() && gathering.is_held_up());
        drop(turn);
        assert!(!gathering.is_held_up());
    }

    #[test]
    fn whoever_is_woken_or_goes_may_gather_at_once() {
        let (gathering, times) = (Rc::<Gathering>::default(), Rc::<Cell<usize>>::default());
        let acts = || {
            let (gathering, times) = (gathering.clone(), times.clone());
            Acts::waker(move || {
                times.set(times.get() + 1);
                _ = gathering.line_up().poll_empty(&Context::from_waker(Waker::noop()));
            })
        };
        let mut held = gathering.begin();
        held.set(1).unwrap();
        let mut turn = gathering.line_up();
        assert!(turn.poll_empty(&Context::from_waker(&acts())).is_pending());
        drop(turn);
        assert_eq!(times.get(), 1, "dropped with its turn");
        let mut turn = gathering.line_up();
        assert!(turn.poll_empty(&Context::from_waker(&acts())).is_pending());
        drop(held);
        assert!(times.get() > 1, "woken");
    }
}
