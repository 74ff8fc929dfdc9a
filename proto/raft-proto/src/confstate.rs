//! When two conf states describe the same configuration.

use crate::eraftpb::ConfState;

fn same_members(left: &[u64], right: &[u64]) -> bool {
    left == right || (left.iter().all(|id| right.contains(id)) && right.iter().all(|id| left.contains(id)))
}

/// True when both name the same members in the same roles, in whatever order.
#[must_use]
pub fn conf_state_eq(left: &ConfState, right: &ConfState) -> bool {
    left.auto_leave == right.auto_leave
        && same_members(&left.voters, &right.voters)
        && same_members(&left.learners, &right.learners)
        && same_members(&left.voters_outgoing, &right.voters_outgoing)
        && same_members(&left.learners_next, &right.learners_next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_roles_do() {
        let a = ConfState::from((vec![1, 2], vec![3]));
        assert!(conf_state_eq(&a, &ConfState::from((vec![2, 1], vec![3]))));
        assert!(!conf_state_eq(&a, &ConfState::from((vec![1, 2, 3], vec![]))));
    }
}
