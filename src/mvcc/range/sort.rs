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
//! Runs lie in chunks, and a merge gives back each chunk of its sources once it has passed it: the pairs lie in memory
//! once, not twice, while they are merged.
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

/// Pairs in a chunk, and so in a run that is sealed, at most.
const CHUNK: usize = 1024;

/// Bytes of values in a run that is sealed, unless it has one pair.
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

/// Pairs in order of the answer, taken from the front.
#[derive(Default)]
struct Pairs {
    /// Each has at least one pair that is not taken, and no room for more pairs than it has room held for.
    chunks: VecDeque<Vec<Item>>,
    /// Pairs of the first chunk that are taken.
    taken: usize,
}

impl Pairs {
    fn first(&self) -> Option<&Item> {
        self.chunks.front()?.get(self.taken)
    }

    fn last(&self) -> Option<&Item> {
        self.chunks.back()?.last()
    }

    /// Takes the first pair, and gives back its chunk if it was the last one there.
    fn take_first(&mut self, room: &mut Room) -> Option<Item> {
        let chunk = self.chunks.front()?;
        let item = *chunk.get(self.taken)?;
        self.taken += 1;
        if self.taken == chunk.len() {
            room.release(chunk.capacity());
            self.chunks.pop_front();
            self.taken = 0;
        }
        Some(item)
    }

    /// Adds a pair, of which `wanted` more are to come, this one among them.
    fn push(&mut self, item: Item, wanted: usize, room: &mut Room) -> Result<(), Error> {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < chunk.capacity() => chunk.push(item),
            _ => {
                let mut chunk = room.chunk(wanted.min(CHUNK))?;
                chunk.push(item);
                self.chunks.push_back(chunk);
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum::<usize>() - self.taken
    }

    /// Room that the pairs take, in pairs.
    fn capacity(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}

/// A run that is sealed.
struct Run {
    pairs: Pairs,
    /// Length of their fields in the answer.
    kvs_len: usize,
    /// Length of the longest stored pair among them.
    longest: usize,
}

/// Accounts for the room that pairs take.
struct Room {
    /// In pairs.
    held: usize,
    memory: SortMemory,
}

impl Room {
    fn hold(&mut self, more: usize) -> Result<(), Error> {
        self.memory.hold((self.held + more) * size_of::<Item>())?;
        self.held += more;
        Ok(())
    }

    fn release(&mut self, fewer: usize) {
        self.held = self.held.saturating_sub(fewer);
        self.memory.release_to(self.held * size_of::<Item>());
    }

    /// An empty chunk with room for so many pairs, which is held.
    fn chunk(&mut self, pairs: usize) -> Result<Vec<Item>, Error> {
        let chunk = Vec::with_capacity(pairs);
        self.hold(chunk.capacity())?;
        Ok(chunk)
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
    /// The run that is being filled, in key order.
    filling: Vec<Item>,
    filling_bytes: usize,
    /// Length of the longest stored pair in the run that is being filled.
    filling_longest: usize,
    sealed: VecDeque<Run>,
    merging: Option<Merge>,
    room: Room,
    /// Work done by sealing that no budget has paid for, in index entries.
    owed: usize,
}

struct Merge {
    sources: Vec<Pairs>,
    out: Run,
    /// Pairs that are still to be merged.
    wanted: usize,
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
            filling: Vec::new(),
            filling_bytes: 0,
            filling_longest: 0,
            sealed: VecDeque::new(),
            merging: None,
            room: Room { held: 0, memory: memory.for_sorting() },
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
        if self.filling.capacity() == 0 {
            self.filling = self.room.chunk(CHUNK)?;
        }
        self.filling.push(item);
        self.filling_bytes += if self.by.value { stored } else { 0 };
        self.filling_longest = self.filling_longest.max(stored);
        let full = self.filling.len() >= CHUNK || self.filling_bytes >= RUN_BYTES;
        if full {
            self.seal(view)?;
        }
        Ok(full)
    }

    /// Sorts the run that is being filled.
    fn seal<R: Read>(&mut self, view: &View<'_, R>) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.filling_bytes);
        let longest = std::mem::take(&mut self.filling_longest);
        if self.filling.is_empty() {
            return Ok(());
        }
        self.owed += self.filling.len() + bytes / BYTES_PER_ENTRY;
        let mut heads = Vec::with_capacity(self.filling.len());
        for item in self.filling.drain(..) {
            heads.push(self.by.head(view, item, 0)?);
        }
        heads.sort_unstable();
        heads.truncate(self.keep);
        // Into room of their own: collected, they would keep that of the heads, which is nearly twice as long.
        let mut items = self.room.chunk(heads.len())?;
        items.extend(heads.iter().map(|head| head.item));
        let kvs_len = items.iter().map(|item| bytes_field_len(item.len)).sum();
        let pairs = Pairs { chunks: VecDeque::from([items]), taken: 0 };
        self.sealed.push_back(Run { pairs, kvs_len, longest });
        Ok(())
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
                let crowded = self.room.held > self.keep.saturating_mul(4).saturating_add(SURPLUS);
                if self.sealed.len() < 2 || !ended && !crowded {
                    return Ok(true);
                }
                self.begin_merge();
            }
            let Some(merge) = &mut self.merging else { continue };
            if !merge.leg(view, self.by, &mut self.room, budget)? {
                return Ok(false);
            }
            self.end_merge();
            if *budget == 0 {
                return Ok(false);
            }
        }
    }

