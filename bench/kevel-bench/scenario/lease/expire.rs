//! Many leases that expire at about the same time: how late their keys go, and what it does to puts meanwhile.
//!
//! First the leases are granted and get a key each. Then a watcher sees the keys go, while puts come at a small rate.
//! Leases that all live equally long end as slowly as they were granted; with `--within`, each is given what is left
//! until a common flood.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kevel::proto::etcdserverpb::watch_create_request::FilterType;
use kevel::proto::etcdserverpb::{PutRequest, WatchCreateRequest};
use kevel::server::grpc::Method;
use kevel::server::io::clock;
use kevel::stdx::time::{Duration, Instant};

use super::super::put::PutSource;
use super::super::{Outcomes, Settings};
use super::{LEASE_ID, LEASE_TTL, LeaseArgs, grant};
use crate::calls::framed;
use crate::fields::{Fields, header_revision};
use crate::keys::prefix_end;
use crate::loader::{Done, Loader, Request, Source, Then};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Phase, World};
use crate::run::Bounds;
use crate::watcher::{EVENT_KV, Watcher};

const LEASES_DEFAULT: u64 = 1000;
const CLIENTS_DEFAULT: u32 = 64;
/// Puts beside the flood go on for so long after the last lease should have expired.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// What is counted of a flood begins so long before it: the connections for it take a moment.
const COUNT_BEFORE: Duration = Duration::from_secs(1);
/// How long before a flood the grants end: the watch that sees the keys go must be open by then.
const WATCH_BEFORE: Duration = Duration::from_secs(2);
/// Leases that a server revokes per second at least: more time than that has nobody.
const REVOKED_PER_SECOND_MIN: u64 = 500;
const EVENT_TYPE: u64 = 1;
const DELETE: u64 = 1;
const KV_KEY: u64 = 1;

/// What both phases know of the leases.
struct Leases {
    prefix: String,
    lives: Lives,
    next: AtomicU64,
    /// By number: when its lease should expire, in nanoseconds.
    due: Vec<AtomicU64>,
    /// The revision of the first key.
    first: AtomicI64,
}

pub fn run(args: &LeaseArgs, settings: &Settings, world: &World) -> Outcomes {
    let count = args.leases.unwrap_or(LEASES_DEFAULT);
    let leases = Arc::new(Leases {
        prefix: format!("{}lease/", settings.common.keys.key_prefix),
        lives: Lives { ttl: args.ttl, within: args.within, flood: OnceLock::new() },
        next: AtomicU64::new(0),
        due: (0..count).map(|_| AtomicU64::new(0)).collect(),
        first: AtomicI64::new(i64::MAX),
    });
    let mut prepare = settings.clone();
    prepare.common.load.rate = None;
    prepare.common.load.clients.get_or_insert(CLIENTS_DEFAULT);
    let granted = leases.clone();
    let jobs = prepare.jobs(Load::Closed, prepare.connections(1), move |_, _| Grants::new(granted.clone()));
    let phase =
        Phase { name: "lease grant".into(), classes: vec!["grant and put"], jobs, bounds: Bounds::default() };
    let mut outcomes = vec![world.run(phase)?];
    let owed = leases.due.iter().filter(|due| due.load(Ordering::Relaxed) != 0).count() as u64;

    let now = clock::now();
    let last = leases.due.iter().map(|due| due.load(Ordering::Relaxed)).max().unwrap_or(0);
    let patience = args.patience.unwrap_or(Duration::from_secs(10 + count / REVOKED_PER_SECOND_MIN));
    let bounds = Bounds {
        duration: Some(Instant::from_nanos(last).since(now) + PROBE_AFTER),
        warmup: leases
            .lives
            .flood
            .get()
            .map_or(Duration::ZERO, |flood| flood.since(now).saturating_sub(COUNT_BEFORE)),
        grace: Some(patience),
        ..Bounds::default()
    };
    let jobs = vec![watch(leases.clone(), owed), probe(settings, args.probe_rate)];
    let phase = Phase { name: "lease expire".into(), classes: vec!["late", "probe put"], jobs, bounds };
    outcomes.push(world.run(phase)?);
    Ok(outcomes)
}

fn watch(leases: Arc<Leases>, owed: u64) -> Job {
    // Before a flood no key goes, and what was put needn't be read again.
    let start_revision = if leases.lives.within.is_some() { 0 } else { leases.first.load(Ordering::Relaxed) };
    let create = WatchCreateRequest {
        key: leases.prefix.clone().into(),
        range_end: prefix_end(leases.prefix.as_bytes()).into(),
        start_revision,
        filters: vec![FilterType::Noput as i32],
        ..Default::default()
    };
    Job::listener(1, move |record, run| {
        run.expect_events(owed);
        Watcher::new(vec![vec![create]], 0, Box::new(move |event| leases.expired(event)), run, record)
    })
}

fn probe(settings: &Settings, per_second: f64) -> Job {
    const CLIENTS: usize = 1000;
    let settings = settings.clone();
    Job::driver(CLIENTS, move |record, run| {
        let pace = Pace::new(Load::Open { per_second, poisson: false }, 0, 1, 0);
        let source = Probe(PutSource::new(&settings, settings.draw(0, 1)));
        Loader::new(source, pace, CLIENTS, run, record)
    })
}

