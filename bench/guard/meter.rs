//! Repeats a path until the cheapest repetition says what it costs.

use super::clock::{Instructions, cpu_time};
use std::fmt;
use std::time::{Duration, Instant};

/// A path is repeated at least so often.
const REPETITIONS_MIN: u32 = 5;

/// What one operation of a path costs.
pub struct Cost {
    path: &'static str,
    /// What an operation is.
    per: &'static str,
    /// CPU time of the cheapest repetition.
    nanoseconds: f64,
    /// Instructions in user mode of the cheapest repetition, where they are counted.
    instructions: Option<f64>,
}

impl Cost {
    /// The cheaper of two measurements of one path.
    pub fn cheaper(self, other: Self) -> Self {
        if other.nanoseconds < self.nanoseconds { other } else { self }
    }

    /// For `perf/guard`.
    pub fn json(&self) -> serde_json::Value {
        let Self { path, per, nanoseconds, instructions } = self;
        serde_json::json!({ "path": path, "per": per, "nanoseconds": nanoseconds, "instructions": instructions })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.instructions.map_or("not counted".into(), |count| format!("{count:.0}"));
        write!(f, "{:<44} {:>12.1}  {counted:>14}  {}", self.path, self.nanoseconds, self.per)
    }
}

/// Measures paths and keeps what they cost.
pub struct Meter {
    instructions: Option<Instructions>,
    /// A path is repeated until so much time has passed, what prepares it included.
    time: Duration,
    /// In the order in which they were measured.
    pub costs: Vec<Cost>,
    /// Paths whose name does not contain this are left out.
    pub wanted: String,
}

impl Meter {
    /// One that gives each path so much time.
    pub fn new(time: Duration) -> Self {
        Self { instructions: Instructions::open(), time, costs: Vec::new(), wanted: String::new() }
    }

    /// Measures `run`, which needs nothing prepared and returns how many operations it did.
    pub fn repeat(&mut self, path: &'static str, per: &'static str, mut run: impl FnMut() -> u64) {
        self.measure(path, per, || (), |()| run());
    }

    /// Measures `run`, which returns how many operations it did, on a fresh result of `prepare` each time. Neither
    /// `prepare` nor what drops its result is measured.
    pub fn measure<T>(
        &mut self,
        path: &'static str,
        per: &'static str,
        mut prepare: impl FnMut() -> T,
        mut run: impl FnMut(&mut T) -> u64,
    ) {
        if !path.contains(&self.wanted) {
            return;
        }
        let started = Instant::now();
        let (mut nanoseconds, mut instructions) = (f64::INFINITY, f64::INFINITY);
        let count = || self.instructions.as_ref().and_then(Instructions::count);
        let mut repetitions = 0;
        while repetitions < REPETITIONS_MIN || started.elapsed() < self.time {
            let mut prepared = prepare();
            let (executed, began) = (count(), cpu_time());
            let operations = run(&mut prepared);
            let took = cpu_time() - began;
            let executed = executed.zip(count()).map(|(before, after)| after - before);
            assert!(operations > 0, "{path}: nothing was done");
            if took.is_zero() {
                continue; // the clock of some virtual machines stands still now and then
            }
            nanoseconds = nanoseconds.min(took.as_nanos() as f64 / operations as f64);
            if let Some(executed) = executed {
                instructions = instructions.min(executed as f64 / operations as f64);
            }
            repetitions += 1;
        }
        let instructions = instructions.is_finite().then_some(instructions);
        self.costs.push(Cost { path, per, nanoseconds, instructions });
    }
}
