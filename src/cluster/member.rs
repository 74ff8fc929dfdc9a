//! A member in the JSON that membership entries carry.
#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer, Serialize};

use crate::proto::membershippb::{Member, RaftAttributes};

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
    /// own, and a promotion says nothing of addresses.
    pub fn into_member(self, known: Option<&Member>) -> Member {
        let known = known.cloned().unwrap_or_default();
        let known_urls = known.raft_attributes.map(|attributes| attributes.peer_urls).unwrap_or_default();
        let peer_urls = if self.is_promote { known_urls } else { self.peer_urls };
        let raft_attributes = RaftAttributes { peer_urls, is_learner: self.is_learner && !self.is_promote };
        Member {
            id: self.id,
            raft_attributes: Some(raft_attributes),
            member_attributes: known.member_attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
