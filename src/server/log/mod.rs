//! Log lines in etcd's shape, which its tools, tests and operators' dashboards read.
//!
//! ```text
//!   {"level":"info","ts":"2026-01-31T08:00:00.123456Z","caller":"server/run.rs:88","msg":"...","field":"..."}
//!
//!   tracing events ── subscriber ──┐
//!   start and stop ── lines ───────┼──> Line ──> sampler ──> sink (a bounded queue, one thread) ──> stderr, files
//!   the panic hook ────────────────┘
//! ```
//!
//! `lines` has a function for each line of a member's life, `slow` the lines about slow requests, and `content` the
//! requests as text for those.
//!
//! Cores never wait for a log: a line is put together where it is written, queued, and written out by a thread of
//! its own. When the reader of a pipe stalls and the queue is full, lines are dropped and counted, and the count is
//! logged once there is room. Of equal messages within a second only the first hundred and then every hundredth
//! are written, as in etcd. Lines at levels `panic` and `fatal` wait until they are out, for the process ends next.
//!
//! Level `panic` means that a law of ours was broken or that the disk failed: the hook writes the message and aborts.
//! `fatal` means that the process cannot go on for a reason outside of it.
#![forbid(unsafe_code)]

mod content;
mod line;
pub mod lines;
mod sampler;
mod sink;
pub mod slow;
mod subscriber;

use std::sync::OnceLock;
use std::time::Duration;

pub use line::Line;

use crate::config::{LogConfig, LogLevel};
use sampler::Sampler;
use sink::Sink;

/// The log of this process.
struct Log {
    level: LogLevel,
    console: bool,
    sampler: Sampler,
    sink: Sink,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// How long the end of the process waits for the last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Opens the outputs, takes over `tracing` and panics. Once per process, before other threads start.
///
/// # Errors
/// When an output cannot be opened.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let sink = Sink::open(&config.outputs)?;
    let log = Log { level: config.level, console: config.console, sampler: Sampler::default(), sink };
    if LOG.set(log).is_err() {
        return Err("the log is open already".to_owned());
    }
    let _ = tracing::subscriber::set_global_default(subscriber::Subscriber::new(config.level));
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        let place = info.location().map(|place| (place.file(), place.line()));
        let (file, number) = place.unwrap_or(("unknown", 0));
        let thread = std::thread::current();
        Line::at(LogLevel::Panic, message, file, number)
            .text("thread", thread.name().unwrap_or("unnamed"))
            .write();
        std::process::abort();
    }));
    Ok(())
}

/// Waits until what was logged so far is written, up to a second.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_PATIENCE);
    }
}

/// Whether lines of this level are written at all.
pub fn enabled(level: LogLevel) -> bool {
    LOG.get().is_none_or(|log| level >= log.level)
}

#[cfg(test)]
mod tests;
