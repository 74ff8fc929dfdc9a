//! Clients that have connected and not asked for anything yet.
//!
//! They may take five minutes for their first words, as with etcd. But when the process holds all connections it
//! may, those who wait longest are sent away to let others in, so a client that never finishes its first words takes no
//! place for long.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::clock;
use crate::stdx::time::{Duration, Instant};
use crate::stdx::waker::keep;

/// Nobody is sent away before this.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How many leave at once.
const EVICTED_MAX: usize = 64;

/// The waiting clients of one core, by since when they wait; a number tells those apart who came together.
#[derive(Default)]
pub struct IdleClients {
    entries: RefCell<BTreeMap<(Instant, u64), Option<Waker>>>,
    next: Cell<u64>,
}

/// A client among those; it is none of them any more when this is dropped.
pub struct IdleClient {
    idle: Rc<IdleClients>,
    key: (Instant, u64),
}

impl IdleClient {
    /// Whether the client was sent away; `waker` is woken when it is.
    pub fn is_over(&self, waker: &Waker) -> bool {
        let mut entries = self.idle.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&self.key) else { return true };
        let before = keep(entry, waker);
        drop(entries);
        drop(before);
        false
    }
}

impl Drop for IdleClient {
    fn drop(&mut self) {
        let own = self.idle.entries.borrow_mut().remove(&self.key);
        drop(own);
    }
}

impl IdleClients {
    /// Nobody waits.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Runs `future`, a client's first words, to its end; `None` when the client was sent away meanwhile.
    pub async fn wait<F: Future>(self: &Rc<Self>, future: F) -> Option<F::Output> {
        self.wait_after(Duration::ZERO, future).await
    }

    /// Likewise, for a client that has taken so much time before.
    pub async fn wait_after<F: Future>(self: &Rc<Self>, waited: Duration, future: F) -> Option<F::Output> {
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let since = Instant::from_nanos(clock::now().as_nanos().saturating_sub(waited));
        let entry = self.enter_since(since);
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if entry.is_over(cx.waker()) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// A client that has not asked for anything has come.
    pub fn enter(self: &Rc<Self>) -> IdleClient {
        self.enter_since(clock::now())
    }

    fn enter_since(self: &Rc<Self>, since: Instant) -> IdleClient {
        let key = (since, self.next.replace(self.next.get() + 1));
        self.entries.borrow_mut().insert(key, None);
        IdleClient { idle: self.clone(), key }
    }

    /// Sends away those who wait longest, at most a few and nobody who has just come. How many that were.
    pub fn evict(&self, now: Instant) -> usize {
        let mut evicted = 0;
        while evicted < EVICTED_MAX
            && let Some(waker) = self.take_oldest(now)
        {
            if let Some(waker) = waker {
                waker.wake();
            }
            evicted += 1;
        }
        evicted
    }

    /// Whom to wake for the client that waits longest, if it may be sent away.
    fn take_oldest(&self, now: Instant) -> Option<Option<Waker>> {
        let mut entries = self.entries.borrow_mut();
        let oldest = entries.first_entry()?;
        (oldest.key().0 + PATIENCE <= now).then(|| oldest.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::waker::Acts;
    use futures::executor::block_on;
    use futures::future::{join, pending, ready};

    #[test]
    fn who_is_sent_away_may_take_others_along() {
        let idle = IdleClients::new();
        let (first, other) = (idle.enter(), RefCell::new(Some(idle.enter())));
        assert!(!first.is_over(&Acts::waker(move || drop(other.take()))));
        assert_eq!(idle.evict(clock::now() + PATIENCE), 1);
        assert!(first.is_over(Waker::noop()));
    }

    #[test]
    fn who_has_waited_before_is_sent_away_first() {
        let idle = IdleClients::new();
        let now = clock::now() + 2 * PATIENCE;
        let (recent, long) = (idle.enter_since(now), idle.enter_since(clock::now()));
        assert_eq!(idle.evict(now), 1);
        assert!(long.is_over(Waker::noop()) && !recent.is_over(Waker::noop()));
    }

    #[test]
    fn only_those_who_wait_long_are_sent_away() {
        let idle = IdleClients::new();
        assert_eq!(block_on(idle.wait(ready(7))), Some(7));
        let evict = async {
            assert_eq!(idle.evict(clock::now()), 0, "it has just come");
            assert_eq!(idle.evict(clock::now() + PATIENCE), 1);
        };
        let (waited, ()) = block_on(join(idle.wait(pending::<()>()), evict));
        assert_eq!((waited, idle.entries.borrow().len()), (None, 0));
    }
}
