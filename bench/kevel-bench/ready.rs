//! What woke a connection, so that a turn looks only at the calls that have news.
//!
//! h2 wakes each call by a waker of its own and the connection by another. Here a waker is a bit: waking sets it,
//! and wakes the connection's task unless its turn is running, when the turn sees the bit by itself. That
//! saves a task per call, and the empty turns that h2's wakes of its own connection would cost.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The bits of one connection. Atomic because wakers must be; all of it stays on one thread.
pub struct Ready {
    /// A bit per call.
    words: Box<[AtomicU64]>,
    /// The connection itself.
    link: AtomicBool,
    in_turn: AtomicBool,
    task: Mutex<Option<Waker>>,
}

/// The waker of the call with this number, or of the connection.
struct Bell {
    ready: Arc<Ready>,
    call: Option<usize>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.call {
            Some(call) => {
                self.ready.words[call / 64].fetch_or(1 << (call % 64), Ordering::Relaxed);
            }
            None => self.ready.link.store(true, Ordering::Relaxed),
        }
        if !self.ready.in_turn.load(Ordering::Relaxed)
            && let Some(task) = &*self.ready.task.lock().unwrap_or_else(PoisonError::into_inner)
        {
            task.wake_by_ref();
        }
    }
}

impl Ready {
    /// Bits for `calls_max` calls.
    pub fn new(calls_max: usize) -> Arc<Self> {
        Arc::new(Self {
            words: (0..calls_max.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            link: AtomicBool::new(false),
            in_turn: AtomicBool::new(false),
            task: Mutex::new(None),
        })
    }

    /// The waker of call number `call`.
    pub fn call_waker(self: &Arc<Self>, call: usize) -> Waker {
        Waker::from(Arc::new(Bell { ready: self.clone(), call: Some(call) }))
    }

    /// The waker for the connection.
    pub fn link_waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::new(Bell { ready: self.clone(), call: None }))
    }

    /// A turn of `task` begins.
    pub fn enter(&self, task: &Waker) {
        self.in_turn.store(true, Ordering::Relaxed);
        let before =
            kevel::stdx::waker::keep(&mut self.task.lock().unwrap_or_else(PoisonError::into_inner), task);
        drop(before);
    }

    /// The turn ends. True when something rang that it has not looked at.
    pub fn leave(&self) -> bool {
        self.in_turn.store(false, Ordering::Relaxed);
        self.link.load(Ordering::Relaxed) || self.words.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Whether the connection's bit was set; clears it.
    pub fn take_link(&self) -> bool {
        self.link.swap(false, Ordering::Relaxed)
    }

    /// The calls that rang, in 64s; clears them.
    pub fn take_calls(&self, mut each: impl FnMut(usize)) {
        for (at, word) in self.words.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                each(at * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn calls_ring_once_each_and_the_task_wakes_outside_turns_only() {
        let ready = Ready::new(130);
        let count = Arc::new(Count::default());
        ready.enter(&Waker::from(count.clone()));
        ready.call_waker(3).wake();
        ready.call_waker(129).wake();
        ready.call_waker(3).wake();
        let mut rang = Vec::new();
        ready.take_calls(|call| rang.push(call));
        assert_eq!((rang, count.0.load(Ordering::Relaxed)), (vec![3, 129], 0));
        assert!(!ready.leave());
        ready.link_waker().wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(ready.take_link() && !ready.take_link());
    }
}
