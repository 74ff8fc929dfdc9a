//! Taking a pair out of a tree. Empty pages leave the tree, small ones are merged with a neighbour.
#![forbid(unsafe_code)]

use super::Tree;
use super::cursor::DEPTH_MAX;
use super::insert::own;
use crate::page::key::{self, Key};
use crate::page::node::{CAPACITY, Node, Payload, SLOT, Value};
use crate::page::node_mut::NodeMut;
use crate::page::pager::Pager;
use crate::page::{Page, PageRef};

/// A page with less than this looks for a neighbour to merge with.
const SMALL: usize = CAPACITY / 4;

/// Merged pages keep some room, so that the next put does not split them again.
const MERGED_MAX: usize = CAPACITY * 3 / 4;

/// Removes; true if the key was there.
pub(super) fn delete(pager: &mut Pager, tree: Tree, key: &[u8]) -> bool {
    let Some((mut path, depth, at)) = find(pager, tree, key) else { return false };
    own_path(pager, tree, &mut path[..=depth]);
    let leaf = path[depth].0;
    let node = Node::new(pager.view().page(leaf));
    let (value, run) = (node.value(at), node.key_run_at(at));
    if let Value::Run(run) = value {
        pager.free_run(run);
    }
    if let Some(run) = run {
        pager.free_run(run);
    }
    NodeMut::new(pager.page_mut(leaf.id)).remove(at);
    for level in (1..=depth).rev() {
        if !settle(pager, path[level - 1], path[level].0) {
            return true;
        }
    }
    settle_root(pager, tree);
    true
}

/// The pages on the way to `key`, each with the child taken; the depth of the leaf, and the place in it.
type Found = ([(PageRef, usize); DEPTH_MAX], usize, usize);

fn find(pager: &Pager, tree: Tree, key: &[u8]) -> Option<Found> {
    let view = pager.view();
    let mut path = [(PageRef::NONE, 0); DEPTH_MAX];
    let mut at = pager.draft.roots[tree as usize];
    if at.is_none() {
        return None;
    }
    for depth in 0.. {
        let node = Node::new(view.page(at));
        if node.is_leaf() {
            path[depth] = (at, 0);
            return node.find(view, key).ok().map(|place| (path, depth, place));
        }
        let index = node.child_index(view, key);
        path[depth] = (at, index);
        at = node.child(index);
    }
    unreachable!("a path ends with a leaf")
}

/// Makes the pages of a path this turn's own.
fn own_path(pager: &mut Pager, tree: Tree, path: &mut [(PageRef, usize)]) {
    for level in 0..path.len() {
        let owned = own(pager, path[level].0);
        if owned == path[level].0 {
            continue;
        }
        path[level].0 = owned;
        match level.checked_sub(1) {
            None => pager.draft.roots[tree as usize] = owned,
            Some(above) => NodeMut::new(pager.page_mut(path[above].0.id)).set_child(path[above].1, owned),
        }
    }
}

/// Sees whether a page that lost something should stay. True if the branch above has lost something too.
fn settle(pager: &mut Pager, (branch, index): (PageRef, usize), page: PageRef) -> bool {
    let node = Node::new(pager.view().page(page));
    if is_empty(&node) {
        pager.free_page(page);
        remove_child(pager, branch, index);
        return true;
    }
    if node.used() >= SMALL {
        return false;
    }
    let neighbours = Node::new(pager.view().page(branch)).count();
    (index > 0 && merge(pager, branch, index - 1, page))
        || (index < neighbours && merge(pager, branch, index, page))
}

/// A leaf without pairs, or a branch whose last child was taken away.
fn is_empty(node: &Node<'_>) -> bool {
    node.count() == 0 && (node.is_leaf() || node.child(0).is_none())
}

fn remove_child(pager: &mut Pager, branch: PageRef, index: usize) {
    let node = Node::new(pager.view().page(branch));
    if node.count() == 0 {
        NodeMut::new(pager.page_mut(branch.id)).set_child(0, PageRef::NONE);
        return;
    }
    let key = index.saturating_sub(1);
    let run = node.key_run_at(key);
    if index == 0 {
        let second = node.child(1);
        NodeMut::new(pager.page_mut(branch.id)).set_child(0, second);
    }
    NodeMut::new(pager.page_mut(branch.id)).remove(key);
    if let Some(run) = run {
        pager.free_run(run);
    }
}

/// Merges children `left` and `left + 1` of a branch into `page`, which is one of them, if there is room.
fn merge(pager: &mut Pager, branch: PageRef, left: usize, page: PageRef) -> bool {
    let view = pager.view();
    let above = Node::new(view.page(branch));
    let (left_ref, right_ref) = (above.child(left), above.child(left + 1));
    let (a, b) = (Node::new(view.page(left_ref)), Node::new(view.page(right_ref)));
    // Mostly this says no, and spares counting what the common prefix would make of them.
    if a.used() + b.used() - a.prefix_len().min(b.prefix_len()) > MERGED_MAX {
        return false;
    }
    let between = above.key(view, left);
    let between = Key { bytes: &between, run: above.key_run_at(left) };
    let Some(merged) = merged(pager, between, a, b, view.page(page)) else { return false };
    let (other, leaves) = (if page == left_ref { right_ref } else { left_ref }, a.is_leaf());
    *pager.page_mut(page.id) = merged;
    pager.free_page(other);
    let page_mut = pager.page_mut(branch.id);
    NodeMut::new(page_mut).set_child(left, page);
    // The pair that led to the right one goes; its child is the merged page or free. Its key came down into a merged
    // branch, run and all; of leaves it is no part.
    NodeMut::new(page_mut).remove(left);
    if let (true, Some(run)) = (leaves, between.run) {
        pager.free_run(run);
    }
    true
}

/// Both nodes in one page, if there is room.
fn merged(pager: &Pager, between: Key<'_>, a: Node<'_>, b: Node<'_>, identity: &Page) -> Option<Page> {
    let view = pager.view();
    let first = if a.count() > 0 { a.key(view, 0) } else { between.bytes.to_vec() };
    let last = if b.count() > 0 { b.key(view, b.count() - 1) } else { between.bytes.to_vec() };
    let prefix = key::prefix_between(&first, &last);
    let down = (!a.is_leaf()).then(|| Payload::Child(b.child(0)));
    let down_len = down.map_or(0, |child| SLOT + between.cell_len(prefix.len()) + child.len());
    let pairs = |node: &Node<'_>| node.size_with_prefix(0, node.count(), prefix.len());
    if prefix.len() + pairs(&a) + down_len + pairs(&b) > MERGED_MAX {
        return None;
    }
    let mut page = *identity;
    NodeMut::new(&mut page).reset(prefix);
    if !a.is_leaf() {
        NodeMut::new(&mut page).set_child(0, a.child(0));
    }
    NodeMut::new(&mut page).append(view, a, 0, a.count());
    if let Some(child) = down {
        assert!(NodeMut::new(&mut page).insert(a.count(), between, child), "the room was counted");
    }
    NodeMut::new(&mut page).append(view, b, 0, b.count());
    Some(page)
}

/// A branch with one child is no use as a root, an empty page neither.
fn settle_root(pager: &mut Pager, tree: Tree) {
    loop {
        let root = pager.draft.roots[tree as usize];
        let node = Node::new(pager.view().page(root));
        if node.count() > 0 {
            return;
        }
        let next = if node.is_leaf() { PageRef::NONE } else { node.child(0) };
        pager.free_page(root);
        pager.draft.roots[tree as usize] = next;
        if next.is_none() {
            return;
        }
    }
}
