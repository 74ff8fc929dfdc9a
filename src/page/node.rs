//! A tree page: slots in key order at the front, cells in any order at the back, the common prefix behind them.
//!
//! ```text
//! 0        32                                        heap                        4096 - prefix      4096
//! │ header │ slot 0 │ slot 1 │ ... ──►     free      ◄── ... │ cell │ cell │ cell │ common prefix │
//!
//! slot, 8 bytes:  offset u16 │ length of the suffix u16 │ head: the suffix's first 4 bytes as a big-endian number
//! leaf cell:      suffix │ value length u16 │ value            length 0xFFFF: a reference to the value's run instead
//! branch cell:    suffix │ child: id u32, stamp u16            and the child below the first key is in the header
//! ```
//!
//! A key is the page's prefix and the slot's suffix. A search compares heads, which lie side by side, and goes to a
//! cell only where heads are equal. A key longer than [`KEY_INLINE_MAX`] is in a run as a whole, prefix included; the
//! suffix length is then 0xFFFF and a reference stands where the suffix would.
#![forbid(unsafe_code)]

use super::key::{compare, head_of};
use super::layout::*;
use super::table::{View, prefetch};
use std::cmp::Ordering;

/// Longer keys go to runs.
pub const KEY_INLINE_MAX: usize = 1024;

/// Bytes of a page for prefix, slots and cells.
pub(crate) const CAPACITY: usize = PAGE_SIZE - HEADER;

/// A slot and its cell may take half a page, key uncompressed, so that two always fit and any page can be split.
pub(crate) const CELL_MAX: usize = CAPACITY / 2;

pub(crate) const SLOT: usize = 8;

/// Bytes of a cell that are asked for before its length is known.
const CELL_START: usize = 128;
/// The length that stands for a reference to a run.
pub(super) const RUN: u16 = u16::MAX;
pub(super) const CHILD: usize = 6;

const _: () = assert!(SLOT + KEY_INLINE_MAX + 2 + RunRef::SIZE <= CELL_MAX);
const _: () = assert!(PAGE_SIZE <= RUN as usize);

/// One slot.
#[derive(Clone, Copy)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    pub(super) fn new(offset: usize, key_len: u16, head: u32) -> Self {
        Self(offset as u64 | u64::from(key_len) << 16 | u64::from(head) << 32)
    }

    #[inline]
    pub(super) fn offset(self) -> usize {
        usize::from(self.0 as u16)
    }

    #[inline]
    pub(super) fn key_len(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline]
    pub(super) fn head(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(super) fn key_in_run(self) -> bool {
        self.key_len() == RUN
    }

    /// Bytes of the cell that the key takes.
    #[inline]
    pub(super) fn key_bytes(self) -> usize {
        if self.key_in_run() { RunRef::SIZE } else { usize::from(self.key_len()) }
    }
}

/// What a leaf holds for a key.
#[derive(Clone, Copy)]
pub(crate) enum Value<'v> {
    Inline(&'v [u8]),
    Run(RunRef),
}

/// What a cell holds besides its key.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'v> {
    Value(Value<'v>),
    Child(PageRef),
}

impl Payload<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Value(Value::Inline(value)) => 2 + value.len(),
            Self::Value(Value::Run(_)) => 2 + RunRef::SIZE,
            Self::Child(_) => CHILD,
        }
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        match self {
            Self::Value(Value::Inline(value)) => {
                set_u16(out, 0, value.len() as u16);
                out[2..].copy_from_slice(value);
            }
            Self::Value(Value::Run(run)) => {
                set_u16(out, 0, RUN);
                out[2..].copy_from_slice(&run.encode());
            }
            Self::Child(child) => out.copy_from_slice(&child.encode()),
        }
    }
}

/// A tree page, read.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    page: &'a Page,
}

impl<'a> Node<'a> {
    #[inline]
    pub(crate) fn new(page: &'a Page) -> Self {
        Self { page }
    }

    #[inline]
    pub(crate) fn is_leaf(&self) -> bool {
        match kind(self.page) {
            Some(Kind::Leaf) => true,
            Some(Kind::Branch) => false,
            other => panic!("page {} is {other:?} and no part of a tree", id(self.page).0),
        }
    }

    #[inline]
    pub(crate) fn count(&self) -> usize {
        usize::from(u16_at(self.page, COUNT))
    }

    /// Which page, and the generation it was made in.
    #[inline]
    pub(crate) fn birth(&self) -> (PageId, u64) {
        (id(self.page), born(self.page))
    }

    #[inline]
    pub(super) fn heap(&self) -> usize {
        usize::from(u16_at(self.page, HEAP))
    }

    pub(super) fn garbage(&self) -> usize {
        usize::from(u16_at(self.page, GARBAGE))
    }

