//! Whether the members hold the same data, by the hashes of their histories, and who is to be accused if not. The rules
//! are etcd's.
//!
//! | check | made by | compares | accuses |
//! |---|---|---|---|
//! | [`initial`] | a member that is about to serve | its newest hash | itself: it does not serve |
//! | [`periodic`] | the leader, now and then | its newest hash, taken twice | the first member that does not fit |
//! | [`CompactChecks`] | the leader, now and then | the hashes of compactions | the minority, or the whole cluster |
//!
//! Hashes can be compared where they stand for the same revision and the same compaction revision; others say nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::mvcc::hash::KvHash;

/// The member id that an alarm names which is about the whole cluster.
pub const WHOLE_CLUSTER: u64 = 0;

/// What another member says when it is asked for its hash at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Id of that member.
    pub id: u64,
    /// The hash, or why there is none.
    pub hash: Result<KvHash, NoHash>,
}

/// Why a member has told no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHash {
    /// The member has not got to that revision.
    Future,
    /// The member has compacted that revision.
    Compacted,
    /// The member belongs to another cluster.
    OtherCluster,
    /// The member does not answer, or with nothing that can be read.
    Silent,
}

/// What stands out in an answer to a member that is about to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The data differ.
    Hash,
    /// The hashes differ as the compaction revisions do, and prove nothing.
    Compaction,
    /// The other member is behind.
    Slow,
    /// The other member is ahead.
    Behind,
    /// The other member belongs to another cluster.
    OtherCluster,
}

impl Doubt {
    /// The doubt in etcd's words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Hash => "found different hash values from remote peer",
            Self::Compaction => "found different compact revision values from remote peer",
            Self::Slow => "cannot fetch hash from slow remote peer",
            Self::Behind => "cannot fetch hash from remote peer; local member is behind",
            Self::OtherCluster => "cluster ID mismatch",
        }
    }
}

/// What stands out in the answer of another member to one whose newest hash is `own`; nothing where the hashes are
/// equal or the other member is silent.
pub fn initial(own: &KvHash, told: &Told) -> Option<Doubt> {
    match told.hash {
        Ok(hash) if hash.hash == own.hash => None,
        Ok(hash) if hash.compact_revision == own.compact_revision => Some(Doubt::Hash),
        Ok(_) => Some(Doubt::Compaction),
        Err(NoHash::Future) => Some(Doubt::Slow),
        Err(NoHash::Compacted) => Some(Doubt::Behind),
        Err(NoHash::OtherCluster) => Some(Doubt::OtherCluster),
        Err(NoHash::Silent) => None,
    }
}

/// A leader's state once it has applied all that was committed when the others had answered.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    /// The newest revision.
    pub revision: i64,
    /// The compaction revision.
    pub compact_revision: i64,
    /// The newest hash, taken again; none where either revision has moved.
    pub hash: Option<u32>,
}

/// What does not fit a leader's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The leader's own hash has changed, and no revision has.
    OwnHash,
    /// A follower is ahead of its leader.
    Revision,
    /// A follower has compacted further than its leader.
    CompactRevision,
    /// A follower's data differ.
    Hash,
}

/// What does not fit the state of the leader `own_id`, and whose fault it is; the first is to be accused. `before` is
/// the leader's newest hash before the others were asked for theirs at its revision.
pub fn periodic(own_id: u64, before: &KvHash, told: &[Told], later: &Later) -> Vec<(u64, Misfit)> {
    let mut misfits = Vec::new();
    if later.hash.is_some_and(|hash| hash != before.hash) {
        misfits.push((own_id, Misfit::OwnHash));
    }
    for (id, hash) in told.iter().filter_map(|told| Some((told.id, told.hash.ok()?))) {
        let is_other = hash.compact_revision == before.compact_revision && hash.hash != before.hash;
        let found = [
            (hash.revision > later.revision, Misfit::Revision),
            (hash.compact_revision > later.compact_revision, Misfit::CompactRevision),
            (is_other, Misfit::Hash),
        ];
        misfits.extend(found.into_iter().filter(|(is_so, _)| *is_so).map(|(_, misfit)| (id, misfit)));
    }
    misfits
}

/// The hashes of compactions that a leader has compared.
#[derive(Debug, Default)]
pub struct CompactChecks {
    /// The highest compaction that all members were found to agree on; zero before there was one.
    checked: i64,
}

/// What the hashes of one compaction say.
#[derive(Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Members that say nothing about this compaction, each with the reason.
    pub skipped: Vec<(u64, String)>,
    /// Members that were compared with the leader.
    pub compared: usize,
    /// What came of it.
    pub outcome: Outcome,
}

