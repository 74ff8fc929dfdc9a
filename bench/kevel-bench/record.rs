//! What was measured: a histogram and counts per class of operation, one [`Record`] per thread, merged at the end.
//!
//! Latencies are nanoseconds with three significant digits, from 1 µs to an hour.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use kevel::server::grpc::Status;
use kevel::stdx::time::{Duration, Instant};

const LATENCY_MIN_NANOS: u64 = 1_000;
const LATENCY_MAX_NANOS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// One interval of the series.
pub struct Interval {
    /// Seconds since counting began, at its end.
    pub at: f64,
    pub seconds: f64,
    pub errors: u64,
    pub latency: Histogram<u64>,
}

/// An empty histogram of latencies.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_MIN_NANOS, LATENCY_MAX_NANOS, DIGITS).expect("bounds that make sense")
}

/// A class of operations, such as reads.
#[derive(Clone)]
pub struct Class {
    /// What the report calls it.
    pub name: &'static str,
    /// Of operations that succeeded.
    pub latency: Histogram<u64>,
    /// Keys in the answers.
    pub keys: u64,
    /// Bytes of the answers' messages.
    pub bytes: u64,
}

/// The measurements of one thread, or of all.
#[derive(Clone)]
pub struct Record {
    /// By class number.
    pub classes: Vec<Class>,
    /// Operations that failed, by number of the code, with the first text of each.
    pub errors: BTreeMap<u8, (u64, String)>,
    /// Open loop: how late a request was sent, beyond its intended start.
    pub lag: Histogram<u64>,
    /// Open loop: arrivals that were due and never sent.
    pub unsent: u64,
    /// Successes since the last look, for progress and the series.
    interval: Histogram<u64>,
    interval_errors: u64,
    /// The last operation that ended.
    pub last: Option<Instant>,
}

/// A record that its thread writes and the reporting thread looks at now and then.
pub type Shared = Arc<Mutex<Record>>;

/// Takes the lock; a panic elsewhere does not make counts worthless.
pub fn lock(shared: &Shared) -> MutexGuard<'_, Record> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    /// Nothing measured yet.
    pub fn new(classes: &[&'static str]) -> Self {
        let class = |&name: &&'static str| Class { name, latency: histogram(), keys: 0, bytes: 0 };
        Self {
            classes: classes.iter().map(class).collect(),
            errors: BTreeMap::new(),
            lag: histogram(),
            unsent: 0,
            interval: histogram(),
            interval_errors: 0,
            last: None,
        }
    }

    /// An operation that succeeded.
    pub fn success(&mut self, class: usize, latency: Duration, keys: u64, bytes: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let class = &mut self.classes[class];
        class.latency.saturating_record(nanos);
        class.keys += keys;
        class.bytes += bytes;
        self.interval.saturating_record(nanos);
    }

    /// One that failed.
    pub fn failure(&mut self, status: &Status) {
        let entry = self.errors.entry(status.code as u8).or_insert_with(|| (0, status.message.to_string()));
        entry.0 += 1;
        self.interval_errors += 1;
    }

    /// Something ended at `now`.
    pub fn touch(&mut self, now: Instant) {
        self.last = self.last.max(Some(now));
    }

    /// Moves the interval's measurements into `into`; returns its errors.
    pub fn take_interval(&mut self, into: &mut Histogram<u64>) -> u64 {
        into.add(&self.interval).expect("the same bounds");
        self.interval.reset();
        std::mem::take(&mut self.interval_errors)
    }

    /// Adds what another thread measured.
    pub fn merge(&mut self, other: &Record) {
        for (class, theirs) in self.classes.iter_mut().zip(&other.classes) {
            class.latency.add(&theirs.latency).expect("the same bounds");
            class.keys += theirs.keys;
            class.bytes += theirs.bytes;
        }
        for (code, (count, text)) in &other.errors {
            self.errors.entry(*code).or_insert_with(|| (0, text.clone())).0 += count;
        }
        self.lag.add(&other.lag).expect("the same bounds");
        self.unsent += other.unsent;
        self.last = self.last.max(other.last);
    }

    /// Operations that succeeded.
    pub fn successes(&self) -> u64 {
        self.classes.iter().map(|class| class.latency.len()).sum()
    }

    /// Operations that failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().map(|(count, _)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_merge_to_what_one_would_have_measured() {
        let (mut one, mut two, mut both) =
            (Record::new(&["put"]), Record::new(&["put"]), Record::new(&["put"]));
        for micros in 1..=10_000u64 {
            let part = if micros % 3 == 0 { &mut one } else { &mut two };
            part.success(0, Duration::from_micros(micros), 1, 10);
            both.success(0, Duration::from_micros(micros), 1, 10);
        }
        one.failure(&Status::canceled());
        two.failure(&Status::canceled());
        one.merge(&two);
        let (merged, whole) = (&one.classes[0], &both.classes[0]);
        assert_eq!(merged.latency, whole.latency);
        assert_eq!((merged.keys, merged.bytes, one.failures()), (10_000, 100_000, 2));
        let p99 = merged.latency.value_at_quantile(0.99);
        assert!((9_890_000..=9_910_000).contains(&p99), "{p99}");
    }

    #[test]
    fn an_interval_is_taken_once() {
        let mut record = Record::new(&["put"]);
        record.success(0, Duration::from_millis(1), 0, 0);
        let mut into = histogram();
        record.take_interval(&mut into);
        record.take_interval(&mut into);
        assert_eq!((into.len(), record.successes()), (1, 1));
    }
}
