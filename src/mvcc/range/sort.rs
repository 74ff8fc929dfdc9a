//! Sorting the pairs of an answer, in legs.
//!
//! Pairs come from the walk in key order and are collected in *runs* of bounded size. A full run is sorted at once;
//! runs are then merged, a few at a time, until one is left:
//!
//! ```text
//!   walk ──▶ filling ──seal──▶ sealed, sealed, sealed ...       runs of 1024 pairs, or of 256 KB of values
//!                                └──────merge──────┘            up to 64 of them, into one behind the last
//! ```
//!
//! Values are too large to be kept: a comparison reads them in the snapshot of its leg. So a merge looks up each value
//! once per level, and its width shrinks where values are large, as every leg begins with the first value of each run.
//! Where the client wants the first few pairs only, no run is longer than that.
#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::query::{Order, Query};
use crate::btree::Read;
use crate::error::Error;
use crate::mvcc::remembered::{PlanMemory, SortMemory};
use crate::mvcc::revision::Revision;
use crate::mvcc::view::View;
use crate::mvcc::walk::BYTES_PER_ENTRY;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::wire::{KeyValue, bytes_field_len};

/// Pairs in a run, at most.
const RUN_ITEMS: usize = 1024;

/// Bytes of values in a run, unless it has one pair.
const RUN_BYTES: usize = 256 * 1024;

/// Runs merged at a time, at most.
const FAN_IN: usize = 64;

/// Pairs beyond four times what the client wants that wait before they are merged down to what it wants.
const SURPLUS: usize = 32 * 1024;

/// A pair of the answer.
#[derive(Clone, Copy)]
pub(super) struct Item {
    /// What is sorted by, ascending in order of the answer; the same for all pairs that are sorted by value.
    pub(super) number: i64,
    /// The pair's place in key order, which decides between equals.
    pub(super) place: u64,
    pub(super) revision: Revision,
    /// Length of its encoding in the answer.
    pub(super) len: usize,
}

/// Pairs in order of the answer.
#[derive(Default)]
pub(super) struct Run {
    pub(super) items: Vec<Item>,
    /// Length of their fields in the answer.
    pub(super) kvs_len: usize,
    /// Length of the longest stored pair among them.
    longest: usize,
}

impl Run {
    fn push(&mut self, item: Item, longest: usize) {
        self.items.push(item);
        self.kvs_len += bytes_field_len(item.len);
        self.longest = self.longest.max(longest);
    }

    fn of(items: Vec<Item>, longest: usize) -> Self {
        let kvs_len = items.iter().map(|item| bytes_field_len(item.len)).sum();
        Self { items, kvs_len, longest }
    }
}

/// How two pairs are compared.
#[derive(Clone, Copy)]
struct By {
    value: bool,
    descending: bool,
}

/// Pairs being sorted.
pub(super) struct Sorter {
    by: By,
    /// Pairs that the client wants to see: longer runs are cut.
    keep: usize,
    filling: Run,
    filling_bytes: usize,
    sealed: VecDeque<Run>,
    merging: Option<Merge>,
    /// Pairs in the sealed runs and those being merged, and room for the run that is being filled.
    held: usize,
    /// Accounts for `held`.
    memory: SortMemory,
    /// Work done by sealing that no budget has paid for, in index entries.
    owed: usize,
}

struct Merge {
    sources: Vec<Source>,
    out: Run,
    /// Pairs in the sources when the merge began.
    taken: usize,
}

struct Source {
    rest: std::vec::IntoIter<Item>,
}

/// The first pair of a source.
struct Head<'v> {
    item: Item,
    value: &'v [u8],
    by: By,
    source: usize,
}

impl Head<'_> {
    fn order(&self, other: &Self) -> Ordering {
        let by_value = || match self.by.descending {
            true => other.value.cmp(self.value),
            false => self.value.cmp(other.value),
        };
        let by_number = self.item.number.cmp(&other.item.number);
        by_number.then_with(by_value).then(self.item.place.cmp(&other.item.place))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}
impl Eq for Head<'_> {}
impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order(other)
    }
}

impl Sorter {
    /// What sorts the pairs of a query; none if the walk has them in order.
    pub(super) fn of(query: &Query, memory: &PlanMemory) -> Option<Box<Self>> {
        let Order::By { target, descending } = query.order else { return None };
        Some(Box::new(Self {
            by: By { value: target == SortTarget::Value, descending },
            keep: usize::try_from(query.limit).unwrap_or(usize::MAX),
            filling: Run::default(),
            filling_bytes: 0,
            sealed: VecDeque::new(),
            merging: None,
            held: 0,
            memory: memory.for_sorting(),
            owed: 0,
        }))
    }

    /// Takes the next pair in key order, whose stored length is `stored`. True if the walk is to pause, for
    /// [`Sorter::merge`] to be called.
    pub(super) fn push<R: Read>(
        &mut self,
        view: &View<'_, R>,
        item: Item,
        stored: usize,
    ) -> Result<bool, Error> {
        if self.filling.items.is_empty() {
            self.hold(RUN_ITEMS)?;
        }
        self.filling.push(item, stored);
        self.filling_bytes += if self.by.value { stored } else { 0 };
        let full = self.filling.items.len() >= RUN_ITEMS || self.filling_bytes >= RUN_BYTES;
        if full {
            self.seal(view)?;
        }
        Ok(full)
    }

