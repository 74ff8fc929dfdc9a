//! Whether a member lets a change of the members be proposed: what `--strict-reconfig-check` protects.
//!
//! The member that is asked decides, by what it knows of the cluster and by which voters it reaches. A change that is
//! let through can be wrong all the same, and is then rejected when it is applied ([`membership`](super::membership)).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Cluster;
use super::membership::is_learner;
use crate::error::Error;
use crate::proto::membershippb::Member;
use crate::stdx::time::Duration;

/// How long a voter has to be reachable to count.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// What a member allows of changes to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `--max-learners`.
    pub learners_max: usize,
    /// `--strict-reconfig-check`.
    pub is_strict: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { learners_max: 1, is_strict: true }
    }
}

/// Whom a member reaches.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// The member itself.
    pub own: u64,
    /// The other members that it reaches, and since how long.
    pub others: BTreeMap<u64, Duration>,
}

impl Reach {
    /// How many of these are the member itself, or have been within reach for long enough.
    fn count<'a>(&self, voters: impl Iterator<Item = &'a Member>) -> usize {
        let is_near = |id| self.others.get(&id).is_some_and(|&since| since > HEALTHY_AFTER);
        voters.filter(|voter| voter.id == self.own || is_near(voter.id)).count()
    }
}

impl Cluster {
    /// Whether a member may be added.
    ///
    /// # Errors
    /// [`Error::MemberNotEnoughStarted`] or [`Error::Unhealthy`].
    pub fn may_add(&self, as_learner: bool, reach: &Reach) -> Result<(), Error> {
        let voters = self.voters().count();
        let started = self.started_voters(None);
        // A member that was restored alone grows to two by a member that has not started.
        let restores = started == 1 && voters == 1;
        if !as_learner && !restores && started < quorum(voters + 1) {
            return Err(Error::MemberNotEnoughStarted);
        }
        let near = voters == 1 || reach.count(self.voters()) >= quorum(voters + 1);
        if near { Ok(()) } else { Err(Error::Unhealthy) }
    }

    /// Whether a member may be removed.
    ///
    /// # Errors
    /// [`Error::MemberNotEnoughStarted`] or [`Error::Unhealthy`].
    pub fn may_remove(&self, id: u64, reach: &Reach) -> Result<(), Error> {
        if self.members.get(&id).is_some_and(is_learner) {
            return Ok(());
        }
        let others = self.voters().filter(|voter| voter.id != id).count();
        if self.started_voters(Some(id)) < quorum(others) {
            return Err(Error::MemberNotEnoughStarted);
        }
        if id != reach.own && !reach.others.contains_key(&id) {
            // It is down, so no quorum counts on it.
            return Ok(());
        }
        let voters = self.voters().count();
        let needed = 2 + voters.saturating_sub(1) / 2;
        if reach.count(self.voters()) >= needed { Ok(()) } else { Err(Error::Unhealthy) }
    }

