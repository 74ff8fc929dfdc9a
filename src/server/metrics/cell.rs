//! Numbers with one writer: each belongs to one core, and only a scrape reads it from elsewhere. They are made as
//! [`Counter`] is, which is for numbers that only go up.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub use crate::stdx::counter::Counter;

/// Goes up and down. Where several cores keep a part each, their sum is the value.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets, on the core that owns it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Moves, on the core that owns it.
    pub fn add(&self, n: i64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Reads, on any core.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a histogram: `count` upper bounds, each twice the one before, then infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    /// The first upper bound, in the unit that is observed.
    pub first: u64,
    /// How many finite bounds.
    pub count: usize,
    /// What turns the observed unit into the exported one.
    pub scale: f64,
}

/// Nanoseconds in, seconds out.
const NANOS_TO_SECONDS: f64 = 1e9;
/// Nanoseconds in, milliseconds out.
const NANOS_TO_MILLIS: f64 = 1e6;

impl Buckets {
    /// Durations exported in seconds; the first bound in microseconds.
    pub const fn seconds(first_micros: u64, count: usize) -> Buckets {
        Buckets { first: first_micros * 1_000, count, scale: NANOS_TO_SECONDS }
    }

    /// Durations exported in milliseconds; the first bound in microseconds.
    pub const fn millis(first_micros: u64, count: usize) -> Buckets {
        Buckets { first: first_micros * 1_000, count, scale: NANOS_TO_MILLIS }
    }

    /// Whole numbers.
    pub const fn whole(first: u64, count: usize) -> Buckets {
        Buckets { first, count, scale: 1.0 }
    }

    /// An upper bound in the exported unit.
    pub fn bound(&self, at: usize) -> f64 {
        self.first as f64 / self.scale * (1u64 << at) as f64
    }

    /// The bucket of a value: the first whose bound is not below it.
    fn index(&self, value: u64) -> usize {
        let firsts = value.div_ceil(self.first);
        let index = if firsts <= 1 { 0 } else { 64 - (firsts - 1).leading_zeros() as usize };
        index.min(self.count)
    }
}

/// The most finite buckets any family has.
const BUCKETS_MAX: usize = 24;

/// Observed values by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS_MAX + 1],
    sum: Counter,
}

impl Histogram {
    /// Counts a value, in the buckets of its family.
    pub fn observe(&self, buckets: &Buckets, value: u64) {
        self.buckets[buckets.index(value)].inc();
        self.sum.add(value);
    }

    /// Counts a duration.
    pub fn observe_duration(&self, buckets: &Buckets, value: Duration) {
        self.observe(buckets, u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a duration several times.
    pub fn observe_times(&self, buckets: &Buckets, value: Duration, times: u64) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[buckets.index(nanos)].add(times);
        self.sum.add(nanos.saturating_mul(times));
    }

    /// Adds what it counted to a sum over cores.
    pub fn add_to(&self, total: &mut Observed) {
        for (total, count) in total.buckets.iter_mut().zip(&self.buckets) {
            *total += count.get();
        }
        total.sum = total.sum.wrapping_add(self.sum.get());
    }
}

/// A histogram summed over cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// Values by bucket, not cumulative; the last finite bucket is followed by the one without a bound.
    pub buckets: [u64; BUCKETS_MAX + 1],
    /// Sum of the values.
    pub sum: u64,
}

impl Observed {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let buckets = Buckets::seconds(1_000, 14);
        for (micros, index) in
            [(0, 0), (999, 0), (1_000, 0), (1_001, 1), (2_000, 1), (2_001, 2), (8_192_000, 13)]
        {
            assert_eq!(buckets.index(micros * 1_000), index, "{micros} us");
        }
        assert_eq!((buckets.index(8_192_000_001), buckets.index(u64::MAX)), (14, 14));
        assert_eq!(buckets.bound(13), 8.192);
        assert_eq!(Buckets::millis(500, 14).bound(0), 0.5);
        assert_eq!(Buckets::whole(1, 24).bound(23), 8_388_608.0);
    }

    #[test]
    fn cores_sum() {
        let (a, b) = (Histogram::default(), Histogram::default());
        let buckets = Buckets::seconds(1_000, 14);
        a.observe_duration(&buckets, Duration::from_millis(1));
        b.observe_duration(&buckets, Duration::from_secs(100));
        let mut total = Observed::default();
        [&a, &b].into_iter().for_each(|core| core.add_to(&mut total));
        assert_eq!((total.count(), total.buckets[0], total.buckets[14]), (2, 1, 1));
        assert_eq!(total.sum, 100_001_000_000);
    }
}