    /// Sorts the run that is being filled.
    fn seal<R: Read>(&mut self, view: &View<'_, R>) -> Result<(), Error> {
        let run = std::mem::take(&mut self.filling);
        let bytes = std::mem::take(&mut self.filling_bytes);
        if run.items.is_empty() {
            return Ok(());
        }
        self.release(RUN_ITEMS);
        self.owed += run.items.len() + bytes / BYTES_PER_ENTRY;
        let mut heads = Vec::with_capacity(run.items.len());
        for item in run.items {
            heads.push(self.by.head(view, item, 0)?);
        }
        heads.sort_unstable();
        heads.truncate(self.keep);
        // Into room of their own: collected, they would keep that of the heads, which is nearly twice as long.
        let mut items = Vec::with_capacity(heads.len());
        items.extend(heads.iter().map(|head| head.item));
        self.hold(items.len())?;
        self.sealed.push_back(Run::of(items, run.longest));
        Ok(())
    }

    fn hold(&mut self, more: usize) -> Result<(), Error> {
        self.held += more;
        self.memory.hold(self.held * size_of::<Item>())
    }

    fn release(&mut self, fewer: usize) {
        self.held -= fewer;
        self.memory.release_to(self.held * size_of::<Item>());
    }

    /// Merges runs: all of them once the walk has `ended`, else when more wait than the client wants to see. True if
    /// there is nothing left to merge.
    pub(super) fn merge<R: Read>(
        &mut self,
        view: &View<'_, R>,
        ended: bool,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        if ended {
            self.seal(view)?;
        }
        *budget = budget.saturating_sub(std::mem::take(&mut self.owed));
        loop {
            if self.merging.is_none() {
                let crowded = self.held > self.keep.saturating_mul(4).saturating_add(SURPLUS);
                if self.sealed.len() < 2 || !ended && !crowded {
                    return Ok(true);
                }
                self.begin_merge()?;
            }
            let Some(merge) = &mut self.merging else { continue };
            if !merge.leg(view, self.by, self.keep, budget)? {
                return Ok(false);
            }
            self.end_merge();
            if *budget == 0 {
                return Ok(false);
            }
        }
    }

    /// Takes as many runs as may be merged at a time.
    fn begin_merge(&mut self) -> Result<(), Error> {
        let (mut sources, mut taken, mut longest) = (Vec::new(), 0, 0);
        while let Some(run) = self.sealed.front() {
            let heads_bytes = longest.max(run.longest) * (sources.len() + 1);
            if sources.len() == FAN_IN || sources.len() >= 2 && self.by.value && heads_bytes > RUN_BYTES {
                break;
            }
            let Some(run) = self.sealed.pop_front() else { break };
            taken += run.items.len();
            longest = longest.max(run.longest);
            sources.push(Source { rest: run.items.into_iter() });
        }
        let room = taken.min(self.keep);
        self.hold(room)?;
        let out = Run { items: Vec::with_capacity(room), kvs_len: 0, longest };
        self.merging = Some(Merge { sources, out, taken: taken + room });
        Ok(())
    }

    fn end_merge(&mut self) {
        if let Some(merge) = self.merging.take() {
            self.release(merge.taken - merge.out.items.len());
            self.sealed.push_back(merge.out);
        }
    }

    /// The pairs in order, once all runs are merged.
    pub(super) fn into_sorted(mut self) -> Sorted {
        debug_assert!(self.sealed.len() < 2 && self.filling.items.is_empty(), "all runs are merged");
        let run = self.sealed.pop_front().unwrap_or_default();
        Sorted { kvs_len: run.kvs_len, items: run.items.into_iter(), _memory: self.memory }
    }
}

/// Pairs in order of the answer, and the memory that they take.
pub(super) struct Sorted {
    pub(super) kvs_len: usize,
    pub(super) items: std::vec::IntoIter<Item>,
    _memory: SortMemory,
}

impl By {
    fn head<'v, R: Read>(self, view: &View<'v, R>, item: Item, source: usize) -> Result<Head<'v>, Error> {
        let value = match self.value {
            true => KeyValue::decode(view.stored(item.revision)?).ok_or(Error::Corrupt)?.value,
            false => &[],
        };
        Ok(Head { item, value, by: self, source })
    }
}

impl Merge {
    /// Merges on until the budget is used up, by one pair at least; true once all that is wanted is merged.
    fn leg<R: Read>(
        &mut self,
        view: &View<'_, R>,
        by: By,
        keep: usize,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let mut heads = BinaryHeap::with_capacity(self.sources.len());
        for (number, source) in self.sources.iter().enumerate() {
            if let Some(&item) = source.rest.as_slice().first() {
                heads.push(Reverse(by.head(view, item, number)?));
            }
        }
        *budget = budget.saturating_sub(heads.len());
        while self.out.items.len() < keep
            && let Some(Reverse(first)) = heads.pop()
        {
            let cost = 1 + first.value.len() / BYTES_PER_ENTRY;
            self.out.push(first.item, 0);
            let rest = &mut self.sources[first.source].rest;
            rest.next();
            if let Some(&item) = rest.as_slice().first() {
                heads.push(Reverse(by.head(view, item, first.source)?));
            }
            *budget = budget.saturating_sub(cost);
            if *budget == 0 {
                return Ok(heads.is_empty() || self.out.items.len() == keep);
            }
        }
        Ok(true)
    }
}
