//! Flags, environment and configuration file, made into one [`Config`].
//!
//! ```text
//!  command line ── args ──┐
//!  ETCD_* variables ──────┤                         ┌─ resolve ──> Config
//!                         ├──> Settings (text by ───┤
//!  --config-file ─ file ──┘    flag, each checked)  └─ notices, to be logged once there is a log
//! ```
//!
//! The table in [`flag`] is the source of truth: names, kinds, defaults, places in the file, how far each flag is
//! built. Everything else is rules, and they are etcd's, since unit files, manifests and test suites written for etcd
//! must mean the same here: Go's syntax of flags and values ([`args`], [`go`]), a variable that repeats a flag is
//! fatal, a configuration file replaces everything else, a word that is no flag ends with status 1 and an unknown
//! flag with status 2.
//!
//! A flag whose feature is not built is refused by name rather than ignored: a member that was told to use TLS must
//! not come up without it. A flag that has nothing to act upon (etcd's store tuning, checks between members) is
//! accepted with a warning. Names that older releases had are mapped to their successors, with a warning.
//!
//! Nothing in here reads a file, a clock or the environment; `main` hands them in. Start with [`parse`].
#![forbid(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod file;
pub mod flag;
pub mod gates;
pub mod go;
pub mod help;
mod resolve;
pub mod settings;
pub mod url;

use std::path::PathBuf;
use std::time::Duration;

pub use crate::server::core::plan::Cores;
pub use cluster::InitialCluster;
pub use gates::Gates;
pub use resolve::parse;
pub use settings::Notice;
pub use url::{Scheme, Url};

/// The release of etcd whose behaviour this is.
pub const ETCD_VERSION: &str = "3.7.3";
/// Kevel's own.
pub const KEVEL_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, where the build said so.
pub const GIT_SHA: &str = match option_env!("KEVEL_GIT_SHA") {
    Some(sha) => sha,
    None => "unknown",
};
/// What stands where etcd names its Go release.
pub const TOOLCHAIN: &str = concat!("none (Rust ", env!("CARGO_PKG_RUST_VERSION"), " or later)");

/// Quota of the store when none was asked for.
pub const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// What a command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a member.
    Run {
        /// How.
        config: Box<Config>,
        /// What came up on the way, to be logged.
        notices: Vec<Notice>,
    },
    /// Print this on standard output and be done.
    Print(String),
    /// Prove the store in this data directory.
    Check(PathBuf),
}

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line cannot be read: this and the usage go to standard error, status 2.
    Usage(String),
    /// It can, and makes no sense: log lines, status 1.
    Invalid {
        /// What is wrong.
        error: String,
        /// What came up before.
        notices: Vec<Notice>,
    },
    /// A variable repeats a flag: a fatal log line naming it, status 1.
    Shadowed(String),
}

/// Automatic compaction. Only `Off` is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// History of this length stays.
    Periodic(Duration),
    /// So many revisions stay.
    Revision(i64),
}

/// Where log lines go, how they look and which are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `stderr`, `stdout`, or files.
    pub outputs: Vec<LogOutput>,
    /// The lowest level that is written.
    pub level: LogLevel,
    /// Tab separated for eyes instead of JSON.
    pub console: bool,
}

/// One place for log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Levels, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// The course of things.
    Info,
    /// An operator may want to look.
    Warn,
    /// Something failed.
    Error,
    /// The process ends: a law of ours was broken.
    Panic,
    /// The process ends: it cannot go on.
    Fatal,
}

impl LogLevel {
    /// The word in the line.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Panic => "panic",
            LogLevel::Fatal => "fatal",
        }
    }
}

/// One member's configuration, checked. Fields are named after their flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name for humans.
    pub name: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Directory of the write-ahead log, when it lives apart.
    pub dedicated_wal_dir: Option<PathBuf>,
    /// Entries kept in the log behind the last checkpoint, besides those of the next field.
    pub snapshot_count: u64,
    /// Entries kept in the log for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Log segments to keep; 0 keeps all.
    pub max_wals: u64,
    /// One raft tick.
    pub heartbeat_interval: Duration,
    /// At least five ticks.
    pub election_timeout: Duration,
    /// Ask for votes before raising the term.
    pub pre_vote: bool,
    /// Client listeners; sorted, no doubles, never empty.
    pub listen_client_urls: Vec<Url>,
    /// Peer listeners.
    pub listen_peer_urls: Vec<Url>,
    /// HTTP listeners; where there are any, the client listeners speak gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Listeners for metrics and health alone; may be empty.
    pub listen_metrics_urls: Vec<Url>,
    /// Told to clients.
    pub advertise_client_urls: Vec<Url>,
    /// Told to other members.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Members of a new cluster.
    pub initial_cluster: InitialCluster,
    /// True to join a cluster that exists. Matters only while there is no data.
    pub join_existing: bool,
    /// Enters the ids of cluster and members.
    pub initial_cluster_token: String,
    /// As given: 0 is the default, negative is none. See [`Config::quota_bytes`].
    pub quota_backend_bytes: i64,
    /// Operations in one transaction.
    pub max_txn_ops: u64,
    /// Largest encoded request.
    pub max_request_bytes: u64,
    /// Streams of one connection.
    pub max_concurrent_streams: u32,
    /// Shortest pause between a client's pings.
    pub grpc_keepalive_min_time: Duration,
    /// Idle time before the server pings; zero for never.
    pub grpc_keepalive_interval: Duration,
    /// Wait for the ping's answer.
    pub grpc_keepalive_timeout: Duration,
    /// Other processes may bind the same ports.
    pub socket_reuse_port: bool,
    /// Named switches.
    pub gates: Gates,
    /// `simple` tokens; empty for none at all.
    pub auth_token: String,
    /// Automatic compaction.
    pub auto_compaction: AutoCompaction,
    /// Its mode as given, for the log.
    pub auto_compaction_mode: String,
    /// Interval of progress notifications.
    pub watch_progress_notify_interval: Duration,
    /// Applying for longer is logged.
    pub warning_apply_duration: Duration,
    /// A unary request that takes longer is logged.
    pub warning_unary_request_duration: Duration,
    /// Origins that browsers may call from; `*` is all.
    pub cors: Vec<String>,
    /// Host names that HTTP requests may ask for; `*` is all.
    pub host_whitelist: Vec<String>,
    /// Log lines.
    pub log: LogConfig,
    /// Acknowledge before the disk has it.
    pub unsafe_no_fsync: bool,
    /// Which cores to use.
    pub cores: Cores,
    /// The data directory was not named, for a warning.
    pub data_dir_defaulted: bool,
}

impl Config {
    /// Everything this member owns lies below it.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The write-ahead log.
    pub fn wal_dir(&self) -> PathBuf {
        self.dedicated_wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// The store file.
    pub fn store_path(&self) -> PathBuf {
        self.member_dir().join("kevel").join("store")
    }

    /// Ticks in an election timeout.
    pub fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis()) as usize
    }

    /// The quota in force; none when it is switched off.
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(DEFAULT_QUOTA_BYTES as u64),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// How long a proposal or a read index may take: 5 s and two election timeouts, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// The shortest lease: three half election timeouts in whole seconds, rounded up.
    pub fn lease_ttl_min(&self) -> Duration {
        let millis =
            (3 * self.election_ticks() as u64).div_ceil(2) * self.heartbeat_interval.as_millis() as u64;
        Duration::from_secs(millis.div_ceil(1000))
    }
}

#[cfg(test)]
mod tests;
