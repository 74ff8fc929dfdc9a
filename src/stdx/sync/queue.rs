//! The queue of a lane as the model checker sees it: a ring of stamped slots, with the steps and orderings that
//! crossbeam's `ArrayQueue` documents (Vyukov's bounded queue).
//!
//! A slot's stamp says whose turn the slot is: `ticket` for the producer who holds that ticket, `ticket + 1` for the
//! consumer, `ticket + capacity` for the next round.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, fence};
use loom::thread;

struct Slot<T> {
    stamp: AtomicUsize,
    value: UnsafeCell<Option<T>>,
}

/// The queue.
pub struct ArrayQueue<T> {
    slots: Vec<Slot<T>>,
    /// The ticket of the next pop.
    head: AtomicUsize,
    /// The ticket of the next push.
    tail: AtomicUsize,
}

// SAFETY: a value is touched only by whoever has taken the ticket that its slot's stamp names.
unsafe impl<T: Send> Send for ArrayQueue<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for ArrayQueue<T> {}

impl<T> ArrayQueue<T> {
    /// Room for `capacity` values: two at least, so that a stamp has one meaning.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 1, "the stamps of this model need two slots");
        let slot = |at| Slot { stamp: AtomicUsize::new(at), value: UnsafeCell::new(None) };
        Self {
            slots: (0..capacity).map(slot).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    /// Appends, or gives the value back when there is no room.
    pub fn push(&self, value: T) -> Result<(), T> {
        loop {
            let ticket = self.tail.load(Ordering::Relaxed);
            let slot = &self.slots[ticket % self.slots.len()];
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp == ticket {
                let next =
                    self.tail.compare_exchange(ticket, ticket + 1, Ordering::SeqCst, Ordering::Relaxed);
                if next.is_ok() {
                    // SAFETY: the exchange made the slot this call's until the stamp below is stored.
                    slot.value.with_mut(|place| unsafe { *place = Some(value) });
                    slot.stamp.store(ticket + 1, Ordering::Release);
                    return Ok(());
                }
            } else if stamp + self.slots.len() == ticket + 1 {
                fence(Ordering::SeqCst);
                if self.head.load(Ordering::Relaxed) + self.slots.len() == ticket {
                    return Err(value);
                }
            }
            thread::yield_now();
        }
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        loop {
            let ticket = self.head.load(Ordering::Relaxed);
            let slot = &self.slots[ticket % self.slots.len()];
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp == ticket + 1 {
                let next =
                    self.head.compare_exchange(ticket, ticket + 1, Ordering::SeqCst, Ordering::Relaxed);
                if next.is_ok() {
                    // SAFETY: as in `push`.
                    let value = slot.value.with_mut(|place| unsafe { (*place).take() });
                    slot.stamp.store(ticket + self.slots.len(), Ordering::Release);
                    return value;
                }
            } else if stamp == ticket {
                fence(Ordering::SeqCst);
                if self.tail.load(Ordering::Relaxed) == ticket {
                    return None;
                }
            }
            thread::yield_now();
        }
    }

    /// Whether nothing is there, or on its way in.
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::SeqCst) == self.tail.load(Ordering::SeqCst)
    }
}
