//! Changing a tree page. The caller has seen to it that the page is one of this turn.
#![forbid(unsafe_code)]

use super::key::{Key, head_of};
use super::layout::*;
use super::node::{CHILD, KEY_INLINE_MAX, Node, Payload, RUN, SLOT, Slot};
use super::table::View;

/// A tree page, to be changed.
pub(crate) struct NodeMut<'a> {
    page: &'a mut Page,
}

impl<'a> NodeMut<'a> {
    /// A page that is a leaf or a branch already.
    pub(crate) fn new(page: &'a mut Page) -> Self {
        Self { page }
    }

    fn read(&self) -> Node<'_> {
        Node::new(self.page)
    }

    /// Makes a page an empty node with this prefix; identity and kind stay.
    pub(crate) fn reset(&mut self, prefix: &[u8]) {
        assert!(prefix.len() <= KEY_INLINE_MAX);
        set_u16(self.page, COUNT, 0);
        set_u16(self.page, GARBAGE, 0);
        set_u16(self.page, PREFIX, prefix.len() as u16);
        let end = PAGE_SIZE - prefix.len();
        self.page[end..].copy_from_slice(prefix);
        set_u16(self.page, HEAP, end as u16);
    }

    /// Sets child `index`, as [`Node::child`] counts.
    pub(crate) fn set_child(&mut self, index: usize, child: PageRef) {
        match index.checked_sub(1) {
            None => {
                set_u32(self.page, LINK, child.id.0);
                set_u16(self.page, LINK_STAMP, child.stamp);
            }
            Some(at) => {
                let slot = self.read().slot(at);
                self.page[slot.offset() + slot.key_bytes()..][..CHILD].copy_from_slice(&child.encode());
            }
        }
    }

    /// Inserts a pair at `at` if there is room. The key begins with the page's prefix.
    pub(crate) fn insert(&mut self, at: usize, key: Key<'_>, payload: Payload<'_>) -> bool {
        let node = self.read();
        let (count, prefix) = (node.count(), node.prefix_len());
        let key_len = key.cell_len(prefix);
        let len = key_len + payload.len();
        if node.gap() < SLOT + len {
            if node.gap() + node.garbage() < SLOT + len {
                return false;
            }
            self.squeeze();
        }
        let offset = self.read().heap() - len;
        let suffix = &key.bytes[prefix..];
        let slot = match key.run {
            Some(run) => {
                self.page[offset..offset + key_len].copy_from_slice(&run.encode());
                Slot::new(offset, RUN, head_of(suffix))
            }
            None => {
                self.page[offset..offset + key_len].copy_from_slice(suffix);
                Slot::new(offset, key_len as u16, head_of(suffix))
            }
        };
        payload.write(&mut self.page[offset + key_len..offset + len]);
        let place = HEADER + at * SLOT;
        self.page.copy_within(place..HEADER + count * SLOT, place + SLOT);
        set_u64(self.page, place, slot.0);
        set_u16(self.page, COUNT, count as u16 + 1);
        set_u16(self.page, HEAP, offset as u16);
        true
    }

    /// Removes the pair at `at`. What its runs hold is the caller's.
    pub(crate) fn remove(&mut self, at: usize) {
        let node = self.read();
        let (count, slot) = (node.count(), node.slot(at));
        let (len, heap, garbage) = (node.cell_len(slot), node.heap(), node.garbage());
        if slot.offset() == heap {
            set_u16(self.page, HEAP, (heap + len) as u16);
        } else {
            set_u16(self.page, GARBAGE, (garbage + len) as u16);
        }
        let place = HEADER + at * SLOT;
        self.page.copy_within(place + SLOT..HEADER + count * SLOT, place);
        set_u16(self.page, COUNT, count as u16 - 1);
    }

    /// Overwrites the value at `at` if the new one has the same length; both are inline.
    pub(crate) fn overwrite(&mut self, at: usize, value: &[u8]) -> bool {
        let slot = self.read().slot(at);
        let start = slot.offset() + slot.key_bytes();
        if usize::from(u16_at(self.page, start)) != value.len() {
            return false;
        }
        self.page[start + 2..start + 2 + value.len()].copy_from_slice(value);
        true
    }

    /// Moves the cells together, so that garbage becomes gap.
    fn squeeze(&mut self) {
        let old = *self.page;
        let node = Node::new(&old);
        let mut heap = PAGE_SIZE - node.prefix_len();
        for at in 0..node.count() {
            let slot = node.slot(at);
            let len = node.cell_len(slot);
            heap -= len;
            self.page[heap..heap + len].copy_from_slice(&old[slot.offset()..slot.offset() + len]);
            set_u64(self.page, HEADER + at * SLOT, Slot::new(heap, slot.key_len(), slot.head()).0);
        }
        set_u16(self.page, HEAP, heap as u16);
        set_u16(self.page, GARBAGE, 0);
    }

    /// Appends pairs `from..to` of `node` to a page of the same kind, whose prefix they share; they must fit.
    pub(crate) fn append(&mut self, view: View<'_>, node: Node<'_>, from: usize, to: usize) {
        let mut key = Vec::new();
        for at in from..to {
            node.key_into(view, at, &mut key, false);
            let run = node.key_run_at(at);
            let count = self.read().count();
            let fits = self.insert(count, Key { bytes: &key, run }, node.payload(at));
            assert!(fits, "a page was filled beyond what was counted");
        }
    }
}
