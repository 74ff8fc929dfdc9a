//! Metrics: etcd's families by name, type, labels and buckets, counted per core and summed when asked.
//!
//! ```text
//!   cell     numbers with one writer       table    families and what each reads of a core
//!   text     the exposition format         process  what the kernel says of the process
//!   rpc      families of gRPC methods      replica  what the replica core counts
//!   contacts the other members         transfers snapshots between members
//! ```
//!
//! Every core owns one [`Core`] and writes nothing else, so counting a request is a plain add to memory that no
//! other core writes. [`scrape`] reads all cores with relaxed loads and sums; numbers of one scrape may be a
//! request apart from each other, as they are in etcd. A registry of shared atomics, which is what the usual
//! libraries offer, would put a contended cache line into every request; that is why the text is written here.
//!
//! Gauges are summed too: what only the replica's core knows is zero on the others.
//!
//! Absent: families of what is not built (authentication) keep their names with zero where
//! etcd shows zero, and are missing where etcd shows them only once something happened. Go's runtime has no
//! counterpart.
#![forbid(unsafe_code)]

pub mod cell;
pub mod contacts;
pub mod process;
pub mod replica;
mod rpc;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use cell::{Buckets, Observed};
pub use cell::{Counter, Gauge, Histogram};
use text::{Families, Type};

use super::grpc::counters::Counters as RpcCounters;
use crate::config::{ETCD_VERSION, Gates, TOOLCHAIN};
pub use crate::replica::tally::{APPLIES, ApplyKind};

/// What one core counts. Fields are documented by their families in [`table`].
///
/// Aligned so that no two cores' numbers share a cache line, nor a pair of lines fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
#[expect(missing_docs, reason = "each field is the family of its name in the table")]
pub struct Core {
    // Session cores.
    pub ranges: Counter,
    pub read_indexes_slow: Counter,
    pub read_indexes_failed: Counter,
    pub proposals_failed: Counter,
    pub proposals_pending: Gauge,
    pub health_success: Counter,
    pub health_failures: Counter,
    pub watch_streams: Gauge,
    pub watchers: Gauge,
    pub watchers_slow: Gauge,
    pub events_sent: Counter,
    pub range_duration: [Histogram; 2],
    pub request_duration: [[Histogram; 2]; REQUESTS.len()],
    pub checks: Checks,
    pub versions: Versions,
    // Both.
    pub handshakes: Counter,
    pub handshakes_refused: Counter,
    // The replica's core.
    pub certificate_ends: [Gauge; CERTIFICATES.len()],
    pub has_leader: Gauge,
    pub is_leader: Gauge,
    pub is_learner: Gauge,
    pub leader_changes: Counter,
    pub proposals_committed: Gauge,
    pub proposals_applied: Gauge,
    pub applies_slow: Counter,
    pub apply_duration: [[Histogram; 2]; APPLIES.len()],
    pub puts: Counter,
    pub deletes: Counter,
    pub txns: Counter,
    pub keys: Gauge,
    pub put_bytes: Gauge,
    pub revision: Gauge,
    pub compact_revision: Gauge,
    pub compacted_keys: Counter,
    pub compacted_at: Gauge,
    pub compaction_pause: Histogram,
    pub compaction_duration: Histogram,
    pub leases_granted: Counter,
    pub leases_renewed: Counter,
    pub leases_revoked: Counter,
    pub leases_expired: Counter,
    pub lease_ttl: Histogram,
    pub defrag_duration: Histogram,
    pub snapshot_duration: Histogram,
    pub snapshots_applying: Gauge,
    pub snapshot_saved: Histogram,
    pub hash_duration: Histogram,
    pub hash_revision_duration: Histogram,
    pub wal_sync: Histogram,
    pub wal_write: Histogram,
    pub wal_written_bytes: Gauge,
    pub wal_lacks_room: Gauge,
    pub store_lacks_room: Gauge,
    pub store_commit: Histogram,
    pub store_bytes: Gauge,
    pub store_used_bytes: Gauge,
    pub store_readers: Gauge,
    pub quota_bytes: Gauge,
    pub learners_promoted: Counter,
    pub alarms: [Alarm; 2],
}

impl Core {
    /// A core's numbers, all zero.
    pub fn new() -> Arc<Core> {
        Arc::new(Core::default())
    }
}

/// Kinds of requests whose whole time is taken.
pub const REQUESTS: [&str; 9] =
    ["Range", "Put", "DeleteRange", "Txn", "ReadonlyTxn", "Compaction", "LeaseGrant", "LeaseRevoke", "Alarm"];

/// Index into [`REQUESTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the label")]
pub enum RequestKind {
    Range,
    Put,
    DeleteRange,
    Txn,
    ReadonlyTxn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
}

impl Core {
    /// A request was answered after this time.
    pub fn request(&self, kind: RequestKind, success: bool, took: Duration) {
        self.request_duration[kind as usize][usize::from(success)].observe_duration(&table::REQUEST, took);
    }

