//! The members as the JSON of etcd's old store, which goes with the message about a snapshot.
//!
//! etcd before 3.7 keeps who belongs to the cluster twice: in its database, and in a tree of texts that was its store
//! before version 3. A member that takes in a snapshot puts this tree in the place of its own, ends if it cannot, and
//! applies later changes of the members to it.
//!
//! ```text
//!   /0/members/ID/raftAttributes   {"peerURLs":[…],"isLearner":true}
//!   /0/members/ID/attributes       {"name":…,"clientURLs":[…]}: once the member has told them
//!   /0/removed_members/ID          nothing
//!   /0/version                     the version of the cluster
//!   /1                             what clients have stored: nothing
//! ```
//!
//! Of the fields beside the tree, those that tell of watchers and of statistics may be left out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::buckets::{go_json, go_json_list};
use crate::cluster::Cluster;
use crate::proto::membershippb::Member;

/// The version of the old store.
const VERSION: u32 = 2;
/// When a node of the tree ends that never ends: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The whole store.
pub fn json(cluster: &Cluster) -> String {
    let mut changes = Changes::default();
    let mut members = Folder::default();
    for (id, member) in &cluster.members {
        let path = format!("/0/members/{id:x}");
        let index = changes.next();
        let mut facts = Folder::default();
        facts.text(&path, "raftAttributes", &raft_attributes(member), index);
        if let Some(told) = attributes(member) {
            facts.text(&path, "attributes", &told, changes.next());
        }
        members.folder("/0/members", &format!("{id:x}"), facts, index);
    }
    let mut removed = Folder::default();
    for id in &cluster.removed {
        removed.text("/0/removed_members", &format!("{id:x}"), "", changes.next());
    }
    let mut known = Folder::default();
    for (name, folder) in [("members", members), ("removed_members", removed)] {
        if !folder.0.is_empty() {
            known.folder("/0", name, folder, 1);
        }
    }
    if !cluster.version.is_empty() {
        known.text("/0", "version", &cluster.version, changes.next());
    }
    let mut root = Folder::default();
    root.folder("", "0", known, 0);
    root.folder("", "1", Folder::default(), 0);
    let (root, last) = (node("/", "", 0, &root.json()), changes.0);
    format!(r#"{{"Root":{root},"CurrentIndex":{last},"CurrentVersion":{VERSION}}}"#)
}

/// Changes of the old store, by number.
#[derive(Default)]
struct Changes(u64);

impl Changes {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// The children of a node as JSON, by name.
#[derive(Default)]
struct Folder(BTreeMap<String, String>);

impl Folder {
    /// Adds a text at `path`.
    fn text(&mut self, path: &str, name: &str, text: &str, index: u64) {
        self.0.insert(name.to_owned(), node(&format!("{path}/{name}"), text, index, "null"));
    }

    /// Adds a folder at `path`.
    fn folder(&mut self, path: &str, name: &str, folder: Folder, index: u64) {
        self.0.insert(name.to_owned(), node(&format!("{path}/{name}"), "", index, &folder.json()));
    }

    fn json(&self) -> String {
        let children: Vec<_> =
            self.0.iter().map(|(name, node)| format!("{}:{node}", go_json(name))).collect();
        format!("{{{}}}", children.join(","))
    }
}

/// A node of the tree that the change `index` has made.
fn node(path: &str, text: &str, index: u64, children: &str) -> String {
    let (path, text) = (go_json(path), go_json(text));
    let numbers = format!(r#""CreatedIndex":{index},"ModifiedIndex":{index}"#);
    let rest = format!(r#""ExpireTime":"{NEVER}","Value":{text},"Children":{children}"#);
    format!(r#"{{"Path":{path},{numbers},{rest}}}"#)
}

fn raft_attributes(member: &Member) -> String {
    let raft = member.raft_attributes.clone().unwrap_or_default();
    let learner = if raft.is_learner { r#","isLearner":true"# } else { "" };
    format!(r#"{{"peerURLs":{}{learner}}}"#, go_json_list(&raft.peer_urls))
}

/// What a member has told of itself; none before it has.
fn attributes(member: &Member) -> Option<String> {
    let told = member.member_attributes.as_ref().filter(|told| !told.client_urls.is_empty())?;
    let name =
        if told.name.is_empty() { String::new() } else { format!(r#""name":{},"#, go_json(&told.name)) };
    Some(format!(r#"{{{name}"clientURLs":{}}}"#, go_json_list(&told.client_urls)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::membershippb::{Attributes, RaftAttributes};

    fn member(id: u64, url: &str, is_learner: bool, name: &str) -> Member {
        let client_urls = if name.is_empty() { vec![] } else { vec![format!("{url}0")] };
        Member {
            id,
            raft_attributes: Some(RaftAttributes { peer_urls: vec![url.to_owned()], is_learner }),
            member_attributes: Some(Attributes { name: name.to_owned(), client_urls }),
        }
    }

    /// What etcd 3.6.16 makes of the same members, without watchers and statistics.
    const ETCDS: &str = include_str!("testdata/old_store.json");

    fn cluster() -> Cluster {
        let mut cluster = Cluster { version: "3.6.0".to_owned(), ..Cluster::default() };
        for member in [
            member(0xab, "http://a?x&y:1", false, "m\"1\""),
            member(0x8e9e_05c5_2164_694d, "http://b:1", true, ""),
        ] {
            cluster.members.insert(member.id, member);
        }
        cluster.removed.extend([0x7, 0xcd]);
        cluster
    }

    /// The parsed store without the numbers of changes, which depend on the order of Go's maps.
    fn parsed(json: &str) -> serde_json::Value {
        fn strip(value: &mut serde_json::Value) {
            if let serde_json::Value::Object(fields) = value {
                fields.retain(|name, _| !name.ends_with("edIndex"));
                fields.values_mut().for_each(strip);
            }
        }
        let mut value = serde_json::from_str(json).unwrap();
        strip(&mut value);
        value
    }

    #[test]
    fn members_are_where_etcd_has_them() {
        assert_eq!(parsed(&json(&cluster())), parsed(ETCDS));
        assert!(json(&cluster()).contains(r#""CurrentIndex":6,"#));
    }

    #[test]
    fn an_empty_cluster_has_empty_folders() {
        let empty = parsed(&json(&Cluster::default()));
        let children = &empty["Root"]["Children"];
        assert!(children["0"]["Children"].as_object().unwrap().is_empty());
        assert!(children["1"]["Children"].as_object().unwrap().is_empty());
    }
}