    /// Whether a learner may get its vote.
    ///
    /// # Errors
    /// [`Error::MemberNotEnoughStarted`].
    pub fn may_promote(&self) -> Result<(), Error> {
        let enough = self.started_voters(None) + 1 >= quorum(self.voters().count() + 1);
        if enough { Ok(()) } else { Err(Error::MemberNotEnoughStarted) }
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !is_learner(member))
    }

    /// The only voter, if there is no other one.
    pub fn only_voter(&self) -> Option<u64> {
        let mut voters = self.voters().map(|voter| voter.id);
        voters.next().filter(|_| voters.next().is_none())
    }

    /// Whether a member may stop because another one, `by`, says that it was removed. Where one voter is left, that one
    /// may be the last to know of the removal, and cannot do without the member until then.
    pub fn releases(&self, id: u64, by: u64) -> bool {
        !self.removed.contains(&id) || self.only_voter().is_none_or(|voter| voter == by)
    }

    /// Voters that have published their name, but for one that is left out.
    fn started_voters(&self, left_out: Option<u64>) -> usize {
        let has_name =
            |member: &&Member| member.member_attributes.as_ref().is_some_and(|own| !own.name.is_empty());
        self.voters().filter(|voter| Some(voter.id) != left_out).filter(has_name).count()
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::membershippb::{Attributes, RaftAttributes};

    /// Members with the ids 1, 2 and so on. S is a voter that has started, n one that has not, l a learner.
    fn cluster(kinds: &str) -> Cluster {
        let mut cluster = Cluster::default();
        for (id, kind) in (1..).zip(kinds.chars()) {
            let name = if kind == 'S' { "name".to_owned() } else { String::new() };
            let member = Member {
                id,
                raft_attributes: Some(RaftAttributes {
                    is_learner: kind == 'l',
                    ..RaftAttributes::default()
                }),
                member_attributes: Some(Attributes { name, ..Attributes::default() }),
            };
            cluster.members.insert(id, member);
        }
        cluster
    }

    /// Member 1 reaches these, for so many seconds.
    fn reach(others: &[(u64, u64)]) -> Reach {
        let others = others.iter().map(|&(id, seconds)| (id, Duration::from_secs(seconds))).collect();
        Reach { own: 1, others }
    }

    #[test]
    fn who_was_removed_is_released_by_the_only_voter_that_is_left() {
        let removed_from = |kinds| Cluster { removed: [9].into(), ..cluster(kinds) };
        assert_eq!((cluster("SS").only_voter(), cluster("lS").only_voter()), (None, Some(2)));
        let alone = removed_from("Sl");
        assert!(alone.releases(9, 1) && !alone.releases(9, 2) && alone.releases(2, 1));
        assert!(removed_from("SS").releases(9, 2) && cluster("Sl").releases(9, 2));
    }

    #[test]
    fn a_member_is_added_where_a_quorum_of_the_larger_cluster_has_started_and_is_near() {
        let may = |kinds, others: &[_]| cluster(kinds).may_add(false, &reach(others));
        assert_eq!((may("S", &[]), may("Sl", &[])), (Ok(()), Ok(())));
        assert_eq!(may("Sn", &[(2, 9)]), Err(Error::MemberNotEnoughStarted));
        assert_eq!(may("SS", &[(2, 9)]), Ok(()));
        assert_eq!((may("SS", &[]), may("SS", &[(2, 5)])), (Err(Error::Unhealthy), Err(Error::Unhealthy)));
        assert_eq!(may("SSS", &[(2, 9)]), Err(Error::Unhealthy));
        assert_eq!(may("SSS", &[(2, 9), (3, 6)]), Ok(()));
        assert_eq!(may("SSn", &[(2, 9), (3, 9)]), Err(Error::MemberNotEnoughStarted));
        let learner = |kinds, others: &[_]| cluster(kinds).may_add(true, &reach(others));
        assert_eq!((learner("Sn", &[(2, 9)]), learner("Sn", &[])), (Ok(()), Err(Error::Unhealthy)));
    }

    #[test]
    fn a_member_is_removed_where_the_others_have_a_quorum() {
        let may = |kinds, id, others: &[_]| cluster(kinds).may_remove(id, &reach(others));
        assert_eq!(may("S", 1, &[]), Err(Error::MemberNotEnoughStarted), "the last one");
        assert_eq!(may("SS", 2, &[(2, 9)]), Ok(()));
        assert_eq!(may("SS", 2, &[]), Ok(()), "it is down");
        assert_eq!(may("SSS", 1, &[(2, 9)]), Err(Error::Unhealthy));
        assert_eq!(may("SSS", 1, &[(2, 9), (3, 9)]), Ok(()));
        assert_eq!(may("SSS", 3, &[(2, 9), (3, 4)]), Err(Error::Unhealthy));
        assert_eq!(may("Snn", 1, &[]), Err(Error::MemberNotEnoughStarted));
        assert_eq!(may("Sl", 2, &[]), Ok(()), "a learner has no part in a quorum");
        assert_eq!(
            may("SSS", 9, &[]),
            Ok(()),
            "whether there is such a member is found out when it is applied"
        );
    }

    #[test]
    fn a_learner_that_is_promoted_counts_as_started() {
        let may = |kinds| cluster(kinds).may_promote();
        assert_eq!((may("Sl"), may("SSl"), may("SSnl")), (Ok(()), Ok(()), Ok(())));
        assert_eq!(may("Snnl"), Err(Error::MemberNotEnoughStarted));
    }
}
