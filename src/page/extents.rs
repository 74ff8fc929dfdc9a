//! A set of pages and runs, each known by its first page.
#![forbid(unsafe_code)]

use super::layout::PageId;
use super::set::PageSet;
use std::collections::BTreeMap;

/// Pages that belong together: one, or a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) id: PageId,
    pub(super) pages: u32,
}

/// The set.
#[derive(Default)]
pub(super) struct ExtentSet {
    firsts: PageSet,
    /// How many pages there are from one of these on, where it is more than one.
    runs: BTreeMap<PageId, u32>,
    pages: u64,
}

impl ExtentSet {
    /// Pages in all, runs counted whole.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Whether a page or run begins here.
    pub(super) fn contains(&self, id: PageId) -> bool {
        self.firsts.contains(id)
    }

    /// Adds an extent that must not be in it.
    pub(super) fn insert(&mut self, extent: Extent) {
        self.firsts.insert(extent.id);
        self.pages += u64::from(extent.pages);
        if extent.pages > 1 {
            self.runs.insert(extent.id, extent.pages);
        }
    }

    /// Removes an extent; true if it was there.
    pub(super) fn remove(&mut self, extent: Extent) -> bool {
        let found = self.firsts.remove(extent.id);
        if found {
            self.pages -= u64::from(extent.pages);
            if extent.pages > 1 {
                self.runs.remove(&extent.id);
            }
        }
        found
    }

    /// All extents, by ascending id.
    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.firsts.iter().map(|id| Extent { id, pages: self.runs.get(&id).copied().unwrap_or(1) })
    }

    /// Removes all extents.
    pub(super) fn clear(&mut self) {
        if !self.is_empty() {
            self.firsts.clear();
            self.runs.clear();
            self.pages = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_counted_whole_and_told_in_order() {
        let extent = |id, pages| Extent { id: PageId(id), pages };
        let mut set = ExtentSet::default();
        [extent(9, 3), extent(4, 1), extent(20, 2)].into_iter().for_each(|extent| set.insert(extent));
        assert!(set.remove(extent(9, 3)) && !set.remove(extent(9, 3)) && !set.contains(PageId(9)));
        assert_eq!(set.iter().map(|e| (e.id.0, e.pages)).collect::<Vec<_>>(), [(4, 1), (20, 2)]);
        assert_eq!(set.pages(), 3);
        set.clear();
        assert!(set.is_empty() && set.iter().next().is_none());
    }
}
