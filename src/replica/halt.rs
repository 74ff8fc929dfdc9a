//! What stops a member: an entry of the log that it cannot apply, or a record in its store that it cannot read. Its
//! store would differ from those of other members, so nothing more is applied, and the world is told once why, and what
//! to do.
#![forbid(unsafe_code)]

use raft::eraftpb::Entry as LogEntry;

use crate::error::RECOVERY;

/// Whether the member is to stop.
#[derive(Debug, Default)]
pub(super) enum Halted {
    #[default]
    No,
    /// Yes, and the world does not know yet.
    Due(String),
    /// The world was told.
    Told,
}

impl Halted {
    /// Whether nothing more may be applied.
    pub(super) fn is_halted(&self) -> bool {
        !matches!(self, Halted::No)
    }

    /// The member is to stop. The first reason counts.
    pub(super) fn halt(&mut self, reason: String) {
        if !self.is_halted() {
            *self = Halted::Due(reason);
        }
    }

    /// The reason, once.
    pub(super) fn take_due(&mut self) -> Option<String> {
        match std::mem::take(self) {
            Halted::No => None,
            Halted::Due(reason) => {
                *self = Halted::Told;
                Some(reason)
            }
            Halted::Told => {
                *self = Halted::Told;
                None
            }
        }
    }
}

/// Why a record that cannot be read stops the member; `what` cannot be done because of it.
pub(super) fn damaged(what: &str) -> String {
    format!(
        "{what}: the store has a record that cannot be read, or lacks one that another record is about, though its \
         pages are those that were written; {RECOVERY}"
    )
}

/// Why an entry that this version does not know stops the member.
pub(super) fn unknown(entry: &LogEntry, what: &str) -> String {
    format!(
        "log entry {} cannot be applied: {what}. Another version has written it: start the member with that \
         version. Otherwise, {RECOVERY}",
        entry.index
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_told_once() {
        let mut halted = Halted::default();
        assert_eq!((halted.is_halted(), halted.take_due()), (false, None));
        halted.halt("first".to_owned());
        halted.halt("second".to_owned());
        assert_eq!((halted.take_due(), halted.take_due()), (Some("first".to_owned()), None));
        halted.halt("third".to_owned());
        assert_eq!((halted.is_halted(), halted.take_due()), (true, None));
    }
}
