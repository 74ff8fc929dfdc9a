//! Events: created once, gone with their lease after an hour.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use kevel::proto::etcdserverpb::LeaseGrantRequest;
use kevel::server::grpc::Method;
use kevel::stdx::time::Instant;

use super::kind::{Cluster, EVENTS};
use super::{CONFLICT, EVENT, IN_FLIGHT_MAX};
use crate::calls::framed;
use crate::fields::Fields;
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::run::Run;

/// An hour, and the minute for which apiservers use a lease again.
const TTL_SECONDS: i64 = 3660;
/// Objects per lease, as newer apiservers have it.
const OBJECTS_PER_LEASE: u64 = 1000;
const LEASE_ID: u64 = 2;

#[derive(Clone, Copy)]
struct Work {
    number: u64,
    intended: Instant,
    /// What is in flight asks for a lease.
    grants: bool,
    answer: Answer,
}

/// Creates events.
pub struct Events {
    values: Values,
    next: u64,
    lease: i64,
    lease_objects: u64,
    /// By client.
    work: Vec<Work>,
    watchers: u64,
    run: Arc<Run>,
}

impl Events {
    /// Events seen by `watchers`.
    pub fn new(cluster: Arc<Cluster>, watchers: u64, run: Arc<Run>) -> Self {
        let idle =
            Work { number: 0, intended: Instant::default(), grants: false, answer: Answer::Conflict(0) };
        Self {
            values: cluster.values(EVENTS),
            next: cluster.fresh * 8,
            lease: 0,
            lease_objects: 0,
            work: vec![idle; IN_FLIGHT_MAX],
            watchers,
            run,
        }
    }

    fn create(&mut self, client: usize) -> Request {
        self.lease_objects += 1;
        let Work { number, intended, .. } = self.work[client];
        optimistic::put(Cluster::key(EVENTS, number), self.values.make(intended), self.lease, 0)
    }
}

impl Source for Events {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        self.next += 1;
        let grants = self.lease == 0 || self.lease_objects >= OBJECTS_PER_LEASE;
        self.work[client] = Work { number: self.next, intended, grants, answer: Answer::Conflict(0) };
        if !grants {
            return Some(self.create(client));
        }
        let message = framed(&LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 });
        Some(Request { method: Method::LeaseGrant, message })
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        if self.work[client].grants {
            self.lease = Fields(message).number(LEASE_ID) as i64;
            self.lease_objects = 0;
        } else {
            self.work[client].answer = Answer::read(message);
        }
    }

    fn on_success(&mut self, client: usize) -> Then {
        if std::mem::take(&mut self.work[client].grants) {
            return Then::Request(self.create(client));
        }
        let class = match self.work[client].answer {
            Answer::Written(_) => {
                self.run.expect_events(self.watchers);
                EVENT
            }
            Answer::Conflict(_) => CONFLICT,
        };
        Then::Done(Done { class, keys: 1 })
    }
}
