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
const RUN: u16 = u16::MAX;
const CHILD: usize = 6;

const _: () = assert!(SLOT + KEY_INLINE_MAX + 2 + RunRef::SIZE <= CELL_MAX);
const _: () = assert!(PAGE_SIZE <= RUN as usize);

/// One slot.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    fn new(offset: usize, key_len: u16, head: u32) -> Self {
        Self(offset as u64 | u64::from(key_len) << 16 | u64::from(head) << 32)
    }

    #[inline]
    fn offset(self) -> usize {
        usize::from(self.0 as u16)
    }

    #[inline]
    fn key_len(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline]
    fn head(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    fn key_in_run(self) -> bool {
        self.key_len() == RUN
    }

    /// Bytes of the cell that the key takes.
    #[inline]
    fn key_bytes(self) -> usize {
        if self.key_in_run() { RunRef::SIZE } else { usize::from(self.key_len()) }
    }
}

/// The first four bytes of a suffix as a number that orders like them; equal numbers decide nothing.
#[inline]
fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(&four) => u32::from_be_bytes(four),
        None => {
            let mut four = [0; 4];
            four[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(four)
        }
    }
}

/// Up to eight bytes as a number that orders like them, shorter ones as if zeros followed.
#[inline]
fn number_of(bytes: &[u8]) -> u64 {
    if let Some(&eight) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(eight);
    }
    let missing = 8 * (8 - bytes.len()) as u32;
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(&first), Some(&last)) => {
            let (first, last) = (u32::from_be_bytes(first), u32::from_be_bytes(last));
            u64::from(first) << 32 | (u64::from(last) << missing & 0xffff_ffff)
        }
        _ => bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
            .checked_shl(missing)
            .unwrap_or(0),
    }
}

/// Compares as slices compare. Keys are short: eight bytes at a time take less than a call of memcmp.
#[inline]
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while let (Some((x, a_rest)), Some((y, b_rest))) =
        (a.split_first_chunk::<8>(), b.split_first_chunk::<8>())
    {
        if x != y {
            return u64::from_be_bytes(*x).cmp(&u64::from_be_bytes(*y));
        }
        (a, b) = (a_rest, b_rest);
    }
    // One has fewer than eight bytes left. If zeros make up for what it lacks, the shorter begins the longer.
    number_of(a).cmp(&number_of(b)).then(a.len().cmp(&b.len()))
}

/// Length of what two keys begin with in common.
pub(crate) fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Where a cell has its key: in itself, or in a run that exists already.
#[derive(Clone, Copy)]
pub(crate) struct Key<'k> {
    pub(crate) bytes: &'k [u8],
    pub(crate) run: Option<RunRef>,
}

