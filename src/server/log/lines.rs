//! The lines of a member's life that others wait for or parse: their words and fields are etcd's.
//!
//! One function a line, in about the order in which a member says them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use super::Line;
use crate::config::go;
use crate::config::tls::TlsFiles;
use crate::config::{Config, Cores, Discovery, ETCD_VERSION, GIT_SHA, LogLevel, Notice, TOOLCHAIN, Url};
use crate::replica::force::Forced;
use crate::server::grpc::STREAMS_MAX;
use crate::server::io::probe::Rings;

/// What configuration had to say.
#[track_caller]
pub fn notices(notices: &[Notice]) {
    for notice in notices {
        let line = if notice.warning { Line::warn(&notice.message) } else { Line::info(&notice.message) };
        notice.fields.iter().fold(line, |line, (name, value)| line.text(name, value)).write();
    }
}

/// The command line.
#[track_caller]
pub fn running(args: &[String]) {
    Line::info("Running: ").texts("args", args).write();
}

/// The configuration makes no sense; status 1 follows.
#[track_caller]
pub fn invalid(error: &str) {
    Line::warn("failed to verify flags").text("error", error).write();
}

/// A variable repeats a flag; status 1 follows.
#[track_caller]
pub fn shadowed(variable: &str) {
    let message = "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                   environment variable or disable flag))";
    Line::new(LogLevel::Fatal, message).text("environment-variable", variable).write();
}

/// The process cannot go on; the caller exits with status 1.
#[track_caller]
pub fn fatal(message: &str, error: impl std::fmt::Display) {
    Line::new(LogLevel::Fatal, message).text("error", error.to_string()).write();
}

/// The member was removed from its cluster, and stops.
#[track_caller]
pub fn removed() {
    let error = "the member has been permanently removed from the cluster";
    Line::warn("server error").text("error", error).write();
    Line::warn("data-dir used by this member must be removed").write();
}

/// Which data directory, and whether a member lives in it.
#[track_caller]
pub fn data_dir(config: &Config, initialized: bool) {
    let dir = config.data_dir.display().to_string();
    if config.data_dir_defaulted {
        Line::info("no --data-dir was given; using the default").text("data-dir", &dir).write();
    }
    let (message, kind) = match initialized {
        true => ("server has already been initialized", "member"),
        false => ("Initialize and start etcd server", "empty"),
    };
    Line::info(message).text("data-dir", &dir).text("dir-type", kind).write();
}

/// A discovery service was named, and there are data.
#[track_caller]
pub fn discovery_ignored(wal_dir: &Path) {
    Line::warn("discovery token is ignored since cluster already initialized; valid logs are found")
        .text("wal-dir", wal_dir.display().to_string())
        .write();
}

/// A file in the data directory that is not ours.
#[track_caller]
pub fn stray_file(name: &str, dir: &Path) {
    let line = Line::warn("found invalid file under data directory");
    line.text("filename", name).text("data-dir", dir.display().to_string()).write();
}

/// etcd was started once on a directory of ours. It read our log, made a store of its own and may have written to the
/// log, which is read from there.
#[track_caller]
pub fn etcd_store_found(snap: &Path) {
    Line::warn("etcd was started on this directory and left its own store, which Kevel does not read; what etcd wrote \
                to the log counts. Remove the folder, and do not start etcd here again")
        .text("folder", snap.display().to_string())
        .write();
}

/// Warns where `--cores` asks for more CPUs than there are.
#[track_caller]
pub fn cores(asked: &Cores, allowed: usize) {
    if let Cores::Count(asked) = asked
        && *asked > allowed
    {
        Line::warn("--cores asks for more CPUs than this process may run on; all of those are used")
            .value("asked", asked)
            .value("allowed", allowed)
            .write();
    }
}

