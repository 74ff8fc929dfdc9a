//! Putting a pair into a tree.
//!
//! The way down makes every page of the path this turn's own. A leaf without room is split, and what comes of it goes
//! into the branch above, which may split in turn. At the right edge of a tree pages are not halved but left full,
//! and a new one is begun: keys that only grow fill their pages to the brim.
#![forbid(unsafe_code)]

use super::Tree;
use super::cursor::DEPTH_MAX;
use crate::page::key::{self, Key};
use crate::page::node::{CAPACITY, CELL_MAX, KEY_INLINE_MAX, Node, Payload, SLOT, Value};
use crate::page::node_mut::NodeMut;
use crate::page::pager::Pager;
use crate::page::{Kind, PAGE_SIZE, Page, PageRef, RunRef};
use std::cmp::Ordering;

/// Pages split off to the right of one that was there, each with its first possible key, ascending.
type Siblings = Vec<(Vec<u8>, PageRef)>;

/// The page itself if it is this turn's, or a copy that is.
pub(super) fn own(pager: &mut Pager, r: PageRef) -> PageRef {
    if pager.is_fresh(pager.view().page(r)) { r } else { pager.copy(r) }
}

/// Appends to a leaf of this turn at the right edge of its tree. False if the key is not the greatest or the page is
/// full; nothing has happened then.
pub(super) fn append(pager: &mut Pager, leaf: PageRef, key: &[u8], value: &[u8]) -> bool {
    if key.len() > KEY_INLINE_MAX || !is_inline(key, value) {
        return false;
    }
    let (view, node) = (pager.view(), Node::new(pager.view().page(leaf)));
    if !key.starts_with(node.prefix()) || node.compare_last(view, key) != Ordering::Less {
        return false;
    }
    let count = node.count();
    NodeMut::new(pager.page_mut(leaf.id)).insert(
        count,
        Key { bytes: key, run: None },
        Payload::Value(Value::Inline(value)),
    )
}

/// Inserts or replaces. Returns the leaf if it is the last of the tree.
pub(super) fn put(pager: &mut Pager, tree: Tree, key: &[u8], value: &[u8]) -> PageRef {
    let root = &mut pager.draft.roots[tree as usize];
    if root.is_none() {
        let leaf = pager.make(Kind::Leaf);
        NodeMut::new(pager.page_mut(leaf.id)).reset(b"");
        pager.draft.roots[tree as usize] = leaf;
    }
    let mut path = Path::own_to_leaf(pager, tree, key);
    let (leaf, edge) = path.pop().expect("the path ends with a leaf");
    let Some(place) = clear_place(pager, leaf, key, value) else {
        return if edge { leaf } else { PageRef::NONE };
    };
    let value =
        if is_inline(key, value) { Value::Inline(value) } else { Value::Run(pager.make_run(&[value])) };
    let mut siblings = Siblings::new();
    fit(pager, leaf, Key { bytes: key, run: place }, Payload::Value(value), edge, &mut siblings);
    let last = siblings.last().map_or(leaf, |(_, last)| *last);
    grow(pager, tree, path, siblings);
    if edge { last } else { PageRef::NONE }
}

/// True if the value stands in the leaf. A long key counts as if it did too, so that a cell and the page's prefix
/// together stay below [`CELL_MAX`].
fn is_inline(key: &[u8], value: &[u8]) -> bool {
    SLOT + key.len().min(KEY_INLINE_MAX) + 2 + value.len() <= CELL_MAX
}

/// Makes the place of `key` in its leaf empty, or overwrites the value in place and returns none. What is returned is
/// the run that holds the key already.
fn clear_place(pager: &mut Pager, leaf: PageRef, key: &[u8], value: &[u8]) -> Option<Option<RunRef>> {
    let (view, node) = (pager.view(), Node::new(pager.view().page(leaf)));
    let Ok(at) = node.find(view, key) else { return Some(None) };
    let (old, run) = (node.value(at), node.key_run_at(at));
    match old {
        Value::Run(old) => pager.free_run(old),
        Value::Inline(_) => {
            if is_inline(key, value) && NodeMut::new(pager.page_mut(leaf.id)).overwrite(at, value) {
                return None;
            }
        }
    }
    NodeMut::new(pager.page_mut(leaf.id)).remove(at);
    Some(run)
}

/// The branches above a leaf, and the leaf; each with whether it is the last page of its level.
struct Path {
    nodes: [(PageRef, bool); DEPTH_MAX],
    depth: usize,
}

