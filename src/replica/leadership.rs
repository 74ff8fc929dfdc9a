//! What a member does once in each term in which it leads: it runs the lessor and publishes facts about itself. Its
//! alarm, too, is proposed once in a term.
//!
//! Each is remembered with its term, so what a change of leaders has lost is done again in the next term.
#![forbid(unsafe_code)]

use super::replica::{Replica, Settings};
use crate::cluster::Cluster;
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use crate::request::Request;

/// The version of this member.
const OWN_VERSION: &str = "3.7.0";

/// The terms in which things were done; 0 for what was not done, as no member leads in term 0.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    /// The lessor runs since the member committed an entry in this term; 0 while the member does not lead.
    lessor: u64,
    /// The member's own facts were proposed in this term. Never above the term of the lessor's last run.
    introduced: u64,
    /// The alarm NOSPACE of this member was proposed in this term, and is not applied.
    alarm: u64,
}

impl Leadership {
    /// Whether the lessor runs.
    pub(super) fn is_held(&self) -> bool {
        self.lessor != 0
    }

    /// The term since which the lessor runs; 0 where it does not.
    pub(super) fn term(&self) -> u64 {
        self.lessor
    }

    /// Whether the lessor runs since this term.
    pub(super) fn is_of(&self, term: u64) -> bool {
        self.lessor == term
    }

    /// The member leads and has committed in `term`. True if its lessor has to begin.
    pub(super) fn begin(&mut self, term: u64) -> bool {
        std::mem::replace(&mut self.lessor, term) != term
    }

    /// The member does not lead. True if its lessor has to end.
    pub(super) fn end(&mut self) -> bool {
        std::mem::take(&mut self.lessor) != 0
    }

    /// Whether the member's own facts have to be proposed: once in each term in which the lessor runs.
    pub(super) fn introduces(&mut self, term: u64) -> bool {
        self.is_of(term) && std::mem::replace(&mut self.introduced, term) != term
    }

    /// Whether the alarm was proposed in this term and is on its way.
    pub(super) fn has_alarmed(&self, term: u64) -> bool {
        self.alarm == term
    }

    /// The alarm was proposed.
    pub(super) fn on_alarm_proposed(&mut self, term: u64) {
        self.alarm = term;
    }

    /// An alarm was applied.
    pub(super) fn on_alarm_applied(&mut self) {
        self.alarm = 0;
    }
}

/// What a member proposes about itself: its name and URLs, where `cluster` does not say so already, and the cluster's
/// version, unless other members have to be asked for theirs.
pub(super) fn introduction(settings: &Settings, cluster: &Cluster) -> Vec<Request> {
    let id = settings.member_id;
    let attributes = Attributes { name: settings.name.clone(), client_urls: settings.client_urls.clone() };
    let known = cluster.members.get(&id).and_then(|member| member.member_attributes.as_ref());
    let mut facts = Vec::new();
    if known != Some(&attributes) {
        facts.push(Request::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
            member_id: id,
            member_attributes: Some(attributes),
        }));
    }
    let is_alone = cluster.members.keys().all(|member| *member == id);
    if is_alone || !settings.asks_versions {
        facts.extend(next_version(cluster, &[Some(OWN_VERSION.to_owned())]));
    }
    facts
}

/// What a leader proposes as the cluster's version when the members have told theirs.
fn next_version(cluster: &Cluster, members: &[Option<String>]) -> Option<Request> {
    let ver = cluster.next_version(members)?;
    Some(Request::ClusterVersionSet(ClusterVersionSetRequest { ver }))
}

impl Replica {
    /// The other members have told their versions, or have not. What is proposed twice, because the first proposal is
    /// not applied yet, changes nothing the second time.
    pub(super) fn on_versions(&mut self, others: Vec<Option<String>>) {
        if !self.leadership.is_held() {
            return;
        }
        let members: Vec<Option<String>> = others.into_iter().chain([Some(OWN_VERSION.to_owned())]).collect();
        if let Some(fact) = next_version(&self.state.cluster, &members) {
            self.proposals.queue_own(fact);
        }
    }

    /// The term in which this member leads and has committed; none if it does not.
    pub fn held_term(&self) -> Option<u64> {
        self.leadership.is_held().then_some(self.node.raft.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_done_once_in_a_term() {
        let mut leadership = Leadership::default();
        assert!(!leadership.introduces(3), "the lessor does not run");
        assert!(leadership.begin(3) && !leadership.begin(3));
        assert!(leadership.introduces(3) && !leadership.introduces(3));
        assert!(leadership.end() && !leadership.end() && !leadership.is_held());
        assert!(leadership.begin(5) && leadership.introduces(5));
    }

    #[test]
    fn an_alarm_that_a_term_has_lost_is_proposed_in_the_next() {
        let mut leadership = Leadership::default();
        assert!(!leadership.has_alarmed(5));
        leadership.on_alarm_proposed(5);
        assert!(leadership.has_alarmed(5) && !leadership.has_alarmed(6));
        leadership.on_alarm_applied();
        assert!(!leadership.has_alarmed(5), "one that was disarmed is raised again in the same term");
    }
}
