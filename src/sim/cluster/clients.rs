//! What clients ask for, and what comes back. Each client waits for one thing at a time, at any of the members.
#![forbid(unsafe_code)]

use prost::Message as _;

use super::super::judge::judge;
use super::super::plant::Plant;
use super::leases::Origin;
use super::node::Life;
use super::world::{Event, World};
use kevel::btree::Read;
use kevel::error::Error;
use kevel::mvcc::view::View;
use kevel::proto::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, PutRequest};
use kevel::proto::mvccpb::KeyValue;
use kevel::replica::bucket_hash::BucketHash;
use kevel::replica::port::{Input, LeaseCall, Ticket};
use kevel::request::{Entry, Request};
use kevel::response::Response;
use kevel::stdx::time::{Duration, Instant};

/// Keys that there are.
const KEYS: u64 = 4;

/// A client gives up after this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client of a calm cluster waits between two requests: the log must not grow while leases end.
const CALM_PAUSE: Duration = Duration::from_millis(50);

/// How long a client waits that meets nobody.
const MEETS_NOBODY: Duration = Duration::from_millis(100);

/// A client.
#[derive(Default)]
pub struct Client {
    /// The number of what it waits for; what it gave up has other numbers.
    request: u64,
    is_waiting: bool,
}

/// What a client waits for.
#[derive(Debug)]
pub struct Asked {
    client: usize,
    request: u64,
    asked: Instant,
    /// The highest revision that had been answered to anybody when it was asked for.
    floor: i64,
    what: What,
}

/// What is asked for.
#[derive(Debug)]
pub enum What {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        /// 0 for none.
        lease: i64,
    },
    Delete {
        key: Vec<u8>,
    },
    Read {
        key: Vec<u8>,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    Lease(LeaseCall),
    /// Another member asks for one of its clients.
    ForPeer(Origin),
}

impl Asked {
    /// Whether another member asks.
    pub fn is_for_peer(&self) -> bool {
        matches!(self.what, What::ForPeer(_))
    }

    /// What another member asks for one of its clients.
    pub fn for_peer(origin: Origin, asked: Instant) -> Self {
        Self { client: usize::MAX, request: 0, asked, floor: 0, what: What::ForPeer(origin) }
    }
}

impl World {
    /// A client asks for something, if it still may.
    pub(super) fn act(&mut self, number: usize) {
        let at = self.prng.below(self.nodes.len() as u64) as usize;
        let is_there = self.nodes[at].life.is_some() && !self.nodes[at].paused;
        if !is_there || self.requests_left == 0 || self.clients[number].is_waiting {
            return self.plan(MEETS_NOBODY, Event::Act(number));
        }
        self.requests_left -= 1;
        self.tally.requests += 1;
        let client = &mut self.clients[number];
        (client.request, client.is_waiting) = (client.request + 1, true);
        let request = client.request;
        let key = format!("k{}", self.prng.below(KEYS)).into_bytes();
        let (kind, value) = (self.prng.below(8), format!("{number}.{request}").into_bytes());
        // In a calm cluster nobody renews anything, so that leases have to end.
        let about_leases = if self.has_leases && !self.is_calm && self.prng.chance(1, 2) {
            self.about_leases()
        } else {
            None
        };
        let what = about_leases.unwrap_or(match kind {
            0..4 => What::Put { key, value, lease: 0 },
            4 => What::Delete { key },
            _ => What::Read { key },
        });
        let line = format_args!("client {number} asks {at}: {what:?}");
        self.trace.step(self.now, &[8, number as u64, at as u64, kind], line);
        self.plan(PATIENCE, Event::GiveUp(number, request));
        let (asked, floor) = (self.now, self.judge.answered());
        let asked = Asked { client: number, request, asked, floor, what };
        self.ask(at, asked);
        self.turn_soon(at);
    }

