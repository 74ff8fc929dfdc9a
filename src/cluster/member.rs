//! A member in the JSON that membership entries carry.
#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer, Serialize};

use crate::proto::membershippb::{Attributes, Member, RaftAttributes};

/// What a membership entry says about its member.
///
/// Go writes `null` for an empty list and reads it as one, so every field takes it: a promotion carries
/// `"peerURLs":null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberContext {
    /// The member's id.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub id: u64,
    /// Where other members reach this one.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether the member has no vote.
    #[serde(
        rename = "isLearner",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_learner: bool,
    /// The member's name.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach the member.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
    /// A learner gets its vote.
    #[serde(
        rename = "isPromote",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_promote: bool,
}

fn null_is_empty<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

impl MemberContext {
    /// The member as the store keeps it, `known` being what it keeps so far. Attributes come with an entry of their
    /// own, a promotion says nothing of addresses, and new addresses make no voter of a learner.
    pub fn into_member(self, known: Option<&Member>) -> Member {
        let (before, member_attributes) = match known {
            Some(known) => (known.raft_attributes.clone(), known.member_attributes.clone()),
            None => (None, None),
        };
        let raft_attributes = match before {
            Some(before) if self.is_promote => RaftAttributes { is_learner: false, ..before },
            Some(before) => RaftAttributes { peer_urls: self.peer_urls, ..before },
            None => RaftAttributes { peer_urls: self.peer_urls, is_learner: self.is_learner },
        };
        Member { id: self.id, raft_attributes: Some(raft_attributes), member_attributes }
    }

    /// The member that a list of members shows.
    pub fn into_new_member(self) -> Member {
        let own = Attributes { name: self.name.clone(), client_urls: self.client_urls.clone() };
        Member { member_attributes: Some(own), ..self.into_member(None) }
    }

    /// A member as the store keeps it, for those that read its JSON.
    pub fn of(member: &Member) -> Self {
        let raft = member.raft_attributes.clone().unwrap_or_default();
        let own = member.member_attributes.clone().unwrap_or_default();
        Self {
            id: member.id,
            peer_urls: raft.peer_urls,
            is_learner: raft.is_learner,
            name: own.name,
            client_urls: own.client_urls,
            is_promote: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_that_moves_is_a_learner_until_it_is_promoted() {
        let joins = MemberContext { id: 7, is_learner: true, ..MemberContext::default() };
        let learner = joins.into_member(None);
        let moves = MemberContext { id: 7, peer_urls: vec!["http://b".into()], ..MemberContext::default() };
        let moved = moves.into_member(Some(&learner));
        let attributes = |is_learner| RaftAttributes { peer_urls: vec!["http://b".into()], is_learner };
        assert_eq!(moved.raft_attributes, Some(attributes(true)));
        let promotion = MemberContext { id: 7, is_promote: true, ..MemberContext::default() };
        let voter = promotion.into_member(Some(&moved));
        assert_eq!(voter.raft_attributes, Some(attributes(false)));
        assert_eq!(MemberContext::of(&moved).into_member(None), moved);
    }

    #[test]
    fn what_go_writes_is_read() {
        let read = |json: &str| serde_json::from_str::<MemberContext>(json).ok();
        let promotion = MemberContext { id: 7, is_promote: true, ..MemberContext::default() };
        assert_eq!(read(r#"{"id":7,"peerURLs":null,"isPromote":true}"#), Some(promotion));
        let nulls = r#"{"id":7,"name":null,"clientURLs":null,"isLearner":null,"isPromote":null,"more":1}"#;
        assert_eq!(read(nulls), Some(MemberContext { id: 7, ..MemberContext::default() }));
        assert_eq!(read(r#"{"id":"7"}"#), None);
    }
}
