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
//! A flag whose feature is not built is refused by name rather than ignored: a member that was told to check
//! passwords must not come up without them. A flag that has nothing to act upon (etcd's store tuning) is
//! accepted with a warning. Names that older releases had are mapped to their successors, with a warning.
//!
//! ```text
//!   command   the command line as a whole     args       flags and variables, by Go's rules
//!   flag      the table of all flags          file       the configuration file, by the rules of Go's JSON
//!   settings  values by flag, as text         yaml       YAML 1.1, made into what JSON can say
//!   resolve   what values mean together       help       --help and --version
//!   go        Go's numbers and durations      url        URLs of flags
//!   cluster   who founds a cluster            cores      which CPUs
//!   discovery where founders are told         logging    levels and outputs of the log
//!   gates     feature gates                   tls        certificates, versions, cipher suites
//!   fuzz      files in every form, and texts that nearly are files
//! ```
//!
//! Nothing in here reads a file, a clock, the environment or the machine's addresses; `main` hands them in. Start with
//! [`parse`].
#![forbid(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod command;
pub mod cores;
pub mod discovery;
pub mod file;
pub mod flag;
pub mod fuzz;
pub mod gates;
pub mod go;
pub mod help;
pub mod logging;
mod resolve;
pub mod settings;
pub mod tls;
pub mod url;
mod yaml;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::InitialCluster;
pub use command::{Command, Surroundings, parse};
pub use cores::Cores;
pub use discovery::Discovery;
pub use gates::Gates;
pub use logging::{LogConfig, LogLevel, LogOutput};
pub use settings::Notice;
pub use url::{Scheme, Url};

use crate::limits::PROPOSAL_TIMEOUT;

/// The release of etcd whose behaviour this is.
pub const ETCD_VERSION: &str = "3.7.3";
/// Kevel's own.
pub const KEVEL_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, where the build said so by this variable.
pub const GIT_SHA: Option<&str> = option_env!("KEVEL_GIT_SHA");
/// What stands where etcd names its Go release.
pub const TOOLCHAIN: &str = concat!("none (Rust ", env!("CARGO_PKG_RUST_VERSION"), " or later)");

/// Quota of the store when none was asked for.
pub const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

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

/// Where a member listens. Each list is sorted and has no doubles.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Clients; never empty.
    pub client: Vec<Url>,
    /// Other members.
    pub peer: Vec<Url>,
    /// HTTP alone; where there are any, the client listeners speak gRPC alone.
    pub client_http: Vec<Url>,
    /// Metrics and health alone; may be empty.
    pub metrics: Vec<Url>,
    /// Other processes may bind the same ports.
    pub reuse_port: bool,
}

/// What others are told about where to reach this member.
#[derive(Clone, Debug)]
pub struct Advertise {
    /// Told to clients.
    pub client: Vec<Url>,
    /// Told to other members.
    pub peer: Vec<Url>,
}

/// How a member without data finds its cluster. All of it but the last is ignored once there is data.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Members of a new cluster, as text: see [`Config::founders`]. This member alone where a discovery service tells
    /// the others, and nobody until DNS has told all.
    pub initial_cluster: String,
    /// Where the founders are told, if they are to be discovered.
    pub discovery: Option<Discovery>,
    /// True to join a cluster that exists.
    pub join_existing: bool,
    /// Enters the ids of cluster and members.
    pub token: String,
    /// True for a member with data that is to go on alone, without the other members of its cluster. Of these flags
    /// the only one that counts where there is data.
    pub goes_on_alone: bool,
}

/// The pace of raft, and its log.
#[derive(Clone, Debug)]
pub struct Raft {
    /// One tick.
    pub heartbeat_interval: Duration,
    /// At least five ticks.
    pub election_timeout: Duration,
    /// Ask for votes before raising the term.
    pub pre_vote: bool,
    /// Entries kept in the log behind the last checkpoint, besides those of the next field.
    pub snapshot_count: u64,
    /// Entries kept in the log for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Log segments to keep; 0 keeps all.
    pub max_wals: u64,
    /// Learners that the cluster may have.
    pub learners_max: usize,
    /// Refuse changes of the members that would lose the quorum.
    pub strict_reconfig: bool,
}

/// What bounds the store and each client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// As given: 0 is the default, negative is none. See [`Config::quota_bytes`].
    pub quota_backend_bytes: i64,
    /// Operations in one transaction.
    pub txn_ops_max: u64,
    /// Largest encoded request.
    pub request_bytes_max: u64,
    /// Streams of one connection; the largest number stands for no limit.
    pub streams_max: u32,
}

/// Pings on client connections.
#[derive(Clone, Debug)]
pub struct Keepalive {
    /// Shortest pause between a client's pings.
    pub client_min_time: Duration,
    /// Idle time before the server pings; zero for never.
    pub interval: Duration,
    /// Wait for the ping's answer.
    pub timeout: Duration,
}