    fn ask(&mut self, at: usize, asked: Asked) {
        let local = self.prng.chance(1, 4);
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let proposal = match &asked.what {
            What::Put { key, value, lease } => Request::Put(PutRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                lease: *lease,
                ..PutRequest::default()
            }),
            What::Delete { key } => {
                Request::DeleteRange(DeleteRangeRequest { key: key.clone().into(), ..Default::default() })
            }
            What::Grant { id, ttl } => Request::LeaseGrant(LeaseGrantRequest { id: *id, ttl: *ttl }),
            What::Lease(call) => {
                let call = call.clone();
                let ticket = life.ticket(asked);
                return life.replica.step(Input::Lease { ticket, call });
            }
            What::ForPeer(_) => panic!("judge: a client asks for a member"),
            What::Read { .. } if local => return self.read(at, asked, false),
            What::Read { .. }
                if life.replica.gate().is_open() || self.plant == Some(Plant::ClusterStaleRead) =>
            {
                return self.read(at, asked, true);
            }
            What::Read { .. } => {
                let ticket = life.ticket(asked);
                return life.replica.step(Input::ReadIndex { ticket });
            }
        };
        let ticket = life.ticket(asked);
        let id = ticket.0 as u64;
        life.replica.step(Input::Propose { ticket, id, entry: Entry::new(id, proposal).encode() });
    }

    /// A client waits no longer.
    pub(super) fn give_up(&mut self, number: usize, request: u64) {
        if self.clients[number].request != request || !self.clients[number].is_waiting {
            return;
        }
        self.tally.given_up += 1;
        for life in self.nodes.iter_mut().filter_map(|node| node.life.as_mut()) {
            let is_it = |asked: &Asked| (asked.client, asked.request) == (number, request);
            let found = life.asked.iter().find(|(_, asked)| is_it(asked)).map(|(&ticket, _)| ticket);
            if let Some(ticket) = found {
                life.asked.remove(&ticket);
                life.replica.step(Input::Forget { id: ticket as u64 });
            }
        }
        self.go_on(number);
    }

    /// The client has what it waited for, or never will.
    fn go_on(&mut self, number: usize) {
        self.clients[number].is_waiting = false;
        let least = if self.is_calm { CALM_PAUSE } else { Duration::ZERO };
        let pause = self.some(self.params.pause);
        self.plan(least + pause, Event::Act(number));
    }

    /// What a member answers to a proposal, or refuses.
    pub(super) fn on_reply(&mut self, at: usize, ticket: Ticket, result: Result<Response, Error>) {
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let Some(asked) = life.asked.remove(&ticket.0) else { return };
        if let What::ForPeer(origin) = asked.what {
            return self.answer_peer(at, origin, result);
        }
        self.tally.replies += 1;
        let line = format_args!("{at} answers client {}: {result:?}", asked.client);
        self.trace.step(self.now, &[9, asked.client as u64, at as u64], line);
        self.go_on(asked.client);
        let Ok(response) = result else { return };
        self.leases.on_answer(asked.asked, self.now, &response);
        let revision = response.revision();
        match (&asked.what, response) {
            (What::Put { key, value, .. }, _) => {
                self.judge.on_written(revision, asked.floor, key, Some(value))
            }
            (What::Delete { key }, Response::DeleteRange { deleted: 1, .. }) => {
                self.judge.on_written(revision, asked.floor, key, None);
            }
            (What::Delete { key }, _) => self.judge.on_read(revision, asked.floor, key, None),
            (What::Grant { .. } | What::Lease(_), _) => {}
            (What::Read { .. } | What::ForPeer(_), response) => {
                judge!(false, "a read is answered with {response:?}")
            }
        }
    }

    /// A read may look.
    pub(super) fn on_read_ready(&mut self, at: usize, ticket: Ticket) {
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        if let Some(asked) = life.asked.remove(&ticket.0) {
            self.read(at, asked, true);
        }
    }

    /// Reads what a member shows now.
    fn read(&mut self, at: usize, asked: Asked, is_linearizable: bool) {
        let What::Read { key } = &asked.what else {
            panic!("judge: a read was asked for, not {:?}", asked.what)
        };
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let snapshot = life.reader.snapshot();
        let revision = snapshot.applied().revision;
        let shown = View::new(&snapshot).value_at(key, revision).expect("a store whose records can be read");
        let shown = shown.map(|kv| KeyValue::decode(kv).expect("a pair").value.to_vec());
        drop(snapshot);
        self.tally.reads += 1;
        let line = format_args!("{at} shows client {} {shown:?} at {revision}", asked.client);
        self.trace.step(self.now, &[10, asked.client as u64, at as u64, revision as u64], line);
        if is_linearizable {
            self.judge.on_read(revision, asked.floor, key, shown.as_deref());
        } else {
            self.judge.on_local_read(revision, key, shown.as_deref());
        }
        self.go_on(asked.client);
    }
}

impl Life {
    /// A ticket for what is asked for.
    pub(super) fn ticket(&mut self, asked: Asked) -> Ticket {
        let ticket = Ticket(self.next_id.into());
        self.next_id += 2;
        self.asked.insert(ticket.0, asked);
        ticket
    }
}

/// A digest of everything that etcd would store.
pub fn store_hash(life: &mut Life) -> u32 {
    let snapshot = life.reader.snapshot();
    let mut hash = BucketHash::new(&snapshot);
    loop {
        let found = hash.step(&snapshot, 100).expect("a store whose records can be read");
        if let Some(found) = found {
            return found;
        }
    }
}
