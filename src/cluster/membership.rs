//! Which membership entries take effect: etcd's rules, applied to the entry when it is committed.
//!
//! A member that proposes checks the same rules first, but what is proposed beside it can make its entry wrong. etcd
//! logs such an entry all the same and every member rejects it, so every member must find the same entries wrong.
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChange, ConfChangeType};
use raft_proto::CONF_CHANGE_UPDATE_NODE;

use super::Cluster;
use super::member::MemberContext;
use crate::btree::WriteTxn;
use crate::error::Error;
use crate::proto::membershippb::Member;

/// A membership entry that takes effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A member is added, or what is known of it changes to this.
    Set(Member),
    /// A member goes for good.
    Remove(u64),
}

/// Why a membership entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The member was removed, and an id is used once.
    Removed,
    /// The member is there already.
    Exists,
    /// There is no such member.
    NotFound,
    /// The member to be promoted has its vote.
    NotLearner,
    /// Another member has one of the addresses.
    PeerUrlExists,
    /// The cluster has as many learners as it may have.
    TooManyLearners,
    /// The entry cannot be read, or contradicts itself. etcd panics on such an entry.
    Unreadable,
}

impl From<Rejected> for Error {
    /// What the client is told who asked for the change.
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Removed | Rejected::NotFound => Error::MemberNotFound,
            Rejected::Exists => Error::MemberExists,
            Rejected::NotLearner => Error::MemberNotLearner,
            Rejected::PeerUrlExists => Error::PeerUrlExists,
            Rejected::TooManyLearners => Error::TooManyLearners,
            Rejected::Unreadable => Error::MemberBadUrls,
        }
    }
}

impl Cluster {
    /// Whether a membership entry takes effect in a cluster that may have so many learners, and what the entry comes
    /// to.
    ///
    /// # Errors
    /// Why it does not.
    pub fn judge(&self, change: &ConfChange, learners_max: usize) -> Result<Change, Rejected> {
        let id = change.node_id;
        if self.removed.contains(&id) {
            return Err(Rejected::Removed);
        }
        let known = self.members.get(&id);
        if change.change_type == ConfChangeType::RemoveNode as i32 {
            return known.map(|_| Change::Remove(id)).ok_or(Rejected::NotFound);
        }
        let context: MemberContext =
            serde_json::from_slice(&change.context).map_err(|_| Rejected::Unreadable)?;
        if context.id != id {
            return Err(Rejected::Unreadable);
        }
        let updates = change.change_type == CONF_CHANGE_UPDATE_NODE;
        let adds = [ConfChangeType::AddNode as i32, ConfChangeType::AddLearnerNode as i32];
        if !updates && !adds.contains(&change.change_type) {
            return Err(Rejected::Unreadable);
        }
        match known {
            None if updates || context.is_promote => return Err(Rejected::NotFound),
            Some(member) if context.is_promote && !updates && !is_learner(member) => {
                return Err(Rejected::NotLearner);
            }
            Some(_) if !updates && !context.is_promote => return Err(Rejected::Exists),
            _ => {}
        }
        let moves = updates || !context.is_promote;
        if moves && self.has_peer_url(&context.peer_urls, id) {
            return Err(Rejected::PeerUrlExists);
        }
        let joins_as_learner = change.change_type == ConfChangeType::AddLearnerNode as i32
            && context.is_learner
            && known.is_none();
        if joins_as_learner && self.learners() >= learners_max {
            return Err(Rejected::TooManyLearners);
        }
        Ok(Change::Set(context.into_member(known)))
    }

    /// How many members are learners.
    pub fn learners(&self) -> usize {
        self.members.values().filter(|member| is_learner(member)).count()
    }

    /// Whether a member other than `id` has one of these addresses.
    fn has_peer_url(&self, urls: &[String], id: u64) -> bool {
        let others = self.members.values().filter(|member| member.id != id);
        let mut theirs = others.filter_map(|member| member.raft_attributes.as_ref());
        theirs.any(|attributes| attributes.peer_urls.iter().any(|url| urls.contains(url)))
    }

