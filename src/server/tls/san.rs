//! Whether a client comes from where its certificate says it does: etcd asks this of other members.
//!
//! The answer may need the system's resolver, which may take long. It is asked on threads of its own, few at a time, so
//! that the names in one certificate hold up neither connections that this member dials nor, for longer than a
//! handshake may take, those of others.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::x509::Facts;
use crate::server::io::threads::{self, Start};
use crate::server::io::{clock, names, task};
use crate::stdx::time::{Duration, Instant};

/// Certificates whose names are looked up at the same time.
const CHECKS_MAX: usize = 8;
/// Time between two looks for a place among them.
const LOOK: Duration = Duration::from_millis(10);
/// How long an answer is good: members dial several connections one after the other.
const GOOD: Duration = Duration::from_secs(10);
/// Answers that are kept.
const KEPT_MAX: usize = 256;

/// Who knows names and addresses.
pub trait Resolver: Send + Sync {
    /// The addresses of a name.
    ///
    /// # Errors
    /// When there are none.
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// The name of an address, if it has one.
    fn name(&self, address: IpAddr) -> Option<String>;
}

struct System;

impl Resolver for System {
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        names::addresses(name)
    }

    fn name(&self, address: IpAddr) -> Option<String> {
        names::name(address)
    }
}

/// What is compared: an address, and the names of a certificate.
type Claim = (IpAddr, Vec<String>);

/// Compares addresses with certificates, on one core.
pub struct Addresses {
    resolver: Arc<dyn Resolver>,
    start: Start,
    under_way: Rc<Cell<usize>>,
    /// What was found to fit, and until when that is good.
    good: RefCell<BTreeMap<Claim, Instant>>,
}

impl Default for Addresses {
    /// Asks the system.
    fn default() -> Self {
        Self::new(Arc::new(System), threads::start)
    }
}

impl Addresses {
    pub(super) fn new(resolver: Arc<dyn Resolver>, start: Start) -> Self {
        Self { resolver, start, under_way: Rc::default(), good: RefCell::default() }
    }

    /// Compares an address with a certificate. One that names no host is taken from anywhere.
    ///
    /// # Errors
    /// That they do not fit, in etcd's words, or that this was not found out until `deadline`.
    pub async fn check(&self, facts: &Facts, address: IpAddr, deadline: Instant) -> Result<(), String> {
        let address = address.to_canonical();
        if facts.addresses.contains(&address) {
            return Ok(());
        }
        if facts.dns_names.is_empty() {
            return match facts.addresses.as_slice() {
                [] => Ok(()),
                for_others => {
                    let others: Vec<String> = for_others.iter().map(ToString::to_string).collect();
                    Err(format!("x509: certificate is valid for {}, not {address}", others.join(", ")))
                }
            };
        }
        let claim = (address, facts.dns_names.clone());
        if self.is_good(&claim) {
            return Ok(());
        }
        let late = || Err("tls: the names of the certificate were not found in time".to_owned());
        task::until(deadline, self.look_up(claim)).await.unwrap_or_else(late)
    }

    fn is_good(&self, claim: &Claim) -> bool {
        self.good.borrow().get(claim).is_some_and(|until| clock::now() < *until)
    }

    async fn look_up(&self, claim: Claim) -> Result<(), String> {
        while self.under_way.get() >= CHECKS_MAX {
            task::sleep(LOOK).await;
        }
        let (resolver, asked) = (self.resolver.clone(), claim.clone());
        let working = threads::run(self.start, "san-check", move || fits(&*resolver, &asked));
        // The place is free when the thread has ended, however long somebody waits for it.
        let place = Place::take(&self.under_way);
        let (tell, told) = futures::channel::oneshot::channel();
        task::spawn(async move {
            let result = working.await;
            drop(place);
            // Whoever has asked may have gone.
            let _ = tell.send(result);
        });
        let result = told.await.map_err(|_| "the thread has ended".to_owned())?;
        let is_good = result.map_err(|error| format!("tls: cannot look up names: {error}"))?;
        if !is_good {
            let (address, names) = claim;
            let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            return Err(format!("tls: \"{address}\" does not match any of DNSNames [{}]", quoted.join(" ")));
        }
        self.keep(claim);
        Ok(())
    }

    fn keep(&self, claim: Claim) {
        let (now, mut good) = (clock::now(), self.good.borrow_mut());
        if good.len() >= KEPT_MAX {
            good.retain(|_, until| now < *until);
        }
        if good.len() < KEPT_MAX {
            good.insert(claim, now + GOOD);
        }
    }
}