impl Path {
    fn own_to_leaf(pager: &mut Pager, tree: Tree, key: &[u8]) -> Self {
        let mut path = Self { nodes: [(PageRef::NONE, false); DEPTH_MAX], depth: 0 };
        let mut at = own(pager, pager.draft.roots[tree as usize]);
        pager.draft.roots[tree as usize] = at;
        let mut edge = true;
        loop {
            path.push((at, edge));
            let (view, node) = (pager.view(), Node::new(pager.view().page(at)));
            if node.is_leaf() {
                return path;
            }
            let index = node.child_index(view, key);
            edge &= index == node.count();
            let child = node.child(index);
            let owned = own(pager, child);
            if owned != child {
                NodeMut::new(pager.page_mut(at.id)).set_child(index, owned);
            }
            at = owned;
        }
    }

    fn push(&mut self, node: (PageRef, bool)) {
        self.nodes[self.depth] = node;
        self.depth += 1;
    }

    fn pop(&mut self) -> Option<(PageRef, bool)> {
        self.depth = self.depth.checked_sub(1)?;
        Some(self.nodes[self.depth])
    }
}

/// Tells the branches above of pages that were split off, up to a new root.
fn grow(pager: &mut Pager, tree: Tree, mut path: Path, mut siblings: Siblings) {
    while !siblings.is_empty() {
        let (branch, edge) = path.pop().unwrap_or_else(|| {
            let root = pager.make(Kind::Branch);
            let page = pager.page_mut(root.id);
            NodeMut::new(page).reset(b"");
            let old = std::mem::replace(&mut pager.draft.roots[tree as usize], root);
            NodeMut::new(pager.page_mut(root.id)).set_child(0, old);
            (root, true)
        });
        let mut above = Siblings::new();
        for (key, child) in siblings {
            fit(pager, branch, Key { bytes: &key, run: None }, Payload::Child(child), edge, &mut above);
        }
        siblings = above;
    }
}

/// Puts a pair into `first` or one of its siblings, splitting until there is room.
fn fit(
    pager: &mut Pager,
    first: PageRef,
    key: Key<'_>,
    payload: Payload<'_>,
    edge: bool,
    siblings: &mut Siblings,
) {
    loop {
        let place = siblings.partition_point(|(low, _)| low.as_slice() <= key.bytes);
        let target = if place == 0 { first } else { siblings[place - 1].1 };
        let full = match insert(pager, target, key, payload) {
            Ok(()) => return,
            Err(full) => full,
        };
        // A key on the outside of all others of its page, at the edge of the tree or far from them, begins a new page.
        let count = Node::new(pager.view().page(target)).count();
        let outside = full.stranger || (edge && place == siblings.len() && full.at == count);
        let sibling = match payload {
            Payload::Value(_) => split_leaf(pager, target, key.bytes, outside.then_some(full.at)),
            Payload::Child(child) if outside => {
                siblings.insert(place, (key.bytes.to_vec(), split_branch(pager, target, full.at, child)));
                return;
            }
            Payload::Child(_) => halve_branch(pager, target),
        };
        siblings.insert(place, sibling);
    }
}

/// Why a pair found no room.
struct Full {
    /// Where it belongs.
    at: usize,
    /// It does not share the prefix of the others, who would need more room without.
    stranger: bool,
}

fn insert(pager: &mut Pager, r: PageRef, key: Key<'_>, payload: Payload<'_>) -> Result<(), Full> {
    let (view, node) = (pager.view(), Node::new(pager.view().page(r)));
    let at = node.find(view, key.bytes).expect_err("the place was cleared");
    let long = key.bytes.len() > KEY_INLINE_MAX;
    let len =
        |prefix: usize| SLOT + if long { RunRef::SIZE } else { key.bytes.len() - prefix } + payload.len();
    let shared = key::common_len(node.prefix(), key.bytes);
    if shared == node.prefix_len() {
        if node.used() + len(shared) > CAPACITY {
            return Err(Full { at, stranger: false });
        }
    } else {
        let size = shared + node.size_with_prefix(0, node.count(), shared);
        if size + len(shared) > CAPACITY {
            return Err(Full { at, stranger: true });
        }
        let mut page = *view.page(r);
        NodeMut::new(&mut page).reset(&key.bytes[..shared]);
        NodeMut::new(&mut page).append(view, node, 0, node.count());
        *pager.page_mut(r.id) = page;
    }
    let run = key.run.or_else(|| long.then(|| pager.make_run(&[key.bytes])));
    let fits = NodeMut::new(pager.page_mut(r.id)).insert(at, Key { bytes: key.bytes, run }, payload);
    assert!(fits, "the room was counted");
    Ok(())
}

