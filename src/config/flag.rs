//! The table of flags: the one place that knows their names, kinds, defaults and how far each is built.
//!
//! Command line, environment, configuration file and `--help` are all read off it.
#![forbid(unsafe_code)]

use super::LogLevel;
use super::gates::Gates;
use super::go;
use super::url::Url;

/// The headings of `--help`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// This member: name, place, listeners, raft pace, limits.
    Member,
    /// How it finds and joins the others.
    Clustering,
    /// TLS, origins and hosts.
    Security,
    /// Tokens and passwords.
    Auth,
    /// Compaction, checks, notifications.
    Store,
    /// Metrics, profiles, traces.
    Monitoring,
    /// Log lines.
    Logging,
    /// What loses data or guarantees.
    Unsafe,
    /// Kevel's own.
    Kevel,
}

impl Group {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Clustering => "Clustering",
            Group::Security => "Security",
            Group::Auth => "Auth",
            Group::Store => "Compaction and checks",
            Group::Monitoring => "Monitoring",
            Group::Logging => "Logging",
            Group::Unsafe => "Unsafe (these break guarantees)",
            Group::Kevel => "Kevel",
        }
    }
}

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Text,
    /// A Go boolean; the only kind that may stand without a value.
    Bool,
    /// A Go unsigned number.
    Uint,
    /// A Go unsigned number of 32 bits.
    Uint32,
    /// A Go signed number.
    Int,
    /// A Go duration.
    Duration,
    /// Comma separated URLs; an empty value leaves the default.
    Urls,
    /// `*`, or comma separated URLs.
    Origins,
    /// Comma separated words; a list of texts in the file.
    List,
    /// Comma separated words; one text in the file too.
    Words,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Comma separated words of these; the file may hold any text.
    AnyOf(&'static [&'static str]),
    /// A level of the log, in small letters or capitals.
    Level,
    /// `Name=bool,...` with names of feature gates.
    Gates,
}

/// How far a flag is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what it says (validation may still refuse single values as not built).
    Works,
    /// Accepted, though there is nothing in Kevel for it to act upon, for this reason. Other than the default, it
    /// warns.
    NoEffect(&'static str),
    /// Anything but the default is refused with a line naming the flag; the reason says what is missing.
    NotBuilt(&'static str),
}

/// Where the configuration file keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKey {
    /// Under the flag's own name.
    Same,
    /// Inside a block.
    In(&'static [&'static str]),
    /// Not settable by file.
    Never,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes in front.
    pub name: &'static str,
    /// Its heading in `--help`.
    pub group: Group,
    /// Its values.
    pub kind: Kind,
    /// The default, as it would be typed.
    pub default: &'static str,
    /// How far it is built.
    pub standing: Standing,
    /// Its place in the configuration file.
    pub file: FileKey,
    /// One sentence.
    pub help: &'static str,
}

