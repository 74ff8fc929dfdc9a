//! The live line on a terminal.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};

use crate::record::Interval;

/// A line on standard error that each second overwrites.
pub struct Progress {
    name: Option<String>,
}

impl Progress {
    /// Shows nothing unless `wanted` and standard error is a terminal.
    pub fn new(wanted: bool, name: &str) -> Self {
        Self { name: (wanted && io::stderr().is_terminal()).then(|| name.to_owned()) }
    }

    /// The line for an interval that has just ended.
    pub fn show(&self, interval: &Interval) {
        if let Some(name) = &self.name {
            let rate = interval.latency.len() as f64 / interval.seconds;
            let millis = |quantile| interval.latency.value_at_quantile(quantile) as f64 / 1e6;
            let (p50, p99) = (millis(0.5), millis(0.99));
            let (at, errors) = (interval.at, interval.errors);
            print(&format!(
                "{name}  {at:5.0} s  {rate:9.0}/s  p50 {p50:8.3} ms  p99 {p99:8.3} ms  errors {errors}"
            ));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.name.is_some() {
            print("");
        }
    }
}

fn print(line: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that is gone does not matter.
    let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
}
