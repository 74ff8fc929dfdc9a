//! What clients ask for, and what comes back. Each client waits for one thing at a time, at any of the members.
#![forbid(unsafe_code)]

use prost::Message as _;

use super::super::judge::judge;
use super::super::plant::Plant;
use super::leases::Origin;
use super::node::Life;
use super::world::{Event, World};
use kevel::btree::{Read, Snapshot};
use kevel::error::Error;
use kevel::mvcc::hash::{HashKv, KvHash};
use kevel::mvcc::view::View;
use kevel::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op,
};
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
    /// Puts of several keys, in one transaction, in which a revision of the past is read if it is not 0.
    PutMany {
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
        reads: i64,
    },
    Delete {
        key: Vec<u8>,
    },
    /// Deletes all keys but those of leases.
    DeleteAll,
    /// Reads the newest revision, or one so far back.
    Read {
        key: Vec<u8>,
        back: i64,
    },
    Compact {
        revision: i64,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    Lease(LeaseCall),
    /// An operator changes the members, or moves leadership.
    Change,
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
        if self.variety.changes && number + 1 == self.clients.len() {
            return self.operate(number, at);
        }
        self.requests_left -= 1;
        let (kind, what) = self.draw_what(number);
        let asked = self.begin(number, at, kind, what);
        self.ask(at, asked);
        self.turn_soon(at);
    }

    /// A client begins to wait.
    pub(super) fn begin(&mut self, number: usize, at: usize, kind: u64, what: What) -> Asked {
        self.tally.requests += 1;
        let client = &mut self.clients[number];
        (client.request, client.is_waiting) = (client.request + 1, true);
        let request = client.request;
        let line = format_args!("client {number} asks {at}: {what:?}");
        self.trace.step(self.now, &[8, number as u64, at as u64, kind], line);
        self.plan(PATIENCE, Event::GiveUp(number, request));
        let (asked, floor) = (self.now, self.judge.answered());
        Asked { client: number, request, asked, floor, what }
    }

    fn draw_what(&mut self, number: usize) -> (u64, What) {
        let key = |number: u64| format!("k{number}").into_bytes();
        let first = self.prng.below(KEYS);
        let value = format!("{number}.{}", self.clients[number].request).into_bytes();
        let kind = self.prng.below(32);
        // In a calm cluster nobody renews anything, so that leases have to end.
        let about_leases = if self.has_leases && !self.is_calm && self.prng.chance(1, 2) {
            self.about_leases()
        } else {
            None
        };
        let what = about_leases.unwrap_or_else(|| match kind {
            0..14 => What::Put { key: key(first), value, lease: 0 },
            14..17 => {
                let count = 2 + self.prng.below(KEYS - 1);
                let pairs = (0..count).map(|at| (key((first + at) % KEYS), value.clone())).collect();
                let back = if self.prng.chance(1, 2) { self.prng.below(8) as i64 } else { i64::MAX };
                What::PutMany { pairs, reads: (self.judge.answered() - back).max(0) }
            }
            17..20 => What::Delete { key: key(first) },
            20 => What::DeleteAll,
            21..23 if self.variety.compacts => {
                let revision = self.judge.answered() - self.prng.below(self.variety.kept) as i64;
                What::Compact { revision: revision.max(1) }
            }
            _ => {
                let back = if self.prng.chance(1, 3) { self.prng.below(5) as i64 } else { 0 };
                What::Read { key: key(first), back }
            }
        });
        (kind, what)
    }

    fn ask(&mut self, at: usize, asked: Asked) {
        let local = self.prng.chance(1, 4);
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let put = |key: &[u8], value: &[u8], lease| PutRequest {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            lease,
            ..PutRequest::default()
        };
        let proposal = match &asked.what {
            What::Put { key, value, lease } => Request::Put(put(key, value, *lease)),
            What::PutMany { pairs, reads } => {
                let op = |(key, value): &(Vec<u8>, Vec<u8>)| RequestOp {
                    request: Some(request_op::Request::RequestPut(put(key, value, 0))),
                };
                let range = RangeRequest { key: "k0".into(), revision: *reads, ..RangeRequest::default() };
                let read = RequestOp { request: Some(request_op::Request::RequestRange(range)) };
                let read = (*reads > 0).then_some(read);
                let success = read.into_iter().chain(pairs.iter().map(op)).collect();
                Request::Txn(TxnRequest { success, ..TxnRequest::default() })
            }
            What::Delete { key } => {
                Request::DeleteRange(DeleteRangeRequest { key: key.clone().into(), ..Default::default() })
            }
            What::DeleteAll => Request::DeleteRange(DeleteRangeRequest {
                key: "k".into(),
                range_end: "l".into(),
                ..Default::default()
            }),
            What::Compact { revision } => {
                Request::Compaction(CompactionRequest { revision: *revision, physical: local })
            }
            What::Grant { id, ttl } => Request::LeaseGrant(LeaseGrantRequest { id: *id, ttl: *ttl }),
            What::Lease(call) => {
                let call = call.clone();
                let ticket = life.ticket(asked);
                return life.replica.step(Input::Lease { ticket, call });
            }
            What::Change | What::ForPeer(_) => panic!("judge: a client asks for somebody else"),
            What::Read { back, .. } if local || *back > 0 => return self.read(at, asked, false),
            What::Read { .. } if reads_at_once(self.plant, life) => return self.read(at, asked, true),
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
        let Some(life) = &mut self.nodes[at].life else { return };
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
        let (revision, floor) = (response.revision(), asked.floor);
        match (asked.what, response) {
            (What::Put { key, value, .. }, _) => {
                self.judge.on_written(revision, floor, &[(key, Some(value))]);
            }
            (What::PutMany { pairs, .. }, _) => {
                let changes: Vec<_> = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
                self.judge.on_written(revision, floor, &changes);
            }
            (What::Delete { .. } | What::DeleteAll, Response::DeleteRange { deleted: 0, .. }) => {
                self.judge.on_told(revision, floor);
            }
            (What::Delete { key }, _) => self.judge.on_written(revision, floor, &[(key, None)]),
            (What::DeleteAll, Response::DeleteRange { deleted, .. }) => {
                self.judge.on_deleted(revision, floor, deleted);
            }
            (What::Compact { .. }, _) => self.judge.on_told(revision, floor),
            (What::Grant { .. } | What::Lease(_) | What::Change, _) => {}
            (what, response) => judge!(false, "{what:?} is answered with {response:?}"),
        }
    }

    /// A read may look.
    pub(super) fn on_read_ready(&mut self, at: usize, ticket: Ticket) {
        let Some(life) = &mut self.nodes[at].life else { return };
        if let Some(asked) = life.asked.remove(&ticket.0) {
            self.read(at, asked, true);
        }
    }

    /// Reads what a member shows now.
    fn read(&mut self, at: usize, asked: Asked, is_linearizable: bool) {
        let What::Read { key, back } = &asked.what else {
            panic!("judge: a read was asked for, not {:?}", asked.what)
        };
        let life = self.nodes[at].life.as_mut().expect("a member that runs");
        let snapshot = life.core.reader.snapshot();
        let applied = snapshot.applied();
        let revision = applied.revision - back;
        let is_kept = revision > 0 && revision >= applied.compact_revision;
        let shown = if is_kept { value_of(&snapshot, key, revision) } else { None };
        drop(snapshot);
        self.tally.reads += 1;
        let line = format_args!("{at} shows client {} {shown:?} at {revision}", asked.client);
        self.trace.step(self.now, &[10, asked.client as u64, at as u64, revision as u64], line);
        if is_linearizable {
            self.judge.on_told(applied.revision, asked.floor);
        }
        if is_kept {
            self.judge.on_read(revision, applied.revision, key, shown.as_deref());
        }
        self.go_on(asked.client);
    }
}