impl Leases {
    fn key(&self, number: u64) -> String {
        format!("{}{number:010}", self.prefix)
    }

    /// When the lease of a deleted key should have expired.
    fn expired(&self, event: &[u8]) -> Option<Instant> {
        if Fields(event).number(EVENT_TYPE) != DELETE {
            return None;
        }
        let key = Fields(Fields(event).bytes(EVENT_KV)).bytes(KV_KEY);
        let number: usize = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.parse().ok()?;
        let due = self.due.get(number)?.load(Ordering::Relaxed);
        (due != 0).then(|| Instant::from_nanos(due))
    }
}

/// How long leases are to live.
struct Lives {
    /// Seconds: of each lease, or until the flood.
    ttl: u32,
    /// Seconds in which all leases end, if there is a flood.
    within: Option<u32>,
    /// When the flood begins.
    flood: OnceLock<Instant>,
}

impl Lives {
    /// Seconds that lease `number` is to live when it is granted `now`; None when the flood is near.
    fn of(&self, number: u64, now: Instant) -> Option<i64> {
        let Some(within) = self.within else { return Some(i64::from(self.ttl)) };
        let flood = *self.flood.get_or_init(|| now + Duration::from_secs(u64::from(self.ttl)));
        let left = (now + WATCH_BEFORE < flood).then(|| flood.since(now).as_secs_f64().ceil() as i64)?;
        Some(left + (number % u64::from(within)) as i64)
    }
}

/// Grants leases and puts a key to each.
struct Grants {
    leases: Arc<Leases>,
    /// By client: its lease's number among ours, and the server's number once it is granted.
    clients: Vec<(u64, Option<i64>)>,
}

impl Grants {
    fn new(leases: Arc<Leases>) -> Self {
        Self { leases, clients: Vec::new() }
    }
}

impl Source for Grants {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let number = self.leases.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.leases.due.len() as u64 {
            return None;
        }
        let ttl = self.leases.lives.of(number, intended)?;
        if self.clients.len() <= client {
            self.clients.resize(client + 1, (0, None));
        }
        self.clients[client] = (number, None);
        Some(Request { method: Method::LeaseGrant, message: grant::message(ttl) })
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        let (number, id) = &mut self.clients[client];
        if id.is_none() {
            *id = Some(Fields(message).number(LEASE_ID) as i64);
            let due = clock::now() + Duration::from_secs(Fields(message).number(LEASE_TTL));
            self.leases.due[*number as usize].store(due.as_nanos(), Ordering::Relaxed);
        } else {
            *id = None;
            self.leases.first.fetch_min(header_revision(message), Ordering::Relaxed);
        }
    }

    fn on_success(&mut self, client: usize) -> Then {
        let (number, id) = self.clients[client];
        let Some(lease) = id else { return Then::Done(Done { class: 0, keys: 1 }) };
        let put = PutRequest { key: self.leases.key(number).into(), lease, ..Default::default() };
        Then::Request(Request { method: Method::Put, message: framed(&put) })
    }

    fn on_failure(&mut self, client: usize) {
        let (number, _) = self.clients[client];
        self.leases.due[number as usize].store(0, Ordering::Relaxed);
    }
}

/// Puts that count for the second class.
struct Probe(PutSource);

impl Source for Probe {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        self.0.next(client, intended)
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, _client: usize) -> Then {
        Then::Done(Done { class: 1, keys: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kevel::proto::mvccpb::event::EventType;
    use kevel::proto::mvccpb::{Event, KeyValue};
    use prost::Message;

    #[test]
    fn a_deleted_key_leads_to_its_lease() {
        let leases = Leases {
            prefix: "b/lease/".into(),
            lives: Lives { ttl: 1, within: None, flood: OnceLock::new() },
            next: AtomicU64::new(0),
            due: vec![AtomicU64::new(0), AtomicU64::new(77)],
            first: AtomicI64::new(0),
        };
        let event = |kind: EventType, number| {
            let kv = KeyValue { key: leases.key(number).into(), ..Default::default() };
            Event { r#type: kind as i32, kv: Some(kv), prev_kv: None }.encode_to_vec()
        };
        assert_eq!(leases.expired(&event(EventType::Delete, 1)), Some(Instant::from_nanos(77)));
        assert_eq!(leases.expired(&event(EventType::Put, 1)), None);
        assert_eq!(leases.expired(&event(EventType::Delete, 0)), None);
        assert_eq!(leases.expired(&event(EventType::Delete, 2)), None);
    }

    #[test]
    fn a_flood_begins_when_the_first_grants_time_is_over() {
        let lives = Lives { ttl: 20, within: Some(10), flood: OnceLock::new() };
        let begin = Instant::from_nanos(1);
        let ends = |number, after| lives.of(number, begin + Duration::from_millis(after));
        assert_eq!((ends(0, 0), ends(10, 0)), (Some(20), Some(20)));
        assert_eq!((ends(9, 0), ends(9, 5_000), ends(9, 5_500)), (Some(29), Some(24), Some(24)));
        assert_eq!((ends(0, 17_999), ends(0, 18_000)), (Some(3), None), "time to open the watch");
    }
}
