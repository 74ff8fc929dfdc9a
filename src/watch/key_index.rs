//! Who watches a key.
//!
//! Watchers with equal bounds form a *group*; a thousand watchers of one prefix are one range. Groups of a single
//! key are found by hash, groups of a range in the [interval tree](super::interval). Each group has two lists, of
//! its synced watchers and of those that ride a scan, so that publishing never looks at those who are behind and
//! catching up never looks at those who are not. The lists run through the watchers themselves.
//! [`walk`](super::walk) goes through them.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher};
use std::ops::ControlFlow;

use hashbrown::HashTable;
use slab::Slab;

use super::interval::{Bounds, IntervalTree};
use super::walk::Positions;
use super::watcher::{NIL, Watcher};
use crate::stdx::keyed_hash::KeyedHash;

/// Which of a group's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Synced,
    Riding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Range,
    FromKey,
}

#[derive(Debug)]
struct Group {
    /// The key and, from `split` on, the end of the range.
    bounds: Box<[u8]>,
    split: u32,
    kind: Kind,
    /// Watchers with these bounds, on a list or not, and places. The group goes with the last of them.
    watchers: u32,
    /// First of the synced watchers and of the riders.
    heads: [u32; 2],
}

impl Bounds for Slab<Group> {
    fn start(&self, range: u32) -> &[u8] {
        let group = &self[range as usize];
        &group.bounds[..group.split as usize]
    }

    fn end(&self, range: u32) -> Option<&[u8]> {
        let group = &self[range as usize];
        (group.kind == Kind::Range).then(|| &group.bounds[group.split as usize..])
    }
}

/// The bounds of a group, apart from it.
#[derive(Debug)]
pub(super) struct Span {
    bounds: Box<[u8]>,
    split: usize,
    kind: Kind,
}

impl Span {
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let (start, end) = self.bounds.split_at(self.split);
        match self.kind {
            Kind::Key => key == start,
            Kind::Range => start <= key && key < end,
            Kind::FromKey => start <= key,
        }
    }
}

/// All groups of a hub.
#[derive(Debug)]
pub(super) struct KeyIndex {
    groups: Slab<Group>,
    keys: HashTable<u32>,
    ranges: IntervalTree,
    /// Where walks have stopped.
    pub(super) places: Positions,
    /// A client cannot choose keys that collide: it does not know the secret.
    hash: KeyedHash,
}

