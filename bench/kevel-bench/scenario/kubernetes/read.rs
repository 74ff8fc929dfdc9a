//! What apiservers read: everything at start-up, then single objects, and the current revision for consistent lists
//! out of their caches.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use kevel::proto::etcdserverpb::RangeRequest;
use kevel::server::grpc::Method;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

use super::super::range::RangeSource;
use super::READ;
use super::kind::{Cluster, KINDS, NODES, PODS};
use crate::calls::framed;
use crate::keys::prefix_end;
use crate::loader::{Done, Request, Source, Then};

/// Lists every kind once.
pub struct StartUp {
    lists: Vec<RangeSource>,
    begun: usize,
    /// By client: the kind it lists.
    kinds: Vec<usize>,
}

impl StartUp {
    /// One list per kind.
    pub fn new(lists: Vec<RangeSource>) -> Self {
        Self { kinds: vec![0; lists.len()], lists, begun: 0 }
    }
}

impl Source for StartUp {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let kind = self.begun;
        let list = self.lists.get_mut(kind)?;
        self.begun += 1;
        self.kinds[client] = kind;
        list.next(0, intended)
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        self.lists[self.kinds[client]].on_message(0, message);
    }

    fn on_success(&mut self, client: usize) -> Then {
        self.lists[self.kinds[client]].on_success(0)
    }
}

/// Objects one by one, and the current revision by the first key of a kind.
pub struct Reads {
    cluster: Arc<Cluster>,
    prng: Prng,
}

impl Reads {
    /// Linearizable reads.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self { prng: Prng::new(cluster.seed), cluster }
    }
}

impl Source for Reads {
    fn next(&mut self, _client: usize, _intended: Instant) -> Option<Request> {
        let mut request = RangeRequest { limit: 1, ..Default::default() };
        match self.prng.below(4) {
            0 => request.key = Cluster::key(NODES, self.prng.below(self.cluster.count(NODES))),
            1 => request.key = Cluster::key(PODS, self.prng.below(self.cluster.count(PODS).max(1))),
            _ => {
                let kind = &KINDS[self.prng.below(KINDS.len() as u64) as usize];
                request.key = kind.prefix.into();
                request.range_end = prefix_end(kind.prefix.as_bytes()).into();
            }
        }
        Some(Request { method: Method::Range, message: framed(&request) })
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, _client: usize) -> Then {
        Then::Done(Done { class: READ, keys: 1 })
    }
}
