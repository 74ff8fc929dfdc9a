//! Relief for a draft that holds much memory: its pages are written to the file before the entry that makes them goes
//! on.
//!
//! Only an entry that is alone in its draft makes so many pages, so it is suspended, and waits for the disk as it waits
//! for its next turn. What else a member does goes on, but for what waits behind the entry anyway. Where the disk has
//! no room for a checkpoint under way, which comes before such pages, the entry first takes more memory.
#![forbid(unsafe_code)]

use super::port::{Output, Outputs};
use super::replica::Replica;
use crate::limits::{DRAFT_BYTES_MAX, REFUSED_FACTOR};

/// When a draft is relieved.
#[derive(Debug)]
pub(super) struct Spill {
    /// Bytes of a draft's pages from which on they are written.
    draft_bytes_max: u64,
    /// The same for the present draft, which is more once the disk has refused its pages.
    bound: u64,
    /// Pages are on their way to the file.
    is_under_way: bool,
}

impl Default for Spill {
    fn default() -> Self {
        Self { draft_bytes_max: DRAFT_BYTES_MAX, bound: DRAFT_BYTES_MAX, is_under_way: false }
    }
}

impl Spill {
    /// Another bound than [`DRAFT_BYTES_MAX`], for the drafts to come.
    pub(super) fn set_bound(&mut self, bytes: u64) {
        self.draft_bytes_max = bytes;
    }

    /// Whether pages of the draft are on their way to the file.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// The draft is committed.
    pub(super) fn end_draft(&mut self) {
        self.bound = self.draft_bytes_max;
    }
}

impl Replica {
    /// Whether the suspended entry waits for its pages, or for the checkpoint that has to be written before them.
    pub(super) fn waits_for_spill(&self) -> bool {
        self.spill.is_under_way || (self.is_spill_due() && !self.may_spill())
    }

    fn is_spill_due(&self) -> bool {
        let factor = if self.marks.is_refused() { REFUSED_FACTOR } else { 1 };
        self.is_suspended() && self.store.draft_bytes() >= self.spill.bound * factor
    }

    /// A checkpoint under way may cut the file behind its own last page.
    fn may_spill(&self) -> bool {
        !self.marks.is_being_written()
    }

    /// Whether the suspended entry may go on. If its draft holds too much memory, the pages are written first.
    pub(super) fn is_relieved(&mut self, outputs: &mut Outputs) -> bool {
        if !self.waits_for_spill()
            && self.is_spill_due()
            && let Some(job) = self.store.begin_spill()
        {
            self.spill.is_under_way = true;
            outputs.push(Output::WriteCheckpoint(job));
        }
        !self.waits_for_spill()
    }

    /// The job that was executed is that of a spill, if one is under way. True then.
    pub(super) fn end_spill(&mut self) -> bool {
        let was_under_way = std::mem::take(&mut self.spill.is_under_way);
        if was_under_way && !self.store.finish_spill() {
            // There may be room later, and memory has to do until then.
            self.spill.bound = self.store.draft_bytes() * 2;
        }
        was_under_way
    }
}
