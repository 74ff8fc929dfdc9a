//! From [`Settings`] to a [`Config`]: what flags mean together, and which of them are refused.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::flag::{self, FLAGS, Standing};
use super::settings::{Notice, Settings};
use super::{
    Advertise, Checks, Config, Discovery, Founding, Gates, HttpAccess, InitialCluster, Keepalive, Limits,
    Listen, Raft, Reporting, Url, discovery, go, logging, tls, url,
};

/// The longest election timeout etcd takes, in milliseconds.
const ELECTION_MS_MAX: u64 = 50_000;
/// Interval of progress notifications when none is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The shortest one: shorter wishes are raised to it.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Entries kept in the log besides those for slow followers, when zero was asked for.
const SNAPSHOT_COUNT: u64 = 10_000;
/// The name of a member that was given none.
const DEFAULT_NAME: &str = "default";
/// The cluster of a member that was given none. etcd replaces it where it is spelled out, too.
const DEFAULT_CLUSTER: &str = "default=http://localhost:2380";
/// The host that listens everywhere, so that others need to be told a better one.
const ANY_HOST: &str = "0.0.0.0";

/// Flags that etcd is going to drop, and what it says where one is given.
const DEPRECATED: [(&str, &str); 2] = [
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring \
         user input.",
    ),
];
/// Bytes in what `--bootstrap-defrag-threshold-megabytes` counts.
const MEGABYTE: u64 = 1 << 20;

/// Settings made sense of, and what is to be said about them. A file keeps the default of `--advertise-client-urls`
/// beside client listeners of its own; command line and environment do not.
pub(super) fn resolve(
    settings: &Settings,
    from_file: bool,
    default_host: &dyn Fn() -> Option<String>,
) -> Result<(Config, Vec<Notice>), String> {
    let mut notices = standing(settings)?;
    let log = logging::log(settings)?;
    let listen = listen(settings)?;
    let advertise = advertise(settings)?;
    let initial_cluster = discovery::initial_cluster(settings, from_file, DEFAULT_CLUSTER);
    let discovery = discovery::read(settings, from_file, initial_cluster)?;
    notices.extend(discovery::in_vain(settings, discovery.as_ref()));
    let raft = raft(settings)?;
    if !from_file && settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
        return Err(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned()
        );
    }
    auto_compaction(settings)?;
    auth_token(settings)?;
    let gates = Gates::parse(&settings.gates())?;
    gates.check()?;
    let moved: Vec<String> = gates.moved_in_vain().map(|(gate, on)| format!("{gate}={on}")).collect();
    if !moved.is_empty() {
        let moved = moved.join(",");
        notices.push(Notice::warn(format!(
            "--feature-gates={moved} has no effect: this version of Kevel has nothing that it switches on or off"
        )));
    }
    check_numbers(settings)?;
    let name = settings.text("name").to_owned();
    if name == DEFAULT_NAME {
        let message =
            "the member has the default name; each member of a cluster needs one of its own (--name)";
        notices.push(Notice::info(message).with("name", DEFAULT_NAME));
    }
    let (advertise, host) = with_default_host(advertise, &listen, default_host);
    notices.extend(host);
    let data_dir = match settings.text("data-dir") {
        "" => PathBuf::from(format!("{name}.kevel")),
        dir => PathBuf::from(dir),
    };
    let (tls, said) = tls::read(settings, &listen, &data_dir)?;
    notices.extend(said);
    let config = Config {
        dedicated_wal_dir: wal_dir(settings.text("wal-dir"), &data_dir)?,
        data_dir,
        data_dir_defaulted: settings.text("data-dir").is_empty(),
        unsafe_no_fsync: settings.bool("unsafe-no-fsync"),
        founding: founding(settings, initial_cluster, discovery, &name, &advertise.peer),
        listen,
        advertise,
        raft,
        limits: limits(settings),
        keepalive: Keepalive {
            client_min_time: duration(settings, "grpc-keepalive-min-time"),
            interval: duration(settings, "grpc-keepalive-interval"),
            timeout: duration(settings, "grpc-keepalive-timeout"),
        },
        http: HttpAccess {
            cors: distinct(settings, "cors"),
            host_whitelist: distinct(settings, "host-whitelist"),
        },
        tls,
        reporting: Reporting {
            log,
            warning_apply_duration: duration(settings, "warning-apply-duration"),
            warning_unary_request_duration: match duration(settings, "warning-unary-request-duration") {
                Duration::ZERO => Duration::from_millis(300),
                asked => asked,
            },
            // Any other word means basic, to etcd too.
            extensive_metrics: settings.text("metrics") == "extensive",
        },
        checks: Checks {
            corrupt: Some(duration(settings, "corrupt-check-time")).filter(|time| !time.is_zero()),
            compact_hash: gates.checks_compactions().then(|| duration(settings, "compact-hash-check-time")),
            compact_hash_time: duration(settings, "compact-hash-check-time"),
        },
        gates,
        auto_compaction_mode: settings.text("auto-compaction-mode").to_owned(),
        watch_progress_notify_interval: match duration(settings, "watch-progress-notify-interval") {
            Duration::ZERO => PROGRESS_INTERVAL,
            asked => asked.max(PROGRESS_INTERVAL_MIN),
        },
        cores: settings.text("cores").parse().map_err(|why| format!("--cores: {why}"))?,
        name,
    };
    notices.extend(local_address(&config));
    Ok((config, notices))
}