    /// So many entries of a kind, an index into [`APPLIES`], were applied in this time each.
    pub fn apply(&self, kind: usize, success: bool, took: Duration, count: u64) {
        self.apply_duration[kind][usize::from(success)].observe_times(&table::APPLY, took, count);
    }

    /// A range was read in this time.
    pub fn range(&self, success: bool, took: Duration) {
        self.ranges.inc();
        self.range_duration[usize::from(success)].observe_duration(&table::APPLY, took);
    }

    /// The log's bytes were made durable in this time.
    pub fn wal_fsync(&self, took: Duration) {
        self.wal_sync.observe_duration(&table::DISK, took);
    }

    /// So many bytes were handed to the disk in this time.
    pub fn wal_wrote(&self, bytes: u64, took: Duration) {
        self.wal_write.observe_duration(&table::DISK, took);
        self.wal_written_bytes.add(bytes as i64);
    }

    /// A checkpoint took this time.
    pub fn store_committed(&self, took: Duration) {
        self.store_commit.observe_duration(&table::DISK, took);
    }

    /// A lease with this TTL was granted.
    pub fn lease_granted(&self, ttl_seconds: i64) {
        self.leases_granted.inc();
        self.lease_ttl.observe(&table::LEASE_TTL, u64::try_from(ttl_seconds).unwrap_or(0));
    }

    /// A hash over the whole store, or at a revision, took this time.
    pub fn hashed(&self, at_revision: bool, took: Duration) {
        let histogram = if at_revision { &self.hash_revision_duration } else { &self.hash_duration };
        histogram.observe_duration(&table::HASH, took);
    }

    /// A defragmentation was answered after this time.
    pub fn defragmented(&self, took: Duration) {
        self.defrag_duration.observe_duration(&table::DEFRAG, took);
    }

    /// A snapshot was sent in this time.
    pub fn snapshot_sent(&self, took: Duration) {
        self.snapshot_duration.observe_duration(&table::SNAPSHOT, took);
    }

    /// The file of another member's snapshot was saved in this time.
    pub fn snapshot_file_saved(&self, took: Duration) {
        self.snapshot_saved.observe_duration(&table::SNAPSHOT_SAVE, took);
    }

    /// A slice of a compaction held up applying for this time.
    pub fn compaction_slice(&self, took: Duration) {
        self.compaction_pause.observe_duration(&table::PAUSE, took);
    }

    /// A whole compaction took this time and ended at this moment, in seconds of Unix time.
    pub fn compacted(&self, took: Duration, unix_seconds: i64) {
        self.compaction_duration.observe_duration(&table::COMPACTION, took);
        self.compacted_at.set(unix_seconds);
    }
}

/// One kind of alarm; zeros and ones.
#[derive(Debug, Default)]
pub struct Alarm {
    /// It is raised.
    pub raised: Gauge,
    /// It was raised since the start.
    pub seen: Gauge,
}

/// The kinds of alarms.
const ALARMS: [&str; 2] = ["NOSPACE", "CORRUPT"];

/// Results of the checks behind `/livez` and `/readyz`.
#[derive(Debug, Default)]
pub struct Checks {
    /// By check: failed and passed; the last result.
    counts: [[Counter; 2]; CHECKS.len()],
    passed: [Gauge; CHECKS.len()],
}

/// Endpoint and check.
const CHECKS: [(&str, &str); 5] = [
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "serializable_read"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
];

impl Checks {
    /// Counts one run.
    pub fn count(&self, endpoint: &str, check: &str, passed: bool) {
        if let Some(at) = CHECKS.iter().position(|known| *known == (endpoint, check)) {
            self.counts[at][usize::from(passed)].inc();
            self.passed[at].set(i64::from(passed));
        }
    }
}

/// Requests by the `X.Y` that clients say they speak; the first few versions seen have a slot each.
#[derive(Debug, Default)]
pub struct Versions {
    slots: [(Gauge, [Counter; 2]); 8],
}

impl Versions {
    /// Counts a call; versions beyond the slots, or unreadable, count as unknown.
    pub fn count(&self, version: Option<&str>, stream: bool) {
        let key = version.and_then(|version| {
            let (major, minor) = version.split_once('.')?;
            Some((i64::from(major.parse::<u16>().ok()?) << 16) + i64::from(minor.parse::<u16>().ok()?) + 1)
        });
        let key = key.unwrap_or(UNKNOWN_VERSION);
        let last = self.slots.len() - 1;
        let at = self.slots[..last].iter().position(|(seen, _)| seen.get() == key || seen.get() == 0);
        let (seen, counts) = &self.slots[at.unwrap_or(last)];
        seen.set(if at.is_some() { key } else { UNKNOWN_VERSION });
        counts[usize::from(stream)].inc();
    }
}

/// Ports that have a certificate of their own.
const CERTIFICATES: [&str; 2] = ["client", "peer"];

/// The key of calls that say no version.
const UNKNOWN_VERSION: i64 = -1;

