//! A set of page ids: a bitmap with one summary bit per word.
//!
//! A bitmap and not a tree of extents, because taking the lowest page, giving pages back and writing the whole set
//! into a checkpoint are then a few word operations each; 100 GB of file cost 3 MB.
#![forbid(unsafe_code)]

use super::layout::PageId;

/// Extents that one search for a run looks at before it gives up and lets the file grow.
const RUN_SEARCH_EXTENTS_MAX: usize = 512;

/// The set.
#[derive(Clone, Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    /// Bit `w` is set exactly when `words[w]` is not zero.
    summary: Vec<u64>,
    len: u32,
    /// No summary word below this one has a bit set.
    lowest: usize,
    /// Where the next search for a run begins.
    run_from: u32,
}

impl PageSet {
    /// How many ids are in it.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn contains(&self, id: PageId) -> bool {
        let (word, bit) = split(id.0);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Adds an id that must not be in it.
    pub(crate) fn insert(&mut self, id: PageId) {
        self.insert_run(id, 1);
    }

    /// Adds `count` ids from `first`, none of which may be in it.
    pub(crate) fn insert_run(&mut self, first: PageId, count: u32) {
        for (word, bits) in words_of(first.0, count) {
            if word >= self.words.len() {
                self.words.resize((word + 1).next_multiple_of(64), 0);
                self.summary.resize(self.words.len() / 64, 0);
            }
            assert!(self.words[word] & bits == 0, "a page from {} on is given twice", word * 64);
            self.words[word] |= bits;
            self.summary[word / 64] |= 1 << (word % 64);
            self.lowest = self.lowest.min(word / 64);
        }
        self.len += count;
    }

    /// Removes an id; true if it was there.
    pub(crate) fn remove(&mut self, id: PageId) -> bool {
        let (word, bit) = split(id.0);
        let found = self.contains(id);
        if found {
            self.remove_bits(word, bit);
        }
        found
    }

    /// Removes ids of one word, all of which are there.
    fn remove_bits(&mut self, word: usize, bits: u64) {
        assert!(self.words[word] & bits == bits, "a page from {} on is taken twice", word * 64);
        self.words[word] &= !bits;
        if self.words[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
        self.len -= bits.count_ones();
    }

    /// Takes the lowest id.
    pub(crate) fn pop_first(&mut self) -> Option<PageId> {
        if self.len == 0 {
            return None;
        }
        while self.summary[self.lowest] == 0 {
            self.lowest += 1;
        }
        let word = self.lowest * 64 + self.summary[self.lowest].trailing_zeros() as usize;
        let id = PageId(word as u32 * 64 + self.words[word].trailing_zeros());
        self.remove(id);
        Some(id)
    }

    /// Takes `count` consecutive ids; none when a bounded search finds no such run.
    pub(crate) fn take_run(&mut self, count: u32) -> Option<PageId> {
        if self.len < count {
            return None;
        }
        let mut from = self.run_from;
        let mut wrapped = false;
        for _ in 0..RUN_SEARCH_EXTENTS_MAX {
            let Some((start, end)) = self.next_extent(from) else {
                if wrapped {
                    break;
                }
                (from, wrapped) = (0, true);
                continue;
            };
            if end - start >= count {
                words_of(start, count).for_each(|(word, bits)| self.remove_bits(word, bits));
                self.run_from = start + count;
                return Some(PageId(start));
            }
            from = end;
        }
        self.run_from = from;
        None
    }

    /// The first extent that ends behind `from`, cut at `from`.
    fn next_extent(&self, from: u32) -> Option<(u32, u32)> {
        let start = self.first_set(from)?;
        let mut end = start;
        loop {
            let (word, _) = split(end);
            let Some(&bits) = self.words.get(word) else { return Some((start, end)) };
            let ones = (!(bits >> (end % 64))).trailing_zeros().min(64 - end % 64);
            end += ones;
            if ones == 0 || !end.is_multiple_of(64) {
                return Some((start, end));
            }
        }
    }

    fn first_set(&self, from: u32) -> Option<u32> {
        let (word, bit) = split(from);
        let bits = self.words.get(word)? & !(bit - 1);
        if bits != 0 {
            return Some(word as u32 * 64 + bits.trailing_zeros());
        }
        let next = word + 1;
        let mut at = next / 64;
        let mut summary = self.summary.get(at).map_or(0, |s| s & !((1u64 << (next % 64)) - 1));
        loop {
            if summary != 0 {
                let word = at * 64 + summary.trailing_zeros() as usize;
                return Some(word as u32 * 64 + self.words[word].trailing_zeros());
            }
            at += 1;
            summary = *self.summary.get(at)?;
        }
    }

    /// Removes the ids at the end of `0..end` and returns where the rest ends.
    pub(crate) fn trim_tail(&mut self, mut end: u32) -> u32 {
        while let Some(last) = end.checked_sub(1) {
            let (word, _) = split(last);
            let below_end = self.words.get(word).map_or(0, |bits| bits << (63 - last % 64));
            let count = below_end.leading_ones();
            if count == 0 {
                break;
            }
            end -= count;
            words_of(end, count).for_each(|(word, bits)| self.remove_bits(word, bits));
        }
        end
    }

    /// All ids, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PageId> + '_ {
        let mut next = self.first_set(0);
        std::iter::from_fn(move || {
            let id = next?;
            next = self.first_set(id + 1);
            Some(PageId(id))
        })
    }

