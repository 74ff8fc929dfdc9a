//! The other members as this one reaches them: written by the replica core, read by whoever asks for metrics or for a
//! change of the members.
//!
//! The lock guards the list alone, which changes when a member comes or goes; the numbers in it have one writer each.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::Counter;
use crate::stdx::time::{Duration, Instant};

/// All other members.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<BTreeMap<u64, Arc<Contact>>>);

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

    /// How long it has answered by `now`; none while it does not.
    pub fn active_for(&self, now: Instant) -> Option<Duration> {
        let since = self.active_since.load(Ordering::Relaxed);
        (since != 0).then(|| now.since(Instant::from_nanos(since)))
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

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<u64, Arc<Contact>>) -> T) -> T {
        // Nothing in here panics with the list half changed.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
