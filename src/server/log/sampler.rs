//! Which of many equal lines are written: per second and message the first hundred, then every hundredth.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::LogLevel;

const FIRST: u32 = 100;
const THEREAFTER: u32 = 100;
/// Messages that share a slot share its count.
const SLOTS: usize = 1024;

/// Counts by message. A slot holds the second it counts in its upper half and the count in its lower.
pub struct Sampler {
    slots: Box<[AtomicU64]>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Sampler {
    /// Whether this one is written.
    pub fn admit(&self, level: LogLevel, message: &str, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((level, message));
        let slot = &self.slots[hash as usize % SLOTS];
        let next = |slot: u64| match (slot >> 32) as u32 == second {
            true => (u64::from(second) << 32) | u64::from((slot as u32).saturating_add(1)),
            false => (u64::from(second) << 32) | 1,
        };
        let before = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slot| Some(next(slot)));
        let count = next(before.unwrap_or(0)) as u32;
        count <= FIRST || (count - FIRST).is_multiple_of(THEREAFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_of_one_message_is_thinned_out_and_starts_anew_each_second() {
        let sampler = Sampler::default();
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let written = (0..1_000).filter(|_| sampler.admit(LogLevel::Info, "same", now)).count();
        assert_eq!(written, 100 + 9);
        assert!(sampler.admit(LogLevel::Info, "other", now));
        assert!(sampler.admit(LogLevel::Info, "same", now + Duration::from_secs(1)));
    }
}
