//! The families without labels of their own, and what each reads of a core.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::text::{Families, Type};
use super::{APPLIES, Buckets, Core, Counter, Gauge, Histogram, Observed, REQUESTS};

pub(super) const DISK: Buckets = Buckets::seconds(1_000, 14);
pub(super) const REQUEST: Buckets = Buckets::seconds(1_000, 14);
pub(super) const APPLY: Buckets = Buckets::seconds(100, 20);
pub(super) const HASH: Buckets = Buckets::seconds(10_000, 15);
pub(super) const SNAPSHOT: Buckets = Buckets::seconds(10_000, 17);
pub(super) const SNAPSHOT_SAVE: Buckets = Buckets::seconds(100_000, 10);
pub(super) const DEFRAG: Buckets = Buckets::seconds(100_000, 13);
pub(super) const LEASE_TTL: Buckets = Buckets::whole(1, 24);
pub(super) const PAUSE: Buckets = Buckets::millis(1_000, 13);
pub(super) const COMPACTION: Buckets = Buckets::millis(100_000, 14);

/// How to read a counter of a core.
type Count = fn(&Core) -> &Counter;
/// How to read a gauge of a core.
type Value = fn(&Core) -> &Gauge;
/// How to read a histogram of a core.
type Distribution = fn(&Core) -> &Histogram;

#[rustfmt::skip]
static COUNTERS: &[(&str, &str, Count)] = &[
    ("etcd_debugging_lease_granted_total", "Leases granted.", |c| &c.leases_granted),
    ("etcd_debugging_lease_renewed_total", "Leases renewed.", |c| &c.leases_renewed),
    ("etcd_debugging_lease_revoked_total", "Leases revoked.", |c| &c.leases_revoked),
    ("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions removed by compactions.", |c| &c.compacted_keys),
    ("etcd_debugging_mvcc_events_total", "Events sent to watchers.", |c| &c.events_sent),
    ("etcd_debugging_server_lease_expired_total", "Leases that expired.", |c| &c.leases_expired),
    ("etcd_mvcc_delete_total", "Deletions applied.", |c| &c.deletes),
    ("etcd_mvcc_put_total", "Puts applied.", |c| &c.puts),
    ("etcd_mvcc_range_total", "Ranges read.", |c| &c.ranges),
    ("etcd_mvcc_txn_total", "Transactions of more than one operation.", |c| &c.txns),
    ("etcd_server_health_failures", "Times /health said no.", |c| &c.health_failures),
    ("etcd_server_health_success", "Times /health said yes.", |c| &c.health_success),
    ("etcd_server_leader_changes_seen_total", "Leader changes seen.", |c| &c.leader_changes),
    ("etcd_server_learner_promote_successes", "Learners promoted.", |c| &c.learners_promoted),
    ("etcd_server_proposals_failed_total", "Proposals that failed.", |c| &c.proposals_failed),
    ("etcd_server_read_indexes_failed_total",
        "Linearizable reads whose confirmation failed.", |c| &c.read_indexes_failed),
    ("etcd_server_slow_apply_total", "Entries whose apply took too long.", |c| &c.applies_slow),
    ("etcd_server_slow_read_indexes_total",
        "Linearizable reads whose confirmation took too long.", |c| &c.read_indexes_slow),
    ("kevel_tls_handshakes_refused_total",
        "Connections that ended before TLS was agreed on.", |c| &c.handshakes_refused),
    ("kevel_tls_handshakes_total", "Connections for which TLS was agreed on.", |c| &c.handshakes),
];

