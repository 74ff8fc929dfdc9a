//! The interval tree: which ranges contain a key.
//!
//! A treap ordered by the ranges' starts (then ends), in which every node knows the greatest end below it. A whole
//! subtree that ends before the key, or starts after it, is never visited: O(log ranges + matches) for the ranges
//! that occur. The tree holds numbers of groups; the bounds live with the groups and are passed in.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::watcher::NIL;
use crate::stdx::prng::Prng;

/// Bounds of the ranges by their numbers.
pub(super) trait Bounds {
    /// The first key of the range.
    fn start(&self, range: u32) -> &[u8];
    /// The first key past the range; none if it has no end.
    fn end(&self, range: u32) -> Option<&[u8]>;
}

#[derive(Debug)]
struct Node {
    range: u32,
    left: u32,
    right: u32,
    /// The range with the greatest end in this subtree.
    last: u32,
    /// Not below those of the children. Drawn at random, so that no order of insertion makes the tree deep.
    priority: u32,
}

/// A set of ranges.
#[derive(Debug)]
pub(super) struct IntervalTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    priorities: Prng,
}

/// Orders ends; a range without end comes last.
fn cmp_end(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
    }
}

fn cmp_bounds(start: &[u8], end: Option<&[u8]>, other: u32, bounds: &impl Bounds) -> Ordering {
    start.cmp(bounds.start(other)).then_with(|| cmp_end(end, bounds.end(other)))
}

