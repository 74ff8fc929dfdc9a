//! One leaf of a tree, as a reader may hold it.
#![forbid(unsafe_code)]

use crate::page::PageId;
use crate::page::node::{Node, Value};
use crate::page::table::View;

/// Which page, and the generation it was made in. As pages are never changed once they are published, and places get
/// other pages only in later generations, two published leaves with the same id are the same leaf, until the store is
/// opened anew.
pub type LeafId = (PageId, u64);

/// A leaf.
#[derive(Clone, Copy)]
pub struct Leaf<'a> {
    view: View<'a>,
    node: Node<'a>,
}

impl<'a> Leaf<'a> {
    pub(super) fn new(view: View<'a>, node: Node<'a>) -> Self {
        Self { view, node }
    }

    /// Asks for the memory of the value under `key`, which led here.
    #[inline]
    pub fn prefetch(&self, key: &[u8]) {
        self.node.prefetch_cell(key);
    }

    /// The value under `key`, which led here.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.node.find(self.view, key).ok().map(|at| resolve(self.view, self.node.value(at)))
    }

    /// Tells it from all other leaves. Not to be asked of a state that is not published yet.
    pub fn id(&self) -> LeafId {
        self.node.birth()
    }

    /// Pairs in it; at least one.
    pub fn count(&self) -> usize {
        self.node.count()
    }

    /// Tells all pairs, in order of their keys.
    pub fn each(&self, mut tell: impl FnMut(&[u8], &'a [u8])) {
        let mut key = Vec::new();
        for at in 0..self.node.count() {
            self.node.key_into(self.view, at, &mut key, at > 0);
            tell(&key, resolve(self.view, self.node.value(at)));
        }
    }

    /// Puts the last key into `key`.
    pub fn last_key(&self, key: &mut Vec<u8>) {
        self.node.key_into(self.view, self.node.count() - 1, key, false);
    }
}

/// The bytes of a value, wherever they are.
pub(super) fn resolve<'a>(view: View<'a>, value: Value<'a>) -> &'a [u8] {
    match value {
        Value::Inline(value) => value,
        Value::Run(run) => view.run(run),
    }
}
