//! Wakers kept for later.
#![forbid(unsafe_code)]

use std::task::Waker;

/// Keeps `waker` in `place`; one that wakes the same task stays, which spares a clone.
pub fn keep(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *place = Some(waker.clone());
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