fn urls(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// A compaction's garbage is gone.
#[track_caller]
pub fn compacted(revision: i64, took: Duration, removed: u64, store_bytes: u64, used_bytes: u64) {
    Line::info("finished scheduled compaction")
        .value("compact-revision", revision)
        .duration("took", took)
        .value("number-of-keys-compacted", removed)
        .value("current-db-size-bytes", store_bytes)
        .text("current-db-size", go::format_bytes(store_bytes))
        .value("current-db-size-in-use-bytes", used_bytes)
        .text("current-db-size-in-use", go::format_bytes(used_bytes))
        .write();
}

/// What bounds the store; `flag` is as given.
#[track_caller]
pub fn quota(flag: i64, quota: Option<u64>) {
    let Some(bytes) = quota else {
        Line::info("disabled backend quota").value("quota-size-bytes", flag).write();
        return;
    };
    let message = match flag {
        0 => "enabled backend quota with default value",
        _ => "enabled backend quota",
    };
    Line::info(message).value("quota-size-bytes", bytes).text("quota-size", go::format_bytes(bytes)).write();
}

/// Warns of `--unsafe-no-fsync`, where it is on.
#[track_caller]
pub fn no_fsync(config: &Config) {
    let message = "writes are acknowledged before they are on disk (--unsafe-no-fsync): a power cut loses them, and \
                   may cost the whole data directory";
    if config.unsafe_no_fsync {
        Line::warn(message).write();
    }
}

/// A request would pass the quota, or what was applied has.
#[track_caller]
pub fn quota_exceeded(quota: u64, error: &dyn std::fmt::Display) {
    Line::warn("message exceeded backend quota; raising alarm")
        .value("quota-size-bytes", quota)
        .text("quota-size", go::format_bytes(quota))
        .text("error", error.to_string())
        .write();
}

/// An alarm is raised, on whichever member.
#[track_caller]
pub fn alarm_raised(alarm: &str) {
    Line::warn("alarm raised").text("alarm", alarm).write();
}

/// No member has this alarm raised any more.
#[track_caller]
pub fn alarm_disarmed(alarm: &str) {
    Line::info("alarm disarmed").text("alarm", alarm).write();
}

/// Listeners are about to be opened.
#[track_caller]
pub fn configuring_listeners(config: &Config) {
    let peer = urls(&config.listen.peer);
    Line::info("configuring peer listeners").texts("listen-peer-urls", peer).write();
    let client = urls(&config.listen.client);
    Line::info("configuring client listeners").texts("listen-client-urls", client).write();
}

/// Warns where a connection may have fewer streams than were asked for. The default asks for no bound at all.
#[track_caller]
pub fn streams(config: &Config) {
    let asked = config.limits.streams_max;
    if asked != u32::MAX && asked > STREAMS_MAX {
        Line::warn("--max-concurrent-streams is cut to what a connection has room for")
            .value("asked", asked)
            .value("max-concurrent-streams", STREAMS_MAX)
            .write();
    }
}

/// The whole configuration, once.
#[track_caller]
pub fn starting(config: &Config, initialized: bool, cores_used: usize, cores_available: usize) {
    let gates: Vec<String> = config.gates.iter().map(|(name, _, on)| format!("{name}={on}")).collect();
    let initial_cluster = match config.founders() {
        Ok(founders) if !initialized => founders.to_string(),
        _ => String::new(),
    };
    let line = Line::info("starting an etcd server")
        .text("etcd-version", ETCD_VERSION)
        .text("kevel-version", crate::config::KEVEL_VERSION);
    let line = match GIT_SHA {
        Some(sha) => line.text("git-sha", sha),
        None => line,
    };
    let line = line
        .text("go-version", TOOLCHAIN)
        .text("go-os", std::env::consts::OS)
        .text("go-arch", crate::config::help::arch())
        .value("max-cpu-set", cores_used)
        .value("max-cpu-available", cores_available)
        .value("member-initialized", initialized)
        .text("name", &config.name)
        .text("data-dir", config.data_dir.display().to_string())
        .text("wal-dir", config.wal_dir().display().to_string())
        .text("wal-dir-dedicated", dedicated(config))
        .text("member-dir", config.member_dir().display().to_string())
        .value("force-new-cluster", config.founding.goes_on_alone)
        .duration("heartbeat-interval", config.raft.heartbeat_interval)
        .duration("election-timeout", config.election_ticks() as u32 * config.raft.heartbeat_interval)
        .value("initial-election-tick-advance", true)
        .value("snapshot-count", config.raft.snapshot_count)
        .value("max-wals", config.raft.max_wals)
        .value("snapshot-catchup-entries", config.raft.snapshot_catchup_entries)
        .texts("initial-advertise-peer-urls", urls(&config.advertise.peer))
        .texts("listen-peer-urls", urls(&config.listen.peer))
        .texts("advertise-client-urls", urls(&config.advertise.client))
        .texts("listen-client-urls", urls(&config.listen.client))
        .texts("listen-metrics-urls", urls(&config.listen.metrics))
        .text("local-address", config.local_address().map_or_else(String::new, |address| address.to_string()))
        .texts("cors", &config.http.cors)
        .texts("host-whitelist", &config.http.host_whitelist)
        .text("initial-cluster", initial_cluster)
        .text("initial-cluster-state", if config.founding.join_existing { "existing" } else { "new" })
        .text("initial-cluster-token", if initialized { "" } else { &config.founding.token })
        .value(
            "quota-backend-bytes",
            config.quota_bytes().map_or(config.limits.quota_backend_bytes, |bytes| bytes as i64),
        )
        .value("max-request-bytes", config.limits.request_bytes_max)
        .value("max-concurrent-streams", config.limits.streams_max.min(STREAMS_MAX))
        .value("pre-vote", config.raft.pre_vote)
        .text("feature-gates", gates.join(","))
        .value("initial-corrupt-check", config.gates.checks_initially())
        .duration("corrupt-check-time-interval", config.checks.corrupt.unwrap_or_default())
        .duration("compact-check-time-interval", config.checks.compact_hash_time)
        .text("auto-compaction-mode", &config.auto_compaction_mode)
        .text("auto-compaction-retention", "0s")
        .value("unsafe-no-fsync", config.unsafe_no_fsync);
    with_discovery(line, config).write();
}

/// With what was said of a discovery service, where one was named.
fn with_discovery(line: Line, config: &Config) -> Line {
    let Some(Discovery::Service(service)) = &config.founding.discovery else { return line };
    line.text("discovery-token", &service.token)
        .text("discovery-endpoints", service.endpoints.join(","))
        .duration("discovery-dial-timeout", service.dial_timeout)
        .duration("discovery-request-timeout", service.request_timeout)
        .duration("discovery-keepalive-time", service.keepalive_time)
        .duration("discovery-keepalive-timeout", service.keepalive_timeout)
        .value("discovery-insecure-transport", service.insecure_transport)
        .value("discovery-insecure-skip-tls-verify", service.files.trusts_anybody)
        .text("discovery-cert", &service.files.cert)
        .text("discovery-key", &service.files.key)
        .text("discovery-cacert", &service.files.trusted_ca)
        .text("discovery-user", &service.user)
}

/// What the member found on its machine, and how it spreads over it.
#[track_caller]
pub fn machine(cores: &str, rings: &Rings, ring_depth: usize, descriptors: u64) {
    let line = if rings.registered {
        Line::info("using io_uring")
    } else {
        Line::warn("using io_uring without registered buffers; raise the limit on locked memory to have them")
    };
    line.text("cores", cores)
        .value("ring-depth", ring_depth)
        .value("locked-memory-limit-bytes", rings.memlock_bytes)
        .value("file-descriptor-limit", descriptors)
        .write();
}

/// An address is in use by something else; it may be a member that has just ended.
#[track_caller]
pub fn address_in_use(address: &str, patience: Duration) {
    Line::warn("address is in use; waiting for it")
        .text("address", address)
        .duration("at-most", patience)
        .write();
}

/// The service manager was told that the member serves, or could not be told. Nothing where there is none.
#[track_caller]
pub fn notified(result: std::io::Result<bool>) {
    match result {
        Ok(true) => Line::info("successfully notified init daemon").write(),
        Ok(false) => {}
        Err(error) => Line::new(LogLevel::Error, "failed to notify systemd for readiness")
            .text("error", error.to_string())
            .write(),
    }
}

fn dedicated(config: &Config) -> String {
    config.dedicated_wal_dir.as_deref().map(|dir| dir.display().to_string()).unwrap_or_default()
}

/// Who this is.
#[track_caller]
pub fn local_member(member: u64, cluster: u64) {
    Line::info("starting local member").id("local-member-id", member).id("cluster-id", cluster).write();
}

/// The member goes on alone: with which commit index in the log, how many entries behind that count as committed, and
/// where the log ends.
#[track_caller]
pub fn forced(member: u64, cluster: u64, forced: &Forced) {
    if forced.adopted > 0 {
        Line::warn("entries of the WAL that were not known to be committed count as committed from now on")
            .value("entry-index", forced.committed - forced.adopted + 1)
            .value("number-of-entries", forced.adopted)
            .write();
    }
    Line::info("forcing restart member")
        .id("cluster-id", cluster)
        .id("local-member-id", member)
        .value("wal-commit-index", forced.recovered.state.commit)
        .value("commit-index", forced.commit())
        .write();
}

/// The member's name and URLs are in the log.
#[track_caller]
pub fn published(config: &Config, member: u64, cluster: u64) {
    let client_urls = urls(&config.advertise.client).join(" ");
    Line::info("published local member to cluster through raft")
        .id("local-member-id", member)
        .text("local-member-attributes", format!("{{Name:{} ClientURLs:[{client_urls}]}}", config.name))
        .id("cluster-id", cluster)
        .duration("publish-timeout", config.request_timeout())
        .write();
}

/// Clients are answered from now on. etcd's test frameworks wait for these words; once per client listener.
#[track_caller]
pub fn ready() {
    Line::info("ready to serve client requests").write();
}

/// A listener serves without TLS. `traffic` is `grpc+http`, `grpc` or `http`.
#[track_caller]
pub fn serving_insecurely(traffic: &str, address: &str) {
    Line::info("serving client traffic insecurely; this is strongly discouraged!")
        .text("traffic", traffic)
        .text("address", address)
        .write();
}

/// A listener serves with TLS.
#[track_caller]
pub fn serving_securely(traffic: &str, address: &str) {
    Line::info("serving client traffic securely").text("traffic", traffic).text("address", address).write();
}

/// What secures the ports of a kind, where they are secured.
#[track_caller]
pub fn starting_with_tls(port: &str, files: &TlsFiles, cipher_suites: &[String]) {
    if files.is_empty() {
        return;
    }
    let info = format!(
        "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
        files.cert,
        files.key,
        files.client_cert,
        files.client_key,
        files.trusted_ca,
        files.client_cert_auth,
        files.crl
    );
    Line::info(format!("starting with {port} TLS"))
        .text("tls-info", info)
        .texts("cipher-suites", cipher_suites)
        .write();
}

/// A listener serves metrics and health.
#[track_caller]
pub fn serving_metrics(address: &str) {
    Line::info("serving metrics").text("address", address).write();
}

/// SIGTERM or SIGINT; `name` is `terminated` or `interrupt`.
#[track_caller]
pub fn signal(name: &str) {
    Line::info("received signal; shutting down").text("signal", name).write();
}

/// Shutting down begins.
#[track_caller]
pub fn closing(config: &Config) {
    end_line("closing etcd server", config).write();
}

/// A message of another member was dropped; `why` says what it has.
#[track_caller]
pub fn unsound(from: u64, why: &str) {
    Line::warn("dropped a message of another member that no correct member sends")
        .id("from", from)
        .text("error", why)
        .write();
}

/// The disk has no room for the last checkpoint, or for the log before it.
#[track_caller]
pub fn no_last_checkpoint(entries: u64) {
    let message = format!(
        "stopped without a last checkpoint, for which the disk has no room; the next start replays {entries} entries \
         of the log"
    );
    Line::new(LogLevel::Warn, &message).write();
}

/// A second signal came before the member had stopped.
#[track_caller]
pub fn signal_again(signal: &str) {
    Line::new(LogLevel::Warn, "received another signal; ending at once, the next start replays the log")
        .text("signal", signal)
        .write();
}

/// Everything is closed.
#[track_caller]
pub fn closed(config: &Config) {
    end_line("closed etcd server", config).write();
}

#[track_caller]
fn end_line(message: &str, config: &Config) -> Line {
    Line::info(message)
        .text("name", &config.name)
        .text("data-dir", config.data_dir.display().to_string())
        .texts("advertise-peer-urls", urls(&config.advertise.peer))
        .texts("advertise-client-urls", urls(&config.advertise.client))
}

#[track_caller]
fn snapshot(message: &str, total: u64, version: &str) -> Line {
    let size = go::format_bytes(total);
    Line::info(message).value("total-bytes", total).text("size", size).text("storage-version", version)
}

/// A client gets the store as a file.
#[track_caller]
pub fn sending_snapshot(total: u64, version: &str) {
    snapshot("sending database snapshot to client", total, version).write();
}

/// The file was sent, and its checksum follows.
#[track_caller]
pub fn sending_snapshot_checksum(total: u64, checksum: usize) {
    let line = Line::info("sending database sha256 checksum to client");
    line.value("total-bytes", total).value("checksum-size", checksum).write();
}

/// A client has got the store as a file.
#[track_caller]
pub fn sent_snapshot(total: u64, took: Duration, version: &str) {
    snapshot("successfully sent database snapshot to client", total, version).duration("took", took).write();
}

/// A turn of the replica, which applies what was committed, took longer than `--warning-apply-duration`. `kinds` are
/// the entries it applied.
#[track_caller]
pub fn slow_turn(took: Duration, expected: Duration, kinds: &[(&str, u64)]) {
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind}:{count}")).collect();
    Line::warn("apply request took too long")
        .duration("took", took)
        .duration("expected-duration", expected)
        .text("prefix", "")
        .text("request", kinds.join(" "))
        .text("response", "")
        .write();
}

/// The disk took longer than expected to make a write durable.
#[track_caller]
pub fn slow_sync(took: Duration, expected: Duration) {
    Line::warn("slow fdatasync").duration("took", took).duration("expected-duration", expected).write();
}
