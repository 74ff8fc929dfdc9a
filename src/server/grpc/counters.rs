//! What happened, per method: counted by the core it happened on, summed by a scrape.
//!
//! Each core writes its own [`Counters`] and nobody else's.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::server::call::method::Method;
use crate::server::call::status::Code;
use crate::server::io::clock;
use crate::stdx::counter::Counter;
use crate::stdx::time::{Duration, Instant};

const METHODS: usize = Method::ALL.len();
const CODES: usize = Code::ALL.len();

/// The counts of one method.
#[derive(Default)]
pub struct MethodCounts {
    /// Calls begun.
    pub started: Counter,
    /// Calls ended, by code.
    pub handled: [Counter; CODES],
    /// Messages received.
    pub received: Counter,
    /// Messages sent.
    pub sent: Counter,
}

/// Upper bounds of [`Handling`], in microseconds: those of Prometheus' clients, which etcd leaves as they are.
pub const HANDLING_BOUNDS: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// How long the calls of one method took, by bucket; the last bucket has no bound.
#[derive(Default)]
pub struct Handling {
    buckets: [Counter; HANDLING_BOUNDS.len() + 1],
    nanos: Counter,
}

impl Handling {
    fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = HANDLING_BOUNDS.partition_point(|bound| bound * 1_000 < nanos);
        self.buckets[bucket].add(1);
        self.nanos.add(nanos);
    }
}

/// The counts of one core.
pub struct Counters {
    methods: [MethodCounts; METHODS],
    /// How long calls took, where that is asked for: it costs a look at the clock at both ends of each call.
    handling: Option<Box<[Handling; METHODS]>>,
    /// Payload bytes of messages received.
    pub received_bytes: Counter,
    /// Payload bytes of messages sent.
    pub sent_bytes: Counter,
    /// Connections open: opened minus closed.
    pub opened: Counter,
    /// Connections closed.
    pub closed: Counter,
}

impl Counters {
    /// All zero.
    pub fn new() -> Arc<Self> {
        Self::with(false)
    }

    /// All zero; `timed` ones know how long calls took.
    pub fn with(timed: bool) -> Arc<Self> {
        Arc::new(Self {
            methods: std::array::from_fn(|_| MethodCounts::default()),
            handling: timed.then(|| Box::new(std::array::from_fn(|_| Handling::default()))),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            opened: Counter::default(),
            closed: Counter::default(),
        })
    }

    /// The counts of `method`.
    pub fn of(&self, method: Method) -> &MethodCounts {
        &self.methods[method as usize]
    }

    /// The moment, for a call that begins, if anybody wants to know how long it takes.
    pub fn begin(&self) -> Option<Instant> {
        self.handling.as_ref().map(|_| clock::now())
    }

    /// Counts the end of a call that began then.
    pub fn end(&self, method: Method, code: Code, began: Option<Instant>) {
        self.of(method).handled[code as usize].add(1);
        if let (Some(handling), Some(began)) = (&self.handling, began) {
            handling[method as usize].observe(clock::now().since(began));
        }
    }
}

/// A sum over cores, taken by a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSum {
    /// Calls begun.
    pub started: u64,
    /// Calls ended, by code.
    pub handled: [u64; CODES],
    /// Messages received.
    pub received: u64,
    /// Messages sent.
    pub sent: u64,
}

/// Sums one method over the cores.
pub fn sum(cores: &[Arc<Counters>], method: Method) -> MethodSum {
    let mut sum = MethodSum::default();
    for core in cores {
        let counts = core.of(method);
        sum.started += counts.started.get();
        sum.received += counts.received.get();
        sum.sent += counts.sent.get();
        for (total, count) in sum.handled.iter_mut().zip(&counts.handled) {
            *total += count.get();
        }
    }
    sum
}

/// How long the calls of one method took, summed over cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlingSum {
    /// Calls by bucket, not cumulative.
    pub buckets: [u64; HANDLING_BOUNDS.len() + 1],
    /// The time of all of them.
    pub nanos: u64,
}

/// Sums the times of one method; none where times are not taken.
pub fn handling(cores: &[Arc<Counters>], method: Method) -> Option<HandlingSum> {
    let mut sum = HandlingSum::default();
    for core in cores {
        let times = &core.handling.as_ref()?[method as usize];
        for (total, count) in sum.buckets.iter_mut().zip(&times.buckets) {
            *total += count.get();
        }
        sum.nanos = sum.nanos.wrapping_add(times.nanos.get());
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_when_asked_for() {
        let plain = Counters::new();
        assert_eq!((plain.begin(), handling(&[plain], Method::Put)), (None, None));
        let cores = [Counters::with(true), Counters::with(true)];
        for (core, micros) in [(0, 0), (0, 5_000), (1, 5_001), (1, 60_000_000)] {
            cores[core].handling.as_ref().unwrap()[Method::Put as usize]
                .observe(Duration::from_micros(micros));
        }
        cores[0].end(Method::Put, Code::Ok, cores[0].begin());
        let sum = handling(&cores, Method::Put).unwrap();
        assert_eq!((sum.buckets[0], sum.buckets[1], sum.buckets[11]), (3, 1, 1));
        assert!(sum.nanos >= 60_010_001_000);
        assert_eq!(handling(&cores, Method::Range), Some(HandlingSum::default()));
    }

    #[test]
    fn a_scrape_sums_the_cores() {
        let cores = [Counters::new(), Counters::new()];
        cores[0].of(Method::Put).started.add(2);
        cores[1].of(Method::Put).started.add(3);
        cores[1].of(Method::Put).handled[Code::Internal as usize].add(1);
        let sum = sum(&cores, Method::Put);
        assert_eq!((sum.started, sum.handled[13], sum.sent), (5, 1, 0));
    }
}
