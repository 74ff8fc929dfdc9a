//! The room that an answer has which is put together within a write.
//!
//! What a write answers has to be read in the middle of the write, so it is assembled. The write is applied whatever
//! the answer comes to; of an answer that grows too long only its length is kept.
#![forbid(unsafe_code)]

use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;

/// What is left for the pairs of one answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerRoom {
    /// Bytes of all pieces so far, those too that found no room.
    wanted: usize,
}

impl AnswerRoom {
    /// Whether a piece of `len` bytes may be added. Behind a piece that may not, none may.
    pub fn admit(&mut self, len: usize) -> bool {
        self.wanted = self.wanted.saturating_add(len);
        self.wanted <= ANSWER_ASSEMBLED_BYTES_MAX
    }

    /// The bytes of all pieces, if that is more than an answer may have.
    pub fn overlong(&self) -> Option<usize> {
        (self.wanted > ANSWER_ASSEMBLED_BYTES_MAX).then_some(self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_piece_that_does_not_fit_none_does_and_all_are_counted() {
        let mut room = AnswerRoom::default();
        assert!(room.admit(ANSWER_ASSEMBLED_BYTES_MAX - 1) && room.admit(1) && room.overlong().is_none());
        assert!(!room.admit(2) && !room.admit(0));
        assert_eq!(room.overlong(), Some(ANSWER_ASSEMBLED_BYTES_MAX + 2));
    }
}
