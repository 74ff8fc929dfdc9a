//! The kinds of objects: their keys, how large they are, how many there are.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use kevel::server::io::clock;

use super::super::Settings;
use crate::optimistic::Values;
use crate::template::Nonce;

/// A kind of object.
pub struct Kind {
    /// All its keys begin so.
    pub prefix: &'static str,
    /// Bytes of an object, about the median of real clusters.
    pub size: usize,
    /// How many there are, by nodes and pods.
    count: fn(u64, u64) -> u64,
    /// The key behind the prefix, by number.
    name: fn(u64) -> String,
}

/// Numbers of kinds that flows know.
pub const LEASES: usize = 0;
pub const NODES: usize = 1;
pub const PODS: usize = 2;
pub const EVENTS: usize = 3;

/// All kinds.
pub const KINDS: [Kind; 8] = [
    Kind {
        prefix: "/registry/leases/",
        size: 460,
        count: |nodes, _| nodes,
        name: |n| format!("kube-node-lease/{}", node(n)),
    },
    Kind { prefix: "/registry/minions/", size: 6000, count: |nodes, _| nodes, name: node },
    Kind { prefix: "/registry/pods/", size: 4200, count: |_, pods| pods, name: pod },
    Kind {
        prefix: "/registry/events/",
        size: 700,
        count: |_, _| 0,
        name: |n| format!("{}.{:016x}", pod(n / 8), scatter(n)),
    },
    Kind {
        prefix: "/registry/replicasets/",
        size: 2600,
        count: |_, pods| pods / 5,
        name: |n| named("app", n, 5),
    },
    Kind {
        prefix: "/registry/configmaps/",
        size: 1500,
        count: |_, pods| pods / 10,
        name: |n| named("kube-root-ca.crt", n, 0),
    },
    Kind {
        prefix: "/registry/secrets/",
        size: 1100,
        count: |_, pods| pods / 10,
        name: |n| named("token", n, 5),
    },
    Kind {
        prefix: "/registry/endpointslices/",
        size: 1800,
        count: |_, pods| pods / 20,
        name: |n| named("service", n, 5),
    },
];

fn node(number: u64) -> String {
    format!("ip-10-{}-{}-{}.node.internal", number >> 16, (number >> 8) & 255, number & 255)
}

fn pod(number: u64) -> String {
    format!(
        "namespace-{:03}/deployment-{}-{:08x}-{:05x}",
        number % 97,
        number / 40,
        scatter(number / 10) >> 32,
        number
    )
}

fn named(what: &str, number: u64, digits: usize) -> String {
    format!("namespace-{:03}/{what}-{:0digits$x}", number % 97, number)
}

fn scatter(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The cluster's objects and what is known of them.
pub struct Cluster {
    pub nonce: Nonce,
    pub seed: u64,
    /// Mod revisions by kind and number; zero for an object that is not there.
    known: Vec<Vec<AtomicI64>>,
    /// Numbers of objects that this run makes new begin here.
    pub fresh: u64,
}

impl Cluster {
    /// A cluster of so many nodes.
    pub fn new(nodes: u64, pods_per_node: u64, settings: &Settings) -> Self {
        let pods = nodes * pods_per_node;
        let empty = |kind: &Kind| (0..(kind.count)(nodes, pods)).map(|_| AtomicI64::new(0)).collect();
        Self {
            nonce: settings.nonce,
            seed: settings.common.keys.seed,
            known: KINDS.iter().map(empty).collect(),
            // Milliseconds: an earlier run has not made as many objects as that.
            fresh: clock::wall_nanos() / 1_000_000,
        }
    }

    /// Objects of a kind.
    pub fn count(&self, kind: usize) -> u64 {
        self.known[kind].len() as u64
    }

    /// The key of an object.
    pub fn key(kind: usize, number: u64) -> Bytes {
        let Kind { prefix, name, .. } = &KINDS[kind];
        format!("{prefix}{}", name(number)).into()
    }

    /// Values for objects of a kind.
    pub fn values(&self, kind: usize) -> Values {
        Values::new(KINDS[kind].size, self.seed + kind as u64, self.nonce)
    }

    /// The mod revision of an object, as far as we know.
    pub fn known(&self, kind: usize, number: u64) -> i64 {
        self.known[kind][number as usize].load(Ordering::Relaxed)
    }

    /// An object is now at `revision`.
    pub fn learn(&self, kind: usize, number: u64, revision: i64) {
        self.known[kind][number as usize].fetch_max(revision, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_differ_and_stay_within_their_kind() {
        let mut seen = HashSet::new();
        for (number_of_kind, kind) in KINDS.iter().enumerate() {
            for number in (0..2000).chain(1_800_000_000_000..1_800_000_000_100) {
                let key = Cluster::key(number_of_kind, number);
                assert!(key.starts_with(kind.prefix.as_bytes()) && seen.insert(key));
            }
        }
    }
}
