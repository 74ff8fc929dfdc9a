//! Reading a tree: one key, or one after the other.
#![forbid(unsafe_code)]

use super::leaf::{Leaf, resolve};
use crate::page::node::Node;
use crate::page::table::View;
use crate::page::{PAGE_SIZE, Page, PageId, PageRef};

/// Levels of a tree. A branch has at least three children as long as keys are long and the tree grows, and dozens
/// otherwise: 3^20 leaves are more than a file can hold.
pub(super) const DEPTH_MAX: usize = 24;

pub(super) static NO_PAGE: Page = [0; PAGE_SIZE];

/// The value under `key`.
pub(super) fn get<'a>(view: View<'a>, root: PageRef, key: &[u8]) -> Option<&'a [u8]> {
    if root.is_none() {
        return None;
    }
    let mut node = Node::new(view.page(root));
    while !node.is_leaf() {
        node = Node::new(view.page(node.child(node.child_index(view, key))));
    }
    node.find(view, key).ok().map(|at| resolve(view, node.value(at)))
}

/// Asks for the leaf that has `key` if any has, and waits for nothing: where a page on the way is not in memory, that
/// page is asked for and returned.
pub(super) fn read_ahead(view: View<'_>, root: PageRef, key: &[u8]) -> Option<PageId> {
    let mut at = root;
    while !at.is_none() {
        let Some(page) = view.page_or_read_ahead(at) else { return Some(at.id) };
        let node = Node::new(page);
        at = if node.is_leaf() { PageRef::NONE } else { node.child(node.child_index(view, key)) };
    }
    None
}

/// A position in a tree.
pub struct Cursor<'a> {
    view: View<'a>,
    root: PageRef,
    /// The way to the leaf: each branch, and which of its children.
    path: [(Node<'a>, u16); DEPTH_MAX],
    depth: usize,
    leaf: Node<'a>,
    /// The pair in the leaf; none when the cursor points nowhere.
    at: Option<usize>,
    /// The key it points at, assembled from prefix and suffix.
    key: Vec<u8>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(view: View<'a>, root: PageRef) -> Self {
        let nothing = Node::new(&NO_PAGE);
        Self {
            view,
            root,
            path: [(nothing, 0); DEPTH_MAX],
            depth: 0,
            leaf: nothing,
            at: None,
            key: Vec::new(),
        }
    }

    /// To the first key not below `key`.
    pub fn seek(&mut self, key: &[u8]) {
        if !self.descend(|node, view| node.child_index(view, key)) {
            return;
        }
        let at = self.leaf.find(self.view, key).unwrap_or_else(|at| at);
        if at < self.leaf.count() {
            self.point(at, false);
        } else {
            self.next_leaf();
        }
    }

    /// To the last key.
    pub fn seek_last(&mut self) {
        if self.descend(|node, _| node.count()) {
            self.point(self.leaf.count() - 1, false);
        }
    }

    /// One key forward; past the last it points nowhere.
    pub fn next(&mut self) {
        let Some(at) = self.at else { return };
        if at + 1 < self.leaf.count() {
            self.point(at + 1, true);
        } else {
            self.next_leaf();
        }
    }

    /// One key back; before the first it points nowhere.
    pub fn prev(&mut self) {
        match self.at {
            None => {}
            Some(0) => self.prev_leaf(),
            Some(at) => self.point(at - 1, true),
        }
    }

    /// True when it points at a pair.
    pub fn valid(&self) -> bool {
        self.at.is_some()
    }

    /// The key it points at.
    pub fn key(&self) -> &[u8] {
        assert!(self.valid(), "a cursor that points nowhere has no key");
        &self.key
    }

    /// The value it points at; lives as long as the state, not the cursor.
    pub fn value(&self) -> &'a [u8] {
        let at = self.at.expect("a cursor that points nowhere has no value");
        resolve(self.view, self.leaf.value(at))
    }

    /// Whether it points at the first pair of a leaf.
    pub fn begins_leaf(&self) -> bool {
        self.at == Some(0)
    }

    /// The leaf of the pair that it points at.
    pub fn leaf(&self) -> Leaf<'a> {
        assert!(self.valid(), "a cursor that points nowhere is in no leaf");
        Leaf::new(self.view, self.leaf)
    }

    /// Another cursor in the same state of the tree, which points nowhere.
    pub fn another(&self) -> Self {
        Self::new(self.view, self.root)
    }

    fn point(&mut self, at: usize, same_leaf: bool) {
        self.at = Some(at);
        self.leaf.key_into(self.view, at, &mut self.key, same_leaf);
    }

    /// From the root to a leaf; false for an empty tree.
    fn descend(&mut self, choose: impl Fn(Node<'a>, View<'a>) -> usize) -> bool {
        (self.at, self.depth) = (None, 0);
        if self.root.is_none() {
            return false;
        }
        let view = self.view;
        self.descend_from(self.root, choose, |at| view.page(at));
        true
    }

    fn descend_from(
        &mut self,
        from: PageRef,
        choose: impl Fn(Node<'a>, View<'a>) -> usize,
        go: impl Fn(PageRef) -> &'a Page,
    ) {
        let mut node = Node::new(go(from));
        while !node.is_leaf() {
            let index = choose(node, self.view);
            self.path[self.depth] = (node, index as u16);
            self.depth += 1;
            node = Node::new(go(node.child(index)));
        }
        assert!(node.count() > 0, "an empty leaf is taken out of its tree");
        self.leaf = node;
    }

    /// To the first key of the next leaf; past the last leaf it points nowhere.
    pub fn next_leaf(&mut self) {
        self.at = None;
        while let Some(level) = self.depth.checked_sub(1) {
            let (node, index) = &mut self.path[level];
            if usize::from(*index) < node.count() {
                *index += 1;
                let child = node.child(usize::from(*index));
                let view = self.view;
                self.descend_from(child, |_, _| 0, |at| view.walk_to(at));
                self.point(0, false);
                return;
            }
            self.depth = level;
        }
    }

    fn prev_leaf(&mut self) {
        self.at = None;
        while let Some(level) = self.depth.checked_sub(1) {
            let (node, index) = &mut self.path[level];
            if *index > 0 {
                *index -= 1;
                let child = node.child(usize::from(*index));
                let view = self.view;
                self.descend_from(child, |node, _| node.count(), |at| view.walk_to(at));
                self.point(self.leaf.count() - 1, false);
                return;
            }
            self.depth = level;
        }
    }
}