impl Kind {
    /// Whether `text` is a value of this kind; the complaint is what Go would print behind the flag's name.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Text | Kind::List | Kind::Words => Ok(()),
            Kind::Origins if text == "*" => Ok(()),
            Kind::Origins => Url::parse_list(text).map(drop),
            Kind::Level => match LogLevel::parse(text) {
                Some(_) => Ok(()),
                None => Err(format!("unrecognized level: {text:?}")),
            },
            Kind::Gates => Gates::parse(text).map(drop),
            Kind::Bool => go::parse_bool(text).map(drop).map_err(str::to_owned),
            Kind::Uint => go::parse_uint(text).map(drop).map_err(str::to_owned),
            Kind::Uint32 => match go::parse_uint(text) {
                Ok(value) if u32::try_from(value).is_ok() => Ok(()),
                Ok(_) | Err(go::RANGE_ERROR) => {
                    Err(format!("strconv.ParseUint: parsing {text:?}: value out of range"))
                }
                Err(_) => Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")),
            },
            Kind::Int => go::parse_int(text).map(drop).map_err(str::to_owned),
            Kind::Duration => go::parse_duration(text).map(drop).map_err(str::to_owned),
            Kind::Urls if text.is_empty() => Ok(()),
            Kind::Urls => Url::parse_list(text).map(drop),
            Kind::OneOf(words) if words.contains(&text) => Ok(()),
            Kind::OneOf(words) => Err(format!("invalid value (valid values: {})", words.join(", "))),
            Kind::AnyOf(words) => match text.split(',').find(|word| !words.contains(word)) {
                Some(word) => Err(format!("invalid value {word:?}")),
                None => Ok(()),
            },
        }
    }

    /// Whether an empty text in the configuration file leaves the default.
    pub fn empty_is_default(self) -> bool {
        matches!(
            self,
            Kind::Urls | Kind::Origins | Kind::Words | Kind::OneOf(_) | Kind::AnyOf(_) | Kind::Gates
        )
    }
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The environment variable of a flag.
pub fn env_name(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

const fn flag(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, group, kind, default, standing: Standing::Works, file: FileKey::Same, help }
}

impl Flag {
    const fn no_effect(mut self, why: &'static str) -> Flag {
        self.standing = Standing::NoEffect(why);
        self
    }
    const fn not_built(mut self, what: &'static str) -> Flag {
        self.standing = Standing::NotBuilt(what);
        self
    }
    const fn inside(mut self, path: &'static [&'static str]) -> Flag {
        self.file = FileKey::In(path);
        self
    }
    const fn not_in_file(mut self) -> Flag {
        self.file = FileKey::Never;
        self
    }
}

const TRACING: &str = "distributed tracing";
const ROTATION: &str = "log rotation";
const NO_TRACING: &str = "traces are not sent, which is not built yet";
const NO_ROTATION: &str = "log files are not rotated, which is not built yet";
const PEER_TIMEOUT: &str = "connections between members have five seconds";
const NO_BBOLT: &str = "Kevel's store has no such knob";
const V2_STAGES: &[&str] = &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"];
const NO_AUTH: &str = "authentication is not built yet";

use Group::{Auth, Clustering, Kevel, Logging, Member, Monitoring, Security, Store, Unsafe};
use Kind::{AnyOf, Bool, Duration, Int, Level, List, OneOf, Origins, Text, Uint, Uint32, Urls, Words};

