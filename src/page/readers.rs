//! Which states readers are looking at: one slot per reader, holding the generation it has pinned.
//!
//! A reader writes the newest generation into its slot, and looks again: if it is still the newest, the writer will
//! see the slot before it takes anything of that generation away; if not, the reader tries again. The writer does it
//! the other way round, publishes and then looks at the slots. A fence stands between the two steps on both sides,
//! so at least one of them sees the other (Dekker).
//!
//! Own slots and not crossbeam-epoch, because page ids are reused by the same rule as memory, and for that the pager
//! must know the oldest pinned generation: exactly, and the same in each run of a seed.
//!
//! Slots are written by the core that reads and read by the replica core; no two share a cache line.
#![allow(unsafe_code)]

use super::meta::State;
use super::table::{Table, View};
use crate::stdx::sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError, fence};
use crossbeam_utils::CachePadded;

/// A slot whose reader looks at nothing.
const IDLE: u64 = u64::MAX;

type Slot = Arc<CachePadded<AtomicU64>>;

/// All slots of a store, and the newest generation.
pub(crate) struct Pins {
    newest: CachePadded<AtomicU64>,
    /// Only registration and the writer's copy of a changed list take the lock.
    slots: Mutex<Vec<Slot>>,
    /// Counts changes of `slots`.
    changes: AtomicU64,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            newest: CachePadded::new(AtomicU64::new(0)),
            slots: Mutex::new(Vec::new()),
            changes: AtomicU64::new(0),
        }
    }
}

impl Pins {
    pub(crate) fn register(pins: &Arc<Self>) -> Pin {
        let slot = Slot::new(CachePadded::new(AtomicU64::new(IDLE)));
        pins.change(|slots| slots.push(slot.clone()));
        Pin { pins: pins.clone(), slot }
    }

    fn change(&self, how: impl FnOnce(&mut Vec<Slot>)) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut slots);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// The writer's side.
pub(crate) struct PinWatch {
    pins: Arc<Pins>,
    copy: Vec<Slot>,
    seen: u64,
}

impl PinWatch {
    pub(crate) fn new(pins: Arc<Pins>) -> Self {
        Self { pins, copy: Vec::new(), seen: 0 }
    }

    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Tells readers of a new generation, whose state must be in its place already.
    pub(crate) fn publish(&mut self, generation: u64) {
        self.pins.newest.store(generation, Ordering::Release);
    }

    /// The oldest generation that anybody looks at or can still begin to look at.
    pub(crate) fn oldest(&mut self) -> u64 {
        fence(Ordering::SeqCst);
        if self.pins.changes.load(Ordering::SeqCst) != self.seen {
            let slots = self.pins.slots.lock().unwrap_or_else(PoisonError::into_inner);
            self.seen = self.pins.changes.load(Ordering::SeqCst);
            self.copy.clone_from(&slots);
        }
        let newest = self.pins.newest.load(Ordering::Relaxed);
        // Acquire pairs with the release of a slot: what the reader read came before what the writer does next.
        self.copy.iter().map(|slot| slot.load(Ordering::Acquire)).fold(newest, u64::min)
    }
}

/// One reader's slot.
pub(crate) struct Pin {
    pins: Arc<Pins>,
    slot: Slot,
}

impl Pin {
    /// Holds the newest generation, or one that replaces it meanwhile, until [`release`](Self::release).
    pub(crate) fn hold(&mut self) -> u64 {
        let mut generation = self.pins.newest.load(Ordering::Acquire);
        loop {
            self.slot.store(generation, Ordering::Release);
            fence(Ordering::SeqCst);
            let newest = self.pins.newest.load(Ordering::Acquire);
            if newest == generation {
                return generation;
            }
            generation = newest;
        }
    }

    pub(crate) fn release(&mut self) {
        self.slot.store(IDLE, Ordering::Release);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.change(|slots| slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot)));
    }
}

/// A reader of one store, for one core.
pub(crate) struct PageReader {
    table: Arc<Table>,
    pin: Pin,
}

impl PageReader {
    pub(crate) fn new(table: Arc<Table>, pins: &Arc<Pins>) -> Self {
        Self { table, pin: Pins::register(pins) }
    }

    /// Pins the newest state.
    pub(crate) fn pin(&mut self) -> Pinned<'_> {
        let pinned = self.pin.hold();
        // SAFETY: from here until the pin is released, pages reachable in the pinned state or a later one stay.
        let state = State::decode(unsafe { self.table.view() }.published());
        assert!(state.generation >= pinned, "a state older than its pin was published");
        Pinned { reader: self, state }
    }
}

/// A pinned state; the pin is released when this is dropped.
pub(crate) struct Pinned<'r> {
    reader: &'r mut PageReader,
    state: State,
}

impl Pinned<'_> {
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    #[inline]
    pub(crate) fn view(&self) -> View<'_> {
        // SAFETY: the view borrows from `self`, and the pin is held as long as `self` lives.
        unsafe { self.reader.table.view() }
    }
}

#[cfg(all(test, feature = "loom"))]
impl Pinned<'_> {
    /// The reader has read `page` until now.
    pub(crate) fn witness(&self, page: &super::layout::Page) {
        self.reader.table.witness(page.as_ptr());
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.reader.pin.release();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_pin_counts_and_a_dropped_reader_does_not() {
        let pins = Arc::new(Pins::default());
        let mut watch = PinWatch::new(pins.clone());
        let (mut a, mut b) = (Pins::register(&pins), Pins::register(&pins));
        watch.publish(5);
        assert_eq!((a.hold(), watch.oldest()), (5, 5));
        watch.publish(7);
        assert_eq!((b.hold(), watch.oldest()), (7, 5));
        a.release();
        assert_eq!(watch.oldest(), 7);
        assert_eq!(a.hold(), 7);
        watch.publish(9);
        drop(a);
        b.release();
        assert_eq!(watch.oldest(), 9);
    }
}
