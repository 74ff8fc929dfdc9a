//! The cluster's members and versions, as the log says.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use raft::eraftpb::ConfState;

use super::membership::is_learner;
use super::stored;
use crate::btree::{Read, Tree, WriteTxn};
use crate::error::Error;
use crate::proto::membershippb::{Attributes, Member};

/// What the log says about the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The cluster's version, such as `3.7.0`; empty until it is decided.
    pub version: String,
    /// The version that a downgrade is going to, while one is.
    pub downgrade_target: Option<String>,
    /// Members by id.
    pub members: BTreeMap<u64, Member>,
    /// Ids of members that were removed and may never come back.
    pub removed: BTreeSet<u64>,
}

const CLUSTER_VERSION: &[u8] = b"cluster_version";
const DOWNGRADE_TARGET: &[u8] = b"downgrade_target";

impl Cluster {
    /// What the store says.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn restore(read: &impl Read) -> Result<Self, Error> {
        let mut cluster = Self {
            version: cluster_version(read).unwrap_or_default(),
            downgrade_target: text(read, DOWNGRADE_TARGET),
            ..Self::default()
        };
        for (id, member) in stored::members(read)? {
            match member {
                Some(member) => _ = cluster.members.insert(id, member),
                None => _ = cluster.removed.insert(id),
            }
        }
        Ok(cluster)
    }

    /// Who votes and who learns, as raft has it: in the order of the ids.
    pub fn conf_state(&self) -> ConfState {
        let mut conf_state = ConfState::default();
        for member in self.members.values() {
            match is_learner(member) {
                true => conf_state.learners.push(member.id),
                false => conf_state.voters.push(member.id),
            }
        }
        conf_state
    }

    /// Decides on a version.
    pub fn set_version(&mut self, txn: &mut WriteTxn<'_>, version: &str) {
        txn.put(Tree::Meta, CLUSTER_VERSION, version.as_bytes());
        self.version = version.to_owned();
    }

    /// Begins or ends a downgrade.
    pub fn set_downgrade(&mut self, txn: &mut WriteTxn<'_>, enabled: bool, target: &str) {
        if enabled {
            txn.put(Tree::Meta, DOWNGRADE_TARGET, target.as_bytes());
        } else {
            txn.delete(Tree::Meta, DOWNGRADE_TARGET);
        }
        self.downgrade_target = enabled.then(|| target.to_owned());
    }

    /// Name and client URLs, as the member itself publishes them. Who is not a member, or not any more, has none.
    pub fn set_attributes(&mut self, txn: &mut WriteTxn<'_>, id: u64, attributes: Attributes) {
        if let Some(member) = self.members.get(&id) {
            self.set_member(txn, Member { member_attributes: Some(attributes), ..member.clone() });
        }
    }

    /// Adds a member or changes what is known of it.
    pub fn set_member(&mut self, txn: &mut WriteTxn<'_>, member: Member) {
        txn.put(Tree::Member, &member.id.to_be_bytes(), &member.encode_to_vec());
        self.members.insert(member.id, member);
    }

    /// Removes a member for good.
    pub fn remove_member(&mut self, txn: &mut WriteTxn<'_>, id: u64) {
        txn.put(Tree::Member, &id.to_be_bytes(), &[]);
        self.members.remove(&id);
        self.removed.insert(id);
    }
}

/// The version that the cluster has agreed on, as a published state says.
pub fn cluster_version(read: &impl Read) -> Option<String> {
    text(read, CLUSTER_VERSION)
}

fn text(read: &impl Read, key: &[u8]) -> Option<String> {
    read.get(Tree::Meta, key).map(|text| String::from_utf8_lossy(text).into_owned())
}
