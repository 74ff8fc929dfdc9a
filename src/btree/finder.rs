//! Reading many keys of a tree, in any order: from where the last one was, and without waiting for memory each time.
//!
//! A lookup in a large tree waits for memory three times: for the leaf, for the cell in it, for the rest of the value.
//! The branches are few and in some cache. So a lookup is cut where it would wait, and whoever has many to do does the
//! first piece of some, then the second of the same, and so on:
//!
//! ```text
//!   leaf = finder.leaf(key)       reads branches, asks for the leaf's first bytes
//!   leaf.prefetch(key)            reads slots, asks for the cell
//!   value = leaf.get(key)         reads the cell
//!   prefetch(value)               asks for the value
//! ```
#![forbid(unsafe_code)]

use super::cursor::{DEPTH_MAX, NO_PAGE};
use super::leaf::Leaf;
use crate::page::PageRef;
use crate::page::node::Node;
use crate::page::table::{self, View};

/// Bytes of a value worth asking for: hardware sees by itself that a longer one is being read.
const PREFETCH_MAX: usize = 4096;

/// Asks for the memory of a value that will soon be read.
#[inline]
pub fn prefetch(value: &[u8]) {
    table::prefetch(&value[..value.len().min(PREFETCH_MAX)]);
}

/// Finds the leaves of keys.
pub struct Finder<'a> {
    view: View<'a>,
    root: PageRef,
    /// The branches on the way to the leaf found last, and which of its children each led to.
    path: [(Node<'a>, usize); DEPTH_MAX],
    /// Branches above each leaf; none before the first key.
    levels: Option<usize>,
    /// The leaf found last.
    leaf: (PageRef, Leaf<'a>),
}

impl<'a> Finder<'a> {
    pub(super) fn new(view: View<'a>, root: PageRef) -> Self {
        let nothing = Node::new(&NO_PAGE);
        Self {
            view,
            root,
            path: [(nothing, 0); DEPTH_MAX],
            levels: None,
            leaf: (PageRef::NONE, Leaf::new(view, nothing)),
        }
    }

    /// The leaf that has `key` if any has; none in an empty tree. Its memory has been asked for.
    pub fn leaf(&mut self, key: &[u8]) -> Option<Leaf<'a>> {
        if self.root.is_none() {
            return None;
        }
        let Some(levels) = self.levels else { return Some(self.descend(key)) };
        let Some(lowest) = levels.checked_sub(1) else { return Some(self.leaf.1) };
        let level = self.climb(lowest, key);
        for level in level..lowest {
            let (node, index) = self.path[level];
            let child = Node::new(self.view.page(node.child(index)));
            self.path[level + 1] = (child, child.child_index(self.view, key));
        }
        let (node, index) = self.path[lowest];
        let at = node.child(index);
        if at != self.leaf.0 {
            let node = Node::new(self.view.walk_to(at));
            node.prefetch();
            self.leaf = (at, Leaf::new(self.view, node));
        }
        Some(self.leaf.1)
    }

    /// The level of the lowest branch of the path that certainly has `key`, and lets it point there. A key between two
    /// keys of a branch belongs to it; one outside of them all may belong to its neighbour.
    fn climb(&mut self, lowest: usize, key: &[u8]) -> usize {
        let mut level = lowest;
        loop {
            let (node, index) = &mut self.path[level];
            let found = node.child_index_near(self.view, key, *index);
            if level == 0 || (found > 0 && found < node.count()) {
                *index = found;
                return level;
            }
            level -= 1;
        }
    }

    /// From the root to the first leaf; also tells how deep leaves are.
    fn descend(&mut self, key: &[u8]) -> Leaf<'a> {
        let (mut at, mut levels) = (self.root, 0);
        let mut node = Node::new(self.view.page(at));
        while !node.is_leaf() {
            let index = node.child_index(self.view, key);
            self.path[levels] = (node, index);
            levels += 1;
            at = node.child(index);
            node = Node::new(self.view.page(at));
        }
        self.levels = Some(levels);
        self.leaf = (at, Leaf::new(self.view, node));
        self.leaf.1
    }
}
