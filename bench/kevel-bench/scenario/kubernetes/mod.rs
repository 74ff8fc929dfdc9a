//! What a control plane asks of its store, in three phases.
//!
//! ```text
//!   create    every object, as a cluster that has grown has them; those of an earlier run stay
//!   start-up  each apiserver lists every kind of object in pages, all kinds at once
//!   steady    heartbeats and statuses of nodes, pods that come and go, events, reads, compaction;
//!             each apiserver watches every kind
//! ```
//!
//! Writes are transactions on the mod revision, watches ask for previous pairs and progress: nothing else is what
//! apiservers send. The steady phase is an open loop: a cluster does not wait for its store.
#![forbid(unsafe_code)]

mod compactor;
mod create;
mod event;
mod kind;
mod node;
mod pod;
mod read;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kevel::proto::etcdserverpb::WatchCreateRequest;

use super::range::{How, RangeArgs, RangeSource};
use super::{Outcomes, Scenario, Settings};
use crate::keys::prefix_end;
use crate::loader::{Loader, Source};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Phase, World};
use crate::run::{Bounds, Run};
use crate::units::{duration, size_positive};
use crate::watcher::{self, Watcher};
use kind::{Cluster, KINDS};

/// Keys of a page, as apiservers fill their caches.
const PAGE_KEYS: i64 = 10_000;
/// Operations in flight per flow at most.
const IN_FLIGHT_MAX: usize = 500;
/// Writes to a pod between its creation and its end, with these two: scheduled, started, ready.
const WRITES_PER_POD: f64 = 5.0;
const EVENTS_PER_POD: f64 = 5.0;

/// Classes of the steady phase.
const CLASSES: [&str; 10] = [
    "node lease",
    "node status",
    "pod create",
    "pod status",
    "pod delete",
    "event",
    "read",
    "compact",
    "conflict",
    "watch delay",
];
const NODE_LEASE: usize = 0;
const NODE_STATUS: usize = 1;
const POD_CREATE: usize = 2;
const POD_STATUS: usize = 3;
const POD_DELETE: usize = 4;
const EVENT: usize = 5;
const READ: usize = 6;
const COMPACT: usize = 7;
const CONFLICT: usize = 8;
const WATCH_DELAY: usize = 9;

/// What `kubernetes` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Nodes
    #[arg(long, value_name = "N", value_parser = size_positive, default_value = "100")]
    pub nodes: u64,
    /// Pods on each node at first
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub pods_per_node: u64,
    /// Pods that come and go per second [default: one per 50 nodes]
    #[arg(long, value_name = "PER_SECOND", value_parser = crate::units::rate)]
    pub churn: Option<f64>,
    /// Each node renews its lease so often
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub heartbeat: Duration,
    /// Each node writes its status so often
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    pub node_status: Duration,
    /// Linearizable reads per second: single objects and the current revision [default: one per 10 nodes]
    #[arg(long, value_name = "PER_SECOND", value_parser = crate::units::rate)]
    pub reads: Option<f64>,
    /// Apiservers: each lists every kind at first and then watches it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100), default_value_t = 1)]
    pub apiservers: u16,
    /// Compact what is older than one to two of these
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    pub compact: Duration,
}

impl Scenario for KubernetesArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        if settings.common.load.rate.is_some() {
            return Err("kubernetes has rates of its own: --nodes, --churn, --reads".into());
        }
        let cluster = Arc::new(Cluster::new(self.nodes, self.pods_per_node, settings));
        Ok(vec![
            create::run(&cluster, settings, world)?,
            self.start_up(settings, world)?,
            self.steady(&cluster, settings, world)?,
        ])
    }
}

impl KubernetesArgs {
    fn start_up(&self, settings: &Settings, world: &World) -> Result<crate::phase::Outcome, String> {
        let jobs = (0..self.apiservers)
            .map(|_| {
                let settings = settings.clone();
                Job::driver(KINDS.len(), move |record, run| {
                    let how = How { limit: PAGE_KEYS, paged: true, ..How::default() };
                    let lists = KINDS.iter().map(|kind| {
                        let args = RangeArgs {
                            prefix: Some(kind.prefix.into()),
                            how: how.clone(),
                            ..RangeArgs::default()
                        };
                        RangeSource::new(&args, &settings.spelling, settings.draw(0, 1))
                    });
                    let source = read::StartUp::new(lists.collect());
                    Loader::new(source, Pace::new(Load::Closed, 0, 1, 0), KINDS.len(), run, record)
                })
            })
            .collect();
        world.run(Phase { name: "start-up".into(), classes: vec!["list"], jobs, bounds: Bounds::default() })
    }

    fn steady(
        &self,
        cluster: &Arc<Cluster>,
        settings: &Settings,
        world: &World,
    ) -> Result<crate::phase::Outcome, String> {
        let nodes = self.nodes as f64;
        let churn = self.churn.unwrap_or(nodes / 50.0);
        let watchers = u64::from(self.apiservers);
        let poisson = settings.common.load.poisson;
        let every = |time: Duration| 1.0 / time.as_secs_f64().max(1e-3);
        let flow = |per_second| Load::Open { per_second, poisson };
        let steady = |per_second| Load::Open { per_second, poisson: false };

        let mut jobs: Vec<Job> = (0..self.apiservers).map(|_| watches(settings)).collect();
        let of = cluster.clone();
        jobs.push(job(steady(nodes * every(self.heartbeat)), 1, move |run| {
            node::Updates::new(of, kind::LEASES, NODE_LEASE, watchers, run)
        }));
        let of = cluster.clone();
        jobs.push(job(flow(nodes * every(self.node_status)), 2, move |run| {
            node::Updates::new(of, kind::NODES, NODE_STATUS, watchers, run)
        }));
        let of = cluster.clone();
        jobs.push(job(flow(churn * WRITES_PER_POD), 3, move |run| pod::Churn::new(of, watchers, run)));
        let of = cluster.clone();
        jobs.push(job(flow(churn * EVENTS_PER_POD), 4, move |run| event::Events::new(of, watchers, run)));
        let of = cluster.clone();
        jobs.push(job(flow(self.reads.unwrap_or(nodes / 10.0)), 5, move |_| read::Reads::new(of)));
        jobs.push(job(steady(every(self.compact)), 6, move |_| compactor::Compactor::default()));
        world.run(Phase { name: "steady".into(), classes: CLASSES.to_vec(), jobs, bounds: settings.bounds() })
    }
}

/// A connection with a flow of its own, as apiservers have one per kind of object.
fn job<S: Source + 'static>(load: Load, seed: u64, make: impl FnOnce(Arc<Run>) -> S + Send + 'static) -> Job {
    Job::driver(IN_FLIGHT_MAX, move |record, run| {
        Loader::new(make(run.clone()), Pace::new(load, 0, 1, seed), IN_FLIGHT_MAX, run, record)
    })
}

/// One apiserver's watches: a stream per kind.
fn watches(settings: &Settings) -> Job {
    let nonce = settings.nonce;
    let streams = KINDS
        .iter()
        .map(|kind| {
            vec![WatchCreateRequest {
                key: kind.prefix.into(),
                range_end: prefix_end(kind.prefix.as_bytes()).into(),
                prev_kv: true,
                progress_notify: true,
                ..Default::default()
            }]
        })
        .collect();
    Job::listener(KINDS.len(), move |record, run| {
        Watcher::new(streams, WATCH_DELAY, watcher::stamps(nonce), run, record)
    })
}