    /// Does what an entry comes to, in the store too.
    pub fn change(&mut self, txn: &mut WriteTxn<'_>, change: Change) {
        match change {
            Change::Set(member) => self.set_member(txn, member),
            Change::Remove(id) => self.remove_member(txn, id),
        }
    }

    /// Does what an entry comes to, in memory alone.
    pub fn foresee(&mut self, change: Change) {
        match change {
            Change::Set(member) => _ = self.members.insert(member.id, member),
            Change::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
        }
    }
}

/// Whether a member is a learner.
pub fn is_learner(member: &Member) -> bool {
    member.raft_attributes.as_ref().is_some_and(|attributes| attributes.is_learner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: i32, node_id: u64, context: &str) -> ConfChange {
        let context = context.as_bytes().to_vec().into();
        ConfChange { change_type: kind, node_id, context, ..ConfChange::default() }
    }

    #[test]
    fn entries_are_judged_as_etcd_judges_them() {
        let (add, remove) = (ConfChangeType::AddNode as i32, ConfChangeType::RemoveNode as i32);
        let (learner, update) = (ConfChangeType::AddLearnerNode as i32, CONF_CHANGE_UPDATE_NODE);
        let mut cluster = Cluster::default();
        let mut judge = |kind, id, context: &str| {
            let judged = cluster.judge(&entry(kind, id, context), 1);
            if let Ok(change) = judged.clone() {
                cluster.foresee(change);
            }
            judged.err()
        };
        assert_eq!(judge(add, 1, r#"{"id":1,"peerURLs":["http://a"]}"#), None);
        assert_eq!(judge(add, 1, r#"{"id":1,"peerURLs":["http://b"]}"#), Some(Rejected::Exists));
        assert_eq!(judge(add, 2, r#"{"id":2,"peerURLs":["http://a"]}"#), Some(Rejected::PeerUrlExists));
        let joins = r#"{"id":2,"peerURLs":["http://b"],"isLearner":true}"#;
        assert_eq!(judge(learner, 2, joins), None);
        let another = r#"{"id":5,"peerURLs":["http://e"],"isLearner":true}"#;
        assert_eq!(judge(learner, 5, another), Some(Rejected::TooManyLearners));
        assert_eq!(judge(update, 2, r#"{"id":2,"peerURLs":["http://bb"]}"#), None);
        let promotes = |id| format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#);
        assert_eq!(judge(add, 3, &promotes(3)), Some(Rejected::NotFound));
        assert_eq!(judge(add, 1, &promotes(1)), Some(Rejected::NotLearner));
        assert_eq!(judge(add, 2, &promotes(2)), None);
        assert_eq!(judge(add, 2, &promotes(2)), Some(Rejected::NotLearner), "it has its vote");
        assert_eq!(judge(update, 2, r#"{"id":2,"peerURLs":["http://a"]}"#), Some(Rejected::PeerUrlExists));
        assert_eq!(judge(update, 2, r#"{"id":2,"peerURLs":["http://b","http://c"]}"#), None);
        assert_eq!(judge(update, 9, r#"{"id":9,"peerURLs":["http://z"]}"#), Some(Rejected::NotFound));
        assert_eq!(judge(remove, 9, ""), Some(Rejected::NotFound));
        assert_eq!(judge(remove, 2, ""), None);
        assert_eq!(judge(add, 2, joins), Some(Rejected::Removed), "an id is used once");
        for broken in ["", "null", "{", r#"{"id":4}"#] {
            assert_eq!(judge(add, 3, broken), Some(Rejected::Unreadable), "{broken}");
        }
        assert_eq!(judge(77, 3, r#"{"id":3}"#), Some(Rejected::Unreadable));
        assert_eq!(cluster.members.keys().collect::<Vec<_>>(), [&1]);
    }
}
