//! Sets of keys given by intervals, such as everything that some deletions cover.
//!
//! Every operation costs the logarithm of the set's size, taken over a sequence of them: an insertion swallows what it
//! touches, and an interval that is swallowed was inserted once. No key is copied.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// A place between keys: before one, right after one, or behind all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge<'k> {
    /// Behind all keys; then the rest says nothing.
    last: bool,
    key: &'k [u8],
    /// After the key instead of before it.
    after: bool,
}

impl<'k> Edge<'k> {
    const LAST: Self = Self { last: true, key: &[], after: false };

    fn before(key: &'k [u8]) -> Self {
        Self { last: false, key, after: false }
    }

    fn after(key: &'k [u8]) -> Self {
        Self { last: false, key, after: true }
    }

    fn as_start(self) -> Bound<&'k [u8]> {
        if self.after { Bound::Excluded(self.key) } else { Bound::Included(self.key) }
    }

    fn as_end(self) -> Bound<&'k [u8]> {
        match self {
            Self { last: true, .. } => Bound::Unbounded,
            Self { after: true, key, .. } => Bound::Included(key),
            Self { key, .. } => Bound::Excluded(key),
        }
    }
}

/// A set of keys as disjoint intervals.
#[derive(Debug, Default)]
pub(super) struct KeySet<'k> {
    /// Start to end, each start before its end.
    intervals: BTreeMap<Edge<'k>, Edge<'k>>,
}

impl<'k> KeySet<'k> {
    /// Adds one key.
    pub fn insert_key(&mut self, key: &'k [u8]) {
        self.insert_between(Edge::before(key), Edge::after(key));
    }

    /// Adds the keys from `start` up to, not including, `end`.
    pub fn insert_range(&mut self, start: &'k [u8], end: &'k [u8]) {
        self.insert_between(Edge::before(start), Edge::before(end));
    }

    /// Adds `start` and every key after it.
    pub fn insert_from(&mut self, start: &'k [u8]) {
        self.insert_between(Edge::before(start), Edge::LAST);
    }

    fn insert_between(&mut self, mut start: Edge<'k>, mut end: Edge<'k>) {
        if start >= end {
            return;
        }
        while let Some((&left, &right)) = self.intervals.range(..=end).next_back() {
            if right < start {
                break;
            }
            self.intervals.remove(&left);
            start = start.min(left);
            end = end.max(right);
        }
        self.intervals.insert(start, end);
    }

    /// Takes one key out.
    pub fn remove_key(&mut self, key: &'k [u8]) {
        let Some((start, end)) = interval_of(&self.intervals, key) else { return };
        self.intervals.remove(&start);
        if start < Edge::before(key) {
            self.intervals.insert(start, Edge::before(key));
        }
        if Edge::after(key) < end {
            self.intervals.insert(Edge::after(key), end);
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        interval_of(&self.intervals, key).is_some()
    }

    /// Whether one of `keys` is in it. Costs the smaller of the two.
    pub fn contains_any(&self, keys: &BTreeSet<&'k [u8]>) -> bool {
        if keys.len() <= self.intervals.len() {
            return keys.iter().any(|key| self.contains(key));
        }
        let mut intervals = self.intervals.iter();
        intervals.any(|(start, end)| keys.range::<[u8], _>((start.as_start(), end.as_end())).next().is_some())
    }

    /// Adds everything that `other` has. Costs the smaller of the two.
    pub fn absorb(&mut self, mut other: Self) {
        if self.intervals.len() < other.intervals.len() {
            std::mem::swap(self, &mut other);
        }
        for (start, end) in other.intervals {
            self.insert_between(start, end);
        }
    }
}

/// The interval that has `key`.
fn interval_of<'q>(intervals: &BTreeMap<Edge<'q>, Edge<'q>>, key: &'q [u8]) -> Option<(Edge<'q>, Edge<'q>)> {
    let at = Edge::before(key);
    let (&start, &end) = intervals.range(..=at).next_back()?;
    (at < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

    /// Every key of up to two letters of `ab`, with zero bytes between them.
    const KEYS: [&[u8]; 9] = [b"a", b"a\0", b"a\0b", b"aa", b"ab", b"b", b"b\0", b"ba", b"bb"];

    #[test]
    fn a_list_of_keys_agrees() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let mut sets = [KeySet::default(), KeySet::default()];
            let mut models = [BTreeSet::new(), BTreeSet::new()];
            for _ in 0..30 {
                let which = prng.below(2) as usize;
                let mut key = || KEYS[prng.below(KEYS.len() as u64) as usize];
                let (set, model, key, end) = (&mut sets[which], &mut models[which], key(), key());
                match prng.below(5) {
                    0 => {
                        set.insert_key(key);
                        model.insert(key);
                    }
                    1 => {
                        set.insert_range(key, end);
                        model.extend(KEYS.iter().filter(|k| key <= **k && **k < end));
                    }
                    2 if prng.chance(1, 8) => {
                        set.insert_from(key);
                        model.extend(KEYS.iter().filter(|k| key <= **k));
                    }
                    3 if prng.chance(1, 8) => {
                        let other = std::mem::take(&mut sets[1]);
                        sets[0].absorb(other);
                        let other = std::mem::take(&mut models[1]);
                        models[0].extend(other);
                    }
                    _ => {
                        set.remove_key(key);
                        model.remove(key);
                    }
                }
                let some: BTreeSet<&[u8]> = KEYS.iter().copied().filter(|_| prng.chance(1, 3)).collect();
                for (set, model) in sets.iter().zip(&models) {
                    KEYS.iter().for_each(|key| assert_eq!(set.contains(key), model.contains(key), "{seed}"));
                    assert_eq!(set.contains_any(&some), !model.is_disjoint(&some), "{seed}");
                }
            }
        }
    }
}
