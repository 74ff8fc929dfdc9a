//! Creates the objects that a cluster has from the start.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kevel::stdx::time::Instant;

use super::super::Settings;
use super::kind::{Cluster, KINDS};
use crate::loader::{Done, Loader, Request, Source, Then};
use crate::optimistic::{self, Answer, Values};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Outcome, Phase, World};
use crate::run::Bounds;

const CONNECTIONS: usize = 4;
const CLIENTS: usize = 16;

pub fn run(cluster: &Arc<Cluster>, settings: &Settings, world: &World) -> Result<Outcome, String> {
    let next = Arc::new(AtomicU64::new(0));
    let connections = settings.connections(CONNECTIONS as u32);
    let jobs = (0..connections)
        .map(|_| {
            let (cluster, next) = (cluster.clone(), next.clone());
            Job::driver(CLIENTS, move |record, run| {
                let values = (0..KINDS.len()).map(|kind| cluster.values(kind)).collect();
                let source =
                    Create { cluster, values, next, clients: vec![(0, 0, Answer::Conflict(0)); CLIENTS] };
                Loader::new(source, Pace::new(Load::Closed, 0, 1, 0), CLIENTS, run, record)
            })
        })
        .collect();
    let classes = vec!["created", "already there"];
    world.run(Phase { name: "create".into(), classes, jobs, bounds: Bounds::default() })
}

struct Create {
    cluster: Arc<Cluster>,
    values: Vec<Values>,
    /// The next object, counted over all kinds and shared by all connections.
    next: Arc<AtomicU64>,
    /// By client: kind, number and answer.
    clients: Vec<(usize, u64, Answer)>,
}

impl Create {
    fn place(&self, mut at: u64) -> Option<(usize, u64)> {
        for kind in 0..KINDS.len() {
            let count = self.cluster.count(kind);
            if at < count {
                return Some((kind, at));
            }
            at -= count;
        }
        None
    }
}

impl Source for Create {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let (kind, number) = self.place(self.next.fetch_add(1, Ordering::Relaxed))?;
        self.clients[client] = (kind, number, Answer::Conflict(0));
        Some(optimistic::put(Cluster::key(kind, number), self.values[kind].make(intended), 0, 0))
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        self.clients[client].2 = Answer::read(message);
    }

    fn on_success(&mut self, client: usize) -> Then {
        let (kind, number, answer) = self.clients[client];
        self.cluster.learn(kind, number, answer.revision());
        Then::Done(Done { class: usize::from(matches!(answer, Answer::Conflict(_))), keys: 1 })
    }
}
