//! From [`Settings`] to a [`Config`]: what flags mean together, and which of them are refused.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{self, EnvError};
use super::flag::{FLAGS, Standing};
use super::settings::{Notice, Settings};
use super::{
    AutoCompaction, Command, Config, Failure, Gates, InitialCluster, LogConfig, LogLevel, LogOutput, Url,
    file, go, help, url,
};

/// The longest election timeout etcd takes, in milliseconds.
const ELECTION_MS_MAX: u64 = 50_000;
/// Interval of progress notifications when none is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The shortest one: shorter wishes are raised to it.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Understands a command line (without the program's name) and an environment.
pub fn parse(
    args: &[String],
    env: &[(String, String)],
    read_file: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Command, Failure> {
    match args.first().map(String::as_str) {
        Some("check") => {
            return match args {
                [_, dir] if !dir.starts_with('-') => Ok(Command::Check(PathBuf::from(dir))),
                _ => Err(Failure::Usage("check takes one argument: the data directory".to_owned())),
            };
        }
        Some(name @ ("gateway" | "grpc-proxy")) => {
            let error = format!("the sub command {name} is not built yet");
            return Err(Failure::Invalid { error, notices: Vec::new() });
        }
        _ => {}
    }
    let mut line = args::read_line(args).map_err(Failure::Usage)?;
    if line.help {
        return Ok(Command::Print(help::help()));
    }
    if let Some(word) = line.rest.first() {
        let error = format!("{word:?} is not a valid flag");
        return Err(Failure::Invalid { error, notices: line.settings.notices });
    }
    if line.settings.bool("version") {
        return Ok(Command::Print(help::version()));
    }
    let from_env = || env.iter().find(|(key, value)| key == "ETCD_CONFIG_FILE" && !value.is_empty());
    let path = match line.settings.text("config-file") {
        "" => from_env().map(|(_, path)| path.clone()),
        path => Some(path.to_owned()),
    };
    let from_file = path.is_some();
    let mut settings = if let Some(path) = path {
        let text = read_file(Path::new(&path)).map_err(|error| format!("open {path}: {error}"));
        let mut settings = text
            .and_then(|text| file::read(&text))
            .map_err(|error| Failure::Invalid { error, notices: Vec::new() })?;
        let notice = Notice::info(
            "loaded server configuration, other configuration command line flags and environment variables will be \
             ignored if provided",
        );
        settings.notices.push(notice.with("path", path));
        settings
    } else {
        let result = line.add_env(env);
        match result {
            Ok(()) => line.settings,
            Err(EnvError::Shadowed(variable)) => return Err(Failure::Shadowed(variable)),
            Err(EnvError::BadValue(error)) => {
                return Err(Failure::Invalid { error, notices: line.settings.notices });
            }
        }
    };
    match resolve(&settings, from_file) {
        Ok((config, more)) => {
            settings.notices.extend(more);
            Ok(Command::Run { config: Box::new(config), notices: settings.notices })
        }
        Err(error) => Err(Failure::Invalid { error, notices: settings.notices }),
    }
}

/// Settings made sense of, and what is to be said about them.
fn resolve(settings: &Settings, from_file: bool) -> Result<(Config, Vec<Notice>), String> {
    let mut notices = standing(settings)?;
    let log = log(settings)?;
    let urls = |name: &str| match settings.text(name) {
        "" => Ok(Vec::new()),
        text => Url::parse_list(text),
    };
    let listen_peer_urls = listener("listen-peer-urls", urls("listen-peer-urls")?)?;
    let listen_client_urls = listener("listen-client-urls", urls("listen-client-urls")?)?;
    let listen_client_http_urls = listener("listen-client-http-urls", urls("listen-client-http-urls")?)?;
    let listen_metrics_urls = listener("listen-metrics-urls", urls("listen-metrics-urls")?)?;
    if listen_client_http_urls.is_empty() {
        let message = "Running http and grpc server on single port. This is not recommended for production.";
        notices.push(Notice::warn(message));
    }

    let initial_advertise_peer_urls = urls("initial-advertise-peer-urls")?;
    if let Err(why) = initial_advertise_peer_urls.iter().try_for_each(Url::check_reachable) {
        let all = url::join(&initial_advertise_peer_urls);
        return Err(format!("--initial-advertise-peer-urls {all:?} must be \"host:port\" ({why})"));
    }
    let advertise_client_urls = urls("advertise-client-urls")?;
    if let Err(why) = advertise_client_urls.iter().try_for_each(Url::check_reachable) {
        let all = url::join(&advertise_client_urls);
        return Err(format!(
            "--advertise-client-urls {all:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({why})"
        ));
    }
    match settings.text("metrics") {
        "basic" | "" => {}
        "extensive" => {
            return Err(
                "--metrics=extensive is not built yet: it needs latency histograms of every RPC".to_owned()
            );
        }
        other => return Err(format!("--metrics must be basic or extensive (set to {other})")),
    }
    let (heartbeat_interval, election_timeout) = raft_times(settings)?;
    // The file keeps the default next to client listeners of its own; command line and environment don't.
    if !from_file && settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
        return Err(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned()
        );
    }
    let auto_compaction = auto_compaction(settings)?;
    if settings.nanos("compact-hash-check-time") <= 0 {
        let given = settings.text("compact-hash-check-time");
        return Err(format!("--compact-hash-check-time must be >0 (set to {given})"));
    }
    let gates = Gates::parse(&settings.gates())?;
    gates.check()?;
    let name = settings.text("name").to_owned();
    if name == "default" {
        let message = "it isn't recommended to use default name, please set a value for --name. Note that etcd might \
                       run into issue when multiple members have the same default name";
        notices.push(Notice::warn(message).with("name", "default"));
    }
    let initial_cluster = match settings.text("initial-cluster") {
        "" => InitialCluster::alone(&name, &initial_advertise_peer_urls),
        text => InitialCluster::parse(text).map_err(|why| format!("--initial-cluster: {why}"))?,
    };
    let duration = |name: &str| Duration::from_nanos(u64::try_from(settings.nanos(name)).unwrap_or(0));
    let config = Config {
        data_dir: match settings.text("data-dir") {
            "" => PathBuf::from(format!("{name}.kevel")),
            dir => PathBuf::from(dir),
        },
        data_dir_defaulted: settings.text("data-dir").is_empty(),
        dedicated_wal_dir: Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        snapshot_count: or_default(settings, "snapshot-count", 10_000),
        snapshot_catchup_entries: or_default(settings, "snapshot-catchup-entries", 5_000),
        max_wals: settings.uint("max-wals"),
        heartbeat_interval,
        election_timeout,
        pre_vote: settings.bool("pre-vote"),
        listen_client_urls,
        listen_peer_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        advertise_client_urls,
        initial_advertise_peer_urls,
        initial_cluster,
        join_existing: settings.text("initial-cluster-state") == "existing",
        initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
        quota_backend_bytes: settings.int("quota-backend-bytes"),
        max_txn_ops: settings.uint("max-txn-ops"),
        max_request_bytes: settings.uint("max-request-bytes"),
        max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams"))
            .expect("values are checked when they are set"),
        grpc_keepalive_min_time: duration("grpc-keepalive-min-time"),
        grpc_keepalive_interval: duration("grpc-keepalive-interval"),
        grpc_keepalive_timeout: duration("grpc-keepalive-timeout"),
        socket_reuse_port: settings.bool("socket-reuse-port"),
        gates,
        auth_token: auth_token(settings)?,
        auto_compaction,
        auto_compaction_mode: settings.text("auto-compaction-mode").to_owned(),
        watch_progress_notify_interval: match duration("watch-progress-notify-interval") {
            Duration::ZERO => PROGRESS_INTERVAL,
            asked => asked.max(PROGRESS_INTERVAL_MIN),
        },
        warning_apply_duration: duration("warning-apply-duration"),
        warning_unary_request_duration: match duration("warning-unary-request-duration") {
            Duration::ZERO => Duration::from_millis(300),
            asked => asked,
        },
        log,
        unsafe_no_fsync: settings.bool("unsafe-no-fsync"),
        cors: settings.list("cors"),
        host_whitelist: settings.list("host-whitelist"),
        cores: settings.text("cores").parse().map_err(|why| format!("--cores: {why}"))?,
        name,
    };
    if config.initial_cluster.members.len() > 1 {
        return Err(format!(
            "--initial-cluster={} is not built yet: it needs clusters of more than one member",
            config.initial_cluster
        ));
    }
    Ok((config, notices))
}

