//! Sets of keys given by intervals, such as everything that some deletions cover.
//!
//! Every operation costs the logarithm of the set's size, taken over a sequence of them: an insertion swallows what it
//! touches, and an interval that is swallowed was inserted once. No key is copied.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::stdx::pace::Pace;

/// A place between keys: before one, right after one, or behind all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge<K> {
    /// Behind all keys; then the rest says nothing.
    last: bool,
    key: K,
    /// After the key instead of before it.
    after: bool,
}

impl<K: Default> Edge<K> {
    fn last() -> Self {
        Self { last: true, key: K::default(), after: false }
    }
}

impl<K> Edge<K> {
    fn before(key: K) -> Self {
        Self { last: false, key, after: false }
    }

    fn after(key: K) -> Self {
        Self { last: false, key, after: true }
    }
}

impl<'k> Edge<&'k [u8]> {
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

/// A set of keys as disjoint intervals. The ends are keys borrowed from a request, or shared with it where the set
/// outlives the borrow.
#[derive(Debug)]
pub(super) struct KeySet<K> {
    /// Start to end, each start before its end.
    intervals: BTreeMap<Edge<K>, Edge<K>>,
}

impl<K> Default for KeySet<K> {
    fn default() -> Self {
        Self { intervals: BTreeMap::new() }
    }
}

impl<K: Ord + Clone + Default> KeySet<K> {
    /// Adds one key.
    pub fn insert_key(&mut self, key: K) {
        self.insert_between(Edge::before(key.clone()), Edge::after(key));
    }

    /// Adds the keys from `start` up to, not including, `end`.
    pub fn insert_range(&mut self, start: K, end: K) {
        self.insert_between(Edge::before(start), Edge::before(end));
    }

    /// Adds `start` and every key after it.
    pub fn insert_from(&mut self, start: K) {
        self.insert_between(Edge::before(start), Edge::last());
    }

    fn insert_between(&mut self, mut start: Edge<K>, mut end: Edge<K>) {
        if start >= end {
            return;
        }
        while let Some((left, right)) = self.intervals.range(..=end.clone()).next_back() {
            if *right < start {
                break;
            }
            let left = left.clone();
            let right = self.intervals.remove(&left).unwrap_or_else(|| left.clone());
            start = start.min(left);
            end = end.max(right);
        }
        self.intervals.insert(start, end);
    }

    /// Takes one key out.
    pub fn remove_key(&mut self, key: K) {
        let (before, after) = (Edge::before(key.clone()), Edge::after(key));
        let Some((start, end)) = self.interval_of(&before) else { return };
        self.intervals.remove(&start);
        if start < before {
            self.intervals.insert(start, before);
        }
        if after < end {
            self.intervals.insert(after, end);
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: K) -> bool {
        self.interval_of(&Edge::before(key)).is_some()
    }

    /// Adds everything that `other` has. Costs the smaller of the two.
    pub async fn absorb(&mut self, mut other: Self, pace: &impl Pace) {
        if self.intervals.len() < other.intervals.len() {
            std::mem::swap(self, &mut other);
        }
        for (start, end) in other.intervals {
            pace.step().await;
            self.insert_between(start, end);
        }
    }

    /// The interval that has the key right behind `at`.
    fn interval_of(&self, at: &Edge<K>) -> Option<(Edge<K>, Edge<K>)> {
        let (start, end) = self.intervals.range(..=at.clone()).next_back()?;
        (at < end).then(|| (start.clone(), end.clone()))
    }
}

impl<'k> KeySet<&'k [u8]> {
    /// Whether one of `keys` is in it. Costs the smaller of the two.
    pub async fn contains_any(&self, keys: &BTreeSet<&'k [u8]>, pace: &impl Pace) -> bool {
        if keys.len() <= self.intervals.len() {
            for key in keys {
                pace.step().await;
                if self.contains(key) {
                    return true;
                }
            }
            return false;
        }
        for (start, end) in &self.intervals {
            pace.step().await;
            if keys.range::<[u8], _>((start.as_start(), end.as_end())).next().is_some() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::pace::{AtOnce, at_once};
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
                        at_once(sets[0].absorb(other, &AtOnce));
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
                    KEYS.iter().for_each(|key| assert_eq!(set.contains(*key), model.contains(key), "{seed}"));
                    assert_eq!(
                        at_once(set.contains_any(&some, &AtOnce)),
                        !model.is_disjoint(&some),
                        "{seed}"
                    );
                }
            }
        }
    }
}
