//! The text of a scrape, read back.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn scrape_of(cores: &[Arc<Core>]) -> String {
    scrape_with(cores, RpcCounters::new())
}

fn scrape_with(cores: &[Arc<Core>], rpc: Arc<RpcCounters>) -> String {
    let rpc = [rpc];
    let (gates, contacts) = (Gates::default(), other());
    scrape(&Sources {
        cores,
        rpc: &rpc,
        member_id: 0xc9ac_9fc8_9eae_9cf7,
        cluster_version: Some("3.7"),
        gates: &gates,
        contacts: &contacts,
    })
}

/// One other member that answers.
fn other() -> contacts::Contacts {
    let contacts = contacts::Contacts::default();
    let contact = contacts.add(0xab);
    contact.activate(crate::stdx::time::Instant::from_nanos(1));
    contact.sent_bytes.add(7);
    contact.answered_in(Duration::from_micros(150));
    contacts
}

#[test]
fn other_members_have_their_families() {
    let series = read(&scrape_of(&[]));
    let pair = "{Local=\"c9ac9fc89eae9cf7\",Remote=\"ab\"}";
    assert_eq!(series.get(&format!("etcd_network_known_peers{pair}")), Some(&1.0));
    assert_eq!(series.get(&format!("etcd_network_active_peers{pair}")), Some(&1.0));
    assert_eq!(series.get("etcd_network_peer_sent_bytes_total{To=\"ab\"}"), Some(&7.0));
    assert_eq!(series.get("etcd_network_peer_round_trip_time_seconds_count{To=\"ab\"}"), Some(&1.0));
    assert!(!series.keys().any(|name| name.starts_with("etcd_network_disconnected")), "it was never lost");
}

/// Checks the text's form as a scraper would, and gives values by series.
fn read(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && seen.insert(name.to_owned()), "{name} twice");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect("a type");
            assert_eq!(name, family);
            kind = of.to_owned();
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let bare = name.split('{').next().unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| bare == format!("{family}{suffix}")), "{line} in {family}");
            let value = value.replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(series.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    series
}

#[test]
fn a_fresh_member_has_its_families_at_zero() {
    let series = read(&scrape_of(&[Core::new(), Core::new()]));
    for (name, value) in [
        ("etcd_mvcc_put_total", 0.0),
        ("etcd_server_version{server_version=\"3.7.3\"}", 1.0),
        ("etcd_cluster_version{cluster_version=\"3.7\"}", 1.0),
        ("etcd_server_id{server_id=\"c9ac9fc89eae9cf7\"}", 1.0),
        ("etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"}", 1.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}", 0.0),
        ("etcd_debugging_lease_ttl_total_bucket{le=\"8.388608e+06\"}", 0.0),
        (
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"}",
            0.0,
        ),
        (
            "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",\
             grpc_type=\"bidi_stream\"}",
            0.0,
        ),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
}

#[test]
fn cores_are_summed() {
    let cores = [Core::new(), Core::new()];
    cores[0].puts.add(2);
    cores[1].puts.add(3);
    cores[0].has_leader.set(1);
    cores[0].compact_revision.set(-1);
    cores[0].watchers.add(4);
    cores[1].watchers.add(-1);
    cores[0].wal_fsync(Duration::from_micros(1500));
    cores[1].apply(ApplyKind::Txn as usize, true, Duration::from_micros(50), 3);
    cores[1].request(RequestKind::ReadonlyTxn, false, Duration::from_secs(100));
    cores[0].range(true, Duration::from_micros(5));
    cores[0].lease_granted(60);
    cores[0].checks.count("readyz", "linearizable_read", false);
    cores[0].versions.count(Some("3.7"), true);
    cores[1].versions.count(Some("3.7"), true);
    cores[1].versions.count(None, false);
    cores[1].alarms[0].seen.set(1);
    cores[1].alarms[0].raised.set(1);
    cores[1].alarms[1].seen.set(1);
    let series = read(&scrape_of(&cores));
    for (name, value) in [
        ("etcd_mvcc_put_total", 5.0),
        ("etcd_server_has_leader", 1.0),
        ("etcd_debugging_mvcc_compact_revision", -1.0),
        ("etcd_debugging_mvcc_watcher_total", 3.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}", 0.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"}", 1.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("etcd_disk_wal_fsync_duration_seconds_sum", 0.0015),
        ("etcd_server_apply_duration_seconds_count{op=\"Txn\",success=\"true\",version=\"v3\"}", 3.0),
        (
            "etcd_server_request_duration_seconds_bucket{success=\"false\",type=\"ReadonlyTxn\",le=\"8.192\"}",
            0.0,
        ),
        ("etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0001\"}", 1.0),
        ("etcd_debugging_lease_ttl_total_sum", 60.0),
        ("etcd_server_healthcheck{name=\"linearizable_read\",type=\"readyz\"}", 0.0),
        ("etcd_server_healthchecks_total{name=\"linearizable_read\",status=\"error\",type=\"readyz\"}", 1.0),
        ("etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"stream\"}", 2.0),
        ("etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}", 1.0),
        ("etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"c9ac9fc89eae9cf7\"}", 0.0),
        ("etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"c9ac9fc89eae9cf7\"}", 1.0),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
    assert!(!series.keys().any(|name| name.contains("op=\"Put\"")), "nothing was put");
}

/// Every number that a family shows is written by somebody: a field that only the table names is always 0.
#[test]
fn every_family_of_the_table_is_counted_somewhere() {
    fn sources(folder: &std::path::Path, found: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                sources(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "table.rs" {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    let mut code = String::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server"), &mut code);
    let is_written = |field: &str| {
        ["core", "metrics", "counts", "self"].iter().any(|owner| {
            let place = format!("{owner}.{field}");
            code.match_indices(&place).any(|(at, _)| {
                !code[at + place.len()..].starts_with(|c: char| c == '_' || c == '(' || c.is_alphanumeric())
            })
        })
    };
    let fields: Vec<&str> = include_str!("table.rs")
        .split("|c| &c.")
        .skip(1)
        .map(|rest| &rest[..rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap()])
        .collect();
    assert!(fields.len() > 40 && !is_written("no_such_field"));
    let unwritten: Vec<_> = fields.into_iter().filter(|field| !is_written(field)).collect();
    assert!(unwritten.is_empty(), "{unwritten:?}");
}

#[test]
fn labels_and_kinds_agree() {
    assert_eq!(REQUESTS[RequestKind::Alarm as usize], "Alarm");
    assert_eq!(REQUESTS[RequestKind::ReadonlyTxn as usize], "ReadonlyTxn");
}

#[test]
fn extensive_metrics_add_one_family() {
    use crate::server::grpc::{Code, Method};
    let timed = RpcCounters::with(true);
    timed.end(Method::Put, Code::Ok, timed.begin());
    let (basic, extensive) = (read(&scrape_of(&[Core::new()])), read(&scrape_with(&[Core::new()], timed)));
    let family = "grpc_server_handling_seconds";
    let added: BTreeSet<_> = extensive.keys().filter(|name| !basic.contains_key(*name)).collect();
    assert!(!added.is_empty() && added.iter().all(|name| name.starts_with(family)));
    let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    for bound in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"] {
        let name = format!("{family}_bucket{{{labels},le=\"{bound}\"}}");
        assert!(extensive.contains_key(&name), "{name}");
    }
    assert_eq!(extensive.get(&format!("{family}_count{{{labels}}}")), Some(&1.0));
    let watch = "grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"";
    assert_eq!(extensive.get(&format!("{family}_count{{{watch}}}")), Some(&0.0));
}
