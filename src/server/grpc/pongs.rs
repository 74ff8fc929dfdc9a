//! Acknowledged pings that leave with the answer to come.
//!
//! grpc-go measures its bandwidth with a ping beside almost every request. Acknowledged at once, each costs a send of
//! its own, half of a small put's system calls and a wake-up of the client. So while the answers to requests that came
//! in the same turn are outstanding, acknowledgements wait for them, [`PATIENCE`] at most.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::server::io::task;
use crate::stdx::time::Duration;

/// How long an acknowledgement may wait. Small beside any client's ping timeout (one second at least in grpc-go).
const PATIENCE: Duration = Duration::from_millis(5);

/// The connections of one core that hold acknowledgements back.
#[derive(Default)]
pub struct Pongs {
    waiting: RefCell<Vec<Waker>>,
    /// Ends every [`PATIENCE`] while anybody waits.
    round: Cell<u64>,
}

/// One connection's place among them.
#[derive(Default)]
pub struct Waits {
    /// The round whose end wakes the connection.
    woken_after: Option<u64>,
    /// The round in which it began to hold back what it holds.
    since: Option<u64>,
}

impl Waits {
    /// What was held back has been sent.
    pub fn end(&mut self) {
        self.since = None;
    }
}

impl Pongs {
    /// Whether the connection may hold back what it has, or has done so for a whole round already.
    pub fn may_wait(self: &Rc<Self>, connection: &mut Waits, waker: &Waker) -> bool {
        let round = Some(self.round.get());
        if connection.since.is_some() && connection.since != round {
            return false;
        }
        connection.since = round;
        if std::mem::replace(&mut connection.woken_after, round) == round {
            return true;
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(waker.clone());
        if waiting.len() == 1 {
            let pongs = self.clone();
            task::spawn(async move {
                task::sleep(PATIENCE).await;
                pongs.release();
            });
        }
        true
    }

    fn release(&self) {
        self.round.set(self.round.get() + 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}
