//! A store file's bytes as memory, for page files that can offer that.
//!
//! Unsafe: what a [`PageFile`](super::PageFile) promises of the range, and the arithmetic within it.
#![allow(unsafe_code)]

use super::layout::{PAGE_SIZE, PageId};
use std::ptr::NonNull;

/// Bytes of a file as a range of memory.
#[derive(Clone, Copy)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: by the promise made to `new`, the range is plain memory that every thread may read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// # Safety
    /// From `base` on, `len` bytes of address space belong to the file for as long as the [`PageFile`] that hands
    /// this out lives, all pages below its `pages()` are readable, and they change only through its `write` and
    /// `resize`.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        assert!(base.as_ptr().addr().is_multiple_of(PAGE_SIZE), "a mapping begins at a page");
        Self { base, len }
    }

    pub(super) fn contains(&self, ptr: *const u8) -> bool {
        ptr.addr().wrapping_sub(self.base.as_ptr().addr()) < self.len
    }

    pub(super) fn page(&self, id: PageId) -> *mut u8 {
        let at = id.index() * PAGE_SIZE;
        assert!(at + PAGE_SIZE <= self.len, "page {} lies beyond the mapping", id.0);
        // SAFETY: within the range, by the line above.
        unsafe { self.base.as_ptr().add(at) }
    }
}
