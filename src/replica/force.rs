//! A member that goes on alone, without the others of its cluster: what `--force-new-cluster` makes of its log.
//!
//! ```text
//!   log before   … committed │ entries that a quorum may have, or not
//!   log after    … committed │ the same entries │ a vote for this member, if it lacks one │ the others are removed
//! ```
//!
//! Every entry of the log stays and counts as committed, as does what follows, though nobody was asked. Of the entries
//! behind the commit index nobody knows whether a quorum has them, and the log lags behind what was acknowledged: it
//! gets the commit index with the next entries. To keep an entry that was never acknowledged contradicts nobody, since
//! its proposer was told nothing, and to drop one that was acknowledged would lose a write. etcd drops them.
//!
//! Two members that both go on alone have two clusters of one id, so an operator does this with one member, when the
//! others are lost for good.
//!
//! Nothing of it is answered before it is durable, and a crash in between changes nothing: the next start with the
//! flag finds the same log, or one that has some of the removals already. A member that is alone already and is started
//! with the flag again goes on with all of its log, too.
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};

use super::bootstrap::encode_change;
use super::configure;
use super::recover::{cluster_behind, removed, unapplied};
use crate::btree::Store;
use crate::cluster::Cluster;
use crate::cluster::member::MemberContext;
use crate::cluster::membership::is_learner;
use crate::wal::Recovered;

/// The log of a member that goes on alone.
#[derive(Debug)]
pub struct Forced {
    /// The log as it is.
    pub recovered: Box<Recovered>,
    /// What follows: the member becomes the only one.
    pub entries: Vec<Entry>,
    /// The index of the log's last entry. All up to it count as committed.
    pub committed: u64,
    /// How many entries count as committed that were not known to be so.
    pub adopted: u64,
}

impl Forced {
    /// What becomes of a log that continues `store`. `own` is this member as its flags describe it.
    ///
    /// # Errors
    /// Why the member cannot go on alone, and what to do.
    pub fn new(recovered: Box<Recovered>, store: &Store, own: &MemberContext) -> Result<Self, String> {
        if recovered.lacks_mark {
            return Err(
                "the member stopped while it took in a snapshot of its leader: start it once without \
                        --force-new-cluster, stop it, and then start it with the flag"
                    .to_owned(),
            );
        }
        let applied = store.applied();
        let known = recovered.state.commit.max(applied.index);
        let committed = recovered.last_index.max(known);
        let cluster = cluster_behind(store, unapplied(store, &recovered.entries))?;
        let term = recovered.state.term.max(applied.term);
        let changes = changes(&cluster, own)?;
        let entries = (committed + 1..).zip(&changes).map(|(index, change)| entry(term, index, change));
        let entries = entries.collect();
        Ok(Self { recovered, entries, committed, adopted: committed - known })
    }

    /// The index of the last entry, all of which count as committed.
    pub fn commit(&self) -> u64 {
        self.committed + self.entries.len() as u64
    }

    /// Whether the log has to say something before the member may go on.
    pub fn is_news(&self) -> bool {
        !self.entries.is_empty() || self.committed > self.recovered.state.commit
    }
}

/// What makes the member the only one. It has its vote before the others go, because somebody has to have one.
fn changes(cluster: &Cluster, own: &MemberContext) -> Result<Vec<ConfChange>, String> {
    if cluster.removed.contains(&own.id) {
        return Err(removed(own.id));
    }
    let gets_its_vote = match cluster.members.get(&own.id) {
        None => Some(own.clone()),
        Some(member) if is_learner(member) => {
            Some(MemberContext { id: own.id, is_promote: true, ..MemberContext::default() })
        }
        Some(_) => None,
    };
    let first = gets_its_vote.map(|context| configure::added(ConfChangeType::AddNode, &context));
    let others = cluster.members.keys().filter(|id| **id != own.id);
    Ok(first.into_iter().chain(others.map(|&id| configure::removed(id))).collect())
}

fn entry(term: u64, index: u64, change: &ConfChange) -> Entry {
    let entry_type = EntryType::EntryConfChange.into();
    Entry { entry_type, term, index, data: encode_change(change).into(), ..Entry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::membershippb::{Member, RaftAttributes};

    fn cluster(members: &[(u64, bool)]) -> Cluster {
        let mut cluster = Cluster::default();
        for &(id, is_learner) in members {
            let raft_attributes = Some(RaftAttributes { is_learner, ..RaftAttributes::default() });
            cluster.members.insert(id, Member { id, raft_attributes, member_attributes: None });
        }
        cluster
    }

    fn said(cluster: &Cluster) -> Result<Vec<(u64, ConfChangeType)>, String> {
        let own = MemberContext { id: 2, peer_urls: vec!["http://b:1".into()], ..MemberContext::default() };
        let changes = changes(cluster, &own)?;
        Ok(changes.iter().map(|change| (change.node_id, change.change_type())).collect())
    }

    #[test]
    fn the_member_has_its_vote_before_the_others_go() {
        use ConfChangeType::{AddNode, RemoveNode};
        let voters = [(1, false), (2, false), (3, true)];
        assert_eq!(said(&cluster(&voters)), Ok(vec![(1, RemoveNode), (3, RemoveNode)]));
        let learner = [(1, false), (2, true)];
        assert_eq!(said(&cluster(&learner)), Ok(vec![(2, AddNode), (1, RemoveNode)]));
        assert_eq!(said(&cluster(&[(1, false)])), Ok(vec![(2, AddNode), (1, RemoveNode)]));
        assert_eq!(said(&cluster(&[(2, false)])), Ok(vec![]));
        let mut gone = cluster(&[(1, false)]);
        gone.removed.insert(2);
        assert!(said(&gone).unwrap_err().contains("was removed from its cluster for good"));
    }
}
