//! The model checker's atomics, with a place for faults.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::plant::{Fault, at, weakened};
use loom::sync::atomic as model;

thread_local! {
    /// The model changes threads only where they touch the same object, so all fences touch this one. Without it
    /// nothing would ever come between a store and the fence behind it.
    static FENCES: RefCell<Option<Arc<model::AtomicUsize>>> = const { RefCell::new(None) };
}

/// To be called when an execution begins, and when it has ended.
pub(super) fn set_fences(fences: Option<Arc<model::AtomicUsize>>) {
    FENCES.set(fences);
}

/// A fence, unless it is left out.
#[track_caller]
pub fn fence(ordering: Ordering) {
    if at(Location::caller()).is_some() {
        return;
    }
    // Not borrowed while other threads of the model run, which is within the next call.
    let fences = FENCES.with_borrow(|fences| fences.clone()).expect("a fence is in a model");
    fences.fetch_add(1, Ordering::Relaxed);
    model::fence(ordering);
}

macro_rules! atomic {
    ($name:ident $(<$t:ident>)?, $value:ty, $nothing:expr) => {
        /// An atomic whose operations may be planted.
        #[derive(Debug)]
        pub struct $name$(<$t>)?(model::$name$(<$t>)?);

        impl$(<$t>)? $name$(<$t>)? {
            /// One that holds `value`.
            pub fn new(value: $value) -> Self {
                Self(model::$name::new(value))
            }

            /// Reads.
            #[track_caller]
            pub fn load(&self, ordering: Ordering) -> $value {
                let value = self.0.load(weakened(ordering, Location::caller()));
                if at(Location::caller()) == Some(Fault::LeftOut) { $nothing } else { value }
            }

            /// Writes.
            #[track_caller]
            pub fn store(&self, value: $value, ordering: Ordering) {
                if at(Location::caller()) != Some(Fault::LeftOut) {
                    self.0.store(value, weakened(ordering, Location::caller()));
                }
            }

            /// Writes and tells what was there.
            #[track_caller]
            pub fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.0.swap(value, weakened(ordering, Location::caller()))
            }

            /// Writes if `current` is there.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let caller = Location::caller();
                self.0.compare_exchange(current, new, weakened(success, caller), weakened(failure, caller))
            }
        }

        impl$(<$t>)? Default for $name$(<$t>)? {
            fn default() -> Self {
                Self::new($nothing)
            }
        }
    };
}

atomic!(AtomicBool, bool, false);
atomic!(AtomicI64, i64, 0);
atomic!(AtomicU64, u64, 0);
atomic!(AtomicPtr<T>, *mut T, std::ptr::null_mut());

impl AtomicU64 {
    /// Adds.
    #[track_caller]
    pub fn fetch_add(&self, more: u64, ordering: Ordering) -> u64 {
        if at(Location::caller()) == Some(Fault::LeftOut) {
            return self.0.load(Ordering::Relaxed);
        }
        self.0.fetch_add(more, weakened(ordering, Location::caller()))
    }
}
