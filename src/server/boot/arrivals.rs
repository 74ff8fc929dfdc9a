//! Which core serves a new connection.
//!
//! One session core accepts, at every listener, and deals the connections out to all of them in turn. So a listener
//! is one socket that belongs to this process alone, and the cores have equally many clients, which a socket for each
//! core (SO_REUSEPORT) would leave to a hash of addresses. A connection crosses a lane once in its life.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::listener::Desk;
use crate::server::io::accept::{Accepted, Take};
use crate::server::io::task;
use crate::server::mesh::{Receiver, Sender};

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

/// Serves what the accepting core deals to this one, for as long as the executor runs. `desks` are by number of the
/// listener.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::ErrorKind::ConnectionReset;
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crate::server::boot::listener::{self, Services};
    use crate::server::io::accept::Admission;
    use crate::server::io::stop::{Phase, Stop};
    use crate::server::io::turns::Turns;
    use crate::server::io::{clock, executor, socket};
    use crate::server::mesh;

    /// A desk that closes every connection once it has seen what is asked.
    fn desk(stop: &Rc<Stop>) -> Rc<Desk> {
        Rc::new(Desk::new(Services {
            grpc: None,
            admin: None,
            stop: stop.clone(),
            turns: Turns::start(),
            security: None,
        }))
    }

    #[test]
    fn connections_are_dealt_out_in_turn() {
        let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listening.local_addr().unwrap();
        let clients: Vec<_> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
        let run = move || async move {
            let (stop, admission) = (Stop::new(), Admission::with_places(6));
            let (lanes, received): (Vec<_>, Vec<_>) = (0..2).map(|_| mesh::lane::<Arrival>(8)).unzip();
            let dealer = Dealer::new(3, desk(&stop), lanes.into());
            let socket = socket::accept_on(listening);
            task::spawn(listener::listen(socket, admission.clone(), stop.clone(), dealer));
            let deadline = clock::now() + Duration::from_secs(30);
            while admission.open() < 6 && clock::now() < deadline {
                task::sleep(Duration::from_millis(1)).await;
            }
            // The process is full now, so the accepting core tells the others that it is crowded.
            task::sleep(Duration::from_millis(200)).await;
            stop.advance(Phase::Draining);
            for lane in received {
                let mut arrivals = VecDeque::new();
                lane.take(8, &mut arrivals);
                let (crowded, connections): (Vec<_>, Vec<_>) =
                    arrivals.into_iter().partition(|arrival| matches!(arrival, Arrival::Crowded));
                assert_eq!(connections.len(), 2, "each core gets a third");
                assert!(!crowded.is_empty());
                for arrival in connections {
                    let Arrival::Connection(listener, accepted) = arrival else {
                        panic!("only connections are left")
                    };
                    assert_eq!(listener, 3);
                    accepted.bind().unwrap();
                }
            }
        };
        executor::spawn("arrivals", None, 64, run).unwrap().join().unwrap();
        drop(clients);
    }

    #[test]
    fn a_core_serves_what_it_is_dealt() {
        let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let mut client = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let served = ended.clone();
        let run = move || async move {
            let (stop, admission) = (Stop::new(), Admission::with_places(2));
            let (lane, received) = mesh::lane::<Arrival>(8);
            task::spawn(receive(received, vec![None, Some(desk(&stop))]));
            let dealer = Dealer { next: Cell::new(0), ..Dealer::new(1, desk(&stop), [lane].into()) };
            let socket = socket::accept_on(listening);
            task::spawn(listener::listen(socket, admission.clone(), stop.clone(), dealer));
            let deadline = clock::now() + Duration::from_secs(30);
            while clock::now() < deadline && !(served.load(Ordering::SeqCst) && admission.open() == 1) {
                task::sleep(Duration::from_millis(1)).await;
            }
            // The accept loop holds a place for the client that it waits for.
            assert_eq!(admission.open(), 1, "a place is free again once its client is served");
        };
        let executor = executor::spawn("arrivals", None, 64, run).unwrap();
        std::io::Write::write_all(&mut client, b"hello").unwrap();
        // The desk answers nobody, so the end of the connection is all that the client gets.
        let read = std::io::Read::read(&mut client, &mut [0; 16]);
        assert!(read.as_ref().map_or_else(|error| error.kind() == ConnectionReset, |n| *n == 0), "{read:?}");
        ended.store(true, Ordering::SeqCst);
        executor.join().unwrap();
    }
}