    /// Takes as many runs as may be merged at a time.
    fn begin_merge(&mut self) {
        let (mut sources, mut len, mut longest) = (Vec::new(), 0, 0);
        while let Some(run) = self.sealed.front() {
            let heads_bytes = longest.max(run.longest) * (sources.len() + 1);
            if sources.len() == FAN_IN || sources.len() >= 2 && self.by.value && heads_bytes > RUN_BYTES {
                break;
            }
            let Some(run) = self.sealed.pop_front() else { break };
            len += run.pairs.len();
            longest = longest.max(run.longest);
            sources.push(run.pairs);
        }
        let out = Run { pairs: Pairs::default(), kvs_len: 0, longest };
        self.merging = Some(Merge { sources, out, wanted: len.min(self.keep) });
    }

    fn end_merge(&mut self) {
        if let Some(merge) = self.merging.take() {
            self.room.release(merge.sources.iter().map(Pairs::capacity).sum());
            self.sealed.push_back(merge.out);
        }
    }

    /// The pairs in order, once all runs are merged.
    pub(super) fn into_sorted(mut self) -> Sorted {
        debug_assert!(self.sealed.len() < 2 && self.filling.is_empty(), "all runs are merged");
        self.room.release(std::mem::take(&mut self.filling).capacity());
        let (pairs, kvs_len) = match self.sealed.pop_front() {
            Some(run) => (run.pairs, run.kvs_len),
            None => (Pairs::default(), 0),
        };
        Sorted { kvs_len, pairs, room: self.room }
    }
}

/// Pairs in order of the answer, which give back their memory as they are taken.
pub(super) struct Sorted {
    pub(super) kvs_len: usize,
    pairs: Pairs,
    room: Room,
}

impl Sorted {
    /// The last pair of the answer.
    pub(super) fn last_pair(&self) -> Option<&Item> {
        self.pairs.last()
    }
}

impl Iterator for Sorted {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.pairs.take_first(&mut self.room)
    }
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
        room: &mut Room,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let mut heads = BinaryHeap::with_capacity(self.sources.len());
        for (number, source) in self.sources.iter().enumerate() {
            if let Some(&item) = source.first() {
                heads.push(Reverse(by.head(view, item, number)?));
            }
        }
        *budget = budget.saturating_sub(heads.len());
        while self.wanted > 0
            && let Some(Reverse(first)) = heads.pop()
        {
            let cost = 1 + first.value.len() / BYTES_PER_ENTRY;
            // Behind it the chunk of the pair may be given back, so there is room for one of the answer.
            let source = &mut self.sources[first.source];
            source.take_first(room);
            if let Some(&item) = source.first() {
                heads.push(Reverse(by.head(view, item, first.source)?));
            }
            self.out.kvs_len += bytes_field_len(first.item.len);
            self.out.pairs.push(first.item, self.wanted, room)?;
            self.wanted -= 1;
            *budget = budget.saturating_sub(cost);
            if *budget == 0 {
                break;
            }
        }
        Ok(self.wanted == 0 || heads.is_empty())
    }
}