    /// Asks for the memory that a search reads first: header, first slots and prefix.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.page[..HEADER + 1]);
        prefetch(&self.page[PAGE_SIZE - 1..]);
    }

    /// Asks for the memory of the cell that probably has `key`: the only one whose slot has the same head.
    #[inline]
    pub(crate) fn prefetch_cell(&self, key: &[u8]) {
        let Some(rest) = key.get(self.prefix_len()..) else { return };
        let (head, mut low, mut high) = (head_of(rest), 0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            if self.slot(middle).head() < head { low = middle + 1 } else { high = middle }
        }
        if low < self.count() {
            let offset = self.slot(low).offset();
            prefetch(&self.page[offset..PAGE_SIZE.min(offset + CELL_START)]);
        }
    }

    /// What all keys of the page begin with.
    #[inline]
    pub(crate) fn prefix(&self) -> &'a [u8] {
        &self.page[PAGE_SIZE - self.prefix_len()..]
    }

    #[inline]
    pub(crate) fn prefix_len(&self) -> usize {
        usize::from(u16_at(self.page, PREFIX))
    }

    #[inline]
    pub(super) fn slot(&self, at: usize) -> Slot {
        Slot(u64_at(self.page, HEADER + at * SLOT))
    }

    /// Bytes between slots and cells.
    pub(super) fn gap(&self) -> usize {
        self.heap() - (HEADER + self.count() * SLOT)
    }

    /// Bytes that prefix, slots and living cells take.
    pub(crate) fn used(&self) -> usize {
        CAPACITY - self.gap() - self.garbage()
    }

    pub(super) fn cell_len(&self, slot: Slot) -> usize {
        let key = slot.key_bytes();
        key + self.payload_len(slot)
    }

    fn payload_len(&self, slot: Slot) -> usize {
        if !self.is_leaf() {
            return CHILD;
        }
        2 + match u16_at(self.page, slot.offset() + slot.key_bytes()) {
            RUN => RunRef::SIZE,
            len => usize::from(len),
        }
    }

    /// Bytes that one pair takes, its slot included.
    pub(crate) fn pair_len(&self, at: usize) -> usize {
        SLOT + self.cell_len(self.slot(at))
    }

    /// The place of `key`, or where it would have to be.
    pub(crate) fn find(&self, view: View<'_>, key: &[u8]) -> Result<usize, usize> {
        let count = self.count();
        let rest = match self.rest_of(key) {
            Ok(rest) => rest,
            Err(below) => return Err(if below { 0 } else { count }),
        };
        let head = head_of(rest);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            match self.compare_slot(view, middle, head, rest) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// What `key` has behind the page's prefix. If it has another: whether it is below all keys of the page, or above.
    #[inline]
    fn rest_of<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], bool> {
        let prefix = self.prefix();
        match key.split_at_checked(prefix.len()) {
            Some((start, rest)) if compare(start, prefix).is_eq() => Ok(rest),
            _ => Err(key < prefix),
        }
    }

    /// Compares the key at `at` with one that begins with the page's prefix, goes on with `rest`, and has this head.
    #[inline]
    fn compare_slot(&self, view: View<'_>, at: usize, head: u32, rest: &[u8]) -> Ordering {
        let slot = self.slot(at);
        slot.head().cmp(&head).then_with(|| self.compare_tail(view, slot, self.prefix_len(), rest))
    }

    #[inline]
    fn compare_tail(&self, view: View<'_>, slot: Slot, prefix: usize, rest: &[u8]) -> Ordering {
        match self.key_run(slot) {
            Some(run) => view.run(run)[prefix..].cmp(rest),
            None => compare(self.suffix(slot), rest),
        }
    }

    #[inline]
    fn suffix(&self, slot: Slot) -> &'a [u8] {
        &self.page[slot.offset()..slot.offset() + usize::from(slot.key_len())]
    }

    #[inline]
    fn key_run(&self, slot: Slot) -> Option<RunRef> {
        slot.key_in_run().then(|| RunRef::decode(&self.page[slot.offset()..slot.offset() + RunRef::SIZE]))
    }

    /// The run that holds the key, for a long one.
    pub(crate) fn key_run_at(&self, at: usize) -> Option<RunRef> {
        self.key_run(self.slot(at))
    }

    /// What a key in its cell has behind the prefix.
    pub(crate) fn inline_suffix(&self, at: usize) -> &'a [u8] {
        self.suffix(self.slot(at))
    }

    /// True if the slot's head is the one of this key.
    pub(crate) fn head_agrees(&self, at: usize, key: &[u8]) -> bool {
        key.get(self.prefix_len()..).is_some_and(|suffix| head_of(suffix) == self.slot(at).head())
    }

    /// Compares the last key with `key`; `Less` for an empty page.
    pub(crate) fn compare_last(&self, view: View<'_>, key: &[u8]) -> Ordering {
        let Some(last) = self.count().checked_sub(1) else { return Ordering::Less };
        let prefix = self.prefix();
        match key.strip_prefix(prefix) {
            None => prefix.cmp(key),
            Some(rest) => {
                let slot = self.slot(last);
                slot.head()
                    .cmp(&head_of(rest))
                    .then_with(|| self.compare_tail(view, slot, prefix.len(), rest))
            }
        }
    }

    /// Puts the whole key at `at` in `out`, whose first bytes are the page's prefix already if `with_prefix` says so.
    #[inline]
    pub(crate) fn key_into(&self, view: View<'_>, at: usize, out: &mut Vec<u8>, with_prefix: bool) {
        let slot = self.slot(at);
        if let Some(run) = self.key_run(slot) {
            out.clear();
            out.extend_from_slice(view.run(run));
            return;
        }
        if with_prefix {
            out.truncate(self.prefix_len());
        } else {
            out.clear();
            out.extend_from_slice(self.prefix());
        }
        out.extend_from_slice(self.suffix(slot));
    }

    /// The whole key at `at`.
    pub(crate) fn key(&self, view: View<'_>, at: usize) -> Vec<u8> {
        let mut key = Vec::new();
        self.key_into(view, at, &mut key, false);
        key
    }

    /// What a leaf has at `at`.
    #[inline]
    pub(crate) fn value(&self, at: usize) -> Value<'a> {
        let slot = self.slot(at);
        let start = slot.offset() + slot.key_bytes();
        match u16_at(self.page, start) {
            RUN => Value::Run(RunRef::decode(&self.page[start + 2..start + 2 + RunRef::SIZE])),
            len => Value::Inline(&self.page[start + 2..start + 2 + usize::from(len)]),
        }
    }

    /// Which child of a branch has `key`.
    #[inline]
    pub(crate) fn child_index(&self, view: View<'_>, key: &[u8]) -> usize {
        match self.find(view, key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// [`Node::child_index`] for a key that probably is in child `hint` or the one after it.
    #[inline]
    pub(crate) fn child_index_near(&self, view: View<'_>, key: &[u8], hint: usize) -> usize {
        let Ok(rest) = self.rest_of(key) else { return self.child_index(view, key) };
        let head = head_of(rest);
        let is_behind = |at| at == 0 || self.compare_slot(view, at - 1, head, rest).is_le();
        let is_before = |at| at == self.count() || self.compare_slot(view, at, head, rest).is_gt();
        if hint > self.count() || !is_behind(hint) {
            self.child_index(view, key)
        } else if is_before(hint) {
            hint
        } else if is_before(hint + 1) {
            hint + 1
        } else {
            self.child_index(view, key)
        }
    }

    /// Child `index` of `0..=count`: 0 is below the first key, `i` from key `i - 1` on.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> PageRef {
        match index.checked_sub(1) {
            None => PageRef { id: PageId(u32_at(self.page, LINK)), stamp: u16_at(self.page, LINK_STAMP) },
            Some(at) => {
                let slot = self.slot(at);
                PageRef::decode(&self.page[slot.offset() + slot.key_bytes()..][..CHILD])
            }
        }
    }

    pub(super) fn payload(&self, at: usize) -> Payload<'a> {
        if self.is_leaf() { Payload::Value(self.value(at)) } else { Payload::Child(self.child(at + 1)) }
    }

    /// Bytes that these pairs take in a page whose prefix has this length, without the prefix.
    pub(crate) fn size_with_prefix(&self, from: usize, to: usize, prefix: usize) -> usize {
        (from..to)
            .map(|at| {
                let slot = self.slot(at);
                let key = if slot.key_in_run() {
                    RunRef::SIZE
                } else {
                    self.prefix_len() + usize::from(slot.key_len()) - prefix
                };
                SLOT + key + self.payload_len(slot)
            })
            .sum()
    }

    /// Says what is wrong with the page's own structure; the caller has verified the checksum.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (count, heap) = (self.count(), self.heap());
        let end = PAGE_SIZE.checked_sub(self.prefix_len()).ok_or("a prefix longer than the page")?;
        if self.prefix_len() > KEY_INLINE_MAX || HEADER + count * SLOT > heap || heap > end {
            return Err("slots, cells and prefix overlap".into());
        }
        let mut living = 0;
        for at in 0..count {
            let slot = self.slot(at);
            let key_end = slot.offset() + slot.key_bytes();
            if slot.offset() < heap || key_end + 2 > end || slot.offset() + self.cell_len(slot) > end {
                return Err(format!("cell {at} lies outside of the heap"));
            }
            living += self.cell_len(slot);
        }
        if living + self.garbage() != end - heap {
            return Err("cells overlap, or space is lost".into());
        }
        Ok(())
    }
}
