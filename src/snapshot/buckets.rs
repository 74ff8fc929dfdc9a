//! The buckets of etcd that have few pairs.
#![forbid(unsafe_code)]

use crate::btree::{Read, Tree};
use crate::cluster::Cluster;
use crate::cluster::membership::is_learner;
use crate::cluster::version::minor;
use crate::error::Error;
use crate::mvcc::hash::etcd_key;
use crate::mvcc::revision::Revision;
use crate::proto::membershippb::Member;

/// The version of the storage: the release whose schema the buckets follow.
pub const STORAGE_VERSION: &str = "3.7.0";

/// The version of the storage in a cluster of this version: etcd's follows the cluster's, and etcd 3.5 has none. A
/// member of an older release does not start on a storage that says it is newer.
pub fn storage_version(cluster: &str) -> Option<&'static str> {
    match minor(cluster) {
        Some((3, 6)) => Some("3.6.0"),
        Some((3, 1..=5)) => None,
        _ => Some(STORAGE_VERSION),
    }
}

/// A bucket with its pairs in order.
pub struct Bucket {
    /// Its name.
    pub name: &'static str,
    /// Keys and values.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Bucket {
    fn new(name: &'static str) -> Self {
        Self { name, pairs: Vec::new() }
    }

    fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.pairs.push((key.into(), value.into()));
    }
}

/// The buckets in front of `key`, in order.
///
/// # Errors
/// When a record cannot be read.
pub fn before_key(read: &impl Read) -> Result<Vec<Bucket>, Error> {
    let mut alarm = Bucket::new("alarm");
    let mut cursor = read.cursor(Tree::Alarm);
    cursor.seek(&[]);
    while cursor.valid() {
        alarm.put(cursor.key(), []);
        cursor.next();
    }
    // Authentication cannot be enabled; in etcd its revision starts at 1.
    let mut auth = Bucket::new("auth");
    auth.put(*b"authRevision", 1u64.to_be_bytes());
    let mut versions = Bucket::new("cluster");
    let cluster = Cluster::restore(read)?;
    if !cluster.version.is_empty() {
        versions.put(*b"clusterVersion", cluster.version.as_bytes());
    }
    if let Some(target) = &cluster.downgrade_target {
        let json = format!("{{\"target-version\":{},\"enabled\":true}}", go_json(target));
        versions.put(*b"downgrade", json);
    }
    Ok(vec![alarm, auth, Bucket::new("authRoles"), Bucket::new("authUsers"), versions])
}

/// The buckets behind `lease`, in order. They say that the compaction up to `finished` has removed what it condemned.
///
/// # Errors
/// When a record cannot be read.
pub fn after_lease(read: &impl Read, finished: i64) -> Result<Vec<Bucket>, Error> {
    let cluster = Cluster::restore(read)?;
    let mut members = Bucket::new("members");
    for (id, member) in &cluster.members {
        members.put(format!("{id:x}"), member_json(member));
    }
    let mut removed = Bucket::new("members_removed");
    for id in &cluster.removed {
        removed.put(format!("{id:x}"), *b"removed");
    }
    // Text in hexadecimal has another order than the numbers.
    members.pairs.sort();
    removed.pairs.sort();
    Ok(vec![members, removed, meta(read, &cluster, finished)])
}

fn meta(read: &impl Read, cluster: &Cluster, finished: i64) -> Bucket {
    let applied = read.applied();
    let mut meta = Bucket::new("meta");
    meta.put(*b"confState", conf_state_json(cluster));
    // etcd stores neither number while it is zero.
    if applied.index > 0 {
        meta.put(*b"consistent_index", applied.index.to_be_bytes());
    }
    let compactions = [("finishedCompactRev", finished), ("scheduledCompactRev", applied.compact_revision)];
    for (key, revision) in compactions.into_iter().filter(|(_, revision)| *revision >= 0) {
        meta.put(key, &*etcd_key(Revision::new(revision, 0), false));
    }
    if let Some(version) = storage_version(&cluster.version) {
        meta.put(*b"storageVersion", version);
    }
    if applied.index > 0 && applied.term > 0 {
        meta.put(*b"term", applied.term.to_be_bytes());
    }
    meta
}

/// Whether the Hash RPC digests a pair: how far the log was applied and which release wrote differ between members.
pub fn is_digested(bucket: &str, key: &[u8]) -> bool {
    let excepted = [&b"consistent_index"[..], b"storageVersion", b"term"];
    bucket != "meta" || !excepted.contains(&key)
}

/// A string as Go's encoder writes it, which keeps clear of HTML.
pub(super) fn go_json(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A list of strings, likewise.
pub(super) fn go_json_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| go_json(text)).collect::<Vec<_>>().join(","))
}

/// A member as etcd stores it: what is empty is left out, but for the peer URLs.
fn member_json(member: &Member) -> String {
    let raft = member.raft_attributes.clone().unwrap_or_default();
    let mut json = format!("{{\"id\":{},\"peerURLs\":{}", member.id, go_json_list(&raft.peer_urls));
    if raft.is_learner {
        json.push_str(",\"isLearner\":true");
    }
    let attributes = member.member_attributes.clone().unwrap_or_default();
    if !attributes.name.is_empty() {
        json.push_str(&format!(",\"name\":{}", go_json(&attributes.name)));
    }
    if !attributes.client_urls.is_empty() {
        json.push_str(&format!(",\"clientURLs\":{}", go_json_list(&attributes.client_urls)));
    }
    json.push('}');
    json
}

fn conf_state_json(cluster: &Cluster) -> String {
    let ids = |learners: bool| {
        let members = cluster.members.values().filter(|member| is_learner(member) == learners);
        members.map(|member| member.id.to_string()).collect::<Vec<_>>().join(",")
    };
    let mut json = format!("{{\"voters\":[{}]", ids(false));
    if !ids(true).is_empty() {
        json.push_str(&format!(",\"learners\":[{}]", ids(true)));
    }
    json.push_str(",\"auto_leave\":false}");
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::membershippb::RaftAttributes;

    #[test]
    fn the_storage_follows_the_cluster_where_that_is_older() {
        let versions = ["", "3.0.0", "3.7.0", "3.8.0", "3.6.0", "3.5.0"].map(storage_version);
        let newest = Some(STORAGE_VERSION);
        assert_eq!(versions, [newest, newest, newest, newest, Some("3.6.0"), None]);
    }

    #[test]
    fn members_look_as_go_writes_them() {
        let member = Member {
            id: 5,
            raft_attributes: Some(RaftAttributes {
                peer_urls: vec!["http://a?b&c".into()],
                is_learner: true,
            }),
            member_attributes: None,
        };
        assert_eq!(member_json(&member), r#"{"id":5,"peerURLs":["http://a?b\u0026c"],"isLearner":true}"#);
    }
}
