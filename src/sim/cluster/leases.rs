//! Leases of a cluster: what clients were promised, what is asked of a lessor elsewhere, and when a lease has ended.
//!
//! A lease is granted, and a key of its own is attached to it. Nobody else deletes that key, so the revision that does
//! tells when the lease ended. Whoever was answered that a lease has its TTL again may count on it for that long from
//! the moment in which it was asked for, whoever leads meanwhile.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::super::judge::judge;
use super::clients::{Asked, What};
use super::network::HELD;
use super::world::{Event, World};
use kevel::error::Error;
use kevel::mvcc::event;
use kevel::replica::port::{Input, LeaseCall, Ticket};
use kevel::response::Response;
use kevel::stdx::time::{Duration, Instant};

/// Begins the keys that are attached to leases, with the id behind it.
const KEY_PREFIX: &str = "lease";

/// What is known of one lease from outside of the members.
#[derive(Debug, Default)]
struct Lease {
    ttl: i64,
    /// Nobody may see it end before.
    promised: Instant,
    /// Somebody attaches a key, or has.
    is_taken: bool,
    is_attached: bool,
    ended: Option<Instant>,
}

/// All leases whose grant was answered.
#[derive(Debug, Default)]
pub struct Leases {
    known: BTreeMap<i64, Lease>,
    /// The id of the next grant.
    next: i64,
}

/// What a member asks another one, which it takes for the leader.
#[derive(Clone, Debug)]
pub enum Question {
    /// Something about a lease.
    Lease(LeaseCall),
    /// Whether a learner may have its vote.
    Promote(u64),
}

/// Who asks: the answer comes back to this life of a process.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub number: usize,
    pub life: u64,
    pub ticket: Ticket,
}

/// The key that is attached to a lease.
pub fn key_of(id: i64) -> Vec<u8> {
    format!("{KEY_PREFIX}{id}").into_bytes()
}

fn id_of(key: &[u8]) -> Option<i64> {
    std::str::from_utf8(key).ok()?.strip_prefix(KEY_PREFIX)?.parse().ok()
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

impl Leases {
    /// An id that no lease has.
    pub fn new_id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// A lease that has no key yet, to which one is attached now.
    pub fn take_bare(&mut self) -> Option<i64> {
        let (&id, lease) = self.known.iter_mut().find(|(_, lease)| !lease.is_taken)?;
        lease.is_taken = true;
        Some(id)
    }

    /// The one of all known leases with this number, counted around.
    pub fn pick(&self, number: u64) -> Option<i64> {
        let at = number.checked_rem(self.known.len() as u64)?;
        self.known.keys().nth(at as usize).copied()
    }

    /// Every lease with a key has ended.
    pub fn are_over(&self) -> bool {
        self.known.values().all(|lease| lease.ended.is_some() || !lease.is_attached)
    }

    /// What a member says of a lease, asked for at an instant.
    pub fn on_answer(&mut self, asked: Instant, now: Instant, response: &Response) {
        match *response {
            Response::LeaseGrant { id, ttl, .. } => {
                self.known.insert(id, Lease { ttl, promised: asked + seconds(ttl), ..Lease::default() });
            }
            Response::LeaseKeepAlive { id, ttl, .. } if ttl > 0 => self.on_renewed(id, asked),
            Response::LeaseKeepAlive { id, .. } => self.on_gone(id, now),
            Response::LeaseTimeToLive { id, ttl: -1, .. } => self.on_gone(id, now),
            _ => {}
        }
    }

    fn on_renewed(&mut self, id: i64, asked: Instant) {
        let Some(lease) = self.known.get_mut(&id) else { return };
        let until = asked + seconds(lease.ttl);
        judge!(
            lease.ended.is_none_or(|ended| ended >= until),
            "lease {id} was renewed at {asked:?} up to {until:?}, and has ended: {lease:?}"
        );
        lease.promised = lease.promised.max(until);
    }

    /// A member says that there is no such lease.
    fn on_gone(&self, id: i64, now: Instant) {
        let lease = self.known.get(&id);
        judge!(
            lease.is_none_or(|lease| now >= lease.promised),
            "lease {id} is told to be gone at {now:?}: {lease:?}"
        );
    }

    /// A revision was published for the first time.
    pub fn on_events(&mut self, now: Instant, events: &[event::Event]) {
        for event in events {
            let Some(id) = id_of(&event.key) else { continue };
            let Some(lease) = self.known.get_mut(&id) else { continue };
            lease.is_attached = true;
            if event.delete {
                judge!(now >= lease.promised, "lease {id} ends at {now:?}: {lease:?}");
                lease.ended = Some(now);
            }
        }
    }
}

impl World {
    /// A member asks the leader.
    pub(super) fn ask_leader(&mut self, leader: u64, origin: Origin, question: Question) {
        let from = self.nodes[origin.number].id;
        let Some(to) = self.number_of(leader) else { return };
        let line = format_args!("{} asks {to}, the leader: {question:?}", origin.number);
        self.trace.step(self.now, &[11, origin.number as u64, to as u64], line);
        if let Some(late) = self.passage(from, leader) {
            self.plan(late, Event::AskLeader { to, origin, question });
        }
    }

    /// The question is there.
    pub(super) fn on_leader_asked(&mut self, to: usize, origin: Origin, question: Question) {
        if self.nodes[to].paused {
            return self.plan(HELD, Event::AskLeader { to, origin, question });
        }
        let asked = Asked::for_peer(origin, self.now);
        let Some(life) = &mut self.nodes[to].life else { return };
        let ticket = life.ticket(asked);
        life.replica.step(match question {
            Question::Lease(call) => Input::Lease { ticket, call },
            Question::Promote(id) => Input::Promote { ticket, id },
        });
        self.turn_soon(to);
    }

    /// The leader has answered.
    pub(super) fn answer_peer(&mut self, at: usize, origin: Origin, result: Result<Response, Error>) {
        let (from, to) = (self.nodes[at].id, self.nodes[origin.number].id);
        if let Some(late) = self.passage(from, to) {
            self.plan(late, Event::LeaderSays { origin, result });
        }
    }

    /// The leader's answer is there.
    pub(super) fn on_leader_says(&mut self, origin: Origin, result: Result<Response, Error>) {
        if self.nodes[origin.number].paused {
            return self.plan(HELD, Event::LeaderSays { origin, result });
        }
        if self.nodes[origin.number].life.as_ref().is_some_and(|life| life.number == origin.life) {
            self.on_reply(origin.number, origin.ticket, result);
        }
    }

    /// Something that a client asks about leases.
    pub(super) fn about_leases(&mut self) -> Option<What> {
        if let Some(id) = self.leases.take_bare() {
            return Some(What::Put { key: key_of(id), value: Vec::new(), lease: id });
        }
        let (kind, number) = (self.prng.below(8), self.prng.below(1 << 32));
        match kind {
            0 => Some(What::Grant { id: self.leases.new_id(), ttl: 2 + (number % 4) as i64 }),
            1 => self.leases.pick(number).map(|id| What::Lease(LeaseCall::TimeToLive { id })),
            _ => self.leases.pick(number).map(|id| What::Lease(LeaseCall::KeepAlive { id })),
        }
    }
}
