//! Spilling: the pages of a draft get their place in the file before the draft is published, so that an entry which
//! writes much holds no more memory than others do.
//!
//! ```text
//! replica core    begin ─► job ─┐                     ┌─► finish: the memory of the pages is let go, the draft goes on
//! checkpointer                  └─ pages, not synced ─┘
//! ```
//!
//! The pages go to places that no checkpoint has a use for, as those of a checkpoint do, so a crash finds these places
//! free. What was spilled is not changed in place any more ([`Pager::is_fresh`]): a copy takes its place, as with a
//! published page. The next checkpoint need not write it; the sync of that checkpoint makes it durable.
//!
//! A disk that refuses the pages does no harm: they stay in memory.
#![forbid(unsafe_code)]

use super::checkpoint::CheckpointJob;
use super::extents::Extent;
use super::pager::{Pager, is_discarded};
use super::table::FrozenPages;
use crate::stdx::sync::{Arc, AtomicBool, Ordering};

/// Pages whose memory is taken back in one slice of a draft, once they were spilled.
const SPILLED_PAGES_PER_SLICE: u64 = 4096;

/// A spill under way. The draft is suspended as long as it lasts.
pub(super) struct Spilling {
    frozen: Arc<FrozenPages>,
    extents: Vec<Extent>,
    /// The file has the pages.
    written: Arc<AtomicBool>,
}

impl Pager {
    /// Pages that the draft has taken and that have no place in the file.
    pub(crate) fn draft_pages(&self) -> u64 {
        self.fresh_pages
    }

    /// Freezes the pages of the draft. None if it has none.
    pub(crate) fn begin_spill(&mut self) -> Option<CheckpointJob> {
        assert!(self.spilling.is_none(), "one spill at a time");
        let fresh = std::mem::take(&mut self.fresh);
        let (kept, mut extents): (Vec<Extent>, Vec<Extent>) =
            fresh.into_iter().partition(|extent| is_discarded(self.view_fresh(extent.id)));
        self.fresh = kept;
        if extents.is_empty() {
            return None;
        }
        extents.sort_unstable_by_key(|extent| extent.id);
        let frozen = self.freeze_fresh(&extents);
        let written = Arc::new(AtomicBool::new(false));
        let job = CheckpointJob::spill(frozen.clone(), self.page_count, self.draft, written.clone());
        self.spilling = Some(Spilling { frozen, extents, written });
        Some(job)
    }

    /// Hears that the job of the spill under way has been executed. False if the disk has refused the pages.
    pub(crate) fn finish_spill(&mut self) -> bool {
        let Some(Spilling { frozen, extents, written }) = self.spilling.take() else { return false };
        let written = written.load(Ordering::Acquire);
        if written {
            self.drop_spilled(frozen);
            extents.iter().for_each(|extent| self.spilled.insert(*extent));
            self.draft_spilled.extend(extents);
        } else {
            self.fresh.extend(extents);
        }
        self.fresh_pages = self.fresh.iter().map(|extent| u64::from(extent.pages)).sum();
        written
    }

    /// Takes back the memory of what was spilled, a part at a time.
    pub(crate) fn reclaim_spilled(&mut self) {
        if self.has_spilled_memory() {
            self.reclaim_finished(SPILLED_PAGES_PER_SLICE);
        }
    }

    /// Gives the places of spilled pages out again that the draft has given back, or of all its spilled pages if the
    /// draft goes.
    pub(super) fn settle_spilled(&mut self, draft_goes: bool) {
        assert!(self.spilling.is_none(), "a draft stays as long as its pages are being written");
        for extent in std::mem::take(&mut self.draft_spilled) {
            if draft_goes {
                self.spilled.remove(extent);
            }
            if !self.spilled.contains(extent.id) {
                self.recycle(extent);
            }
        }
    }
}
