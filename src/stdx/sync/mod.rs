//! Types for what cores share: those of the standard library, or, with the feature `loom`, the model checker's. The
//! files that the model checker tries are made of these types:
//!
//! ```text
//!   page/readers, page/table, mvcc/pin, server's mesh ──use──▶ stdx::sync ──┬──▶ std::sync, crossbeam, futures
//!                                                                           └──▶ loom (feature "loom", tests only)
//! ```
//!
//! `atomic` has the atomics and fences, `queue` the bounded queue, `waker` the waker that another core may take.
//!
//! The model checker tries every order in which threads may take their steps, up to a number of preemptions that each
//! test names, and every value that a weakly ordered load may return. A test named `races` runs there and nowhere else:
//! `cargo test --lib --features loom races`.
//! Each such test is also run with faults planted one at a time ([`plant`]): an ordering weakened or a step left out,
//! at one line of the code under test.
//!
//! The feature is for that alone. A program that is built with it works inside a model only.
#![cfg_attr(not(feature = "loom"), forbid(unsafe_code))]

#[cfg(not(feature = "loom"))]
pub use crossbeam_queue::ArrayQueue;
#[cfg(not(feature = "loom"))]
pub use futures::task::AtomicWaker;
#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, Ordering, fence};
#[cfg(not(feature = "loom"))]
pub use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "loom")]
mod atomic;
#[cfg(all(test, feature = "loom"))]
pub mod explore;
#[cfg(feature = "loom")]
pub mod plant;
#[cfg(feature = "loom")]
mod queue;
#[cfg(feature = "loom")]
mod waker;

#[cfg(feature = "loom")]
pub use atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, fence};
#[cfg(feature = "loom")]
pub use loom::sync::{Arc, Mutex};
#[cfg(feature = "loom")]
pub use queue::ArrayQueue;
#[cfg(feature = "loom")]
pub use std::sync::{PoisonError, atomic::Ordering};
#[cfg(feature = "loom")]
pub use waker::AtomicWaker;

/// Whether a model has failed and is being torn down: what is dropped then is no concern of the model's any more.
#[cfg(feature = "loom")]
pub fn is_unwinding() -> bool {
    std::thread::panicking()
}