/// Refuses what is not built, all in one line; warns of what has no effect.
fn standing(settings: &Settings) -> Result<Vec<Notice>, String> {
    let mut refused: Vec<(&str, Vec<String>)> = Vec::new();
    let mut notices = Vec::new();
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

/// Listeners must be bindable, and of the one kind that is built.
fn listener(flag: &str, urls: Vec<Url>) -> Result<Vec<Url>, String> {
    urls.iter().try_for_each(Url::check_bindable)?;
    match urls.iter().find(|url| url.is_tls() || url.is_unix()) {
        Some(url) if url.is_tls() => Err(format!("--{flag}={url} is not built yet: it needs TLS")),
        Some(url) => Err(format!("--{flag}={url} is not built yet: it needs listeners on Unix sockets")),
        None => Ok(urls),
    }
}

fn raft_times(settings: &Settings) -> Result<(Duration, Duration), String> {
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
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, String> {
    let retention = settings.text("auto-compaction-retention");
    let bad = |why: &str| format!("error parsing CompactionRetention: {retention:?}: {why}");
    match settings.text("auto-compaction-mode") {
        "periodic" => match go::parse_uint(retention).ok().filter(|_| !retention.is_empty()) {
            Some(0) => Ok(AutoCompaction::Off),
            Some(hours) => Ok(AutoCompaction::Periodic(Duration::from_secs(hours.saturating_mul(3600)))),
            None if retention.is_empty() => Ok(AutoCompaction::Off),
            None => {
                let nanos = go::parse_duration(retention).map_err(bad)?;
                let nanos = u64::try_from(nanos).map_err(|_| bad("must not be negative"))?;
                Ok(match nanos {
                    0 => AutoCompaction::Off,
                    _ => AutoCompaction::Periodic(Duration::from_nanos(nanos)),
                })
            }
        },
        "revision" => {
            match if retention.is_empty() { Ok(0) } else { go::parse_int(retention) }.map_err(bad)? {
                0 => Ok(AutoCompaction::Off),
                kept if kept > 0 => Ok(AutoCompaction::Revision(kept)),
                _ => Err(bad("must not be negative")),
            }
        }
        "" => Err("undefined auto-compaction-mode".to_owned()),
        other => Err(format!("unknown auto-compaction-mode {other:?} (it is periodic or revision)")),
    }
}

/// Zero stands for the default.
fn or_default(settings: &Settings, name: &str, default: u64) -> u64 {
    match settings.uint(name) {
        0 => default,
        value => value,
    }
}

fn auth_token(settings: &Settings) -> Result<String, String> {
    match settings.text("auth-token") {
        token @ ("" | "simple") => Ok(token.to_owned()),
        token if token.split(',').next() == Some("jwt") => {
            Err("--auth-token=jwt is not built yet: it needs authentication".to_owned())
        }
        other => Err(format!("--auth-token must be simple or jwt,... (set to {other})")),
    }
}

fn log(settings: &Settings) -> Result<LogConfig, String> {
    match settings.text("logger") {
        "zap" => {}
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let mut outputs = Vec::new();
    let names = settings.list("log-outputs");
    if names.is_empty() {
        return Err("--log-outputs names no output".to_owned());
    }
    for name in names {
        let output = match name.as_str() {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => {
                return Err(
                    "--log-outputs=systemd/journal is not built yet: it needs journald's protocol; under \
                            systemd stderr reaches the journal too"
                        .to_owned(),
                );
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    let level = match settings.text("log-level") {
        "debug" => LogLevel::Debug,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "panic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        _ => LogLevel::Info,
    };
    let console = match settings.text("log-format") {
        "json" => false,
        "console" => true,
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    };
    Ok(LogConfig { outputs, level, console })
}