/// Splits a leaf at `cut`, where `key` will go, or else in the middle.
fn split_leaf(pager: &mut Pager, r: PageRef, key: &[u8], cut: Option<usize>) -> (Vec<u8>, PageRef) {
    let right = pager.make(Kind::Leaf);
    let (view, node) = (pager.view(), Node::new(pager.view().page(r)));
    let count = node.count();
    if cut == Some(count) {
        // The pages before stay full; the next keys will resemble this one as it resembles the last.
        let last = node.key(view, count - 1);
        let (low, prefix) = (key::separator(&last, key).to_vec(), key::prefix_between(&last, key));
        NodeMut::new(pager.page_mut(right.id)).reset(prefix);
        return (low, right);
    }
    let cut = cut.unwrap_or_else(|| middle(&node));
    let first = node.key(view, cut);
    let low = match cut {
        0 => key::separator(key, &first).to_vec(),
        _ => key::separator(&node.key(view, cut - 1), &first).to_vec(),
    };
    let (left_page, right_page) = (rebuilt(pager, r, r, 0, cut), rebuilt(pager, r, right, cut, count));
    *pager.page_mut(r.id) = left_page;
    *pager.page_mut(right.id) = right_page;
    (low, right)
}

/// Splits a branch before key `at`, with `child` as the first of the new one. The key that leads to it goes up.
fn split_branch(pager: &mut Pager, r: PageRef, at: usize, child: PageRef) -> PageRef {
    let right = pager.make(Kind::Branch);
    let count = Node::new(pager.view().page(r)).count();
    let (left_page, mut right_page) = (rebuilt(pager, r, r, 0, at), rebuilt(pager, r, right, at, count));
    NodeMut::new(&mut right_page).set_child(0, child);
    *pager.page_mut(r.id) = left_page;
    *pager.page_mut(right.id) = right_page;
    right
}

/// Splits a branch in the middle; the key there goes up.
fn halve_branch(pager: &mut Pager, r: PageRef) -> (Vec<u8>, PageRef) {
    let right = pager.make(Kind::Branch);
    let (view, node) = (pager.view(), Node::new(pager.view().page(r)));
    let (count, cut) = (node.count(), middle(&node));
    let (low, run, child) = (node.key(view, cut), node.key_run_at(cut), node.child(cut + 1));
    let (left_page, mut right_page) =
        (rebuilt(pager, r, r, 0, cut), rebuilt(pager, r, right, cut + 1, count));
    NodeMut::new(&mut right_page).set_child(0, child);
    *pager.page_mut(r.id) = left_page;
    *pager.page_mut(right.id) = right_page;
    if let Some(run) = run {
        pager.free_run(run);
    }
    (low, right)
}

/// The pair with which the second half of a page's bytes begins; neither half is empty.
fn middle(node: &Node<'_>) -> usize {
    let count = node.count();
    assert!(count >= 2, "two pairs always fit into a page");
    let half = (0..count).map(|at| node.pair_len(at)).sum::<usize>() / 2;
    let mut sum = 0;
    let cut = (0..count)
        .take_while(|&at| {
            sum += node.pair_len(at);
            sum <= half
        })
        .count();
    cut.clamp(1, count - 1)
}

/// What `target` looks like with pairs `from..to` of `source`, under the prefix that serves them best.
fn rebuilt(pager: &Pager, source: PageRef, target: PageRef, from: usize, to: usize) -> Page {
    let (view, node) = (pager.view(), Node::new(pager.view().page(source)));
    let mut page: Page = [0; PAGE_SIZE];
    page.copy_from_slice(view.page(target));
    let (first, last) = match to - from {
        0 => (Vec::new(), Vec::new()),
        _ => (node.key(view, from), node.key(view, to - 1)),
    };
    let mut prefix = key::prefix_between(&first, &last);
    let size = |prefix: usize| prefix + node.size_with_prefix(from, to, prefix);
    // One pair says nothing of its neighbours; and keys in runs gain nothing from a prefix.
    if to - from == 1 || size(prefix.len()) > size(node.prefix_len()) {
        prefix = node.prefix();
    }
    NodeMut::new(&mut page).reset(prefix);
    NodeMut::new(&mut page).append(view, node, from, to);
    page
}