/// A place among the checks that are under way, until dropped.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(under_way: &Rc<Cell<usize>>) -> Self {
        under_way.set(under_way.get() + 1);
        Self(under_way.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether an address is that of one of the names: by its own name first, which is one question.
fn fits(resolver: &dyn Resolver, (address, dns_names): &Claim) -> bool {
    let (stars, names): (Vec<_>, Vec<_>) = dns_names.iter().partition(|name| name.starts_with("*."));
    let is_own = |own: &String| {
        names.contains(&own) || stars.iter().any(|star| star.get(1..).is_some_and(|rest| own.ends_with(rest)))
    };
    resolver.name(*address).as_ref().is_some_and(is_own)
        || names.iter().any(|name| resolver.addresses(name).is_ok_and(|found| found.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::io::executor;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// Knows two hosts, counts the questions, and answers none while it is stuck.
    #[derive(Default)]
    struct Few {
        asked: AtomicUsize,
        is_stuck: AtomicBool,
    }

    impl Few {
        fn ask(&self) {
            self.asked.fetch_add(1, Ordering::SeqCst);
            while self.is_stuck.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Resolver for Few {
        fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            self.ask();
            if name == "other" { Ok(vec![OTHER]) } else { Err(io::ErrorKind::NotFound.into()) }
        }

        fn name(&self, address: IpAddr) -> Option<String> {
            self.ask();
            (address == OWN).then(|| "own.cluster".to_owned())
        }
    }

    fn named(names: &[&str]) -> Facts {
        let dns_names = names.iter().map(|name| (*name).to_owned()).collect();
        Facts { dns_names, ..Facts::default() }
    }

    #[test]
    fn an_address_fits_by_its_own_name_or_by_one_of_the_certificate_s() {
        let few = Arc::new(Few::default());
        let run = {
            let few = few.clone();
            move || async move {
                let addresses = Addresses::new(few.clone(), threads::start);
                let deadline = clock::now() + Duration::from_secs(20);
                let asked = || few.asked.swap(0, Ordering::SeqCst);
                for (names, address, fits, questions) in [
                    (&["a", "b", "c", "own.cluster"][..], OWN, true, 1),
                    (&["a", "b", "c", "own.cluster"][..], OWN, true, 0),
                    (&["*.cluster"][..], OWN, true, 1),
                    (&["a", "other"][..], OTHER, true, 3),
                    (&["a", "b"][..], OTHER, false, 3),
                    (&["a", "b"][..], OTHER, false, 3),
                ] {
                    let found = addresses.check(&named(names), address, deadline).await;
                    assert_eq!(found.is_ok(), fits, "{names:?} {found:?}");
                    assert_eq!(asked(), questions, "{names:?}");
                }
                let nobody = addresses.check(&named(&["a", "b"]), OTHER, deadline).await.unwrap_err();
                assert_eq!(nobody, "tls: \"10.0.0.2\" does not match any of DNSNames [\"a\" \"b\"]");
            }
        };
        executor::spawn("san", None, 64, run).unwrap().join().unwrap();
    }

    #[test]
    fn a_resolver_that_does_not_answer_is_asked_by_few_and_waited_for_by_nobody() {
        let few = Arc::new(Few::default());
        let run = {
            let few = few.clone();
            move || async move {
                let addresses = Addresses::new(few.clone(), threads::start);
                few.is_stuck.store(true, Ordering::SeqCst);
                let (began, patience) = (clock::now(), Duration::from_millis(200));
                let checks = (0..3 * CHECKS_MAX).map(|number| {
                    let facts = named(&[format!("n{number}").as_str()]);
                    let addresses = &addresses;
                    async move { addresses.check(&facts, OTHER, began + patience).await }
                });
                let found = futures::future::join_all(checks).await;
                assert!(found.iter().all(|found| found.as_ref().unwrap_err().contains("not found in time")));
                assert_eq!(few.asked.load(Ordering::SeqCst), CHECKS_MAX);
                assert!(clock::now().since(began) < 50 * patience);
                few.is_stuck.store(false, Ordering::SeqCst);
                let deadline = clock::now() + Duration::from_secs(20);
                assert_eq!(addresses.check(&named(&["other"]), OTHER, deadline).await, Ok(()));
            }
        };
        executor::spawn("san", None, 64, run).unwrap().join().unwrap();
    }
}
