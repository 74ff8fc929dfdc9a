//! The monotonic clock, read here and handed to the deterministic half as data.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::stdx::time::Instant;

/// The process's origin of time: the first reading. One second is added so that "a second ago" never saturates.
static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
const HEAD_START_NANOS: u64 = 1_000_000_000;

/// Now, since the origin of this process. The same on every core.
pub fn now() -> Instant {
    let origin = *ORIGIN.get_or_init(std::time::Instant::now);
    let nanos = u64::try_from(origin.elapsed().as_nanos()).expect("a process lives less than 584 years");
    Instant::from_nanos(nanos + HEAD_START_NANOS)
}

/// Nanoseconds since 1970, for log lines and salts; it may jump.
pub fn wall_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_never_goes_back() {
        let a = super::now();
        let b = super::now();
        assert!(b >= a && a.as_nanos() >= super::HEAD_START_NANOS);
    }
}
