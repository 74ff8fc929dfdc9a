//! Whether two URLs lead to one place. A name that nobody knows yet is waited for: a member may be started before the
//! name servers know of it, as each pod of a StatefulSet is.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Url;
use crate::server::io::names;
use crate::server::log::Line;

/// How long all names together are waited for, etcd's own figure.
const WITHIN: Duration = Duration::from_secs(30);
/// Time between two look-ups of a name, etcd's own figure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Looks up names, each as often as it takes within a time that all share.
pub struct Places {
    look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
    retry_interval: Duration,
    deadline: Instant,
    /// What is known of the names so far; nothing of those that were given up.
    known: RefCell<BTreeMap<String, Vec<IpAddr>>>,
}

impl Places {
    /// Nothing was looked up, and the time begins.
    pub fn begin() -> Self {
        Self {
            look_up: names::addresses,
            retry_interval: RETRY_INTERVAL,
            deadline: Instant::now() + WITHIN,
            known: RefCell::default(),
        }
    }

    /// Whether two URLs lead to one place: the same host, or names that have an address in common, and the same port.
    /// `localhost` stands for itself alone, as it does to etcd. Waits for names that are needed for that.
    pub fn are_same(&self, one: &Url, other: &Url) -> bool {
        if one.scheme != other.scheme || one.port() != other.port() {
            return false;
        }
        if one.host == other.host {
            return true;
        }
        let (one, other) = (self.addresses(one), self.addresses(other));
        one.iter().any(|address| other.contains(address))
    }

    fn addresses(&self, url: &Url) -> Vec<IpAddr> {
        if let Ok(address) = url.host.parse::<IpAddr>() {
            return vec![address.to_canonical()];
        }
        if url.host == "localhost" || url.is_unix() || url.port().is_none() {
            return Vec::new();
        }
        if let Some(known) = self.known.borrow().get(&url.host) {
            return known.clone();
        }
        let found = self.wait_for(url);
        self.known.borrow_mut().insert(url.host.clone(), found.clone());
        found
    }

    /// Looks a name up until it is known or the time is over.
    fn wait_for(&self, url: &Url) -> Vec<IpAddr> {
        loop {
            let error = match (self.look_up)(&url.host) {
                Ok(found) => {
                    let addresses: Vec<String> = found.iter().map(IpAddr::to_string).collect();
                    said("resolved URL Host", true, url).text("resolved-addr", addresses.join(",")).write();
                    return found;
                }
                Err(error) => error.to_string(),
            };
            let is_over = Instant::now() + self.retry_interval > self.deadline;
            let message = match is_over {
                true => "failed to resolve URL Host; returning",
                false => "failed to resolve URL Host",
            };
            said(message, false, url)
                .duration("retry-interval", self.retry_interval)
                .text("error", error)
                .write();
            if is_over {
                return Vec::new();
            }
            thread::sleep(self.retry_interval);
        }
    }
}

fn said(message: &str, is_well: bool, url: &Url) -> Line {
    let line = if is_well { Line::info(message) } else { Line::warn(message) };
    line.text("url", url.to_string()).text("host", url.authority())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// How often names were looked up on this thread.
        static ASKED: Cell<usize> = const { Cell::new(0) };
    }

    /// A name server that learns of `late` after two look-ups, and never of `never`.
    fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
        let asked = ASKED.replace(ASKED.get() + 1);
        match name {
            "late" if asked < 2 => Err(io::Error::other("no such host")),
            "late" => Ok(vec![IpAddr::from([10, 0, 0, 7]), IpAddr::from([10, 0, 0, 8])]),
            "known" => Ok(vec![IpAddr::from([10, 0, 0, 8])]),
            _ => Err(io::Error::other("no such host")),
        }
    }

    fn places(within: Duration) -> Places {
        ASKED.set(0);
        let (retry_interval, deadline) = (Duration::from_millis(1), Instant::now() + within);
        Places { look_up, retry_interval, deadline, known: RefCell::default() }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_name_that_is_known_late_is_waited_for_and_looked_up_no_more() {
        let places = places(Duration::from_secs(60));
        assert!(places.are_same(&url("http://late:1"), &url("http://10.0.0.7:1")));
        assert_eq!(ASKED.get(), 3);
        assert!(places.are_same(&url("http://10.0.0.8:1"), &url("http://late:1")));
        assert!(!places.are_same(&url("http://10.0.0.9:1"), &url("http://late:1")));
        assert_eq!(ASKED.get(), 3);
        assert!(places.are_same(&url("http://known:1"), &url("http://late:1")), "one address in common");
        assert_eq!(ASKED.get(), 4);
    }

    #[test]
    fn a_name_that_nobody_knows_is_given_up_in_time_and_leads_nowhere() {
        let places = places(Duration::from_millis(20));
        assert!(!places.are_same(&url("http://never:1"), &url("http://10.0.0.7:1")));
        let asked = ASKED.get();
        assert!((1..=21).contains(&asked), "{asked}");
        assert!(!places.are_same(&url("http://never:1"), &url("http://10.0.0.8:1")));
        assert_eq!(ASKED.get(), asked, "it is not waited for twice");
    }

    #[test]
    fn what_is_written_alike_is_not_looked_up() {
        let places = places(Duration::from_secs(60));
        assert!(places.are_same(&url("http://never:1"), &url("http://never:1")));
        assert!(!places.are_same(&url("http://never:1"), &url("http://late:2")));
        assert!(!places.are_same(&url("http://localhost:1"), &url("http://127.0.0.1:1")));
        assert_eq!(ASKED.get(), 0);
    }

    #[test]
    fn names_and_addresses_of_one_place_are_equal() {
        let same = |one: &str, other: &str| Places::begin().are_same(&url(one), &url(other));
        assert!(same("http://localhost:1", "http://localhost:1"));
        assert!(!same("http://localhost:1", "http://127.0.0.1:1"));
        assert!(same("http://127.0.0.1:1", "http://127.0.0.1:1"));
        assert!(!same("http://localhost:1", "http://127.0.0.1:2"));
        assert!(!same("http://127.0.0.1:1", "http://127.0.0.2:1"));
        assert!(same("http://127.0.0.1:1", "http://[::ffff:127.0.0.1]:01"));
        assert!(same("http://u@localhost:1?a", "http://localhost:1#b"));
        assert!(!same("http://127.0.0.1:1", "http://127.0.0.1:65537"));
    }
}