/// Who may use the endpoints over plain HTTP.
#[derive(Clone, Debug)]
pub struct HttpAccess {
    /// Origins that browsers may call from; `*` is all.
    pub cors: Vec<String>,
    /// Host names that requests may ask for; `*` is all.
    pub host_whitelist: Vec<String>,
}

/// What a member reports.
#[derive(Clone, Debug)]
pub struct Reporting {
    /// Log lines.
    pub log: LogConfig,
    /// Applying for longer is logged.
    pub warning_apply_duration: Duration,
    /// A unary request that takes longer is logged.
    pub warning_unary_request_duration: Duration,
    /// Latency histograms of every RPC.
    pub extensive_metrics: bool,
}

/// How often a leader compares the data of the members.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Time between two comparisons of all data; none where there are no such comparisons.
    pub corrupt: Option<Duration>,
    /// Time between two comparisons of the hashes of compactions; none where there are no such comparisons.
    pub compact_hash: Option<Duration>,
    /// What the previous one is, or would be.
    pub compact_hash_time: Duration,
}

/// One member's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name for humans.
    pub name: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// The data directory was not named, for a warning.
    pub data_dir_defaulted: bool,
    /// Directory of the write-ahead log, when it lives apart.
    pub dedicated_wal_dir: Option<PathBuf>,
    /// Acknowledge before the disk has it.
    pub unsafe_no_fsync: bool,
    /// Listeners.
    pub listen: Listen,
    /// What others are told.
    pub advertise: Advertise,
    /// The cluster to found or to join.
    pub founding: Founding,
    /// Raft and its log.
    pub raft: Raft,
    /// Bounds.
    pub limits: Limits,
    /// Pings.
    pub keepalive: Keepalive,
    /// Plain HTTP.
    pub http: HttpAccess,
    /// Certificates, and what may be spoken with them.
    pub tls: tls::Tls,
    /// Log lines and metrics.
    pub reporting: Reporting,
    /// Comparisons with the other members.
    pub checks: Checks,
    /// Named switches.
    pub gates: Gates,
    /// The mode of automatic compaction as given, for the log.
    pub auto_compaction_mode: String,
    /// Interval of progress notifications.
    pub watch_progress_notify_interval: Duration,
    /// Which cores to use.
    pub cores: Cores,
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

    /// The members of the new cluster. Only a member without data needs them, so only then a mistake in them counts.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub fn founders(&self) -> Result<InitialCluster, String> {
        InitialCluster::parse(&self.founding.initial_cluster)
            .map_err(|why| format!("error setting up initial cluster: {why}"))
    }

    /// Entries kept in the log behind the last checkpoint, for members that lag.
    pub fn catchup_entries(&self) -> u64 {
        self.raft.snapshot_count.saturating_add(self.raft.snapshot_catchup_entries)
    }

    /// The folder of snapshots that were sent by other members.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// The address of this machine from which other members are called: the first one that the member advertises to
    /// them, besides loopback, where the gate for it is open.
    pub fn local_address(&self) -> Option<IpAddr> {
        let addresses = self.advertise.peer.iter().filter_map(|url| url.host.parse().ok());
        let mut fit =
            addresses.filter(|address: &IpAddr| !address.is_loopback() && !address.is_unspecified());
        if self.gates.sets_local_address() { fit.next() } else { None }
    }

    /// Ticks in an election timeout.
    pub fn election_ticks(&self) -> usize {
        (self.raft.election_timeout.as_millis() / self.raft.heartbeat_interval.as_millis()) as usize
    }

    /// The quota in force; none when it is switched off.
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.limits.quota_backend_bytes {
            0 => Some(DEFAULT_QUOTA_BYTES as u64),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// How long a proposal or a read index may take: 5 s and twice the ticks of an election timeout, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        PROPOSAL_TIMEOUT + self.ticks(2 * self.election_ticks())
    }

    /// The shortest lease: three half election timeouts, of which etcd drops half a tick, in whole seconds rounded up.
    pub fn lease_ttl_min(&self) -> Duration {
        let ticks = 3 * self.election_ticks() / 2;
        Duration::from_secs(self.ticks(ticks).as_millis().div_ceil(1000) as u64)
    }

    fn ticks(&self, count: usize) -> Duration {
        self.raft.heartbeat_interval * count as u32
    }
}

/// The configuration of a command line that runs a member: without files, variables and a host of the machine.
#[cfg(test)]
pub(crate) fn of_line(line: &str) -> Config {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let read_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    match parse(&args, &Surroundings { env: &[], read_file: &read_file, default_host: &|| None }) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

#[cfg(test)]
mod tests;
