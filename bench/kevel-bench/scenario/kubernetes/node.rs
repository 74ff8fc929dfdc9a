//! Updates of objects in turn: heartbeats and statuses of nodes.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use kevel::stdx::time::Instant;

use super::kind::Cluster;
use super::{CONFLICT, IN_FLIGHT_MAX};
use crate::loader::{Done, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::run::Run;

/// Updates each object of a kind, one after the other, again and again.
pub struct Updates {
    cluster: Arc<Cluster>,
    kind: usize,
    class: usize,
    values: Values,
    next: u64,
    /// By client: the object's number and the answer.
    clients: Vec<(u64, Answer)>,
    watchers: u64,
    run: Arc<Run>,
}

impl Updates {
    /// Updates that count for `class` and are seen by `watchers`.
    pub fn new(cluster: Arc<Cluster>, kind: usize, class: usize, watchers: u64, run: Arc<Run>) -> Self {
        let values = cluster.values(kind);
        let clients = vec![(0, Answer::Conflict(0)); IN_FLIGHT_MAX];
        Self { cluster, kind, class, values, next: 0, clients, watchers, run }
    }
}

impl Source for Updates {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let number = self.next;
        self.next = (number + 1) % self.cluster.count(self.kind);
        self.clients[client] = (number, Answer::Conflict(0));
        let known = self.cluster.known(self.kind, number);
        Some(optimistic::put(Cluster::key(self.kind, number), self.values.make(intended), 0, known))
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        self.clients[client].1 = Answer::read(message);
    }

    fn on_success(&mut self, client: usize) -> Then {
        let (number, answer) = self.clients[client];
        self.cluster.learn(self.kind, number, answer.revision());
        let class = match answer {
            Answer::Written(_) => {
                self.run.expect_events(self.watchers);
                self.class
            }
            Answer::Conflict(_) => CONFLICT,
        };
        Then::Done(Done { class, keys: 1 })
    }
}
