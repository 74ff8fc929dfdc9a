//! Acknowledged pings that leave with the answer to come.
//!
//! grpc-go measures its bandwidth with a ping beside almost every request. Acknowledged at once, each costs a send of
//! its own, half of a small put's system calls and a wake-up of the client. So a turn that was asked something and has
//! nothing but acknowledgements to say keeps them for the next turn, which as a rule brings the answer, and for
//! [`PATIENCE`] at most.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::server::io::task;
use crate::stdx::time::Duration;

/// Length of a round, at whose end everybody sends what is held back: the longest that an acknowledgement waits. Small
/// beside any sensible ping timeout (grpc-go's is 20 s).
const PATIENCE: Duration = Duration::from_millis(5);

/// The connections of one core that hold acknowledgements back.
#[derive(Default)]
pub struct Pongs {
    waiting: RefCell<Vec<Waiting>>,
    /// Ends [`PATIENCE`] after the first began to wait in it.
    round: Cell<u64>,
}

struct Waiting {
    waker: Waker,
    since: Rc<Cell<Option<u64>>>,
}

/// One connection's place among them.
#[derive(Default)]
pub struct Waits {
    /// The round in which it began to hold back what it holds.
    since: Rc<Cell<Option<u64>>>,
    /// The last round whose end it is in the list for.
    listed: Option<u64>,
}

impl Waits {
    /// What was held back has been sent.
    pub fn end(&mut self) {
        self.since.set(None);
    }
}

impl Pongs {
    /// Lets the connection hold back what it has: it is woken at the end of the round. False, and nothing is held back,
    /// if it has done so since an earlier round.
    pub fn hold_back(self: &Rc<Self>, connection: &mut Waits, waker: &Waker) -> bool {
        let round = Some(self.round.get());
        if connection.since.get().is_some_and(|since| Some(since) != round) {
            return false;
        }
        connection.since.set(round);
        if std::mem::replace(&mut connection.listed, round) == round {
            return true;
        }
        let first = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.push(Waiting { waker: waker.clone(), since: connection.since.clone() });
            waiting.len() == 1
        };
        if first {
            let pongs = self.clone();
            task::spawn(async move {
                task::sleep(PATIENCE).await;
                pongs.end_round();
            });
        }
        true
    }

    fn end_round(&self) {
        self.round.set(self.round.get() + 1);
        for connection in self.waiting.take() {
            if connection.since.get().is_some() {
                connection.waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::waker::Wakes;

    #[test]
    fn a_connection_waits_for_one_round_and_is_woken_while_it_holds_something() {
        let (waker, wakes) = Wakes::new();
        let woken = || wakes.count();
        let test = async move {
            let pongs = Rc::<Pongs>::default();
            let mut connection = Waits::default();
            assert!(pongs.hold_back(&mut connection, &waker) && pongs.hold_back(&mut connection, &waker));
            task::sleep(4 * PATIENCE).await;
            assert_eq!((woken(), pongs.round.get()), (1, 1));
            assert!(!pongs.hold_back(&mut connection, &waker), "it has waited");
            connection.end();
            assert!(pongs.hold_back(&mut connection, &waker), "something new");
            connection.end();
            assert!(pongs.hold_back(&mut connection, &waker), "the same round");
            connection.end();
            task::sleep(4 * PATIENCE).await;
            assert_eq!((woken(), pongs.round.get()), (1, 2), "an answer took it along");
        };
        glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(64).make().unwrap().run(test);
    }
}
