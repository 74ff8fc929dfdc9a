//! What is the same on every session core of a member.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cluster::reconfig::Rules;
use crate::config::Gates;
use crate::limits::LARGE_STORE_BYTES;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::server::grpc::counters::Counters;
use crate::server::log::slow::Limits;
use crate::server::metrics;
use crate::server::metrics::contacts::Contacts;
use crate::stdx::time::Duration;

/// What is the same on every session core of a member.
pub struct Member {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// Longest entry that is proposed: `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// Operations per transaction: `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// How long a proposal or a ReadIndex may take.
    pub request_timeout: Duration,
    /// Requests that take longer are logged.
    pub slow: Limits,
    /// Name and URLs, as `member list` shows them before they are published.
    pub name: String,
    /// The store's revision when the member started.
    pub start_revision: i64,
    /// Somebody wants to know how many keys there are.
    pub keys_asked: AtomicBool,
    /// `--quota-backend-bytes`, as Status reports it.
    pub quota_bytes: i64,
    /// The hashes that compactions took.
    pub compaction_hashes: CompactionHashes,
    /// Bytes in use at which requests that grow the store are refused; none without a quota.
    pub quota: Option<u64>,
    /// How long a stream whose client wants a leader lives without one: three election timeouts, as with etcd.
    pub leaderless_max: Duration,
    /// What changes of the members it allows.
    pub rules: Rules,
    /// The other members, as this one reaches them.
    pub contacts: Arc<Contacts>,
    /// Feature gates, for metrics.
    pub gates: Gates,
    /// The counts of all cores, the replica's last.
    pub metrics: Vec<Arc<metrics::Core>>,
    /// The counts of gRPC calls of all session cores.
    pub rpc: Vec<Arc<Counters>>,
}

impl Member {
    /// Size of the store file and of its part that holds data, as the replica's core counts them.
    pub fn store_bytes(&self) -> (i64, i64) {
        let sum = |read: fn(&metrics::Core) -> i64| self.metrics.iter().map(|core| read(core)).sum();
        (sum(|core| core.store_bytes.get()), sum(|core| core.store_used_bytes.get()))
    }

    /// Whether the store is so large that most places of it are likely not to be in memory.
    pub fn is_store_large(&self) -> bool {
        u64::try_from(self.store_bytes().0).is_ok_and(|bytes| bytes >= LARGE_STORE_BYTES)
    }
}