impl KeyIndex {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            groups: Slab::new(),
            keys: HashTable::new(),
            ranges: IntervalTree::new(seed),
            places: Positions::default(),
            hash: KeyedHash::new(seed),
        }
    }

    /// The group of one more watcher of `[key, end)`, or of the key alone if `end` is empty, or of everything from
    /// `key` on if `end` is a single zero byte.
    pub(super) fn enter(&mut self, key: &[u8], end: &[u8]) -> u32 {
        let kind = match end {
            [] => Kind::Key,
            [0] => Kind::FromKey,
            _ => Kind::Range,
        };
        let groups = &self.groups;
        let known = match kind {
            Kind::Key => self.group_of_key(key),
            Kind::Range => self.ranges.find(key, Some(end), groups),
            Kind::FromKey => self.ranges.find(key, None, groups),
        };
        if let Some(group) = known {
            self.hold(group);
            return group;
        }
        let end = if kind == Kind::Range { end } else { &[] };
        let bounds = [key, end].concat().into_boxed_slice();
        let split = u32::try_from(key.len()).expect("a key is far below 4 GiB");
        let group = Group { bounds, split, kind, watchers: 1, heads: [NIL; 2] };
        let group = u32::try_from(self.groups.insert(group)).expect("fewer groups than watchers");
        if kind == Kind::Key {
            let (groups, keyed) = (&self.groups, &self.hash);
            self.keys.insert_unique(hash(keyed, key), group, |&g| hash(keyed, groups.start(g)));
        } else {
            self.ranges.insert(group, &self.groups);
        }
        group
    }

    /// The bounds of a group.
    pub(super) fn span(&self, group: u32) -> Span {
        let Group { bounds, split, kind, .. } = &self.groups[group as usize];
        Span { bounds: bounds.clone(), split: *split as usize, kind: *kind }
    }

    /// Bytes of a group's bounds.
    pub(super) fn bounds_len(&self, group: u32) -> usize {
        self.groups[group as usize].bounds.len()
    }

    /// One watcher less in `group`; it is on none of its lists.
    pub(super) fn leave(&mut self, group: u32) {
        self.groups[group as usize].watchers -= 1;
        if self.groups[group as usize].watchers > 0 {
            return;
        }
        let groups = &self.groups;
        assert!(groups[group as usize].heads == [NIL; 2], "a listed watcher belongs to its group");
        if groups[group as usize].kind == Kind::Key {
            let hash = hash(&self.hash, groups.start(group));
            self.keys.find_entry(hash, |&g| g == group).expect("every group of a key is hashed").remove();
        } else {
            self.ranges.remove(group, groups);
        }
        self.groups.remove(group as usize);
    }

    /// Puts a watcher on one of its group's lists; it is on neither.
    pub(super) fn link(&mut self, list: List, number: u32, watchers: &mut Slab<Watcher>) {
        let head = &mut self.groups[watchers[number as usize].group as usize].heads[list as usize];
        let after = std::mem::replace(head, number);
        let watcher = &mut watchers[number as usize];
        (watcher.before, watcher.after) = (NIL, after);
        if after != NIL {
            watchers[after as usize].before = number;
        }
    }

    /// Takes a watcher off the list it is on. A walk that has stopped at it goes on with the next.
    pub(super) fn unlink(&mut self, list: List, number: u32, watchers: &mut Slab<Watcher>) {
        let Watcher { before, after, group, .. } = watchers[number as usize];
        self.places.move_on(number, after);
        match before {
            NIL => {
                let head = &mut self.groups[group as usize].heads[list as usize];
                assert!(*head == number, "a watcher is on the list it is taken off");
                *head = after;
            }
            before => watchers[before as usize].after = after,
        }
        if after != NIL {
            watchers[after as usize].before = before;
        }
    }

    /// Counts one more that holds on to a group.
    pub(super) fn hold(&mut self, group: u32) {
        self.groups[group as usize].watchers += 1;
    }

    pub(super) fn kind(&self, group: u32) -> Kind {
        self.groups[group as usize].kind
    }

    /// The first watcher on one of a group's lists.
    pub(super) fn head(&self, group: u32, list: List) -> u32 {
        self.groups[group as usize].heads[list as usize]
    }

    /// The group of those who watch this key alone.
    pub(super) fn group_of_key(&self, key: &[u8]) -> Option<u32> {
        if self.keys.is_empty() {
            return None;
        }
        self.keys.find(hash(&self.hash, key), |&g| self.groups.start(g) == key).copied()
    }

    /// Calls `each` with the groups of ranges that contain `key`; see [`IntervalTree::stab`].
    pub(super) fn stab<B>(
        &self,
        key: &[u8],
        after: Option<u32>,
        each: &mut impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.ranges.stab(key, after, &self.groups, each)
    }

    /// Checks that each group counts its watchers, and the places that hold on to it.
    pub(super) fn check_groups(&self, watchers: &Slab<Watcher>, places: impl Iterator<Item = u32>) {
        let mut counts = vec![0; self.groups.capacity()];
        for group in watchers.iter().map(|(_, watcher)| watcher.group).chain(places) {
            counts[group as usize] += 1;
        }
        for (group, counted) in &self.groups {
            assert_eq!(counted.watchers, counts[group], "a group counts who holds on to it");
        }
    }
}

fn hash(keyed: &KeyedHash, key: &[u8]) -> u64 {
    let mut hasher = keyed.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_small() {
        assert!(size_of::<Group>() <= 40);
    }
}
