//! Whole command lines: what runs, what is refused, and with which words.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

fn parse_with(words: &str, env: &[(&str, &str)], file: &str) -> Result<Command, Failure> {
    let args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let env: Vec<_> = env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let read_file = |path: &Path| match path == Path::new("f.yml") {
        true => Ok(file.as_bytes().to_vec()),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let default_host = || Some("192.0.2.7".to_owned());
    parse(&args, &Surroundings { env: &env, read_file: &read_file, default_host: &default_host })
}

fn run(words: &str) -> (Config, Vec<Notice>) {
    match parse_with(words, &[], "") {
        Ok(Command::Run { config, notices }) => (*config, notices),
        other => panic!("{words}: {other:?}"),
    }
}

fn error(words: &str) -> String {
    match parse_with(words, &[], "") {
        Err(Failure::Invalid { error, .. }) => error,
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn no_flags_at_all_run_a_member() {
    let (config, notices) = run("");
    assert_eq!((config.name.as_str(), config.data_dir.as_path()), ("default", Path::new("default.kevel")));
    assert_eq!(config.wal_dir(), Path::new("default.kevel/member/wal"));
    assert_eq!(config.store_path(), Path::new("default.kevel/member/kevel/store"));
    assert_eq!(url::join(&config.listen.client), "http://localhost:2379");
    assert_eq!(config.founding.initial_cluster, "default=http://localhost:2380");
    assert_eq!((config.election_ticks(), config.request_timeout()), (10, Duration::from_secs(7)));
    assert_eq!(config.lease_ttl_min(), Duration::from_secs(2));
    for (election, seconds) in [(5000, 7), (9000, 13), (10_000, 15)] {
        let (config, _) = run(&format!("--heartbeat-interval=1000 --election-timeout={election}"));
        assert_eq!(config.lease_ttl_min(), Duration::from_secs(seconds), "half a tick is lost, as in etcd");
    }
    assert_eq!(config.quota_bytes(), Some(2 << 30));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert!(config.data_dir_defaulted && !config.unsafe_no_fsync);
    assert_eq!(notices.len(), 1, "the default name: {notices:?}");
    assert!(!notices[0].warning, "nothing is wrong with a member that was given no flags");
}

#[test]
fn a_name_alone_names_the_cluster_too() {
    let (config, _) = run("--name=m1 --initial-advertise-peer-urls=http://10.0.0.1:2380");
    assert_eq!(config.founding.initial_cluster, "m1=http://10.0.0.1:2380");
    assert_eq!(config.data_dir, Path::new("m1.kevel"));
}

#[test]
fn the_flags_of_etcds_own_test_suites_are_taken() {
    let (config, _) = run("--name=t-test-0 --listen-client-urls=http://localhost:20000 \
         --advertise-client-urls=http://localhost:20000 --listen-peer-urls=http://localhost:20001 \
         --initial-advertise-peer-urls=http://localhost:20001 --initial-cluster-token=new --data-dir=/tmp/d \
         --snapshot-count=50 --heartbeat-interval=29 --election-timeout=271 --watch-progress-notify-interval=100ms \
         --compaction-batch-limit=10 --snapshot-catchup-entries=100 --listen-metrics-urls=http://localhost:20002 \
         --initial-cluster=t-test-0=http://localhost:20001 --initial-cluster-state=new");
    assert_eq!((config.raft.snapshot_count, config.raft.snapshot_catchup_entries), (50, 100));
    assert_eq!(config.election_ticks(), 9);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!(config.listen.metrics.len(), 1);
}

#[test]
fn flags_are_checked_against_each_other_in_etcds_words() {
    for (words, complaint) in [
        ("positional", "\"positional\" is not a valid flag"),
        (
            "--listen-client-urls=http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "--heartbeat-interval=1000",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[1000ms]",
        ),
        ("--heartbeat-interval=0", "--heartbeat-interval must be >0 (set to 0ms)"),
        ("--election-timeout=0", "--election-timeout must be >0 (set to 0ms)"),
        (
            "--election-timeout=50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        ("--auto-compaction-mode=", "undefined auto-compaction-mode"),
        (
            "--listen-client-urls=http://foo:1 --advertise-client-urls=http://foo:1",
            "expected IP in URL for binding (http://foo:1)",
        ),
        (
            "--initial-advertise-peer-urls=http://:1",
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        ("--compact-hash-check-time=0", "--compact-hash-check-time must be >0 (set to 0)"),
        ("--logger=capnslog", "--logger=capnslog is removed in v3.5"),
        ("--logger=slog", "unknown logger option \"slog\""),
        ("--log-format=xml", "unknown log format: xml, supported values json, console"),
        ("--cores=0", "--cores: expected a count such as 4 or CPUs such as 0-3 or 0,2 but found \"0\""),
        ("--corrupt-check-time=-1s", "--corrupt-check-time must not be negative (set to -1s)"),
        ("--tls-min-version=TLS1.1", "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        ("--tls-max-version=x", "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)"),
        (
            "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        ("--cipher-suites=", "unexpected TLS cipher suite \"\""),
        (
            "--data-dir=/a/b --wal-dir=/a/./b/",
            "--wal-dir=/a/./b/ holds the member's other files: name a folder for the log alone",
        ),
        (
            "--name=m1 --wal-dir=m1.kevel/member",
            "--wal-dir=m1.kevel/member holds the member's other files: name a folder for the log alone",
        ),
        ("--max-learners=-1", "max-learners must not be negative (set to -1)"),
        ("--auto-compaction-retention=x", "error parsing CompactionRetention: time: invalid duration \"x\""),
        ("--auto-compaction-mode=PERIODIC", "unknown auto-compaction-mode \"PERIODIC\""),
        (
            "--feature-gates=LeaseCheckpointPersist=true",
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
    ] {
        assert_eq!(error(words), complaint, "{words}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (words, complaint) in [
        (
            "--enable-distributed-tracing --enable-log-rotation --memory-mlock",
            "--memory-mlock is not built yet: it needs locking the store in memory; \
             --enable-distributed-tracing is not built yet: it needs distributed tracing; \
             --enable-log-rotation is not built yet: it needs log rotation",
        ),
        (
            "--listen-client-urls=unix://a:1 --advertise-client-urls=unix://a:1",
            "--listen-client-urls=unix://a:1 is not built yet: it needs listeners on Unix sockets",
        ),
        ("--auth-token=jwt,pub-key=a", "--auth-token=jwt is not built yet: it needs authentication"),
        (
            "--auto-compaction-retention=1h",
            "--auto-compaction-retention is not built yet: it needs automatic compaction; leave it out and let a \
             client compact (etcdctl compact), as kube-apiserver does by itself",
        ),
        ("gateway start", "the sub command gateway is not built yet"),
        (
            "--discovery-fallback=proxy",
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
    ] {
        assert_eq!(error(words), complaint, "{words}");
    }
    // Said in so many words, the default is no wish for more.
    run("--auto-tls=false --cert-file= --enable-distributed-tracing=F --tls-min-version=TLS1.2");
}

#[test]
fn every_flag_that_is_not_built_is_refused_by_its_own_name() {
    for flag in flag::FLAGS.iter().filter(|flag| matches!(flag.standing, flag::Standing::NotBuilt(_))) {
        let value = match flag.kind {
            flag::Kind::Bool => {
                if flag.default == "true" {
                    "false"
                } else {
                    "true"
                }
            }
            flag::Kind::Duration => "77s",
            flag::Kind::Urls => "http://127.0.0.1:7",
            _ => "7",
        };
        let complaint = error(&format!("--{}={value}", flag.name));
        assert!(
            complaint.starts_with(&format!("--{} is not built yet: it needs ", flag.name)),
            "{complaint}"
        );
        assert!(!complaint.contains('\n'));
    }
}

#[test]
fn what_has_no_effect_warns() {
    let (_, notices) = run(
        "--name=x --backend-batch-limit=5 --max-snapshots=9 --experimental-enable-lease-checkpoint=true \
         --enable-v2=true -v --feature-gates=PriorityRequest=true,CompactHashCheck=true",
    );
    let text: Vec<&str> = notices.iter().map(|notice| notice.message.as_str()).collect();
    for part in [
        "--backend-batch-limit has no effect",
        "--max-snapshots has no effect",
        "--feature-gates=LeaseCheckpoint=true,PriorityRequest=true has no effect",
    ] {
        assert!(text.iter().any(|line| line.starts_with(part)), "{part}: {text:?}");
    }
    assert!(text.contains(&"flag is no longer supported - ignoring: --enable-v2"));
    assert!(text.contains(&"flag is no longer supported - ignoring: --v"));
}

#[test]
fn what_etcd_says_of_flags_without_effect_is_said_too() {
    for (words, said) in [
        ("--max-snapshots=5", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
        (
            "--v2-deprecation=gone",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default",
        ),
        ("--bootstrap-defrag-threshold-megabytes=7", "Skipping defragmentation"),
    ] {
        let notices = run(words).1;
        assert!(notices.iter().any(|notice| notice.message.starts_with(said)), "{words}: {notices:?}");
        assert!(!run("--name=x").1.iter().any(|notice| notice.message.starts_with(said)), "{words}");
    }
}

#[test]
fn others_are_called_from_the_first_address_that_they_may_know() {
    let with = |urls: &str| {
        let words =
            format!("--name=x --initial-advertise-peer-urls={urls} --feature-gates=SetMemberLocalAddr=true");
        let (config, notices) = run(&words);
        let said = notices.iter().any(|notice| notice.message == "setting member local address");
        assert_eq!(said, config.local_address().is_some(), "{urls}");
        config.local_address().map(|address| address.to_string())
    };
    let found = with("http://a:1,http://127.0.0.1:1,http://0.0.0.0:1,http://192.0.2.7:1,http://192.0.2.8:1");
    assert_eq!(found.as_deref(), Some("192.0.2.7"));
    assert_eq!(with("http://[::1]:1,http://[2001:db8::7]:1").as_deref(), Some("2001:db8::7"));
    assert_eq!(with("http://localhost:1,http://[::]:1"), None);
    let (config, _) = run("--name=x --initial-advertise-peer-urls=http://192.0.2.7:1");
    assert_eq!(config.local_address(), None);
}

#[test]
fn checks_between_members_are_as_asked_for() {
    let (config, _) = run("--name=x");
    assert_eq!((config.checks.corrupt, config.checks.compact_hash), (None, None));
    assert_eq!((config.checks.compact_hash_time.as_secs(), config.gates.checks_initially()), (60, false));
    let (config, notices) = run("--name=x --corrupt-check-time=1s --compact-hash-check-time=3s \
         --feature-gates=CompactHashCheck=true,InitialCorruptCheck=true");
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs());
    assert_eq!((seconds(config.checks.corrupt), seconds(config.checks.compact_hash)), (Some(1), Some(3)));
    assert!(config.gates.checks_initially());
    let in_vain = notices.iter().find(|notice| notice.message.contains("has no effect"));
    assert!(in_vain.is_none(), "{in_vain:?}");
    let (config, _) = run("--name=x --experimental-corrupt-check-time=2s \
         --experimental-compact-hash-check-enabled --experimental-compact-hash-check-time=4s \
         --experimental-initial-corrupt-check");
    assert_eq!((seconds(config.checks.corrupt), seconds(config.checks.compact_hash)), (Some(2), Some(4)));
    assert!(config.gates.checks_initially());
}

/// Each of these flags shapes something that another flag has to ask for.
#[test]
fn who_asks_for_nothing_is_served_and_warned() {
    for words in [
        "--log-rotation-config-json=",
        "--log-rotation-config-json={",
        "--feature-gates=AllAlpha=true,SetMemberLocalAddr=false",
        "--distributed-tracing-sampling-rate=-1",
        "--distributed-tracing-service-name=",
        "--discovery-dial-timeout=1s",
        "--discovery-insecure-transport=false",
        "--discovery-srv-name=x",
    ] {
        let (_, notices) = run(&format!("--name=m1 {words}"));
        assert_eq!(notices.iter().filter(|notice| notice.warning).count(), 1, "{words}: {notices:?}");
    }
    run("--wal-dir=default.kevel/member/wal");
    assert_eq!(run("--snapshot-catchup-entries=0 --snapshot-count=0").0.raft.snapshot_catchup_entries, 0);
    assert_eq!(config_of("--config-file=f.yml", "discovery-config: {endpoints: []}").name, "default");
}

#[test]
fn one_flag_alone_says_who_founds_the_cluster() {
    const SEVERAL: &str = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                           \"discovery-endpoints\" or \"discovery-srv\"";
    const HALF: &str = "both --discovery-token and --discovery-endpoints must be set";
    for (words, complaint) in [
        ("--discovery-endpoints= --initial-cluster=default=http://localhost:2380", SEVERAL),
        ("--discovery-srv=a --initial-cluster=default=http://localhost:2380", SEVERAL),
        ("--discovery-srv=a --discovery-endpoints=b:1 --discovery-token=c", SEVERAL),
        ("--discovery-srv=a --discovery-token=b", HALF),
        ("--discovery-endpoints=", HALF),
        ("--discovery-endpoints=a:1", HALF),
        ("--discovery-token=x", HALF),
        (
            "--discovery-token=x --discovery-endpoints=",
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            "--discovery-token=x --discovery-endpoints=a:1,,b:1",
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            "--discovery-token=x --discovery-endpoints=a:1,b",
            "--discovery-endpoints: URL address does not have the form \"host:port\": http://b",
        ),
    ] {
        assert_eq!(error(words), complaint, "{words}");
    }
    let dns = |domain: &str, service_name: &str| {
        Some(Discovery::Dns(discovery::Dns { domain: domain.into(), service_name: service_name.into() }))
    };
    let (config, _) = run("--name=m1 --discovery-srv=example.com --discovery-srv-name=x");
    assert_eq!((config.founding.discovery, &*config.founding.initial_cluster), (dns("example.com", "x"), ""));
    // An empty cluster beside it is none, and a file may spell out the default.
    assert_eq!(run("--discovery-srv=a --initial-cluster=").0.founding.discovery, dns("a", ""));
    let file = "discovery-srv: a\ninitial-cluster: default=http://localhost:2380";
    assert_eq!(config_of("--config-file=f.yml", file).founding.discovery, dns("a", ""));
    let refused = parse_with("--config-file=f.yml", &[], "discovery-srv: a\ninitial-cluster: b=http://c:1");
    let Err(Failure::Invalid { error, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(error, format!("f.yml: {SEVERAL}"));
    // The name of a service drops the default on the command line, and not in a file.
    assert_eq!(run("--discovery-srv-name=x").0.founding.initial_cluster, "");
    let kept = config_of("--config-file=f.yml", "discovery-srv-name: x");
    assert_eq!(kept.founding.initial_cluster, "default=http://localhost:2380");
}

#[test]
fn a_discovery_service_names_the_others_and_the_token() {
    let words = "--name=m1 --discovery-token=t --discovery-endpoints=b:2,a:1,b:2 --initial-cluster-token=x \
                 --initial-advertise-peer-urls=http://h:1,http://g:1 --discovery-cacert=ca \
                 --discovery-user=u --discovery-password=p --discovery-keepalive-time=-1s";
    let (config, notices) = run(words);
    assert!(notices.iter().all(|notice| !notice.message.contains("no effect")), "{notices:?}");
    let Founding { initial_cluster, discovery: Some(Discovery::Service(service)), token, .. } =
        config.founding
    else {
        panic!("a discovery service was named")
    };
    assert_eq!((&*initial_cluster, &*token), ("m1=http://g:1,m1=http://h:1", "t"));
    assert_eq!(
        (url::join(&service.urls), service.endpoints.join(",")),
        ("https://a:1,https://b:2".into(), "a:1,b:2".into())
    );
    assert_eq!((service.login(), service.files.trusted_ca.as_str()), (Some(("u", "p")), "ca"));
    let seconds =
        [service.dial_timeout, service.request_timeout, service.keepalive_time, service.keepalive_timeout];
    assert_eq!(seconds.map(|time| time.as_secs()), [2, 5, 0, 6]);
    let file = "discovery-config:\n  token: t\n  client:\n    endpoints: [b:2, a:1]\n    dial-timeout: 1000000000\n    \
                auth:\n      username: u\n    secure:\n      insecure-transport: false\n";
    let Some(Discovery::Service(service)) = config_of("--config-file=f.yml", file).founding.discovery else {
        panic!("a discovery service was named")
    };
    assert_eq!(url::join(&service.urls), "https://b:2,https://a:1");
    assert_eq!((service.dial_timeout.as_secs(), service.login()), (1, None));
}

#[test]
fn a_file_replaces_everything_else() {
    let env = [("ETCD_NAME", "from-env"), ("ETCD_MAX_WALS", "bad")];
    let file = "name: from-file\nlisten-client-urls: http://127.0.0.1:9\n";
    for (words, env) in [
        ("--name=from-line --config-file=f.yml", &env[..]),
        ("--config-file=f.yml", &[][..]),
        ("", &[("ETCD_CONFIG_FILE", "f.yml")][..]),
    ] {
        let Ok(Command::Run { config, notices }) = parse_with(words, env, file) else { panic!("{words}") };
        assert_eq!((config.name.as_str(), config.raft.max_wals), ("from-file", 5));
        // Unlike on the command line, the default stays beside listeners of one's own.
        assert_eq!(url::join(&config.advertise.client), "http://localhost:2379");
        assert!(notices.iter().any(|notice| notice.message.starts_with("loaded server configuration")));
    }
    let missing = parse_with("--config-file=none.yml", &[], "");
    assert!(matches!(missing, Err(Failure::Invalid { error, .. }) if error.starts_with("open none.yml: ")));
}

#[test]
fn what_is_wrong_in_a_file_names_the_file_the_place_and_what_to_write() {
    for (file, start, word) in [
        ("name: [", "f.yml: yaml: ", "line "),
        ("name: m\n\tx: 1", "f.yml: yaml: ", "line 2"),
        ("snapshot-count: '5'", "f.yml: snapshot-count must be a whole number", "write 5"),
        ("heartbeat-interval: 0", "f.yml: --heartbeat-interval must be >0", "0ms"),
        ("- name", "f.yml: expected a mapping", "`name: m1`"),
    ] {
        let refused = parse_with("--config-file=f.yml", &[], file);
        let Err(Failure::Invalid { error, .. }) = refused else { panic!("{file}: {refused:?}") };
        assert!(error.starts_with(start) && error.contains(word), "{error}");
    }
}

#[test]
fn statuses_and_words_around_flags() {
    assert!(matches!(parse_with("--foo", &[], ""), Err(Failure::Usage(_))));
    assert!(
        matches!(parse_with("--name=x", &[("ETCD_NAME", "x")], ""), Err(Failure::Shadowed(v)) if v == "ETCD_NAME")
    );
    assert!(
        matches!(parse_with("--version", &[], ""), Ok(Command::Print(text)) if text.starts_with("etcd Version: "))
    );
    assert!(matches!(parse_with("-h", &[], ""), Ok(Command::Print(text)) if text.contains("--data-dir")));
    assert!(matches!(parse_with("check d", &[], ""), Ok(Command::Check(dir)) if dir.as_os_str() == "d"));
    assert!(matches!(parse_with("check", &[], ""), Err(Failure::Usage(_))));
    for words in ["check --help", "check -h", "check d --help"] {
        let Ok(Command::Print(text)) = parse_with(words, &[], "") else { panic!("{words} asks for help") };
        assert!(text.contains("kevel check DATA_DIR") && text.contains("Status 0"), "{text}");
    }
}

#[test]
fn cores_logs_and_quota() {
    assert_eq!(run("--cores=3").0.cores, Cores::Count(3));
    assert_eq!(run("--cores=4-4").0.cores, Cores::Cpus(vec![4]));
    assert_eq!(run("--cores=0,2-4,3").0.cores, Cores::Cpus(vec![0, 2, 3, 4]));
    let log =
        run("--log-outputs=stdout,/tmp/l,stdout --log-level=debug --log-format=console").0.reporting.log;
    assert_eq!(log.outputs, [LogOutput::Stdout, LogOutput::File(PathBuf::from("/tmp/l"))]);
    assert!(log.console && log.level == LogLevel::Debug);
    assert_eq!(run("--quota-backend-bytes=-1").0.quota_bytes(), None);
    assert_eq!(run("--quota-backend-bytes=5").0.quota_bytes(), Some(5));
    assert_eq!(run("--watch-progress-notify-interval=1ms").0.watch_progress_notify_interval.as_millis(), 100);
}

fn config_of(words: &str, file: &str) -> Config {
    match parse_with(words, &[], file) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("{words} {file}: {other:?}"),
    }
}

#[test]
fn raft_times_round_as_etcds_do() {
    for (heartbeat, election, ttl_seconds, timeout_millis) in [
        (100, 1000, 2, 7_000),
        (1000, 5000, 7, 15_000),
        (1000, 9000, 13, 23_000),
        (29, 271, 1, 5_522),
        (300, 2000, 3, 8_600),
    ] {
        let config = run(&format!("--heartbeat-interval={heartbeat} --election-timeout={election}")).0;
        assert_eq!(config.lease_ttl_min(), Duration::from_secs(ttl_seconds), "{heartbeat} {election}");
        assert_eq!(config.request_timeout(), Duration::from_millis(timeout_millis), "{heartbeat} {election}");
    }
}

#[test]
fn no_streams_at_all_means_as_many_as_one_likes() {
    assert_eq!(config_of("--max-concurrent-streams=0", "").limits.streams_max, u32::MAX);
    assert_eq!(config_of("--config-file=f.yml", "max-concurrent-streams: 0").limits.streams_max, u32::MAX);
    assert_eq!(config_of("--max-concurrent-streams=100000", "").limits.streams_max, 100_000);
}

#[test]
fn a_retention_of_nothing_is_none() {
    for words in [
        "--auto-compaction-retention=0s",
        "--auto-compaction-retention=",
        "--auto-compaction-retention=-0",
        "--auto-compaction-retention=0.0h",
        "--auto-compaction-mode=revision --auto-compaction-retention=0h",
    ] {
        assert_eq!(
            config_of(words, "").auto_compaction_mode,
            if words.contains("revision") { "revision" } else { "periodic" }
        );
    }
    for file in
        ["auto-compaction-retention: '0h'", "auto-compaction-retention: ''", "auto-compaction-retention:"]
    {
        assert_eq!(config_of("--config-file=f.yml", file).auto_compaction_mode, "periodic", "{file}");
    }
    for kept in ["1h", "5", "-1h", "1ns"] {
        let complaint = error(&format!("--auto-compaction-retention={kept}"));
        assert!(complaint.contains("not built yet"), "{complaint}");
    }
}

#[test]
fn who_listens_everywhere_advertises_the_machines_own_address() {
    let everywhere = "listen-client-urls: http://0.0.0.0:11\nlisten-peer-urls: http://0.0.0.0:12\n";
    let config = config_of("--config-file=f.yml", &format!("name: m1\n{everywhere}"));
    assert_eq!(url::join(&config.advertise.client), "http://192.0.2.7:11");
    assert_eq!(url::join(&config.advertise.peer), "http://192.0.2.7:12");
    assert_eq!(config.founding.initial_cluster, "m1=http://192.0.2.7:12");
    // The cluster of a member without a name does not follow, so it cannot start; etcd's does not either.
    let config = config_of("--config-file=f.yml", everywhere);
    assert_eq!(config.founding.initial_cluster, "default=http://localhost:2380");
    for (words, client, peer) in [
        ("--listen-peer-urls=http://0.0.0.0:12", "http://localhost:2379", "http://192.0.2.7:12"),
        ("--listen-peer-urls=http://[::]:12", "http://localhost:2379", "http://localhost:2380"),
        ("--listen-peer-urls=http://127.0.0.1:12", "http://localhost:2379", "http://localhost:2380"),
        (
            "--listen-client-urls=http://0.0.0.0:11 --advertise-client-urls=",
            "http://192.0.2.7:11",
            "http://localhost:2380",
        ),
        (
            "--listen-client-urls=http://0.0.0.0:11 --advertise-client-urls=http://h:1",
            "http://h:1",
            "http://localhost:2380",
        ),
    ] {
        let config = config_of(&format!("--name=m1 {words}"), "");
        assert_eq!(
            (url::join(&config.advertise.client), url::join(&config.advertise.peer)),
            (client.to_owned(), peer.to_owned()),
            "{words}"
        );
    }
}

#[test]
fn the_cluster_follows_the_name() {
    for (words, cluster) in [
        ("", "default=http://localhost:2380"),
        ("--name=m1", "m1=http://localhost:2380"),
        ("--name=", "default=http://localhost:2380"),
        ("--name=m1 --initial-cluster=default=http://localhost:2380", "m1=http://localhost:2380"),
        ("--initial-advertise-peer-urls=http://h:1", "default=http://localhost:2380"),
        ("--name=m1 --initial-advertise-peer-urls=http://h:1,http://g:1", "m1=http://g:1,m1=http://h:1"),
        ("--name=m1 --initial-cluster=", ""),
        ("--name=m1 --initial-cluster=m1=http://h:1,", "m1=http://h:1,"),
    ] {
        assert_eq!(run(words).0.founding.initial_cluster, cluster, "{words}");
    }
    let founders = |words: &str| run(words).0.founders();
    assert_eq!(founders("--initial-cluster=,a=http://h:1,").unwrap().to_string(), "a=http://h:1");
    assert!(founders("--initial-cluster=a").unwrap_err().starts_with("error setting up initial cluster: "));
    assert_eq!(founders("--initial-cluster=a=http://a:1,b=http://b:1").unwrap().members.len(), 2);
}

#[test]
fn words_are_taken_as_go_takes_them() {
    let http = |words: &str| run(words).0.http;
    assert_eq!(
        http("--host-whitelist=").host_whitelist,
        [""],
        "an empty list lets nobody in, as etcd's does"
    );
    assert_eq!(http("--host-whitelist=b,a,b").host_whitelist, ["a", "b"]);
    assert_eq!(http("--cors=http://b:1,http://a:1").cors, ["http://a:1", "http://b:1"]);
    for usage in [
        "--cors=",
        "--cors=a",
        "--cors=http://a",
        "--log-level=trace",
        "--v2-deprecation=x",
        "--v2-deprecation=",
    ] {
        assert!(matches!(parse_with(usage, &[], ""), Err(Failure::Usage(_))), "{usage}");
    }
    run("--v2-deprecation=write-only,gone");
    assert_eq!(http("").cors, ["*"]);
    assert!(run("--metrics=extensive").0.reporting.extensive_metrics);
    assert!(!run("--metrics=all").0.reporting.extensive_metrics);
    let (_, notices) = run("--enable-pprof");
    assert!(
        notices
            .iter()
            .any(|notice| notice.warning && notice.message.contains("--enable-pprof has no effect"))
    );
}

#[test]
fn tls_is_refused_and_warned_of_in_etcds_words() {
    for (words, complaint) in [
        (
            "--listen-peer-urls=https://127.0.0.1:1",
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            "--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://a:1",
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS \
             scheme",
        ),
        (
            "--listen-metrics-urls=https://127.0.0.1:1",
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        ("--cipher-suites=TLS_X", "unexpected TLS cipher suite \"TLS_X\""),
        (
            "--cipher-suites=TLS_AES_128_GCM_SHA256 --tls-min-version=TLS1.3",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            "--auto-tls --self-signed-cert-validity=0",
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
    ] {
        assert_eq!(error(words), complaint, "{words}");
    }
    let weak = error("--cipher-suites=TLS_RSA_WITH_RC4_128_SHA --tls-max-version=TLS1.2");
    assert!(weak.starts_with("--cipher-suites names none of TLS 1.2 that is offered"), "{weak}");
    let said = |words: &str, text: &str| {
        let (_, notices) = run(words);
        assert!(notices.iter().any(|notice| notice.message.starts_with(text)), "{words}: {notices:?}");
    };
    said(
        "--cert-file=a --key-file=b",
        "scheme is http or unix while key and cert files are present; ignoring",
    );
    said(
        "--client-cert-auth",
        "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert",
    );
    said(
        "--peer-cert-file=a --peer-key-file=b",
        "scheme is HTTP while key and cert files are present; ignoring",
    );
    said(
        "--peer-client-cert-auth",
        "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client",
    );
    said("--cert-file=a --key-file=b --auto-tls", "ignoring client auto TLS since certs given");
}

#[test]
fn tls_files_come_from_flags_from_a_file_or_from_the_member_itself() {
    let (config, _) =
        run("--cert-file=a --key-file=b --trusted-ca-file=c --client-cert-auth --client-crl-file=d \
                           --peer-cert-allowed-cn=x,y --peer-skip-client-san-verification \
                           --cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305");
    let files = tls::TlsFiles {
        cert: "a".into(),
        key: "b".into(),
        trusted_ca: "c".into(),
        crl: "d".into(),
        client_cert_auth: true,
        ..tls::TlsFiles::default()
    };
    assert_eq!((&config.tls.client, files.as_client()), (&files, ("a", "b")));
    assert_eq!(config.tls.peer.allowed_cns, ["x", "y"]);
    assert!(config.tls.peer.skips_client_san);
    assert_eq!(config.tls.cipher_suites, ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
    let file = "peer-transport-security: {cert-file: a, key-file: b, allowed-hostname: [h], client-cert-auth: true}\n\
                client-transport-security: {auto-tls: true, allowed-cn: [x], client-cert-auth: true}";
    let Ok(Command::Run { config, .. }) = parse_with("--config-file=f.yml", &[], file) else {
        panic!("{file}")
    };
    let peer = &config.tls.peer;
    assert_eq!((&*peer.cert, &*peer.key, &peer.allowed_hostnames[..]), ("a", "b", &["h".to_owned()][..]));
    let made = &config.tls.client;
    assert!(
        peer.client_cert_auth && made.is_self_signed && !made.client_cert_auth && made.allowed_cns.is_empty()
    );
    assert_eq!(made.cert, "default.kevel/fixtures/client/cert.pem");
}
