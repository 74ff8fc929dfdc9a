//! Clients that have connected and not asked for anything yet.
//!
//! They may take five minutes for their first words, as with etcd. But when the process holds all connections it
//! may, those who wait longest are sent away to let others in: a slow loris takes no place for long.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::clock;
use crate::stdx::time::{Duration, Instant};

/// Nobody is sent away before this.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many leave at once.
const EVICTED_MAX: usize = 64;

struct Guest {
    since: Instant,
    waker: Option<Waker>,
}

/// The waiting clients of one core, in the order they came.
#[derive(Default)]
pub struct Lobby {
    guests: RefCell<BTreeMap<u64, Guest>>,
    next: Cell<u64>,
}

/// A guest leaves when its wait is over, however it ends.
struct Stay<'a> {
    lobby: &'a Lobby,
    key: u64,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.lobby.guests.borrow_mut().remove(&self.key);
    }
}

impl Lobby {
    /// Nobody waits.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Runs `future`, a client's first words, to its end; `None` when the client was sent away meanwhile.
    pub async fn wait<F: Future>(&self, future: F) -> Option<F::Output> {
        let key = self.next.replace(self.next.get() + 1);
        self.guests.borrow_mut().insert(key, Guest { since: clock::now(), waker: None });
        let _stay = Stay { lobby: self, key };
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            match self.guests.borrow_mut().get_mut(&key) {
                None => Poll::Ready(None),
                Some(guest) => {
                    crate::stdx::waker::keep(&mut guest.waker, cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Sends away those who wait longest, at most a few and nobody who has just come. How many that were.
    pub fn evict(&self, now: Instant) -> usize {
        let mut guests = self.guests.borrow_mut();
        let mut evicted = 0;
        while evicted < EVICTED_MAX
            && let Some(oldest) = guests.first_entry()
            && oldest.get().since + PATIENCE <= now
        {
            if let Some(waker) = oldest.remove().waker {
                waker.wake();
            }
            evicted += 1;
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::future::{join, pending, ready};

    #[test]
    fn only_those_who_wait_long_are_sent_away() {
        let lobby = Lobby::new();
        assert_eq!(block_on(lobby.wait(ready(7))), Some(7));
        let evict = async {
            assert_eq!(lobby.evict(clock::now()), 0, "it has just come");
            assert_eq!(lobby.evict(clock::now() + PATIENCE), 1);
        };
        let (waited, ()) = block_on(join(lobby.wait(pending::<()>()), evict));
        assert_eq!((waited, lobby.guests.borrow().len()), (None, 0));
    }
}
