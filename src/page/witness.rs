//! Tells the model checker of accesses to frames, which it cannot see by itself.
//!
//! In front of a frame's bytes the model keeps a cell. Reading a frame reads the cell and so on, and the model stops at
//! two accesses of which one is a write, or the frame's end, and neither comes before the other. Without the feature
//! `loom` there is no cell, and the calls are nothing.
#![allow(unsafe_code)]

#[cfg(not(feature = "loom"))]
mod absent {
    /// Bytes in front of a frame.
    pub(crate) const FRONT: usize = 0;

    // SAFETY of the calls: they do nothing with the pointer.
    #[inline]
    pub(crate) unsafe fn made(_: *mut u8) {}
    #[inline]
    pub(crate) unsafe fn read(_: *const u8) {}
    #[inline]
    pub(crate) unsafe fn written(_: *const u8) {}

    /// Frees a frame.
    ///
    /// # Safety
    /// The frame was allocated with this layout, and nobody looks at it any more.
    #[inline]
    pub(crate) unsafe fn ended(frame: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: by the contract of the frame that calls, which allocated it with this layout.
        unsafe { std::alloc::dealloc(frame, layout) };
    }
}

#[cfg(feature = "loom")]
mod present {
    use super::super::layout::PAGE_SIZE;
    use crate::stdx::sync::is_unwinding;
    use loom::cell::UnsafeCell;
    use std::alloc::Layout;
    use std::cell::RefCell;

    thread_local! {
        /// Frames that have ended. Their memory stays until the model's next execution, so that an access which comes
        /// too late is a verdict and not a crash.
        static ENDED: RefCell<Vec<(*mut u8, Layout)>> = const { RefCell::new(Vec::new()) };
    }

    /// To be called when an execution of a model begins.
    #[cfg(test)]
    pub(crate) fn begin() {
        for (memory, layout) in ENDED.take() {
            // SAFETY: `ended` put it here, and all threads of the execution before are gone.
            unsafe { std::alloc::dealloc(memory, layout) };
        }
    }

    /// Bytes in front of a frame: a page, so that frames stay aligned.
    pub(crate) const FRONT: usize = PAGE_SIZE;

    fn cell(frame: *const u8) -> *mut UnsafeCell<()> {
        frame.wrapping_sub(FRONT).cast_mut().cast()
    }

    /// # Safety
    /// `frame` has just been allocated, with [`FRONT`] bytes before it.
    pub(crate) unsafe fn made(frame: *mut u8) {
        // SAFETY: by the contract the place is ours, and a page is large enough.
        unsafe { cell(frame).write(UnsafeCell::new(())) };
    }

    /// # Safety
    /// `frame` was [`made`].
    pub(crate) unsafe fn read(frame: *const u8) {
        if !is_unwinding() {
            // SAFETY: the cell is there, as memory of frames stays during an execution.
            unsafe { &*cell(frame) }.with(|_| ());
        }
    }

    /// # Safety
    /// `frame` was [`made`].
    pub(crate) unsafe fn written(frame: *const u8) {
        if !is_unwinding() {
            // SAFETY: as in `read`.
            unsafe { &*cell(frame) }.with_mut(|_| ());
        }
    }

    /// # Safety
    /// `frame` was [`made`] in memory of `layout`, and nobody has it any more.
    pub(crate) unsafe fn ended(frame: *mut u8, layout: Layout) {
        // SAFETY: as in `read`.
        unsafe { written(frame) };
        ENDED.with_borrow_mut(|ended| ended.push((cell(frame).cast(), layout)));
    }
}

#[cfg(not(feature = "loom"))]
pub(crate) use absent::{FRONT, ended, made, read, written};
#[cfg(all(feature = "loom", test))]
pub(crate) use present::begin;
#[cfg(feature = "loom")]
pub(crate) use present::{FRONT, ended, made, read, written};
