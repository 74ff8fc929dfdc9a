//! What happened, as one number and, on demand, as text.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Arguments;

use kevel::stdx::time::Instant;

/// Lines kept for a failing run.
const LINES_KEPT: usize = 400;

/// The trace of a run. Two runs of a seed have the same digest.
pub struct Trace {
    digest: u64,
    /// Steps so far.
    pub steps: u64,
    /// Keep lines: the run is repeated to see how it fails.
    verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// An empty trace.
    pub fn new(verbose: bool) -> Self {
        Self { digest: 0xCBF2_9CE4_8422_2325, steps: 0, verbose, lines: VecDeque::new() }
    }

    /// Adds a step: numbers for the digest, and a line that is only formatted when somebody will read it.
    pub fn step(&mut self, now: Instant, numbers: &[u64], line: Arguments<'_>) {
        self.steps += 1;
        for &number in [now.as_nanos()].iter().chain(numbers) {
            self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29);
        }
        if self.verbose {
            if self.lines.len() == LINES_KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>12.6} {line}", now.as_nanos() as f64 / 1e9));
        }
    }

    /// Adds bytes to the digest.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.digest = (self.digest ^ u64::from(crc32c::crc32c(bytes))).wrapping_mul(0x0000_0100_0000_01B3);
    }

    /// The number.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
