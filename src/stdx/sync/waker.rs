//! The place for a consumer's waker as the model checker sees it, with the states and orderings that the `AtomicWaker`
//! of `futures` documents.
//!
//! ```text
//!   IDLE ──register──▶ REGISTERING ──▶ IDLE                 a wake that comes meanwhile is seen at the end, and given
//!   IDLE ──wake──────▶ WAKING ───────▶ IDLE                 a registration that comes meanwhile is woken at once
//! ```
#![allow(unsafe_code)]

use std::panic::Location;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::plant;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;

const IDLE: usize = 0;
const REGISTERING: usize = 1;
const WAKING: usize = 2;

/// The place.
pub struct AtomicWaker {
    state: AtomicUsize,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the waker is touched only by whoever has brought the state from IDLE to one of the others.
unsafe impl Send for AtomicWaker {}
// SAFETY: as above.
unsafe impl Sync for AtomicWaker {}

impl AtomicWaker {
    /// A place without a waker.
    #[expect(clippy::new_without_default, reason = "the interface of `futures`")]
    pub fn new() -> Self {
        Self { state: AtomicUsize::new(IDLE), waker: UnsafeCell::new(None) }
    }

    /// Keeps `waker` for the next wake.
    #[track_caller]
    pub fn register(&self, waker: &Waker) {
        if plant::at(Location::caller()).is_some() {
            return;
        }
        match self.state.compare_exchange(IDLE, REGISTERING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: the exchange gave it to this call.
                self.waker.with_mut(|place| unsafe { *place = Some(waker.clone()) });
                let end = self.state.compare_exchange(REGISTERING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                if end.is_err() {
                    // SAFETY: whoever wakes meanwhile has left the waker to this call.
                    let waker = self.waker.with_mut(|place| unsafe { (*place).take() });
                    self.state.swap(IDLE, Ordering::AcqRel);
                    waker.expect("stored above").wake();
                }
            }
            Err(WAKING) => waker.wake_by_ref(),
            Err(_) => unreachable!("one consumer registers"),
        }
    }

    /// Wakes whoever is registered.
    #[track_caller]
    pub fn wake(&self) {
        if plant::at(Location::caller()).is_some() {
            return;
        }
        if self.state.fetch_or(WAKING, Ordering::AcqRel) == IDLE {
            // SAFETY: the change from IDLE gave it to this call.
            let waker = self.waker.with_mut(|place| unsafe { (*place).take() });
            self.state.fetch_and(!WAKING, Ordering::Release);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
