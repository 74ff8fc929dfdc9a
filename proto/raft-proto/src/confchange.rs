//! Conf changes of one member and of several, treated alike.

use std::borrow::Cow;

use crate::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// The number of the change that concerns a member's addresses only: raft has nothing to do for it, and whoever
/// applies it must not hand it to raft.
pub const CONF_CHANGE_UPDATE_NODE: i32 = 2;

/// A change of one member.
pub fn new_conf_change_single(node_id: u64, kind: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { change_type: kind as i32, node_id }
}

/// Reads `v1 l2 r3`: make 1 a voter, 2 a learner, remove 3.
pub fn parse_conf_change(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_ascii_whitespace()
        .map(|word| {
            let kind = match word.as_bytes()[0] {
                b'v' => ConfChangeType::AddNode,
                b'l' => ConfChangeType::AddLearnerNode,
                b'r' => ConfChangeType::RemoveNode,
                _ => return Err(format!("{word}: starts with none of v, l, r")),
            };
            let node_id = word[1..].parse().map_err(|error| format!("{word}: {error}"))?;
            Ok(new_conf_change_single(node_id, kind))
        })
        .collect()
}

/// Writes what [`parse_conf_change`] reads.
pub fn stringify_conf_change(changes: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.change_type() {
                ConfChangeType::AddNode => 'v',
                ConfChangeType::AddLearnerNode => 'l',
                ConfChangeType::RemoveNode => 'r',
            };
            format!("{letter}{}", change.node_id)
        })
        .collect();
    words.join(" ")
}

/// A conf change of either kind.
pub trait ConfChangeI {
    /// As a change of several.
    fn into_v2(self) -> ConfChangeV2;

    /// The same, borrowed where it already is one.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;

    /// The change of one member, if it was made as one.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        // The number is carried over as it is, known or not.
        let change = ConfChangeSingle { change_type: self.change_type, node_id: self.node_id };
        ConfChangeV2 { changes: vec![change], context: self.context, ..ConfChangeV2::default() }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// Whether it goes through a joint configuration, and then whether that is left without being asked.
    ///
    /// One plain change doesn't need one; several do, and whoever asks for one gets one.
    pub fn enter_joint(&self) -> Option<bool> {
        match self.transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether it is the empty change that leaves a joint configuration.
    pub fn leave_joint(&self) -> bool {
        self.transition() == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        let changes = parse_conf_change(" v1 l2  r3 ").unwrap();
        assert_eq!(stringify_conf_change(&changes), "v1 l2 r3");
        assert!(parse_conf_change("x1").is_err());
        assert!(parse_conf_change("v").is_err());
    }

    #[test]
    fn several_changes_need_a_joint_configuration() {
        let change =
            |text| ConfChangeV2 { changes: parse_conf_change(text).unwrap(), ..ConfChangeV2::default() };
        assert_eq!(change("v1").enter_joint(), None);
        assert_eq!(change("v1 v2").enter_joint(), Some(true));
        assert!(change("").leave_joint());
    }
}