/// What comes of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All members agree.
    Same,
    /// All that were compared agree, and some were not: an older compaction may tell more.
    Incomplete,
    /// Some differ.
    Differs {
        /// The hashes that are not those of a quorum, each with its members.
        suspects: Vec<(u32, Vec<u64>)>,
        /// A quorum has another hash than the suspects. Without one nobody knows whose data are right.
        has_quorum: bool,
    },
}

impl Outcome {
    /// The members against which the alarm is to be raised.
    pub fn accused(&self) -> Vec<u64> {
        match self {
            Self::Same | Self::Incomplete => Vec::new(),
            Self::Differs { has_quorum: false, .. } => vec![WHOLE_CLUSTER],
            Self::Differs { suspects, .. } => suspects.iter().flat_map(|(_, ids)| ids.clone()).collect(),
        }
    }
}

impl CompactChecks {
    /// Those of a leader's `hashes` that are still to be compared, the newest first.
    pub fn unchecked(&self, mut hashes: Vec<KvHash>) -> Vec<KvHash> {
        hashes.retain(|hash| hash.hash_revision > self.checked);
        hashes.sort_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
        hashes
    }

    /// Compares the hash of a compaction that the leader `own_id` has with what all other members have told of it.
    pub fn compare(&mut self, own_id: u64, own: &KvHash, told: &[Told]) -> Comparison {
        let mut groups = BTreeMap::from([(own.hash, vec![own_id])]);
        let mut skipped = Vec::new();
        for told in told {
            match comparable(own, told) {
                Ok(hash) => groups.entry(hash).or_default().push(told.id),
                Err(reason) => skipped.push((told.id, reason)),
            }
        }
        let outcome = match groups.len() {
            1 if skipped.is_empty() => {
                self.checked = self.checked.max(own.hash_revision);
                Outcome::Same
            }
            1 => Outcome::Incomplete,
            _ => differs(groups, told.len() + 1),
        };
        Comparison { compared: told.len() - skipped.len(), skipped, outcome }
    }
}

/// The hash of another member, if it is about the same compaction.
fn comparable(own: &KvHash, told: &Told) -> Result<u32, String> {
    let hash = told.hash.map_err(|_| "no response".to_owned())?;
    if hash.compact_revision != own.compact_revision {
        return Err(format!(
            "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
            hash.compact_revision, own.compact_revision
        ));
    }
    Ok(hash.hash)
}

