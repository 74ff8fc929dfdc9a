//! Long computations that let others have their turn.
//!
//! A computation whose length a client chooses counts its steps with a [`Pace`], and pauses when the pace says so. What
//! a pause is, the pace knows: on a server's core it is the turn of the other tasks.
#![forbid(unsafe_code)]

use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// How often a computation pauses.
pub trait Pace {
    /// Counts a step, and pauses if enough of them were made. A step takes some hundred nanoseconds; only a step that
    /// copies bytes, or goes past a group of fields, takes as long as those are.
    fn step(&self) -> impl Future<Output = ()>;
}

/// Never pauses.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

impl Pace for AtOnce {
    fn step(&self) -> impl Future<Output = ()> {
        ready(())
    }
}

/// Runs a computation at the pace of [`AtOnce`] to its end.
pub fn at_once<T>(computation: impl Future<Output = T>) -> T {
    let mut computation = pin!(computation);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        // One poll is enough for what never pauses.
        if let Poll::Ready(result) = computation.as_mut().poll(&mut context) {
            return result;
        }
    }
}

#[cfg(test)]
pub mod testing {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    /// Pauses at every step, and counts the steps.
    #[derive(Debug, Default)]
    pub struct EachStep(pub Cell<usize>);

    impl Pace for EachStep {
        async fn step(&self) {
            self.0.set(self.0.get() + 1);
            let mut paused = false;
            poll_fn(|_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
        }
    }
}