/// Every flag.
#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    flag(Member, "name", Text, "default", "This member's name for humans."),
    flag(Member, "data-dir", Text, "", "Data directory; ${name}.kevel when empty."),
    flag(Member, "wal-dir", Text, "", "Directory for the write-ahead log, when it is to live apart."),
    flag(Member, "snapshot-count", Uint, "10000",
        "Entries kept in the log besides --snapshot-catchup-entries."),
    flag(Member, "snapshot-catchup-entries", Uint, "5000", "Entries kept in the log for slow followers."),
    flag(Member, "heartbeat-interval", Uint, "100", "Milliseconds between heartbeats."),
    flag(Member, "election-timeout", Uint, "1000",
        "Milliseconds without a leader before an election (at least 5 heartbeats)."),
    flag(Member, "initial-election-tick-advance", Bool, "true",
        "Start close to the first election instead of a whole timeout before it.")
        .no_effect("a member alone does not wait for an election timeout at all"),
    flag(Member, "listen-client-urls", Urls, "http://localhost:2379",
        "Where clients connect, by gRPC and HTTP."),
    flag(Member, "listen-peer-urls", Urls, "http://localhost:2380", "Where other members connect."),
    flag(Member, "listen-client-http-urls", Urls, "",
        "Separate listeners for HTTP, leaving the client URLs to gRPC alone."),
    flag(Member, "listen-metrics-urls", Urls, "", "Additional listeners for metrics and health."),
    flag(Member, "max-wals", Uint, "5", "Log segments to keep (0: all)."),
    flag(Member, "max-snapshots", Uint, "5", "Deprecated; no snapshot files are written.")
        .no_effect("no snapshot files are written"),
    flag(Member, "quota-backend-bytes", Int, "0",
        "Size of the store at which writes are refused (0: 2 GiB, negative: none)."),
    flag(Member, "max-txn-ops", Uint, "128", "Operations in one transaction."),
    flag(Member, "max-request-bytes", Uint, "1572864", "Largest request."),
    flag(Member, "max-concurrent-streams", Uint32, "4294967295",
        "Streams one client connection may have open; more than 25000 are cut to that."),
    flag(Member, "grpc-keepalive-min-time", Duration, "5s",
        "Shortest pause a client must leave between pings."),
    flag(Member, "grpc-keepalive-interval", Duration, "2h",
        "Idle time after which the server pings (0: never)."),
    flag(Member, "grpc-keepalive-timeout", Duration, "20s",
        "Wait for the answer to such a ping before closing (0: for ever)."),
    flag(Member, "socket-reuse-port", Bool, "false", "Let other processes bind the same ports.")
        .inside(&["socket-options", "reuse-port"]),
    flag(Member, "socket-reuse-address", Bool, "false", "Let listeners bind to an address in TIME_WAIT.")
        .inside(&["socket-options", "reuse-address"]).no_effect("listeners always have it"),
    flag(Member, "memory-mlock", Bool, "false", "Lock the store's pages in memory.")
        .not_built("locking the store in memory"),
    flag(Member, "feature-gates", Kind::Gates, "", "Features by name: Name=true,Name=false."),
    flag(Member, "backend-bbolt-freelist-type", Text, "map", "etcd's store only.").no_effect(NO_BBOLT),
    flag(Member, "backend-batch-interval", Duration, "0", "etcd's store only.").no_effect(NO_BBOLT),
    flag(Member, "backend-batch-limit", Int, "0", "etcd's store only.").no_effect(NO_BBOLT),
    flag(Member, "bootstrap-defrag-threshold-megabytes", Uint, "0",
        "Defragment at start if that frees this much.")
        .no_effect("space is reused and given back while running; there is nothing to defragment"),
    flag(Member, "raft-read-timeout", Duration, "5s", "Read timeout of connections between members.")
        .not_in_file().no_effect(PEER_TIMEOUT),
    flag(Member, "raft-write-timeout", Duration, "5s", "Write timeout of connections between members.")
        .not_in_file().no_effect(PEER_TIMEOUT),
    flag(Member, "max-learners", Int, "1", "Learners a cluster may have."),
    flag(Member, "config-file", Text, "", "YAML or JSON file; it replaces all other flags and variables.")
        .not_in_file(),
    flag(Member, "version", Bool, "false", "Print the version.").not_in_file(),

    flag(Clustering, "initial-advertise-peer-urls", Urls, "http://localhost:2380",
        "This member's peer URLs, as told to the others."),
    flag(Clustering, "advertise-client-urls", Urls, "http://localhost:2379",
        "Client URLs told to clients; needed with --listen-client-urls."),
    flag(Clustering, "initial-cluster", Text, "",
        "Members of a new cluster: name=peerURL,... By default this member alone, by its --name and\n\
         --initial-advertise-peer-urls; with the name \"default\" it is default=http://localhost:2380."),
    flag(Clustering, "initial-cluster-state", OneOf(&["new", "existing"]), "new",
        "Found a new cluster, or join an existing one; ignored once there is data."),
    flag(Clustering, "initial-cluster-token", Text, "etcd-cluster",
        "Makes the ids of clusters with equal members differ."),
    flag(Clustering, "strict-reconfig-check", Bool, "true",
        "Refuse member changes that would lose the quorum."),
    flag(Clustering, "pre-vote", Bool, "true", "Ask for votes before raising the term."),
    flag(Clustering, "discovery-srv", Text, "", "Domain whose SRV records name the members."),
    flag(Clustering, "discovery-srv-name", Text, "", "Suffix of the SRV service name."),
    flag(Clustering, "discovery-token", Text, "", "Cluster's token at a discovery service.")
        .inside(&["discovery-config", "token"]),
    flag(Clustering, "discovery-endpoints", List, "", "Endpoints of a discovery service.")
        .inside(&["discovery-config", "client", "endpoints"]),
    flag(Clustering, "discovery-dial-timeout", Duration, "2s", "Dial timeout towards the discovery service.")
        .inside(&["discovery-config", "client", "dial-timeout"]),
    flag(Clustering, "discovery-request-timeout", Duration, "5s", "Time that the discovery service has for an answer.")
        .inside(&["discovery-config", "client", "request-timeout"]),
    flag(Clustering, "discovery-keepalive-time", Duration, "2s", "Silence after which the discovery service is pinged.")
        .inside(&["discovery-config", "client", "keepalive-time"]),
    flag(Clustering, "discovery-keepalive-timeout", Duration, "6s", "Wait for the answer to such a ping.")
        .inside(&["discovery-config", "client", "keepalive-timeout"]),
    flag(Clustering, "discovery-insecure-transport", Bool, "true", "Talk to the discovery service without TLS.")
        .inside(&["discovery-config", "client", "secure", "insecure-transport"]),
    flag(Clustering, "discovery-insecure-skip-tls-verify", Bool, "false",
        "Take any certificate from the discovery service.")
        .inside(&["discovery-config", "client", "secure", "insecure-skip-tls-verify"]),
    flag(Clustering, "discovery-cert", Text, "", "Certificate shown to the discovery service.")
        .inside(&["discovery-config", "client", "secure", "cert"]),
    flag(Clustering, "discovery-key", Text, "", "Key of that certificate.")
        .inside(&["discovery-config", "client", "secure", "key"]),
    flag(Clustering, "discovery-cacert", Text, "", "Authorities that sign the certificates of the discovery service.")
        .inside(&["discovery-config", "client", "secure", "cacert"]),
    flag(Clustering, "discovery-user", Text, "", "User at the discovery service.")
        .inside(&["discovery-config", "client", "auth", "username"]),
    flag(Clustering, "discovery-password", Text, "", "Password of that user.")
        .inside(&["discovery-config", "client", "auth", "password"]),
    flag(Clustering, "discovery-fallback", OneOf(&["exit", "proxy"]), "exit",
        "What to do when discovery fails; only exit is left.")
        .not_in_file(),
    flag(Clustering, "force-new-cluster", Bool, "false",
        "Restart alone, forgetting the other members; all entries of the log count as committed."),

    flag(Security, "cert-file", Text, "", "Server certificate of the client port.")
        .inside(&["client-transport-security", "cert-file"]),
    flag(Security, "key-file", Text, "", "Its key.")
        .inside(&["client-transport-security", "key-file"]),
    flag(Security, "client-cert-file", Text, "", "Certificate for the server's own calls to its client port.")
        .inside(&["client-transport-security", "client-cert-file"]),
    flag(Security, "client-key-file", Text, "", "Its key.")
        .inside(&["client-transport-security", "client-key-file"]),
    flag(Security, "client-cert-auth", Bool, "false", "Demand client certificates.")
        .inside(&["client-transport-security", "client-cert-auth"]),
    flag(Security, "trusted-ca-file", Text, "", "Authority that signs them.")
        .inside(&["client-transport-security", "trusted-ca-file"]),
    flag(Security, "client-crl-file", Text, "", "Revoked client certificates.").not_in_file(),
    flag(Security, "client-cert-allowed-cn", List, "", "Common names a client certificate may carry.")
        .inside(&["client-transport-security", "allowed-cn"]),
    flag(Security, "client-cert-allowed-hostname", List, "", "Host names a client certificate may carry.")
        .inside(&["client-transport-security", "allowed-hostname"]),
    flag(Security, "auto-tls", Bool, "false", "Make a certificate for the client port.")
        .inside(&["client-transport-security", "auto-tls"]),
    flag(Security, "peer-cert-file", Text, "", "Server certificate of the peer port.")
        .inside(&["peer-transport-security", "cert-file"]),
    flag(Security, "peer-key-file", Text, "", "Its key.")
        .inside(&["peer-transport-security", "key-file"]),
    flag(Security, "peer-client-cert-file", Text, "", "Certificate for calls to other members.")
        .inside(&["peer-transport-security", "client-cert-file"]),
    flag(Security, "peer-client-key-file", Text, "", "Its key.")
        .inside(&["peer-transport-security", "client-key-file"]),
    flag(Security, "peer-client-cert-auth", Bool, "false", "Demand certificates from other members.")
        .inside(&["peer-transport-security", "client-cert-auth"]),
    flag(Security, "peer-trusted-ca-file", Text, "", "Authority that signs them.")
        .inside(&["peer-transport-security", "trusted-ca-file"]),
    flag(Security, "peer-crl-file", Text, "", "Revoked peer certificates.").not_in_file(),
    flag(Security, "peer-auto-tls", Bool, "false", "Make a certificate for the peer port.")
        .inside(&["peer-transport-security", "auto-tls"]),
    flag(Security, "peer-cert-allowed-cn", List, "", "Common names a peer certificate may carry.")
        .inside(&["peer-transport-security", "allowed-cn"]),
    flag(Security, "peer-cert-allowed-hostname", List, "", "Host names a peer certificate may carry.")
        .inside(&["peer-transport-security", "allowed-hostname"]),
    flag(Security, "peer-skip-client-san-verification", Bool, "false",
        "Don't compare a peer's address with its certificate.")
        .inside(&["peer-transport-security", "skip-client-san-verification"]),
    flag(Security, "self-signed-cert-validity", Uint, "1", "Years a certificate made here is valid."),
    flag(Security, "cipher-suites", List, "", "TLS 1.2 cipher suites to allow."),
    flag(Security, "tls-min-version", Text, "TLS1.2", "Oldest TLS version to allow."),
    flag(Security, "tls-max-version", Text, "", "Newest TLS version to allow."),
    flag(Security, "cors", Origins, "*", "Origins that browsers may call from."),
    flag(Security, "host-whitelist", Words, "*", "Host names that plain HTTP requests may ask for."),

    flag(Auth, "auth-token", Text, "simple", "Kind of token: simple, or jwt with its options."),
    flag(Auth, "bcrypt-cost", Uint, "10", "Cost of a password hash, 4 to 31.").no_effect(NO_AUTH),
    flag(Auth, "auth-token-ttl", Uint, "300", "Seconds a simple token lives.").no_effect(NO_AUTH),

    flag(Store, "auto-compaction-mode", Text, "periodic",
        "What --auto-compaction-retention counts: periodic (time) or revision."),
    flag(Store, "auto-compaction-retention", Text, "0",
        "History to keep; only 0 is built: all, until a client compacts (etcdctl compact)."),
    flag(Store, "compaction-batch-limit", Int, "0", "Revisions removed in one step of a compaction.")
        .no_effect("compactions go in small steps between requests"),
    flag(Store, "compaction-sleep-interval", Duration, "0", "Pause between such steps.")
        .no_effect("steps are taken between requests, without a pause of their own"),
    flag(Store, "corrupt-check-time", Duration, "0", "Interval of comparing the members' data (0: never)."),
    flag(Store, "compact-hash-check-time", Duration, "1m",
        "Interval of comparing the members' compactions, with the feature gate CompactHashCheck."),
    flag(Store, "watch-progress-notify-interval", Duration, "0",
        "Interval of progress notifications (0: 10m)."),
    flag(Store, "downgrade-check-time", Duration, "5s", "Interval of checking on a downgrade.")
        .no_effect("downgrades are not built yet"),
    flag(Store, "warning-apply-duration", Duration, "100ms",
        "Applying an entry for longer than this is logged."),
    flag(Store, "warning-unary-request-duration", Duration, "300ms",
        "A request that takes longer than this is logged."),
    flag(Store, "v2-deprecation", AnyOf(V2_STAGES), "", "Deprecated; there is no v2 store.")
        .no_effect("there is no v2 store"),

    flag(Monitoring, "metrics", Text, "basic", "basic, or extensive to add latency histograms of every RPC."),
    flag(Monitoring, "enable-pprof", Bool, "false", "Profiles under /debug/pprof.")
        .no_effect("profiles over HTTP are not built yet"),
    flag(Monitoring, "enable-grpc-gateway", Bool, "true", "JSON under /v3.")
        .no_effect("the JSON gateway is not built yet"),
    flag(Monitoring, "enable-distributed-tracing", Bool, "false", "Send traces by OTLP.").not_built(TRACING),
    flag(Monitoring, "distributed-tracing-address", Text, "localhost:4317", "Where to.").no_effect(NO_TRACING),
    flag(Monitoring, "distributed-tracing-service-name", Text, "etcd", "Under which service name.")
        .no_effect(NO_TRACING),
    flag(Monitoring, "distributed-tracing-instance-id", Text, "", "Under which instance id.")
        .no_effect(NO_TRACING),
    flag(Monitoring, "distributed-tracing-sampling-rate", Int, "0", "Samples per million.")
        .no_effect(NO_TRACING),

    flag(Logging, "logger", Text, "zap", "Only zap: the shape of etcd's log lines."),
    flag(Logging, "log-outputs", List, "default", "stderr, stdout or files; default is stderr."),
    flag(Logging, "log-level", Level, "info", "debug, info, warn, error, dpanic, panic or fatal."),
    flag(Logging, "log-format", Text, "json", "json or console."),
    flag(Logging, "enable-log-rotation", Bool, "false", "Rotate a log file.").not_built(ROTATION),
    flag(Logging, "log-rotation-config-json", Text, DEFAULT_ROTATION, "How to rotate it, as JSON.")
        .no_effect(NO_ROTATION),

    flag(Unsafe, "unsafe-no-fsync", Bool, "false",
        "Acknowledge writes before they are on disk: a power cut loses them."),

    flag(Kevel, "cores", Text, "",
        "How many cores to use, or which (0,2-5); by default what suits the machine."),
];

