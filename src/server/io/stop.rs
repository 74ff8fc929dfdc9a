//! Stopping a core's connections: first they finish what is in flight, then they are closed.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::stdx::waker::{WakerCell, keep};

/// How far a core has stopped. Only ever advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections and requests; those in flight are answered.
    Draining,
    /// Connections end at once.
    Closed,
}

/// Shared by the connections of one core.
pub struct Stop {
    phase: Cell<Phase>,
    members: RefCell<Slab<Option<Waker>>>,
    drained: WakerCell,
}

/// One connection's membership; its end is noticed when dropped.
pub struct Membership {
    stop: Rc<Stop>,
    key: usize,
}

impl Stop {
    /// A running core without connections.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Running),
            members: RefCell::new(Slab::new()),
            drained: WakerCell::default(),
        })
    }

    /// How far we are.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Advances to `phase` and tells every connection. Going back is not possible and ignored.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            let members: Vec<Waker> =
                self.members.borrow_mut().iter_mut().filter_map(|(_, waker)| waker.take()).collect();
            members.into_iter().for_each(Waker::wake);
        }
    }

    /// Joins; [`Membership::watch`] then wakes the task when the phase changes.
    pub fn join(self: &Rc<Self>) -> Membership {
        let key = self.members.borrow_mut().insert(None);
        Membership { stop: self.clone(), key }
    }

    /// How many have joined and not left.
    pub fn members(&self) -> usize {
        self.members.borrow().len()
    }

    /// Waits until the last connection has ended. One task at a time may wait.
    pub async fn drained(&self) {
        poll_fn(|cx| {
            if self.members.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.drained.keep(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Membership {
    /// The phase; `waker` is woken when it changes.
    pub fn watch(&self, waker: &Waker) -> Phase {
        let before = keep(&mut self.stop.members.borrow_mut()[self.key], waker);
        drop(before);
        self.stop.phase()
    }

    /// Waits until the core has reached this phase, or a later one.
    pub async fn reached(&self, phase: Phase) {
        poll_fn(|cx| if self.watch(cx.waker()) >= phase { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let own = self.stop.members.borrow_mut().remove(self.key);
        drop(own);
        if self.stop.members() == 0 {
            self.stop.drained.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::waker::Acts;

    #[test]
    fn who_is_told_may_leave_at_once() {
        let stop = Stop::new();
        let (told, other) = (stop.join(), RefCell::new(Some(stop.join())));
        told.watch(&Acts::waker(move || drop(other.take())));
        stop.advance(Phase::Draining);
        assert_eq!(stop.members(), 1);
    }

    #[test]
    fn phases_only_advance_and_members_are_counted() {
        let stop = Stop::new();
        let member = stop.join();
        assert_eq!(member.watch(Waker::noop()), Phase::Running);
        stop.advance(Phase::Closed);
        stop.advance(Phase::Draining);
        assert_eq!(member.watch(Waker::noop()), Phase::Closed);
        assert_eq!(stop.members(), 1);
        drop(member);
        assert_eq!(stop.members(), 0);
    }
}