/// Whom different hashes speak against in a cluster of so many members.
fn differs(mut groups: BTreeMap<u32, Vec<u64>>, members: usize) -> Outcome {
    let quorum = members / 2 + 1;
    let of_quorum = groups.iter().find(|(_, ids)| ids.len() >= quorum).map(|(hash, _)| *hash);
    if let Some(hash) = of_quorum {
        groups.remove(&hash);
    }
    Outcome::Differs { suspects: groups.into_iter().collect(), has_quorum: of_quorum.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64, revision: i64) -> KvHash {
        KvHash { hash, compact_revision, hash_revision: revision, revision }
    }

    fn told(id: u64, hash: KvHash) -> Told {
        Told { id, hash: Ok(hash) }
    }

    fn silent(id: u64) -> Told {
        Told { id, hash: Err(NoHash::Silent) }
    }

    #[test]
    fn a_member_that_starts_is_damaged_only_if_equal_compactions_have_other_hashes() {
        let own = hash(1, 5, 9);
        let doubt = |hash| initial(&own, &Told { id: 2, hash });
        assert_eq!(doubt(Ok(hash(1, 5, 9))), None);
        assert_eq!(doubt(Ok(hash(1, 6, 9))), None, "equal is equal");
        assert_eq!(doubt(Ok(hash(2, 5, 9))), Some(Doubt::Hash));
        assert_eq!(doubt(Ok(hash(2, 6, 9))), Some(Doubt::Compaction));
        assert_eq!(doubt(Err(NoHash::Future)), Some(Doubt::Slow));
        assert_eq!(doubt(Err(NoHash::Compacted)), Some(Doubt::Behind));
        assert_eq!(doubt(Err(NoHash::OtherCluster)), Some(Doubt::OtherCluster));
        assert_eq!(doubt(Err(NoHash::Silent)), None);
    }

    #[test]
    fn a_leader_accuses_whoever_does_not_fit_first() {
        let own = hash(1, 5, 9);
        let later = Later { revision: 9, compact_revision: 5, hash: Some(1) };
        let find = |answers: &[Told], later: &Later| periodic(1, &own, answers, later);
        assert_eq!(find(&[told(2, own), silent(3), told(4, hash(7, 4, 8))], &later), []);
        let other = told(3, hash(2, 5, 9));
        assert_eq!(find(&[told(2, own), other], &later), [(3, Misfit::Hash)]);
        let ahead = told(2, hash(1, 5, 10));
        assert_eq!(find(&[ahead, other], &later), [(2, Misfit::Revision), (3, Misfit::Hash)]);
        let moved = Later { revision: 10, hash: None, ..later };
        assert_eq!(find(&[ahead], &moved), [], "the leader has caught up meanwhile");
        let compacted = told(2, hash(2, 6, 9));
        assert_eq!(find(&[compacted], &later), [(2, Misfit::CompactRevision)]);
        let later = Later { hash: Some(3), ..later };
        assert_eq!(find(&[other], &later), [(1, Misfit::OwnHash), (3, Misfit::Hash)]);
    }

    fn outcome(own: u32, others: &[Option<(u32, i64)>]) -> Comparison {
        let others: Vec<Told> = others
            .iter()
            .zip(2..)
            .map(|(other, id)| match other {
                Some((other, compact_revision)) => told(id, hash(*other, *compact_revision, 9)),
                None => silent(id),
            })
            .collect();
        CompactChecks::default().compare(1, &hash(own, 5, 9), &others)
    }

    #[test]
    fn the_minority_is_accused_be_it_the_leader() {
        let found = outcome(7, &[Some((7, 5)), Some((8, 5))]);
        assert_eq!(found.outcome, Outcome::Differs { suspects: vec![(8, vec![3])], has_quorum: true });
        assert_eq!((found.outcome.accused(), found.compared), (vec![3], 2));
        assert_eq!(outcome(7, &[Some((8, 5)), Some((8, 5))]).outcome.accused(), [1]);
        let five = outcome(9, &[Some((8, 5)), Some((7, 5)), Some((7, 5)), Some((7, 5))]);
        let suspects = vec![(8, vec![2]), (9, vec![1])];
        assert_eq!(five.outcome, Outcome::Differs { suspects, has_quorum: true });
        assert_eq!(five.outcome.accused(), [2, 1]);
    }

    #[test]
    fn without_a_quorum_of_equal_hashes_the_whole_cluster_is_accused() {
        for others in [
            &[Some((8, 5))][..],
            &[Some((8, 5)), Some((9, 5))],
            &[Some((7, 5)), Some((8, 5)), Some((8, 5))],
            &[Some((8, 5)), None],
            &[Some((7, 5)), Some((8, 5)), None, None],
        ] {
            let found = outcome(7, others);
            assert!(matches!(found.outcome, Outcome::Differs { has_quorum: false, .. }), "{others:?}");
            assert_eq!(found.outcome.accused(), [WHOLE_CLUSTER], "{others:?}");
        }
        let found = outcome(7, &[Some((8, 5))]);
        assert_eq!(
            found.outcome,
            Outcome::Differs { suspects: vec![(7, vec![1]), (8, vec![2])], has_quorum: false }
        );
    }

    #[test]
    fn who_has_another_compaction_or_none_is_left_out() {
        let found = outcome(7, &[Some((8, 4)), Some((7, 5))]);
        let reason = "the peer's CompactRevision 4 doesn't match leader's CompactRevision 5";
        assert_eq!(found.skipped, [(2, reason.to_owned())]);
        assert_eq!((found.outcome, found.compared), (Outcome::Incomplete, 1));
        let found = outcome(7, &[None, None]);
        assert_eq!(found.skipped, [(2, "no response".to_owned()), (3, "no response".to_owned())]);
        assert_eq!((found.outcome.accused(), found.compared), (vec![], 0));
    }

    #[test]
    fn compactions_are_compared_from_the_newest_down_until_all_agree() {
        let (mut checks, hashes) =
            (CompactChecks::default(), vec![hash(1, 1, 4), hash(2, 4, 8), hash(3, 8, 6)]);
        let revisions = |checks: &CompactChecks| {
            let unchecked = checks.unchecked(hashes.clone());
            unchecked.iter().map(|hash| hash.hash_revision).collect::<Vec<_>>()
        };
        assert_eq!(revisions(&checks), [8, 6, 4]);
        assert_eq!(checks.compare(1, &hashes[0], &[told(2, hashes[0])]).outcome, Outcome::Same);
        assert_eq!(revisions(&checks), [8, 6]);
        assert_eq!(checks.compare(1, &hashes[1], &[silent(2)]).outcome, Outcome::Incomplete);
        let other = told(2, KvHash { hash: 9, ..hashes[1] });
        assert_eq!(checks.compare(1, &hashes[1], &[other]).outcome.accused(), [WHOLE_CLUSTER]);
        assert_eq!(revisions(&checks), [8, 6], "what differs is compared again");
        assert_eq!(checks.compare(1, &hashes[1], &[told(2, hashes[1])]).outcome, Outcome::Same);
        assert_eq!(checks.compare(1, &hashes[0], &[told(2, hashes[0])]).outcome, Outcome::Same);
        assert!(revisions(&checks).is_empty(), "an older one does not take back what was found");
    }
}