const DEFAULT_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

/// A name that etcd once had, or has only to ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// The same flag under its present name.
    Renamed(&'static str),
    /// A boolean that became a feature gate.
    Gate(&'static str),
    /// `--debug`: the log level of that name.
    Debug,
    /// Accepted and dropped; true when it is a boolean (and may stand without a value).
    Dropped(bool),
    /// Dropped at these values; any other asks for something that is gone.
    Gone(&'static [&'static str]),
}

impl Old {
    /// Whether the name may stand without a value.
    pub fn is_bool(self) -> bool {
        match self {
            Old::Renamed(name) => find(name).is_some_and(|flag| flag.kind == Kind::Bool),
            Old::Gate(_) | Old::Debug => true,
            Old::Dropped(is_bool) => is_bool,
            Old::Gone(_) => false,
        }
    }
}

/// What became of an old name.
pub fn find_old(name: &str) -> Option<Old> {
    let named = OLD.iter().find(|(old, _)| *old == name).map(|(_, fate)| *fate);
    named.or_else(|| {
        // Experimental flags that were promoted keep their name behind the prefix.
        let promoted = find(name.strip_prefix("experimental-")?)?;
        PROMOTED.contains(&promoted.name).then_some(Old::Renamed(promoted.name))
    })
}

static PROMOTED: &[&str] = &[
    "backend-bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

#[rustfmt::skip]
static OLD: &[(&str, Old)] = &[
    ("experimental-snapshot-catch-up-entries", Old::Renamed("snapshot-catchup-entries")),
    ("experimental-initial-corrupt-check", Old::Gate("InitialCorruptCheck")),
    ("experimental-compact-hash-check-enabled", Old::Gate("CompactHashCheck")),
    ("experimental-enable-lease-checkpoint", Old::Gate("LeaseCheckpoint")),
    ("experimental-enable-lease-checkpoint-persist", Old::Gate("LeaseCheckpointPersist")),
    ("experimental-stop-grpc-service-on-defrag", Old::Gate("StopGRPCServiceOnDefrag")),
    ("experimental-txn-mode-write-with-shared-buffer", Old::Gate("TxnModeWriteWithSharedBuffer")),
    ("experimental-enable-v2v3", Old::Gone(&[""])),
    ("log-output", Old::Renamed("log-outputs")),
    ("debug", Old::Debug),
    ("enable-v2", Old::Dropped(true)),
    ("log-package-levels", Old::Dropped(false)),
    ("next-cluster-version-compatible", Old::Dropped(true)),
    ("proxy", Old::Gone(&["", "off"])),
    ("proxy-dial-timeout", Old::Dropped(false)),
    ("proxy-failure-wait", Old::Dropped(false)),
    ("proxy-read-timeout", Old::Dropped(false)),
    ("proxy-refresh-interval", Old::Dropped(false)),
    ("proxy-write-timeout", Old::Dropped(false)),
    ("discovery", Old::Gone(&[""])),
    ("discovery-proxy", Old::Gone(&[""])),
    // Names that etcd itself accepts and ignores, as booleans.
    ("cluster-active-size", Old::Dropped(true)),
    ("cluster-remove-delay", Old::Dropped(true)),
    ("cluster-sync-interval", Old::Dropped(true)),
    ("config", Old::Dropped(true)),
    ("force", Old::Dropped(true)),
    ("max-result-buffer", Old::Dropped(true)),
    ("max-retry-attempts", Old::Dropped(true)),
    ("peer-heartbeat-interval", Old::Dropped(true)),
    ("peer-election-timeout", Old::Dropped(true)),
    ("retry-interval", Old::Dropped(true)),
    ("snapshot", Old::Dropped(true)),
    ("v", Old::Dropped(true)),
    ("vv", Old::Dropped(true)),
    ("test.coverprofile", Old::Dropped(true)),
    ("test.outputdir", Old::Dropped(true)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_are_values() {
        for (at, flag) in FLAGS.iter().enumerate() {
            assert!(FLAGS[..at].iter().all(|other| other.name != flag.name), "{} twice", flag.name);
            // The deprecated stages have no default among themselves.
            let value = matches!(flag.kind, Kind::AnyOf(_)) || flag.kind.check(flag.default).is_ok();
            assert!(value, "{}: {:?}", flag.name, flag.default);
            assert!(find_old(flag.name).is_none(), "{} is both new and old", flag.name);
        }
        for (name, fate) in OLD {
            assert!(find(name).is_none());
            if let Old::Renamed(present) = fate {
                assert!(find(present).is_some(), "{present}");
            }
        }
        assert!(PROMOTED.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn experimental_names_lead_to_present_ones() {
        assert_eq!(
            find_old("experimental-watch-progress-notify-interval"),
            Some(Old::Renamed("watch-progress-notify-interval"))
        );
        assert_eq!(find_old("experimental-initial-corrupt-check"), Some(Old::Gate("InitialCorruptCheck")));
        assert!(find_old("experimental-memory-mlock").unwrap().is_bool());
        assert_eq!(find_old("experimental-name"), None);
        assert_eq!(find_old("experimental-foo"), None);
    }

    #[test]
    fn environment_names() {
        assert_eq!(env_name("listen-client-urls"), "ETCD_LISTEN_CLIENT_URLS");
    }
}