/// Whether a linearizable read needs no round.
fn reads_at_once(plant: Option<Plant>, life: &Life) -> bool {
    match plant {
        Some(Plant::ClusterStaleRead) => true,
        Some(Plant::ClusterReadAlone) => life.replica.is_leader(),
        _ => life.replica.gate().is_open(),
    }
}

/// The value of a key at a revision.
pub fn value_of(snapshot: &Snapshot<'_>, key: &[u8], revision: i64) -> Option<Vec<u8>> {
    let shown = View::new(snapshot).value_at(key, revision).expect("a store whose records can be read");
    shown.map(|kv| KeyValue::decode(kv).expect("a pair").value.to_vec())
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

/// What HashKV answers about the newest revision, if the store that is read has applied the entries up to `index`.
pub fn kv_hash(life: &mut Life, index: u64) -> Option<KvHash> {
    let snapshot = life.looker.snapshot();
    if snapshot.applied().index != index {
        return None;
    }
    let view = View::new(&snapshot);
    let mut hash = HashKv::new(&view, 0).expect("the newest revision is there");
    loop {
        let found = hash.step(&view, 100).expect("a store whose records can be read");
        if found.is_some() {
            return found;
        }
    }
}

/// A digest of everything that etcd would store.
pub fn store_hash(life: &mut Life) -> u32 {
    let snapshot = life.looker.snapshot();
    let mut hash = BucketHash::new(&snapshot);
    loop {
        let found = hash.step(&snapshot, 100).expect("a store whose records can be read");
        if let Some(found) = found {
            return found;
        }
    }
}
