//! Renewals over streams: each client has one stream and on it one renewal in flight.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kevel::proto::etcdserverpb::LeaseKeepAliveRequest;
use kevel::server::grpc::{Code, Method, Status};
use kevel::stdx::time::{Duration, Instant};

use super::super::{Outcomes, Settings, share};
use super::{LEASE_ID, LEASE_TTL, LeaseArgs, grant};
use crate::calls::{Calls, Handler, Next, framed};
use crate::fields::Fields;
use crate::pace::{Due, Pace};
use crate::phase::{Job, Phase, World};
use crate::record::{self, Shared};
use crate::run::{GRACE, Run};

/// Grants in flight while the leases are made.
const GRANTS_MAX: usize = 64;
const LOOK_AFTER: Duration = Duration::from_millis(20);
/// The tag of grants; streams have their client's number.
const GRANT: u64 = u64::MAX;

pub fn run(args: &LeaseArgs, settings: &Settings, world: &World) -> Outcomes {
    let connections = settings.connections(1);
    let jobs = (0..connections)
        .map(|at| {
            let clients = settings.clients(at, connections);
            let leases = args.leases.map_or(clients, |all| share(all as usize, at, connections).max(1));
            let pace = Pace::new(settings.load(), at, connections, settings.common.keys.seed + at as u64);
            let ttl = i64::from(args.ttl);
            Job::driver(clients.max(GRANTS_MAX), move |record, run| KeepAlive {
                grant: grant::message(ttl),
                wanted: leases,
                asked: 0,
                leases: VecDeque::new(),
                streams: vec![Stream::default(); clients],
                free: Vec::new(),
                pace,
                run,
                record,
                ended: Vec::new(),
                failures: Vec::new(),
                over_since: None,
                is_done: false,
            })
        })
        .collect();
    let phase = Phase {
        name: "lease keep-alive".into(),
        classes: vec!["keep-alive"],
        jobs,
        bounds: settings.bounds(),
    };
    Ok(vec![world.run(phase)?])
}

#[derive(Clone, Copy, Default)]
struct Stream {
    call: Option<usize>,
    /// The planned begin of the renewal in flight.
    renewing: Option<Instant>,
}

struct KeepAlive {
    grant: Bytes,
    wanted: usize,
    asked: usize,
    /// In the order in which they are renewed.
    leases: VecDeque<i64>,
    streams: Vec<Stream>,
    free: Vec<usize>,
    pace: Pace,
    run: Arc<Run>,
    record: Shared,
    ended: Vec<Instant>,
    failures: Vec<Status>,
    over_since: Option<Instant>,
    is_done: bool,
}

impl KeepAlive {
    fn prepare(&mut self, calls: &mut Calls) {
        while self.asked < self.wanted && calls.has_room() {
            self.asked += 1;
            calls.unary(Method::LeaseGrant, self.grant.clone(), GRANT);
        }
        if self.leases.len() < self.wanted {
            return;
        }
        for client in 0..self.streams.len() {
            if self.streams[client].call.is_none() && calls.has_room() {
                self.streams[client].call = calls.open(Method::LeaseKeepAlive, client as u64);
                self.free.push(client);
            }
        }
    }

    fn renew(&mut self, start: Instant, now: Instant, calls: &mut Calls) -> Next {
        while let Some(&client) = self.free.last() {
            let intended = match self.pace.due(start, now) {
                Due::At(at) => return Next::At(at.min(now + LOOK_AFTER)),
                Due::Since(intended) => intended,
            };
            let Some(call) = self.streams[client].call else { break };
            if !self.run.take() {
                break;
            }
            self.free.pop();
            self.pace.advance();
            let id = self.leases.pop_front().expect("all leases are granted");
            self.leases.push_back(id);
            self.streams[client].renewing = Some(intended);
            calls.write(call, framed(&LeaseKeepAliveRequest { id }));
        }
        Next::At(now + LOOK_AFTER)
    }

    fn settle(&mut self, now: Instant) {
        if self.ended.is_empty() && self.failures.is_empty() {
            return;
        }
        let counted_from = self.run.counted_from();
        let mut record = record::lock(&self.record);
        for intended in self.ended.drain(..) {
            if counted_from.is_some_and(|from| intended >= from) {
                record.success(0, now.since(intended), 0, 0);
                record.touch(now);
            }
        }
        self.failures.drain(..).for_each(|status| record.failure(&status));
    }

    fn wind_up(&mut self, now: Instant) -> Next {
        let since = *self.over_since.get_or_insert(now);
        let waits = self.streams.iter().any(|stream| stream.renewing.is_some());
        if waits && now < since + GRACE {
            return Next::At(now + LOOK_AFTER);
        }
        if !self.is_done {
            self.is_done = true;
            for stream in &mut self.streams {
                if stream.renewing.take().is_some() {
                    self.failures
                        .push(Status::new(Code::DeadlineExceeded, "no answer within 10 s of the end"));
                }
            }
            self.settle(now);
            record::lock(&self.record).unsent += self.run.unsent(&self.pace);
            self.run.driver_done(now);
        }
        Next::Done
    }
}

impl Handler for KeepAlive {
    fn on_connect(&mut self, _now: Instant, _calls: &mut Calls) {
        // Leases outlive connections, streams and grants that were not answered do not.
        self.asked = self.leases.len();
        self.free.clear();
        self.streams.fill(Stream::default());
    }

    fn on_message(&mut self, _now: Instant, tag: u64, message: &Bytes, _calls: &mut Calls) {
        if tag == GRANT {
            return self.leases.push_back(Fields(message).number(LEASE_ID) as i64);
        }
        let client = tag as usize;
        let Some(intended) = self.streams[client].renewing.take() else { return };
        self.free.push(client);
        if Fields(message).number(LEASE_TTL) as i64 > 0 {
            self.ended.push(intended);
        } else {
            self.failures.push(Status::new(Code::NotFound, "the lease to renew is gone"));
        }
    }

    fn on_end(&mut self, _now: Instant, tag: u64, result: Result<(), Status>, _calls: &mut Calls) {
        if tag == GRANT {
            if let Err(status) = result {
                self.asked -= 1;
                self.failures.push(status);
            }
            return;
        }
        let stream = &mut self.streams[tag as usize];
        *stream = Stream::default();
        self.free.retain(|&client| client != tag as usize);
        self.failures
            .push(result.err().unwrap_or_else(|| Status::new(Code::Unavailable, "the stream ended")));
    }

    fn on_turn(&mut self, now: Instant, calls: &mut Calls) -> Next {
        self.settle(now);
        if self.run.start().is_some() && self.run.is_over(now) {
            return self.wind_up(now);
        }
        self.prepare(calls);
        match self.run.start() {
            Some(start) if self.is_ready() => self.renew(start, now, calls),
            _ => Next::At(now + Duration::from_millis(1)),
        }
    }

    fn on_lost(&mut self, now: Instant) -> Next {
        self.settle(now);
        if self.run.is_over(now) { self.wind_up(now) } else { Next::At(now) }
    }

    fn is_ready(&self) -> bool {
        self.leases.len() >= self.wanted && self.streams.iter().all(|stream| stream.call.is_some())
    }
}