impl<'k> Key<'k> {
    /// Bytes this key takes in a cell of a page with a prefix of this length.
    pub(crate) fn cell_len(&self, prefix: usize) -> usize {
        if self.run.is_some() { RunRef::SIZE } else { self.bytes.len() - prefix }
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

    fn write(&self, out: &mut [u8]) {
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
    fn heap(&self) -> usize {
        usize::from(u16_at(self.page, HEAP))
    }

    fn garbage(&self) -> usize {
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
    fn slot(&self, at: usize) -> Slot {
        Slot(u64_at(self.page, HEADER + at * SLOT))
    }

    /// Bytes between slots and cells.
    fn gap(&self) -> usize {
        self.heap() - (HEADER + self.count() * SLOT)
    }

    /// Bytes that prefix, slots and living cells take.
    pub(crate) fn used(&self) -> usize {
        CAPACITY - self.gap() - self.garbage()
    }

    fn cell_len(&self, slot: Slot) -> usize {
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

    fn payload(&self, at: usize) -> Payload<'a> {
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

/// Makes a page an empty node with this prefix; identity and kind stay.
pub(crate) fn reset(page: &mut Page, prefix: &[u8]) {
    assert!(prefix.len() <= KEY_INLINE_MAX);
    set_u16(page, COUNT, 0);
    set_u16(page, GARBAGE, 0);
    set_u16(page, PREFIX, prefix.len() as u16);
    let end = PAGE_SIZE - prefix.len();
    page[end..].copy_from_slice(prefix);
    set_u16(page, HEAP, end as u16);
}

/// Sets child `index`, as [`Node::child`] counts.
pub(crate) fn set_child(page: &mut Page, index: usize, child: PageRef) {
    match index.checked_sub(1) {
        None => {
            set_u32(page, LINK, child.id.0);
            set_u16(page, LINK_STAMP, child.stamp);
        }
        Some(at) => {
            let slot = Node::new(page).slot(at);
            page[slot.offset() + slot.key_bytes()..][..CHILD].copy_from_slice(&child.encode());
        }
    }
}

/// Inserts a pair at `at` if there is room. The key begins with the page's prefix.
pub(crate) fn insert(page: &mut Page, at: usize, key: Key<'_>, payload: Payload<'_>) -> bool {
    let node = Node::new(page);
    let (count, prefix) = (node.count(), node.prefix_len());
    let key_len = key.cell_len(prefix);
    let len = key_len + payload.len();
    if node.gap() < SLOT + len {
        if node.gap() + node.garbage() < SLOT + len {
            return false;
        }
        squeeze(page);
    }
    let offset = Node::new(page).heap() - len;
    let suffix = &key.bytes[prefix..];
    let slot = match key.run {
        Some(run) => {
            page[offset..offset + key_len].copy_from_slice(&run.encode());
            Slot::new(offset, RUN, head_of(suffix))
        }
        None => {
            page[offset..offset + key_len].copy_from_slice(suffix);
            Slot::new(offset, key_len as u16, head_of(suffix))
        }
    };
    payload.write(&mut page[offset + key_len..offset + len]);
    let place = HEADER + at * SLOT;
    page.copy_within(place..HEADER + count * SLOT, place + SLOT);
    set_u64(page, place, slot.0);
    set_u16(page, COUNT, count as u16 + 1);
    set_u16(page, HEAP, offset as u16);
    true
}

/// Removes the pair at `at`. What its runs hold is the caller's.
pub(crate) fn remove(page: &mut Page, at: usize) {
    let node = Node::new(page);
    let (count, slot) = (node.count(), node.slot(at));
    let (len, heap, garbage) = (node.cell_len(slot), node.heap(), node.garbage());
    if slot.offset() == heap {
        set_u16(page, HEAP, (heap + len) as u16);
    } else {
        set_u16(page, GARBAGE, (garbage + len) as u16);
    }
    let place = HEADER + at * SLOT;
    page.copy_within(place + SLOT..HEADER + count * SLOT, place);
    set_u16(page, COUNT, count as u16 - 1);
}

/// Overwrites the value at `at` if the new one has the same length; both are inline.
pub(crate) fn overwrite(page: &mut Page, at: usize, value: &[u8]) -> bool {
    let slot = Node::new(page).slot(at);
    let start = slot.offset() + slot.key_bytes();
    if usize::from(u16_at(page, start)) != value.len() {
        return false;
    }
    page[start + 2..start + 2 + value.len()].copy_from_slice(value);
    true
}

/// Moves the cells together, so that garbage becomes gap.
fn squeeze(page: &mut Page) {
    let old = *page;
    let node = Node::new(&old);
    let mut heap = PAGE_SIZE - node.prefix_len();
    for at in 0..node.count() {
        let slot = node.slot(at);
        let len = node.cell_len(slot);
        heap -= len;
        page[heap..heap + len].copy_from_slice(&old[slot.offset()..slot.offset() + len]);
        set_u64(page, HEADER + at * SLOT, Slot::new(heap, slot.key_len(), slot.head()).0);
    }
    set_u16(page, HEAP, heap as u16);
    set_u16(page, GARBAGE, 0);
}

/// Appends pairs `from..to` of `node` to a page of the same kind, whose prefix they share; they must fit.
pub(crate) fn append(page: &mut Page, view: View<'_>, node: Node<'_>, from: usize, to: usize) {
    let mut key = Vec::new();
    for at in from..to {
        node.key_into(view, at, &mut key, false);
        let run = node.key_run_at(at);
        let count = Node::new(page).count();
        let fits = insert(page, count, Key { bytes: &key, run }, node.payload(at));
        assert!(fits, "a page was filled beyond what was counted");
    }
}

/// The longest prefix that all keys share which lie between two of one page, themselves included.
pub(crate) fn prefix_between<'k>(first: &'k [u8], last: &[u8]) -> &'k [u8] {
    &first[..common_len(first, last).min(KEY_INLINE_MAX)]
}

/// The shortest key above `left` and not above `right`.
pub(crate) fn separator<'k>(left: &[u8], right: &'k [u8]) -> &'k [u8] {
    assert!(left < right, "keys are out of order");
    &right[..common_len(left, right) + 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    #[test]
    fn heads_order_like_the_bytes_they_stand_for() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"a", b"ab", b"abc", b"abcd", b"abd"];
        for pair in keys.windows(2) {
            assert!(head_of(pair[0]) <= head_of(pair[1]));
        }
    }

    #[test]
    fn keys_compare_as_slices_do() {
        let mut prng = Prng::new(7);
        for _ in 0..20_000 {
            let mut bytes = |len: u64| -> Vec<u8> {
                (0..prng.below(len)).map(|_| [0, 0, 1, 0xff][prng.below(4) as usize]).collect()
            };
            let (common, mut a, mut b) = (bytes(20), bytes(12), bytes(12));
            a.splice(..0, common.iter().copied());
            b.splice(..0, common.iter().copied());
            assert_eq!(compare(&a, &b), a.cmp(&b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn separators_are_as_short_as_can_be() {
        assert_eq!(separator(b"abc", b"abde"), b"abd");
        assert_eq!(separator(b"ab", b"abc"), b"abc");
        assert_eq!(prefix_between(b"/registry/a", b"/registry/b"), b"/registry/");
    }
}
