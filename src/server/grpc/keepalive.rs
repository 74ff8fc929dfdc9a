//! Pings: how many a client may send, and when we send one.
//!
//! Both rules are grpc-go's. A ping is a strike when it follows the last one too soon: sooner than the agreed
//! interval, or than two hours while no call is open. Whatever we wrote since the last ping forgives all strikes,
//! because clients measure bandwidth with pings when data arrives. After two strikes the third ends the
//! connection with GOAWAY `too_many_pings`, which makes clients double their interval.
#![forbid(unsafe_code)]

use crate::stdx::time::{Duration, Instant};

const STRIKES_MAX: u32 = 2;
const INTERVAL_WITHOUT_CALLS: Duration = Duration::from_secs(2 * 60 * 60);

/// Judges a client's pings.
pub struct Strikes {
    interval_min: Duration,
    last_ping: Option<Instant>,
    strikes: u32,
}

impl Strikes {
    /// Pings may come every `interval_min` while calls are open.
    pub fn new(interval_min: Duration) -> Self {
        Self { interval_min, last_ping: None, strikes: 0 }
    }

    /// `count` pings came; true when that was one too many.
    pub fn on_pings(&mut self, count: u32, now: Instant, wrote: bool, calls_open: bool) -> bool {
        let interval = if calls_open { self.interval_min } else { INTERVAL_WITHOUT_CALLS };
        let mut forgiven = wrote;
        for _ in 0..count.min(STRIKES_MAX + 2) {
            if std::mem::take(&mut forgiven) {
                self.strikes = 0;
            } else if self.last_ping.is_some_and(|last| last + interval > now) {
                self.strikes += 1;
            }
            self.last_ping = Some(now);
        }
        self.strikes > STRIKES_MAX
    }
}

/// What a silent connection calls for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// The peer is dead.
    Close,
}

/// Finds dead peers: a ping after `interval` of silence, and the end after `timeout` more of it.
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
    pinged: Option<Instant>,
}

impl Keepalive {
    /// See the type.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, pinged: None }
    }

    /// When to ask [`Keepalive::on_time`] again.
    pub fn due(&self, last_read: Instant) -> Instant {
        match self.pinged {
            Some(pinged) => pinged + self.timeout,
            None => last_read + self.interval,
        }
    }

    /// What to do now, given when bytes last came in.
    pub fn on_time(&mut self, now: Instant, last_read: Instant) -> Action {
        if let Some(pinged) = self.pinged {
            if last_read > pinged {
                self.pinged = None;
            } else if now >= pinged + self.timeout {
                return Action::Close;
            } else {
                return Action::Wait;
            }
        }
        if now >= last_read + self.interval {
            self.pinged = Some(now);
            return Action::Ping;
        }
        Action::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_third_early_ping_is_too_many() {
        let mut strikes = Strikes::new(Duration::from_secs(5));
        assert!(!strikes.on_pings(1, at(1), false, true));
        assert!(!strikes.on_pings(2, at(2), false, true));
        assert!(strikes.on_pings(1, at(3), false, true));
        let mut flood = Strikes::new(Duration::from_secs(5));
        assert!(flood.on_pings(1_000_000, at(1), false, true));
    }

    #[test]
    fn pings_in_time_or_after_our_data_are_fine() {
        let mut strikes = Strikes::new(Duration::from_secs(5));
        assert!((0..100).all(|n| !strikes.on_pings(1, at(5 * n), false, true)));
        assert!((0..100).all(|_| !strikes.on_pings(1, at(500), true, true)));
        assert!(!strikes.on_pings(2, at(510), false, false));
        assert!(strikes.on_pings(1, at(520), false, false), "without calls only every two hours");
    }

    #[test]
    fn silence_is_answered_by_a_ping_and_then_the_end() {
        let mut keepalive = Keepalive::new(Duration::from_secs(100), Duration::from_secs(20));
        assert_eq!(keepalive.due(at(1)), at(101));
        assert_eq!(keepalive.on_time(at(50), at(1)), Action::Wait);
        assert_eq!(keepalive.on_time(at(101), at(1)), Action::Ping);
        assert_eq!(keepalive.due(at(1)), at(121));
        assert_eq!(keepalive.on_time(at(110), at(102)), Action::Wait);
        assert_eq!(keepalive.on_time(at(202), at(102)), Action::Ping);
        assert_eq!(keepalive.on_time(at(222), at(102)), Action::Close);
    }
}
