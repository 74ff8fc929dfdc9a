//! Time as data: an [`Instant`] is handed in by whoever drives the code, never read here.
//!
//! The server fills it from `CLOCK_MONOTONIC`, the simulator from its virtual clock.
#![forbid(unsafe_code)]

pub use core::time::Duration;

/// Nanoseconds since an origin that only the driver knows. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the driver's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the driver's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates: a deadline beyond the end of time never comes.
    fn add(self, delay: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_saturates_and_differences_never_go_below_zero() {
        let start = Instant::from_nanos(5);
        assert_eq!((start + Duration::from_nanos(7)).since(start), Duration::from_nanos(7));
        assert_eq!(start.since(start + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((start + Duration::MAX).as_nanos(), u64::MAX);
    }
}