    /// Removes all ids.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.summary.fill(0);
        (self.len, self.lowest, self.run_from) = (0, 0, 0);
    }

    /// Bytes of the set for ids below `end`, written as a plain bitmap.
    pub(crate) fn encoded_len(end: u32) -> usize {
        end.div_ceil(8) as usize
    }

    /// Writes the bitmap of ids below `end`.
    pub(crate) fn encode(&self, end: u32, out: &mut [u8]) {
        assert_eq!(out.len(), Self::encoded_len(end));
        for (chunk, at) in out.chunks_mut(8).zip(0..) {
            let word = self.words.get(at).copied().unwrap_or(0).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let words = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        let mut set = Self { words, ..Self::default() };
        set.words.resize(set.words.len().next_multiple_of(64), 0);
        set.summary = vec![0; set.words.len() / 64];
        for (at, word) in set.words.iter().enumerate() {
            set.len += word.count_ones();
            set.summary[at / 64] |= u64::from(*word != 0) << (at % 64);
        }
        set
    }
}

/// The words that have `count` ids from `first` on, each with the bits of those ids.
fn words_of(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    let mut at = first;
    std::iter::from_fn(move || {
        let in_word = (end - at).min(64 - at % 64);
        if in_word == 0 {
            return None;
        }
        let bits = (u64::MAX >> (64 - in_word)) << (at % 64);
        let word = (at / 64) as usize;
        at += in_word;
        Some((word, bits))
    })
}

fn split(id: u32) -> (usize, u64) {
    ((id / 64) as usize, 1 << (id % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;
    use std::collections::BTreeSet;

    #[test]
    fn it_agrees_with_a_plain_set() {
        let mut p = Prng::new(3);
        let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
        for _ in 0..40_000 {
            let id = p.below(9_000) as u32;
            match p.below(8) {
                0..4 => {
                    if model.insert(id) {
                        set.insert(PageId(id));
                    }
                }
                4 if p.chance(1, 50) => {
                    let (mut end, from) = (9_000, 9_000 - p.below(400) as u32);
                    (from..end).filter(|&id| model.insert(id)).for_each(|id| set.insert(PageId(id)));
                    while model.remove(&(end - 1)) {
                        end -= 1;
                    }
                    assert_eq!(set.trim_tail(9_000), end);
                }
                4 => assert_eq!(set.remove(PageId(id)), model.remove(&id)),
                5 => assert_eq!(set.pop_first().map(|id| id.0), model.pop_first()),
                6 => {
                    let count = 1 + p.below(9) as u32;
                    if let Some(first) = set.take_run(count) {
                        (first.0..first.0 + count).for_each(|id| assert!(model.remove(&id)));
                    }
                }
                _ => assert_eq!(set.contains(PageId(id)), model.contains(&id)),
            }
            assert_eq!(set.len() as usize, model.len());
        }
        assert!(set.iter().map(|id| id.0).eq(model.iter().copied()));
        let mut bytes = vec![0; PageSet::encoded_len(9_000)];
        set.encode(9_000, &mut bytes);
        let mut back = PageSet::decode(&bytes);
        assert!(back.iter().eq(set.iter()));
        assert_eq!(back.len(), set.len());
        while let Some(id) = back.pop_first() {
            assert_eq!(Some(id.0), model.pop_first());
        }
    }

    #[test]
    fn a_run_is_found_wherever_it_is_and_across_words() {
        let mut set = PageSet::default();
        set.insert_run(PageId(60), 200);
        set.insert_run(PageId(300), 3);
        assert_eq!(set.take_run(200), Some(PageId(60)));
        assert_eq!(set.take_run(4), None);
        assert_eq!(set.take_run(3), Some(PageId(300)));
        set.insert_run(PageId(10), 5);
        assert_eq!(set.take_run(5), Some(PageId(10)));
        set.insert_run(PageId(90), 10);
        assert_eq!(set.trim_tail(100), 90);
        assert_eq!(set.len(), 0);
    }
}
