//! A line of tasks that wait until there is room for them.
//!
//! No waker is woken or dropped while the line is borrowed: either may end other tasks, and those leave the line.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// Tasks in the order in which they came, each with what it needs.
#[derive(Default)]
pub(super) struct Line<T> {
    waiting: RefCell<BTreeMap<u64, (T, Waker)>>,
    /// The number of the next place.
    next: Cell<u64>,
}

/// A place in one line. A task that was woken in vain takes its place again.
pub(super) struct Place(u64);

impl<T> Line<T> {
    /// The place behind all others.
    pub(super) fn place(&self) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        Place(number)
    }

    /// Has `waker` woken when it is the turn of this place.
    pub(super) fn wait(&self, place: &Place, needs: T, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.get(&place.0).is_some_and(|(_, known)| known.will_wake(waker)) {
            return;
        }
        let before = waiting.insert(place.0, (needs, waker.clone()));
        drop(waiting);
        drop(before);
    }

    /// Gives a place up. False if nobody waited there: its task was woken, or has not waited yet.
    pub(super) fn leave(&self, place: &Place) -> bool {
        let left = self.waiting.borrow_mut().remove(&place.0);
        left.is_some()
    }

    /// Takes out the first task whose needs are met, among so many at the head of the line.
    pub(super) fn take_first(&self, asked: usize, are_met: impl Fn(&T) -> bool) -> Option<Waker> {
        let mut waiting = self.waiting.borrow_mut();
        let met =
            waiting.iter().take(asked).find(|(_, (needs, _))| are_met(needs)).map(|(&number, _)| number);
        waiting.remove(&met?).map(|(_, waker)| waker)
    }

    /// Tasks that wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }
}
