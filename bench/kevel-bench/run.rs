//! The bounds of one measured phase, shared by all its threads: when it begins, how much it does, when it ends.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kevel::stdx::time::{Duration, Instant};

use crate::pace::Pace;

/// How long after the end answers may still come.
pub const GRACE: Duration = Duration::from_secs(10);

/// What bounds a phase. Without either bound it ends when its sources have nothing left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Operations at most.
    pub total: Option<u64>,
    /// Time at most, warm-up included.
    pub duration: Option<Duration>,
    /// What begins earlier than this after the start is not counted.
    pub warmup: Duration,
    /// How long after the end events may still come, if not [`GRACE`].
    pub grace: Option<Duration>,
}

/// The state of a phase.
pub struct Run {
    bounds: Bounds,
    /// Nanoseconds; zero before the start.
    start: AtomicU64,
    /// Nanoseconds; zero while some driver still sends.
    drained: AtomicU64,
    left: AtomicU64,
    stop: Arc<AtomicBool>,
    ready: AtomicUsize,
    drivers: AtomicUsize,
    breaks: AtomicU64,
    expected: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Run {
    /// A phase that `drivers` connections drive. `stop` ends it early.
    pub fn new(bounds: Bounds, drivers: usize, stop: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            start: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            left: AtomicU64::new(bounds.total.unwrap_or(u64::MAX)),
            stop,
            ready: AtomicUsize::new(0),
            drivers: AtomicUsize::new(drivers),
            breaks: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Begins the measured part.
    pub fn begin(&self, now: Instant) {
        self.start.store(now.as_nanos(), Ordering::Release);
    }

    /// When it began, if it has.
    pub fn start(&self) -> Option<Instant> {
        instant(self.start.load(Ordering::Acquire))
    }

    /// From when on operations count.
    pub fn counted_from(&self) -> Option<Instant> {
        self.start().map(|start| start + self.bounds.warmup)
    }

    /// When no more operations begin, if time bounds the phase.
    pub fn deadline(&self) -> Option<Instant> {
        self.start().and_then(|start| self.bounds.duration.map(|duration| start + duration))
    }

    /// Whether the phase was ended before its bounds.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether no more operations may begin.
    pub fn is_over(&self, now: Instant) -> bool {
        self.is_stopped()
            || self.deadline().is_some_and(|deadline| now >= deadline)
            || self.left.load(Ordering::Relaxed) == 0
    }

    /// Takes an operation from the total; false when none is left.
    pub fn take(&self) -> bool {
        if self.bounds.total.is_none() {
            return true;
        }
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// What a pace had planned before the time was over and nobody began. Nothing, when the total ended the phase or
    /// somebody stopped it.
    pub fn unsent(&self, pace: &Pace) -> u64 {
        let is_spent = self.left.load(Ordering::Relaxed) == 0;
        self.deadline()
            .filter(|_| !is_spent && !self.is_stopped())
            .map_or(0, |deadline| pace.overdue(deadline))
    }

    /// A connection stands and its handler is ready.
    pub fn count_ready(&self) {
        self.ready.fetch_add(1, Ordering::Release);
    }

    /// Connections that are ready.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }

    /// A connection that drives the phase has sent and received all.
    pub fn driver_done(&self, now: Instant) {
        if self.drivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drained.store(now.as_nanos(), Ordering::Release);
        }
    }

    /// When the last driver was done, if all are.
    pub fn drained(&self) -> Option<Instant> {
        instant(self.drained.load(Ordering::Acquire))
    }

    /// A connection broke.
    pub fn count_break(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that broke.
    pub fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// `count` more events are owed to watchers.
    pub fn expect_events(&self, count: u64) {
        self.expected.fetch_add(count, Ordering::Relaxed);
    }

    /// `count` events have reached watchers.
    pub fn deliver_events(&self, count: u64) {
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    /// Events owed and not delivered; zero when more came than were owed.
    pub fn events_missing(&self) -> u64 {
        self.expected.load(Ordering::Relaxed).saturating_sub(self.delivered.load(Ordering::Relaxed))
    }

    /// Whether those who only listen may go: every driver is done, and what it caused has come or is overdue.
    pub fn is_heard(&self, now: Instant) -> bool {
        if self.failed.load(Ordering::Relaxed) {
            return true;
        }
        self.drained().is_some_and(|drained| {
            self.events_missing() == 0 || now >= drained + self.bounds.grace.unwrap_or(GRACE)
        })
    }

    /// Ends the phase with an error; the first one stays.
    pub fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.failed.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Why the phase failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn instant(nanos: u64) -> Option<Instant> {
    (nanos != 0).then(|| Instant::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_given_out_once() {
        let bounds = Bounds { total: Some(2), ..Bounds::default() };
        let run = Run::new(bounds, 1, Arc::default());
        let now = Instant::from_nanos(1);
        run.begin(now);
        assert!(run.take() && !run.is_over(now) && run.take() && !run.take());
        assert!(run.is_over(now));
    }

    #[test]
    fn listeners_stay_for_what_is_owed_but_not_for_ever() {
        let run = Run::new(Bounds::default(), 1, Arc::default());
        let now = Instant::from_nanos(1);
        run.expect_events(3);
        assert!(!run.is_heard(now));
        run.driver_done(now);
        run.deliver_events(2);
        assert!(!run.is_heard(now) && run.is_heard(now + GRACE));
        run.deliver_events(1);
        assert!(run.is_heard(now));
    }
}
