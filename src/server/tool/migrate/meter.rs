//! How far a long step has come, on standard error. A short step says nothing.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use crate::bbolt::Source;
use crate::config::go;
use crate::server::io::file_source::FileSource;

/// Time between two lines, and before the first.
const INTERVAL: Duration = Duration::from_secs(2);

/// One step.
pub(super) struct Meter {
    what: &'static str,
    /// Bytes that there are, at least.
    total: u64,
    done: Cell<u64>,
    said: Cell<Instant>,
}

impl Meter {
    /// A step of so many bytes begins.
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, done: Cell::new(0), said: Cell::new(Instant::now()) }
    }

    /// So many bytes more are done.
    pub(super) fn add(&self, bytes: u64) {
        self.done.set(self.done.get() + bytes);
        if self.said.get().elapsed() >= INTERVAL {
            self.said.set(Instant::now());
            eprintln!("{}: {}", self.what, self.shown());
        }
    }

    /// A page may be read twice, so a step that goes on is never shown as complete.
    fn shown(&self) -> String {
        let percent = u128::from(self.done.get()) * 100 / u128::from(self.total.max(1));
        format!("{} % of {}", percent.min(99), go::format_bytes(self.total))
    }
}

/// A file whose reading is a step.
pub(super) struct Metered<'f> {
    pub(super) file: &'f FileSource,
    pub(super) meter: Meter,
}

impl Source for Metered<'_> {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.meter.add(into.len() as u64);
        self.file.read_at(offset, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_goes_on_is_not_complete() {
        let meter = Meter::new("reading", 2_000_000);
        meter.add(500_000);
        assert_eq!(meter.shown(), "25 % of 2.0 MB");
        meter.add(1_600_000);
        assert_eq!(meter.shown(), "99 % of 2.0 MB");
        assert_eq!(Meter::new("reading", 0).shown(), "0 % of 0 B");
    }
}
