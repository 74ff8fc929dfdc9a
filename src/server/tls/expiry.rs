//! When a certificate ends, and when that is said in the log: once it is near, and each day from then on.
#![forbid(unsafe_code)]

use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;

use super::x509::Facts;
use crate::server::log::Line;

/// An end is near when a tenth of the certificate's life is left, and never sooner than this.
const NEAR_SECONDS_MAX: i64 = 30 * DAY_SECONDS;
/// Seconds between two lines.
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// What is known of a certificate's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds of Unix time; the end of time where there is no certificate.
    not_after: i64,
    /// From when on the end is near.
    near: i64,
    /// What was last said, and when.
    said: Option<(Stage, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Near,
    Expired,
}

impl Expiry {
    /// There is no certificate.
    pub fn none() -> Self {
        Self { not_after: i64::MAX, near: i64::MAX, said: None }
    }

    /// Of the first certificate of a chain.
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let facts = chain.first().and_then(|certificate| Facts::read(certificate));
        facts.map_or_else(Self::none, |facts| Self::between(facts.not_before, facts.not_after))
    }

    fn between(not_before: i64, not_after: i64) -> Self {
        let tenth = not_after.saturating_sub(not_before) / 10;
        Self { not_after, near: not_after.saturating_sub(tenth.min(NEAR_SECONDS_MAX)), said: None }
    }

    /// Seconds of Unix time until which the certificate is valid.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// What is to be said now.
    pub fn look(&mut self, now: i64) -> Option<Line> {
        let stage = if now > self.not_after {
            Stage::Expired
        } else if now >= self.near {
            Stage::Near
        } else {
            return None;
        };
        if self.said.is_some_and(|(said, when)| said == stage && now - when < DAY_SECONDS) {
            return None;
        }
        self.said = Some((stage, now));
        let line = match stage {
            Stage::Near => {
                Line::warn("the TLS certificate expires soon; replace its files, no restart is needed")
            }
            Stage::Expired => Line::warn(
                "the TLS certificate has expired and others refuse it; replace its files, no restart is needed",
            ),
        };
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_after).unwrap_or(0));
        Some(line.time("not-after", end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_when_it_is_near_and_then_once_a_day() {
        let mut expiry = Expiry::between(0, 100 * DAY_SECONDS);
        let mut days = |range: std::ops::Range<i64>| {
            range.filter(|day| expiry.look(day * DAY_SECONDS + 60).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(days(0..90), [0_i64; 0]);
        assert_eq!(days(90..102), (90..102).collect::<Vec<_>>());
        let mut expiry = Expiry::between(0, 100);
        let said: Vec<i64> = (0..200).filter(|second| expiry.look(*second).is_some()).collect();
        assert_eq!(said, [90, 101], "once soon, once expired");
        assert_eq!(Expiry::between(0, 1000 * DAY_SECONDS).near, 970 * DAY_SECONDS);
        assert!(Expiry::none().look(i64::MAX - 1).is_none());
    }
}