impl IntervalTree {
    pub(super) fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NIL, priorities: Prng::new(seed) }
    }

    /// The range with exactly these bounds.
    pub(super) fn find(&self, start: &[u8], end: Option<&[u8]>, bounds: &impl Bounds) -> Option<u32> {
        let mut at = self.root;
        while at != NIL {
            let node = &self.nodes[at as usize];
            at = match cmp_bounds(start, end, node.range, bounds) {
                Ordering::Equal => return Some(node.range),
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
            };
        }
        None
    }

    /// Adds a range whose bounds no range here has.
    pub(super) fn insert(&mut self, range: u32, bounds: &impl Bounds) {
        let priority = self.priorities.next_u64() as u32;
        let node = Node { range, left: NIL, right: NIL, last: range, priority };
        let new = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.root = self.insert_below(self.root, new, bounds);
    }

    /// Removes a range that is here.
    pub(super) fn remove(&mut self, range: u32, bounds: &impl Bounds) {
        self.root = self.remove_below(self.root, range, bounds);
    }

    /// Calls `each` with every range that contains `key`, in order of their bounds, until it breaks: with those behind
    /// the range `after`, which is in the tree, or with all.
    pub(super) fn stab<B>(
        &self,
        key: &[u8],
        after: Option<u32>,
        bounds: &impl Bounds,
        each: &mut impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.stab_below(self.root, key, after, bounds, each)
    }

    fn stab_below<B>(
        &self,
        at: u32,
        key: &[u8],
        after: Option<u32>,
        bounds: &impl Bounds,
        each: &mut impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if at == NIL {
            return ControlFlow::Continue(());
        }
        let node = &self.nodes[at as usize];
        if bounds.end(node.last).is_some_and(|end| end <= key) {
            return ControlFlow::Continue(());
        }
        let is_behind = after.is_none_or(|after| {
            cmp_bounds(bounds.start(after), bounds.end(after), node.range, bounds).is_lt()
        });
        if is_behind {
            self.stab_below(node.left, key, after, bounds, each)?;
        }
        if bounds.start(node.range) <= key {
            if is_behind && bounds.end(node.range).is_none_or(|end| key < end) {
                each(node.range)?;
            }
            self.stab_below(node.right, key, after.filter(|_| !is_behind), bounds, each)?;
        }
        ControlFlow::Continue(())
    }

    fn insert_below(&mut self, at: u32, new: u32, bounds: &impl Bounds) -> u32 {
        if at == NIL {
            return new;
        }
        let range = self.nodes[new as usize].range;
        if self.nodes[new as usize].priority > self.nodes[at as usize].priority {
            let (left, right) = self.split(at, range, bounds);
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.recompute(new, bounds);
            return new;
        }
        match cmp_bounds(bounds.start(range), bounds.end(range), self.nodes[at as usize].range, bounds) {
            Ordering::Less => {
                let left = self.insert_below(self.nodes[at as usize].left, new, bounds);
                self.nodes[at as usize].left = left;
            }
            Ordering::Greater => {
                let right = self.insert_below(self.nodes[at as usize].right, new, bounds);
                self.nodes[at as usize].right = right;
            }
            Ordering::Equal => panic!("two groups of watchers have the same range"),
        }
        self.recompute(at, bounds);
        at
    }

    /// Parts a subtree into what is before and what is after `range`.
    fn split(&mut self, at: u32, range: u32, bounds: &impl Bounds) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        let other = self.nodes[at as usize].range;
        let parts = if cmp_bounds(bounds.start(range), bounds.end(range), other, bounds).is_lt() {
            let (before, after) = self.split(self.nodes[at as usize].left, range, bounds);
            self.nodes[at as usize].left = after;
            (before, at)
        } else {
            let (before, after) = self.split(self.nodes[at as usize].right, range, bounds);
            self.nodes[at as usize].right = before;
            (at, after)
        };
        self.recompute(at, bounds);
        parts
    }

    fn remove_below(&mut self, at: u32, range: u32, bounds: &impl Bounds) -> u32 {
        assert!(at != NIL, "a range that is removed is in the tree");
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        match cmp_bounds(bounds.start(range), bounds.end(range), self.nodes[at as usize].range, bounds) {
            Ordering::Equal => {
                self.free.push(at);
                return self.join(left, right, bounds);
            }
            Ordering::Less => self.nodes[at as usize].left = self.remove_below(left, range, bounds),
            Ordering::Greater => self.nodes[at as usize].right = self.remove_below(right, range, bounds),
        }
        self.recompute(at, bounds);
        at
    }

    /// Puts two subtrees together, all of `left` before all of `right`.
    fn join(&mut self, left: u32, right: u32, bounds: &impl Bounds) -> u32 {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        if self.nodes[left as usize].priority >= self.nodes[right as usize].priority {
            let joined = self.join(self.nodes[left as usize].right, right, bounds);
            self.nodes[left as usize].right = joined;
            self.recompute(left, bounds);
            left
        } else {
            let joined = self.join(left, self.nodes[right as usize].left, bounds);
            self.nodes[right as usize].left = joined;
            self.recompute(right, bounds);
            right
        }
    }

    fn recompute(&mut self, at: u32, bounds: &impl Bounds) {
        let node = &self.nodes[at as usize];
        let mut last = node.range;
        for child in [node.left, node.right] {
            if child != NIL {
                let candidate = self.nodes[child as usize].last;
                if cmp_end(bounds.end(candidate), bounds.end(last)).is_gt() {
                    last = candidate;
                }
            }
        }
        self.nodes[at as usize].last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Bounds for Vec<(Vec<u8>, Option<Vec<u8>>)> {
        fn start(&self, range: u32) -> &[u8] {
            &self[range as usize].0
        }
        fn end(&self, range: u32) -> Option<&[u8]> {
            self[range as usize].1.as_deref()
        }
    }

    /// Up to `most` ranges that contain `key`, behind `after`.
    fn stab(
        tree: &IntervalTree,
        key: &[u8],
        after: Option<u32>,
        most: usize,
        bounds: &impl Bounds,
    ) -> Vec<u32> {
        let mut found = Vec::new();
        let _ = tree.stab(key, after, bounds, &mut |range| {
            found.push(range);
            if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        found
    }

    #[test]
    fn finds_what_a_list_finds() {
        let mut random = Prng::new(11);
        let mut bounds: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        for start in 0..24u8 {
            bounds.push((vec![start], None));
            bounds.extend((start + 1..26).map(|end| (vec![start], Some(vec![end]))));
        }
        let mut tree = IntervalTree::new(3);
        let mut present = vec![false; bounds.len()];
        for round in 0..6000 {
            let range = random.below(bounds.len() as u64) as u32;
            // First mostly insertions, then mostly removals, so that both a full and an empty tree occur.
            let want = random.chance(if round < 3000 { 4 } else { 1 }, 5);
            if want != present[range as usize] {
                if want {
                    tree.insert(range, &bounds)
                } else {
                    tree.remove(range, &bounds)
                }
                present[range as usize] = want;
            }
            let key = [random.below(27) as u8, random.below(2) as u8];
            let key = &key[..1 + random.below(2) as usize];
            let found = stab(&tree, key, None, usize::MAX, &bounds);
            assert!(
                found.is_sorted_by(|&a, &b| {
                    cmp_bounds(bounds.start(a), bounds.end(a), b, &bounds).is_lt()
                })
            );
            // The same in pieces, each of which begins behind the last range of the one before.
            let mut pieces = Vec::new();
            loop {
                let piece = stab(&tree, key, pieces.last().copied(), 1 + random.below(4) as usize, &bounds);
                if piece.is_empty() {
                    break;
                }
                pieces.extend(piece);
            }
            assert_eq!(pieces, found);
            let mut found = found;
            found.sort_unstable();
            let expected: Vec<u32> = (0..bounds.len() as u32)
                .filter(|&r| present[r as usize] && bounds.start(r) <= key)
                .filter(|&r| bounds.end(r).is_none_or(|end| key < end))
                .collect();
            assert_eq!(found, expected);
            let probe = random.below(bounds.len() as u64) as u32;
            let hit = tree.find(bounds.start(probe), bounds.end(probe), &bounds);
            assert_eq!(hit, present[probe as usize].then_some(probe));
        }
    }
}
