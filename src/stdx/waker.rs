//! Wakers kept for later.
//!
//! Waking or dropping a waker may end a task, and what a task owns may come back to the place that the waker was in. So
//! no waker is woken or dropped while its place is borrowed.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::task::Waker;

/// Keeps `waker` in `place`; one that wakes the same task stays, which spares a clone. The waker that `waker` replaces
/// comes back, to be dropped where nothing is borrowed.
#[must_use = "dropping a waker may end a task"]
pub fn keep(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match place {
        Some(known) if known.will_wake(waker) => None,
        _ => place.replace(waker.clone()),
    }
}

/// The place of one waker. The place is never borrowed while a waker is woken or dropped.
#[derive(Debug, Default)]
pub struct WakerCell(RefCell<Option<Waker>>);

impl WakerCell {
    /// Keeps `waker`, in place of the one before; see [`keep`].
    pub fn keep(&self, waker: &Waker) {
        let before = keep(&mut self.0.borrow_mut(), waker);
        drop(before);
    }

    /// The waker, which is kept no longer.
    pub fn take(&self) -> Option<Waker> {
        self.0.take()
    }

    /// Wakes the task, whose waker is kept no longer.
    pub fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }

    /// Wakes the task, whose waker stays.
    pub fn wake_by_ref(&self) {
        let waker = self.0.borrow().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether no waker is kept.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_none()
    }
}

/// Counts how often it is woken.
#[cfg(test)]
#[derive(Default)]
pub struct Wakes(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl Wakes {
    /// A counter, and a waker that counts with it.
    pub fn new() -> (Waker, std::sync::Arc<Self>) {
        let wakes = std::sync::Arc::<Self>::default();
        (Waker::from(wakes.clone()), wakes)
    }

    /// Wakes so far.
    pub fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(test)]
impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A waker that does something when it is woken, and when the last one of it is dropped.
#[cfg(test)]
pub struct Acts;

#[cfg(test)]
thread_local! {
    static ACT: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

#[cfg(test)]
impl Acts {
    /// The one such waker of this thread.
    pub fn waker(act: impl Fn() + 'static) -> Waker {
        ACT.set(Some(Box::new(act)));
        Waker::from(std::sync::Arc::new(Self))
    }

    /// What is done meanwhile does not begin again.
    fn act() {
        if let Some(act) = ACT.take() {
            act();
            ACT.set(Some(act));
        }
    }
}

#[cfg(test)]
impl std::task::Wake for Acts {
    fn wake(self: std::sync::Arc<Self>) {
        Self::act();
    }
}

#[cfg(test)]
impl Drop for Acts {
    fn drop(&mut self) {
        Self::act();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn whoever_is_woken_or_dropped_finds_the_place_free() {
        let (place, times) = (Rc::<WakerCell>::default(), Rc::<Cell<usize>>::default());
        let acts = || {
            let (place, times) = (place.clone(), times.clone());
            Acts::waker(move || {
                times.set(times.get() + 1);
                place.keep(Waker::noop());
            })
        };
        place.keep(&acts());
        place.keep(Waker::noop());
        assert_eq!(times.get(), 1, "dropped for another");
        place.keep(&acts());
        place.wake_by_ref();
        assert_eq!(times.get(), 3, "woken, and dropped for another");
        place.keep(&acts());
        place.wake();
        assert_eq!(times.get(), 5, "woken and dropped");
        assert!(!place.is_empty() && place.take().is_some() && place.is_empty());
    }
}