#[rustfmt::skip]
static GAUGES: &[(&str, &str, Value)] = &[
    ("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", |c| &c.compact_revision),
    ("etcd_debugging_mvcc_current_revision", "The store's revision.", |c| &c.revision),
    ("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction's end.", |c| &c.compacted_at),
    ("etcd_debugging_mvcc_keys_total", "Keys that exist.", |c| &c.keys),
    ("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are catching up.", |c| &c.watchers_slow),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put since the start.", |c| &c.put_bytes),
    ("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", |c| &c.watch_streams),
    ("etcd_debugging_mvcc_watcher_total", "Watchers.", |c| &c.watchers),
    ("etcd_disk_wal_write_bytes_total", "Bytes written to the write-ahead log.", |c| &c.wal_written_bytes),
    ("etcd_mvcc_db_open_read_transactions", "Answers under way that hold a state of the store.", |c| &c.store_readers),
    ("etcd_mvcc_db_total_size_in_bytes", "Size of the store file.", |c| &c.store_bytes),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "Part of the store file that holds data.", |c| &c.store_used_bytes),
    ("etcd_server_has_leader", "Whether a leader is known.", |c| &c.has_leader),
    ("etcd_server_is_leader", "Whether this member leads.", |c| &c.is_leader),
    ("etcd_server_is_learner", "Whether this member is a learner.", |c| &c.is_learner),
    ("etcd_server_proposals_applied_total", "Index of the last entry applied.", |c| &c.proposals_applied),
    ("etcd_server_proposals_committed_total", "Index of the last entry committed.", |c| &c.proposals_committed),
    ("etcd_server_proposals_pending", "Proposals that wait to be applied.", |c| &c.proposals_pending),
    ("etcd_server_quota_backend_bytes", "Size of the store at which writes are refused.", |c| &c.quota_bytes),
    ("etcd_server_snapshot_apply_in_progress_total",
        "Snapshots of the leader that take the place of the store.", |c| &c.snapshots_applying),
    ("kevel_store_lacks_room", "Whether the store file's disk has no room for a checkpoint.", |c| &c.store_lacks_room),
    ("kevel_wal_lacks_room", "Whether writes wait for room on the disk of the log.", |c| &c.wal_lacks_room),
];

#[rustfmt::skip]
static HISTOGRAMS: &[(&str, &str, Buckets, Distribution)] = &[
    ("etcd_debugging_lease_ttl_total", "TTL of granted leases in seconds.", LEASE_TTL, |c| &c.lease_ttl),
    ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "What a slice of a compaction holds up.", PAUSE, |c| &c.compaction_pause),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Time of whole compactions.", COMPACTION, |c| &c.compaction_duration),
    ("etcd_disk_backend_commit_duration_seconds", "Time of checkpoints of the store file.", DISK, |c| &c.store_commit),
    ("etcd_disk_backend_defrag_duration_seconds",
        "Time of defragmentations.", DEFRAG, |c| &c.defrag_duration),
    ("etcd_disk_backend_snapshot_duration_seconds",
        "Time of snapshots that clients have taken.", SNAPSHOT, |c| &c.snapshot_duration),
    ("etcd_disk_wal_fsync_duration_seconds", "Time until written entries are durable.", DISK, |c| &c.wal_sync),
    ("etcd_disk_wal_write_duration_seconds", "Time of handing entries to the disk.", DISK, |c| &c.wal_write),
    ("etcd_mvcc_hash_duration_seconds", "Time of hashes over the whole store.", HASH, |c| &c.hash_duration),
    ("etcd_mvcc_hash_rev_duration_seconds", "Time of hashes at a revision.", HASH, |c| &c.hash_revision_duration),
    ("etcd_snap_db_save_total_duration_seconds",
        "Time of saving the files of other members' snapshots.", SNAPSHOT_SAVE, |c| &c.snapshot_saved),
];

