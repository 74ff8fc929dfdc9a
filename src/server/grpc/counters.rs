//! What happened, per method: counted by the core it happened on, summed by a scrape.
//!
//! Each core writes its own [`Counters`] and nobody else's, so a count is a plain load and store; they are atomic
//! only because a scrape on another core reads them.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::server::call::method::Method;
use crate::server::call::status::Code;

const METHODS: usize = Method::ALL.len();
const CODES: usize = Code::ALL.len();

/// A count with one writer.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds, on the core that owns it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Reads, on any core.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one method.
#[derive(Default)]
pub struct MethodCounts {
    /// Calls begun.
    pub started: Count,
    /// Calls ended, by code.
    pub handled: [Count; CODES],
    /// Messages received.
    pub received: Count,
    /// Messages sent.
    pub sent: Count,
}

/// The counts of one core.
pub struct Counters {
    methods: [MethodCounts; METHODS],
    /// Payload bytes of messages received.
    pub received_bytes: Count,
    /// Payload bytes of messages sent.
    pub sent_bytes: Count,
    /// Connections open: opened minus closed.
    pub opened: Count,
    /// Connections closed.
    pub closed: Count,
}

impl Counters {
    /// All zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            methods: std::array::from_fn(|_| MethodCounts::default()),
            received_bytes: Count::default(),
            sent_bytes: Count::default(),
            opened: Count::default(),
            closed: Count::default(),
        })
    }

    /// The counts of `method`.
    pub fn of(&self, method: Method) -> &MethodCounts {
        &self.methods[method as usize]
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

#[cfg(test)]
mod tests {
    use super::*;

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
