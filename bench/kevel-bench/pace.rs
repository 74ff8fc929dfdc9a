//! When operations begin.
//!
//! Closed loop: a client begins when its last operation has ended, so a slow server is asked less. Open loop: begins
//! are planned ahead at a rate, and latency counts from the planned instant, sent or not: what waits behind a stall
//! waits in the figures too (no coordinated omission).
#![forbid(unsafe_code)]

use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};

/// How operations begin.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// As soon as a client is free.
    Closed,
    /// So many per second, evenly or as a Poisson process.
    Open { per_second: f64, poisson: bool },
}

/// One connection's share of the load.
pub struct Pace {
    plan: Option<Plan>,
}

struct Plan {
    /// Nanoseconds since the start; `f64` so that odd rates don't drift.
    next: f64,
    gap: f64,
    poisson: Option<Prng>,
    start: Option<Instant>,
}

/// Whether an operation may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is due since this instant.
    Since(Instant),
    /// Not before this instant.
    At(Instant),
}

impl Pace {
    /// The share of connection `at` of `connections`.
    pub fn new(load: Load, at: usize, connections: usize, seed: u64) -> Self {
        let Load::Open { per_second, poisson } = load else { return Self { plan: None } };
        assert!(per_second > 0.0, "a rate is positive");
        let gap = connections as f64 * 1e9 / per_second;
        let mut plan = Plan { next: 0.0, gap, poisson: poisson.then(|| Prng::new(seed)), start: None };
        if poisson {
            plan.advance();
        } else {
            plan.next = at as f64 * 1e9 / per_second;
        }
        Self { plan: Some(plan) }
    }

    /// Whether this is an open loop.
    pub fn is_open(&self) -> bool {
        self.plan.is_some()
    }

    /// Whether an operation is due, in a phase that began at `start`.
    pub fn due(&mut self, start: Instant, now: Instant) -> Due {
        let Some(plan) = &mut self.plan else { return Due::Since(now) };
        plan.start = Some(start);
        let at = plan.at(start);
        if at <= now { Due::Since(at) } else { Due::At(at) }
    }

    /// The operation that was due has begun.
    pub fn advance(&mut self) {
        if let Some(plan) = &mut self.plan {
            plan.advance();
        }
    }

    /// Operations due before `end` that have not begun: those of a Poisson process as many as are to be expected.
    pub fn overdue(&self, end: Instant) -> u64 {
        let Some(Plan { next, gap, start: Some(start), .. }) = &self.plan else { return 0 };
        let end = end.since(*start).as_nanos() as f64;
        if *next < end { ((end - next) / gap).ceil() as u64 } else { 0 }
    }
}

impl Plan {
    fn at(&self, start: Instant) -> Instant {
        start + Duration::from_nanos(self.next as u64)
    }

    fn advance(&mut self) {
        self.next += match &mut self.poisson {
            None => self.gap,
            Some(prng) => -unit(prng).ln() * self.gap,
        };
    }
}

/// A number in (0, 1].
pub fn unit(prng: &mut Prng) -> f64 {
    ((prng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn begins(pace: &mut Pace, now: Instant) -> Vec<Instant> {
        let mut begun = Vec::new();
        while let Due::Since(at) = pace.due(START, now) {
            begun.push(at);
            pace.advance();
        }
        begun
    }

    #[test]
    fn connections_share_a_rate_evenly() {
        let load = Load::Open { per_second: 1000.0, poisson: false };
        let mut all: Vec<Instant> = (0..4)
            .flat_map(|at| begins(&mut Pace::new(load, at, 4, 0), START + Duration::from_micros(99_500)))
            .collect();
        all.sort();
        let planned: Vec<Instant> = (0..100).map(|n| START + Duration::from_millis(n)).collect();
        assert_eq!(all, planned);
    }

    #[test]
    fn a_stall_is_in_the_latencies() {
        // 100 operations are planned a millisecond apart; the server stalls for 50 ms from the first on, and a single
        // client sends one after the other, each taking no time.
        let mut pace = Pace::new(Load::Open { per_second: 1000.0, poisson: false }, 0, 1, 0);
        let mut latencies = Vec::new();
        for millis in 0..100 {
            let now = START + Duration::from_millis(millis);
            if millis > 0 && millis < 50 {
                continue;
            }
            let done = if millis == 0 { START + Duration::from_millis(50) } else { now };
            latencies.extend(begins(&mut pace, now).iter().map(|&at| done.since(at).as_millis()));
        }
        latencies.sort_unstable();
        let expected: Vec<u128> = [0].repeat(50).into_iter().chain(1..=50).collect();
        assert_eq!(latencies, expected.as_slice());
    }

    #[test]
    fn what_was_due_and_never_sent_is_known() {
        let mut pace = Pace::new(Load::Open { per_second: 100.0, poisson: false }, 0, 1, 0);
        assert_eq!(pace.due(START, START), Due::Since(START));
        pace.advance();
        assert_eq!(pace.overdue(START + Duration::from_millis(100)), 9);
        assert_eq!(pace.overdue(START + Duration::from_millis(10)), 0);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let mut pace = Pace::new(Load::Open { per_second: 1000.0, poisson: true }, 0, 1, 7);
        let begun = begins(&mut pace, START + Duration::from_secs(20));
        assert!((19_500..20_500).contains(&begun.len()), "{}", begun.len());
        // Gaps longer than the mean are e^-1 of all.
        let long = begun.windows(2).filter(|pair| pair[1].since(pair[0]) > Duration::from_millis(1)).count();
        let share = long as f64 / begun.len() as f64;
        assert!((0.35..0.39).contains(&share), "{share}");
    }
}