/// Families of things Kevel does not do (yet): etcd shows them from its start, at zero, and dashboards expect them.
static ZEROS: &[(&str, Type, &str)] = &[
    ("etcd_debugging_auth_revision", Type::Gauge, ZERO_HELP),
    (
        "etcd_debugging_mvcc_pending_events_total",
        Type::Gauge,
        "Always 0: events wait as bytes of their streams, where nobody counts them one by one.",
    ),
    ("etcd_debugging_store_expires_total", Type::Counter, ZERO_HELP),
    ("etcd_debugging_store_watch_requests_total", Type::Counter, ZERO_HELP),
    ("etcd_debugging_store_watchers", Type::Gauge, ZERO_HELP),
    ("etcd_disk_defrag_inflight", Type::Gauge, ZERO_HELP),
    ("etcd_grpc_proxy_cache_hits_total", Type::Gauge, ZERO_HELP),
    ("etcd_grpc_proxy_cache_keys_total", Type::Gauge, ZERO_HELP),
    ("etcd_grpc_proxy_cache_misses_total", Type::Gauge, ZERO_HELP),
    ("etcd_grpc_proxy_events_coalescing_total", Type::Counter, ZERO_HELP),
    ("etcd_grpc_proxy_watchers_coalescing_total", Type::Gauge, ZERO_HELP),
    ("etcd_server_heartbeat_send_failures_total", Type::Counter, ZERO_HELP),
];

#[rustfmt::skip]
static ZERO_HISTOGRAMS: &[(&str, Buckets)] = &[
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", DISK),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", DISK),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", DISK),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", Buckets::millis(500, 14)),
    ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", DISK),
    ("etcd_debugging_server_watch_send_loop_progress_duration_seconds", DISK),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", DISK),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", DISK),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", DISK),
    ("etcd_debugging_snap_save_total_duration_seconds", DISK),
    ("etcd_snap_db_fsync_duration_seconds", DISK),
    ("etcd_snap_fsync_duration_seconds", DISK),
];

const ZERO_HELP: &str = "Part of etcd's set; this server has nothing to count here.";

/// Sums every family over the cores.
pub(super) fn write(families: &mut Families, cores: &[Arc<Core>]) {
    for (name, help, read) in COUNTERS {
        let sum = cores.iter().fold(0u64, |sum, core| sum.wrapping_add(read(core).get()));
        families.number(name, Type::Counter, help, &[], sum as f64);
    }
    for (name, help, read) in GAUGES {
        let sum: i64 = cores.iter().map(|core| read(core).get()).sum();
        families.number(name, Type::Gauge, help, &[], sum as f64);
    }
    for (name, help, buckets, read) in HISTOGRAMS {
        families.histogram(name, help, &[], buckets, &sum(cores, *read));
    }
    for (name, kind, help) in ZEROS {
        families.number(name, *kind, help, &[], 0.0);
    }
    for (name, buckets) in ZERO_HISTOGRAMS {
        families.histogram(name, ZERO_HELP, &[], buckets, &Observed::default());
    }
    by_success(families, cores);
}

fn sum(cores: &[Arc<Core>], read: impl Fn(&Core) -> &Histogram) -> Observed {
    let mut total = Observed::default();
    cores.iter().for_each(|core| read(core).add_to(&mut total));
    total
}

/// Histograms by outcome. A series exists once something was observed, as in etcd.
fn by_success(families: &mut Families, cores: &[Arc<Core>]) {
    for success in [false, true] {
        let (at, outcome) = (usize::from(success), if success { "true" } else { "false" });
        let mut add = |name, help, labels: &[(&str, &str)], buckets: &Buckets, observed: &Observed| {
            if observed.count() > 0 {
                families.histogram(name, help, labels, buckets, observed);
            }
        };
        let observed = sum(cores, |core| &core.range_duration[at]);
        let name = "etcd_server_range_duration_seconds";
        add(name, "Time of reading a range.", &[("success", outcome)], &APPLY, &observed);
        for (kind, label) in APPLIES.iter().enumerate() {
            let observed = sum(cores, |core| &core.apply_duration[kind][at]);
            let labels = [("op", *label), ("success", outcome), ("version", "v3")];
            add(
                "etcd_server_apply_duration_seconds",
                "Time of applying an entry.",
                &labels,
                &APPLY,
                &observed,
            );
        }
        for (kind, label) in REQUESTS.iter().enumerate() {
            let observed = sum(cores, |core| &core.request_duration[kind][at]);
            let labels = [("success", outcome), ("type", *label)];
            add(
                "etcd_server_request_duration_seconds",
                "Time of answering a request.",
                &labels,
                &REQUEST,
                &observed,
            );
        }
    }
}