/// Numbers that make no sense.
fn check_numbers(settings: &Settings) -> Result<(), String> {
    if settings.nanos("compact-hash-check-time") <= 0 {
        let given = settings.text("compact-hash-check-time");
        return Err(format!("--compact-hash-check-time must be >0 (set to {given})"));
    }
    if settings.nanos("corrupt-check-time") < 0 {
        let given = settings.text("corrupt-check-time");
        return Err(format!("--corrupt-check-time must not be negative (set to {given})"));
    }
    if settings.int("max-learners") < 0 {
        return Err(format!("max-learners must not be negative (set to {})", settings.int("max-learners")));
    }
    Ok(())
}

/// What comes of the gate for the address from which other members are called.
fn local_address(config: &Config) -> Option<Notice> {
    let notice = match config.local_address() {
        Some(address) => Notice::info("setting member local address").with("LocalAddr", address.to_string()),
        None => Notice::warn("unable to set a member local address due to lack of suitable local addresses")
            .with("advertise-peer-urls", url::join(&config.advertise.peer)),
    };
    config.gates.sets_local_address().then_some(notice)
}

/// Refuses what is not built, all in one line; warns of what has no effect.
fn standing(settings: &Settings) -> Result<Vec<Notice>, String> {
    let mut refused: Vec<(&str, Vec<String>)> = Vec::new();
    let given = DEPRECATED.iter().filter(|(name, _)| settings.is_set(name));
    let mut notices: Vec<Notice> = given.map(|(_, said)| Notice::warn(*said)).collect();
    let threshold = settings.uint("bootstrap-defrag-threshold-megabytes");
    if threshold > 0 {
        let bytes = threshold.saturating_mul(MEGABYTE).to_string();
        notices
            .push(Notice::info("Skipping defragmentation").with("bootstrap-defrag-threshold-bytes", bytes));
    }
    for flag in FLAGS.iter().filter(|flag| settings.differs(flag)) {
        match flag.standing {
            Standing::Works => {}
            Standing::NoEffect(why) => {
                let message = format!("--{} has no effect: {why}", flag.name);
                notices.push(Notice::warn(message).with("value", settings.text(flag.name)));
            }
            Standing::NotBuilt(what) => match refused.iter_mut().find(|(reason, _)| *reason == what) {
                Some((_, names)) => names.push(format!("--{}", flag.name)),
                None => refused.push((what, vec![format!("--{}", flag.name)])),
            },
        }
    }
    if settings.text("discovery-fallback") == "proxy" {
        return Err(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".to_owned()
        );
    }
    let lines = refused.iter().map(|(what, names)| match names.as_slice() {
        [name] => format!("{name} is not built yet: it needs {what}"),
        names => format!("{} are not built yet: they need {what}", names.join(", ")),
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { Ok(notices) } else { Err(lines.join("; ")) }
}

/// The folder of a log that lives apart. The log has its folder to itself, so this is neither the data directory nor
/// the member's own folder.
fn wal_dir(given: &str, data_dir: &Path) -> Result<Option<PathBuf>, String> {
    let dir = Some(given).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let is_taken = |dir: &PathBuf| *dir == data_dir || *dir == data_dir.join("member");
    if dir.as_ref().is_some_and(is_taken) {
        return Err(format!(
            "--wal-dir={given} holds the member's other files: name a folder for the log alone"
        ));
    }
    Ok(dir)
}

/// The value of a flag that holds URLs.
fn urls(settings: &Settings, name: &str) -> Result<Vec<Url>, String> {
    match settings.text(name) {
        "" => Ok(Vec::new()),
        text => Url::parse_list(text),
    }
}

fn duration(settings: &Settings, name: &str) -> Duration {
    // A negative duration switches off what a duration of zero switches off.
    Duration::from_nanos(u64::try_from(settings.nanos(name)).unwrap_or(0))
}

/// The words of a list, sorted and without doubles.
fn distinct(settings: &Settings, name: &str) -> Vec<String> {
    let mut words: Vec<String> = settings.words(name).into_iter().map(str::to_owned).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn listen(settings: &Settings) -> Result<Listen, String> {
    let listener = |name: &str| bindable(name, urls(settings, name)?);
    Ok(Listen {
        peer: listener("listen-peer-urls")?,
        client: listener("listen-client-urls")?,
        client_http: listener("listen-client-http-urls")?,
        metrics: listener("listen-metrics-urls")?,
        reuse_port: settings.bool("socket-reuse-port"),
    })
}

/// Listeners must be bindable, and of a kind that is built.
fn bindable(flag: &str, urls: Vec<Url>) -> Result<Vec<Url>, String> {
    urls.iter().try_for_each(Url::check_bindable)?;
    match urls.iter().find(|url| url.is_unix()) {
        Some(url) => Err(format!("--{flag}={url} is not built yet: it needs listeners on Unix sockets")),
        None => Ok(urls),
    }
}

fn advertise(settings: &Settings) -> Result<Advertise, String> {
    let peer = urls(settings, "initial-advertise-peer-urls")?;
    if let Err(why) = peer.iter().try_for_each(Url::check_reachable) {
        let all = url::join(&peer);
        return Err(format!("--initial-advertise-peer-urls {all:?} must be \"host:port\" ({why})"));
    }
    let client = urls(settings, "advertise-client-urls")?;
    if let Err(why) = client.iter().try_for_each(Url::check_reachable) {
        let all = url::join(&client);
        return Err(format!(
            "--advertise-client-urls {all:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({why})"
        ));
    }
    Ok(Advertise { client, peer })
}

/// Replaces the defaults of what is advertised, where the first listener is on 0.0.0.0, by the machine's own address
/// and the listener's port.
fn with_default_host(
    advertise: Advertise,
    listen: &Listen,
    default_host: &dyn Fn() -> Option<String>,
) -> (Advertise, Option<Notice>) {
    let wanted = |flag: &str, advertised: &[Url], listeners: &[Url]| {
        let default = flag::find(flag).map_or("", |flag| flag.default);
        listeners.first().filter(|url| url.host == ANY_HOST && url::join(advertised) == default).cloned()
    };
    let peer = wanted("initial-advertise-peer-urls", &advertise.peer, &listen.peer);
    let client = wanted("advertise-client-urls", &advertise.client, &listen.client);
    if peer.is_none() && client.is_none() {
        return (advertise, None);
    }
    let Some(host) = default_host() else {
        return (advertise, Some(Notice::info("failed to detect default host")));
    };
    let at_host = |listener: Option<Url>, advertised| match listener {
        Some(listener) => {
            vec![Url { host: host.clone(), user: String::new(), tail: String::new(), ..listener }]
        }
        None => advertised,
    };
    let advertise =
        Advertise { client: at_host(client, advertise.client), peer: at_host(peer, advertise.peer) };
    (advertise, Some(Notice::info("detected default host for advertise").with("host", host)))
}

/// The cluster's founders: those that were named, or this member alone where its name is all that was given, or where
/// a discovery service is to name the others.
fn founding(
    settings: &Settings,
    given: &str,
    discovery: Option<Discovery>,
    name: &str,
    peer_urls: &[Url],
) -> Founding {
    let (initial_cluster, token) = match &discovery {
        Some(Discovery::Service(service)) => {
            (InitialCluster::alone(name, peer_urls).to_string(), service.token.clone())
        }
        _ => {
            let alone = if name.is_empty() { DEFAULT_NAME } else { name };
            let cluster = match given {
                DEFAULT_CLUSTER if name != DEFAULT_NAME => {
                    InitialCluster::alone(alone, peer_urls).to_string()
                }
                given => given.to_owned(),
            };
            (cluster, settings.text("initial-cluster-token").to_owned())
        }
    };
    Founding {
        initial_cluster,
        discovery,
        join_existing: settings.text("initial-cluster-state") == "existing",
        token,
        goes_on_alone: settings.bool("force-new-cluster"),
    }
}

fn raft(settings: &Settings) -> Result<Raft, String> {
    let (heartbeat, election) = (settings.uint("heartbeat-interval"), settings.uint("election-timeout"));
    for (name, value) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
        if value == 0 {
            return Err(format!("--{name} must be >0 (set to {value}ms)"));
        }
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok(Raft {
        heartbeat_interval: Duration::from_millis(heartbeat),
        election_timeout: Duration::from_millis(election),
        pre_vote: settings.bool("pre-vote"),
        // Zero stands for the default, here alone.
        snapshot_count: match settings.uint("snapshot-count") {
            0 => SNAPSHOT_COUNT,
            count => count,
        },
        snapshot_catchup_entries: settings.uint("snapshot-catchup-entries"),
        max_wals: settings.uint("max-wals"),
        learners_max: usize::try_from(settings.int("max-learners")).unwrap_or(0),
        strict_reconfig: settings.bool("strict-reconfig-check"),
    })
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        quota_backend_bytes: settings.int("quota-backend-bytes"),
        txn_ops_max: settings.uint("max-txn-ops"),
        request_bytes_max: settings.uint("max-request-bytes"),
        streams_max: match u32::try_from(settings.uint("max-concurrent-streams")) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(streams) => streams,
        },
    }
}

/// Refuses automatic compaction, which is not built, and what is no way to ask for it.
fn auto_compaction(settings: &Settings) -> Result<(), String> {
    let mode = settings.text("auto-compaction-mode");
    match mode {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    }
    if keeps_everything(settings.text("auto-compaction-retention"))? {
        return Ok(());
    }
    Err("--auto-compaction-retention is not built yet: it needs automatic compaction; leave it out and let a client \
         compact (etcdctl compact), as kube-apiserver does by itself"
        .to_owned())
}

/// Whether a retention keeps all history: a number, or a duration, of zero, or nothing.
fn keeps_everything(text: &str) -> Result<bool, String> {
    let text = if text.is_empty() { "0" } else { text };
    match go::atoi(text).filter(|number| *number >= 0) {
        Some(number) => Ok(number == 0),
        None => match go::parse_duration(text) {
            Ok(nanos) => Ok(nanos == 0),
            Err(_) => Err(format!("error parsing CompactionRetention: time: invalid duration {text:?}")),
        },
    }
}

/// Refuses tokens that are not built, or that are none.
fn auth_token(settings: &Settings) -> Result<(), String> {
    match settings.text("auth-token") {
        "" | "simple" => Ok(()),
        token if token.split(',').next() == Some("jwt") => {
            Err("--auth-token=jwt is not built yet: it needs authentication".to_owned())
        }
        other => Err(format!("--auth-token must be simple or jwt,... (set to {other})")),
    }
}
