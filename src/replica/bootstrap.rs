//! The first entries of a new cluster, and the ids that follow from its configuration, as etcd derives them: an
//! operator's scripts know them, and a member started with the same flags is the same member.
#![forbid(unsafe_code)]

use prost::encoding::{bytes, int32, uint64};
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use sha1::{Digest, Sha1};

use crate::cluster::member::MemberContext;

/// A founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// The founder's id.
    pub id: u64,
    /// The founder's name.
    pub name: String,
    /// Where the other members reach the founder.
    pub peer_urls: Vec<String>,
}

/// A new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foundation {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The founding members, by id.
    pub founders: Vec<Founder>,
}

impl Foundation {
    /// The cluster of these members, given by name and peer URLs, under a token.
    pub fn new(members: impl IntoIterator<Item = (String, Vec<String>)>, token: &str) -> Self {
        let mut founders: Vec<Founder> = members
            .into_iter()
            .map(|(name, peer_urls)| Founder { id: member_id(&peer_urls, token), name, peer_urls })
            .collect();
        founders.sort_by_key(|founder| founder.id);
        let ids: Vec<u8> = founders.iter().flat_map(|founder| founder.id.to_be_bytes()).collect();
        Self { cluster_id: first_eight(&Sha1::digest(ids)), founders }
    }

    /// The entries that a log begins with: each founder is added, at term 1, and all that is committed.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(index, founder): (u64, &Founder)| {
            let context = MemberContext {
                id: founder.id,
                peer_urls: founder.peer_urls.clone(),
                is_learner: false,
                name: founder.name.clone(),
                ..MemberContext::default()
            };
            let change = ConfChange {
                change_type: ConfChangeType::AddNode.into(),
                node_id: founder.id,
                context: serde_json::to_vec(&context).expect("a member has a JSON form").into(),
                ..ConfChange::default()
            };
            Entry {
                entry_type: EntryType::EntryConfChange.into(),
                term: 1,
                index,
                data: encode_change(&change).into(),
                ..Entry::default()
            }
        };
        (1..).zip(&self.founders).map(entry).collect()
    }
}

/// All fields are always written: etcd's tools take none of them for granted.
pub(super) fn encode_change(change: &ConfChange) -> Vec<u8> {
    let mut out = Vec::new();
    uint64::encode(1, &change.id, &mut out);
    int32::encode(2, &change.change_type, &mut out);
    uint64::encode(3, &change.node_id, &mut out);
    bytes::encode(4, &change.context, &mut out);
    out
}

/// SHA-1 over the sorted peer URLs and the token; the first eight bytes, big endian. Of a member that is added to a
/// cluster, the time in seconds of Unix time, in decimal, is in place of the token.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    sorted.iter().for_each(|url| hash.update(url));
    hash.update(token);
    first_eight(&hash.finalize())
}

fn first_eight(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("a digest is longer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids that etcd 3.7.3 prints for its default configuration.
    #[test]
    fn ids_are_etcds() {
        let urls = vec!["http://localhost:2380".to_owned()];
        let foundation = Foundation::new([("default".to_owned(), urls)], "etcd-cluster");
        assert_eq!(format!("{:x}", foundation.founders[0].id), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", foundation.cluster_id), "cdf818194e3a8c32");
        assert_eq!(foundation.entries()[0].index, 1);
    }
}
