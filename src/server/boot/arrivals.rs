//! Which core serves a new connection.
//!
//! One session core accepts, at every listener, and deals the connections out to all of them in turn. So a listener is one
//! socket that belongs to this process alone, and the cores have equally many clients, which a socket for each core
//! (SO_REUSEPORT) would leave to a hash of addresses. A connection crosses a lane once in its life.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::listener::Desk;
use crate::server::core::mesh::{Receiver, Sender};
use crate::server::io::accept::{Accepted, Take};
use crate::server::io::task;

/// Messages taken from the lane before other tasks of the core run.
const TURN_ARRIVALS_MAX: usize = 64;

/// What the accepting core tells another one.
pub enum Arrival {
    /// A connection to serve, and the number of its listener.
    Connection(usize, Accepted),
    /// Nobody else can be let in: those who have not asked for anything yet should leave.
    Crowded,
}

/// Deals the connections of one listener out: to this core, and to those behind the lanes.
pub struct Dealer {
    /// The listener's number.
    listener: usize,
    desk: Rc<Desk>,
    others: Rc<[Sender<Arrival>]>,
    /// Whose turn it is; `others.len()` is this core's.
    next: Cell<usize>,
}

impl Dealer {
    /// Begins with this core.
    pub fn new(listener: usize, desk: Rc<Desk>, others: Rc<[Sender<Arrival>]>) -> Dealer {
        let next = Cell::new(others.len());
        Dealer { listener, desk, others, next }
    }

    /// The core whose turn it is; `None` is this one.
    fn turn(&self) -> Option<&Sender<Arrival>> {
        let next = self.next.get();
        self.next.set(if next == self.others.len() { 0 } else { next + 1 });
        self.others.get(next)
    }
}

impl Take for Dealer {
    fn take(&self, accepted: Accepted) {
        let Some(core) = self.turn() else { return self.desk.serve(accepted) };
        // A core that is so far behind that its lane is full is spared.
        if let Err(Arrival::Connection(_, accepted)) = core.send(Arrival::Connection(self.listener, accepted))
        {
            self.desk.serve(accepted);
        }
    }

    fn crowded(&self) {
        self.desk.evict();
        for core in self.others.iter() {
            // A core whose lane is full has been told, or is about to learn that it is crowded.
            let _ = core.send(Arrival::Crowded);
        }
    }
}

/// Serves what the accepting core deals to this one, for as long as the executor runs. `desks` are by number of the listener.
pub async fn receive(lane: Receiver<Arrival>, desks: Vec<Option<Rc<Desk>>>) {
    let mut arrivals = VecDeque::with_capacity(TURN_ARRIVALS_MAX);
    loop {
        lane.ready().await;
        lane.take(TURN_ARRIVALS_MAX, &mut arrivals);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Connection(listener, accepted) => {
                    if let Some(Some(desk)) = desks.get(listener) {
                        desk.serve(accepted);
                    }
                }
                Arrival::Crowded => desks.iter().flatten().for_each(|desk| desk.evict()),
            }
        }
        task::yield_now().await;
    }
}
