//! The other members as this one reaches them: written by the replica core, read by whoever asks for metrics or for a
//! change of the members.
//!
//! The lock guards the list alone, which changes when a member comes or goes; the numbers in it have one writer each.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::{Buckets, Counter, Histogram, Observed};
use super::text::{Families, Type};
use super::transfers::Transfers;
use crate::stdx::time::{Duration, Instant};

/// What the family of known members says of itself.
pub(super) const KNOWN: &str = "Members this one knows.";
const ROUND_TRIP: Buckets = Buckets::seconds(100, 16);

/// All other members.
#[derive(Debug, Default)]
pub struct Contacts {
    members: Mutex<BTreeMap<u64, Arc<Contact>>>,
    /// The snapshots to them and from them.
    pub snapshots: Transfers,
}

/// One other member.
#[derive(Debug, Default)]
pub struct Contact {
    /// Since when it answers, in nanoseconds of the process's clock; 0 while it does not.
    active_since: AtomicU64,
    /// How often it has ceased to answer.
    pub lost: Counter,
    /// Bytes of messages sent to it.
    pub sent_bytes: Counter,
    /// Bytes of messages received from it.
    pub received_bytes: Counter,
    /// Messages to it that were lost.
    pub send_failures: Counter,
    /// Streams from it that broke.
    pub receive_failures: Counter,
    /// How long it takes to answer.
    round_trips: Histogram,
}

impl Contact {
    /// It answers, since `now` or before. True if it did not.
    pub fn activate(&self, now: Instant) -> bool {
        let was_active = self.active_since.load(Ordering::Relaxed) != 0;
        if !was_active {
            self.active_since.store(now.as_nanos(), Ordering::Relaxed);
        }
        !was_active
    }

    /// It does not answer. True if it did.
    pub fn deactivate(&self) -> bool {
        let was_active = self.active_since.swap(0, Ordering::Relaxed) != 0;
        if was_active {
            self.lost.inc();
        }
        was_active
    }

    /// It has answered a probe in this time.
    pub fn answered_in(&self, took: Duration) {
        self.round_trips.observe_duration(&ROUND_TRIP, took);
    }

    /// How long it has answered by `now`; none while it does not.
    pub fn active_for(&self, now: Instant) -> Option<Duration> {
        let since = self.active_since.load(Ordering::Relaxed);
        (since != 0).then(|| now.since(Instant::from_nanos(since)))
    }
}

/// A family of counters: its name, what it counts, its label, and where the count is.
type Family = (&'static str, &'static str, &'static str, fn(&Contact) -> &Counter);

const COUNTERS: [Family; 4] = [
    ("etcd_network_peer_sent_bytes_total", "Bytes sent to other members.", "To", |c| &c.sent_bytes),
    ("etcd_network_peer_received_bytes_total", "Bytes received from other members.", "From", |c| {
        &c.received_bytes
    }),
    ("etcd_network_peer_sent_failures_total", "Messages to other members that were lost.", "To", |c| {
        &c.send_failures
    }),
    ("etcd_network_peer_received_failures_total", "Streams of other members that broke.", "From", |c| {
        &c.receive_failures
    }),
];

impl Contact {
    /// As in etcd, a series is there from the first time on that there is something to count.
    fn write(&self, families: &mut Families, own: &str, id: &str) {
        let pair = [("Local", own), ("Remote", id)];
        families.number("etcd_network_known_peers", Type::Gauge, KNOWN, &pair, 1.0);
        let (is_active, lost) = (self.active_since.load(Ordering::Relaxed) != 0, self.lost.get());
        if is_active || lost > 0 {
            let help = "Members that answer.";
            let active = f64::from(u8::from(is_active));
            families.number("etcd_network_active_peers", Type::Gauge, help, &pair, active);
        }
        if lost > 0 {
            let help = "Times that a member has ceased to answer.";
            families.number("etcd_network_disconnected_peers_total", Type::Counter, help, &pair, lost as f64);
        }
        for (name, help, label, count) in COUNTERS {
            let count = count(self).get();
            if count > 0 {
                families.number(name, Type::Counter, help, &[(label, id)], count as f64);
            }
        }
        let mut observed = Observed::default();
        self.round_trips.add_to(&mut observed);
        if observed.count() > 0 {
            let (name, help) =
                ("etcd_network_peer_round_trip_time_seconds", "How long members take to answer.");
            families.histogram(name, help, &[("To", id)], &ROUND_TRIP, &observed);
        }
    }
}

impl Contacts {
    /// A member has come.
    pub fn add(&self, id: u64) -> Arc<Contact> {
        self.with(|contacts| contacts.entry(id).or_default().clone())
    }

    /// A member has gone.
    pub fn remove(&self, id: u64) {
        self.with(|contacts| contacts.remove(&id));
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<(u64, Arc<Contact>)> {
        self.with(|contacts| contacts.iter().map(|(&id, contact)| (id, contact.clone())).collect())
    }

    /// The families of all of them; `own` is this member.
    pub(super) fn write(&self, families: &mut Families, own: &str) {
        for (id, contact) in self.all() {
            contact.write(families, own, &format!("{id:x}"));
        }
        self.snapshots.write(families);
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<u64, Arc<Contact>>) -> T) -> T {
        // Nothing in here panics with the list half changed.
        look(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_is_active_from_its_first_answer_to_its_first_failure() {
        let contacts = Contacts::default();
        let (contact, now) = (contacts.add(7), Instant::default() + Duration::from_secs(9));
        assert_eq!((contact.active_for(now), contact.deactivate()), (None, false));
        assert!(contact.activate(now) && !contact.activate(now + Duration::from_secs(1)));
        assert_eq!(contact.active_for(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert!(contact.deactivate());
        assert_eq!(contact.lost.get(), 1);
        assert_eq!(contacts.all().len(), 1);
        contacts.remove(7);
        assert!(contacts.all().is_empty());
    }
}