/// What a scrape reads.
pub struct Sources<'a> {
    /// The cores' numbers.
    pub cores: &'a [Arc<Core>],
    /// The cores' numbers per gRPC method.
    pub rpc: &'a [Arc<RpcCounters>],
    /// This member.
    pub member_id: u64,
    /// `3.7`, once decided.
    pub cluster_version: Option<&'a str>,
    /// Feature gates.
    pub gates: &'a Gates,
    /// The other members.
    pub contacts: &'a contacts::Contacts,
}

/// All families as text.
pub fn scrape(sources: &Sources<'_>) -> String {
    let mut families = Families::default();
    table::write(&mut families, sources.cores);
    rpc::write(&mut families, sources.rpc);
    process::write(&mut families);
    labelled(&mut families, sources);
    families.finish()
}

/// Families whose labels say what the member is: versions, gates, alarms, checks.
fn labelled(families: &mut Families, sources: &Sources<'_>) {
    let id = format!("{:x}", sources.member_id);
    let mut one =
        |name, help, label, value: &str| families.number(name, Type::Gauge, help, &[(label, value)], 1.0);
    one("etcd_server_version", "The etcd release this member behaves as.", "server_version", ETCD_VERSION);
    one(
        "etcd_server_go_version",
        "The toolchain, where etcd names its Go release.",
        "server_go_version",
        TOOLCHAIN,
    );
    one("etcd_server_id", "This member's id in hexadecimal.", "server_id", &id);
    if let Some(version) = sources.cluster_version {
        one("etcd_cluster_version", "The version the cluster agreed on.", "cluster_version", version);
    }
    let known = [("Local", id.as_str()), ("Remote", id.as_str())];
    families.number("etcd_network_known_peers", Type::Gauge, contacts::KNOWN, &known, 1.0);
    sources.contacts.write(families, &id);
    for (name, stage, on) in sources.gates.iter() {
        let labels = [("name", name), ("stage", stage.as_str())];
        let help = "Whether a feature gate is open.";
        families.number("etcd_server_feature_enabled", Type::Gauge, help, &labels, f64::from(u8::from(on)));
    }
    for (at, kind) in ALARMS.iter().enumerate() {
        let sum = |read: fn(&Alarm) -> &Gauge| -> i64 {
            sources.cores.iter().map(|core| read(&core.alarms[at]).get()).sum()
        };
        // As in etcd, an alarm is shown from the first time on that it was raised.
        if sum(|alarm| &alarm.seen) > 0 {
            let labels = [("alarm_type", *kind), ("server_id", id.as_str())];
            let raised = sum(|alarm| &alarm.raised) as f64;
            families.number("etcd_debugging_server_alarms", Type::Gauge, "Raised alarms.", &labels, raised);
        }
    }
    for (at, (endpoint, check)) in CHECKS.iter().enumerate() {
        let sum = |passed: usize| {
            sources.cores.iter().map(|core| core.checks.counts[at][passed].get()).sum::<u64>()
        };
        let (failed, passed) = (sum(0), sum(1));
        if failed + passed > 0 {
            // Cores may have seen different last results; one that passes is enough for a one.
            let last = sources.cores.iter().map(|core| core.checks.passed[at].get()).max().unwrap_or(0);
            let labels = [("name", *check), ("type", *endpoint)];
            families.number(
                "etcd_server_healthcheck",
                Type::Gauge,
                "Last result of a check.",
                &labels,
                last as f64,
            );
        }
        for (status, count) in
            [("error", failed), ("success", passed)].into_iter().filter(|(_, count)| *count > 0)
        {
            let labels = [("name", *check), ("status", status), ("type", *endpoint)];
            let help = "Runs of a check.";
            families.number("etcd_server_healthchecks_total", Type::Counter, help, &labels, count as f64);
        }
    }
    versions(families, sources.cores);
    for (at, port) in CERTIFICATES.iter().enumerate() {
        let end: i64 = sources.cores.iter().map(|core| core.certificate_ends[at].get()).sum();
        if end != 0 {
            let name = "kevel_tls_certificate_not_after_timestamp_seconds";
            let help = "Unix time until which the certificate of a port is valid.";
            families.number(name, Type::Gauge, help, &[("port", port)], end as f64);
        }
    }
}

fn versions(families: &mut Families, cores: &[Arc<Core>]) {
    let mut sums: std::collections::BTreeMap<(i64, usize), u64> = std::collections::BTreeMap::new();
    for (key, counts) in cores.iter().flat_map(|core| &core.versions.slots) {
        for (stream, count) in counts.iter().enumerate() {
            *sums.entry((key.get(), stream)).or_default() += count.get();
        }
    }
    for ((key, stream), count) in sums.into_iter().filter(|(_, count)| *count > 0) {
        let version = match key {
            UNKNOWN_VERSION => "unknown".to_owned(),
            key => format!("{}.{}", (key - 1) >> 16, (key - 1) & 0xffff),
        };
        let kind = if stream == 1 { "stream" } else { "unary" };
        let labels = [("client_api_version", version.as_str()), ("type", kind)];
        let help = "Calls by the version that clients say they speak.";
        families.number("etcd_server_client_requests_total", Type::Counter, help, &labels, count as f64);
    }
}
