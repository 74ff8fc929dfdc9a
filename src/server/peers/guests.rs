//! Who is connected at the peer port: members of the cluster, and guests of whom that is not known.
//!
//! Whoever connects is a guest. A request that says it is a member's makes the connection one of that member, for which
//! places are kept. Guests never keep anybody waiting: when their places run out, those leave who are there longest,
//! whatever they do. A member asks as soon as it is connected, so it is no guest for longer than its first words take.
//!
//! ```text
//!   connected ──▶ guest ── a request of a member ──▶ of that member, while it has places
//!                   └── more guests than places: sent away, the oldest first
//! ```
//!
//! A stranger who knows the ids of cluster and member can say that it is the member where connections are not secured.
//! Such a stranger could speak for the member in everything else too.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::link::Link;
use crate::server::io::accept::{Admission, Place};
use crate::server::io::clock;
use crate::server::io::idle::{IdleClient, IdleClients, PATIENCE};

/// Guests of a listener.
pub const GUESTS_MAX: usize = 256;
/// With so many places left, some guests make room.
const SPARE: usize = 64;
/// Connections of one member: its streams, what it posts, and what it asks on behalf of its clients.
const MEMBER_CONNECTIONS_MAX: usize = 64;

/// The guests of a listener.
pub struct Guests {
    /// Their places.
    pub admission: Arc<Admission>,
    /// Since when each is there.
    waiting: Rc<IdleClients>,
}

/// One connection.
pub struct Visit {
    /// While it is a guest's.
    guest: RefCell<Option<(IdleClient, Place)>>,
    /// The member whose it is.
    member: RefCell<Option<Rc<Link>>>,
}

impl Guests {
    /// None is there.
    pub fn new() -> Self {
        Self { admission: Admission::with_places(GUESTS_MAX), waiting: IdleClients::new() }
    }

    /// A guest has come, and takes this place.
    pub fn enter(&self, place: Place) -> Visit {
        if self.admission.open() + SPARE > GUESTS_MAX {
            self.make_room();
        }
        Visit { guest: RefCell::new(Some((self.waiting.enter(), place))), member: RefCell::default() }
    }

    /// Some guests leave, those first who are there longest.
    pub fn make_room(&self) {
        // Nobody waits so long that patience with one is patience with all.
        self.waiting.evict(clock::now() + PATIENCE);
    }
}

impl Visit {
    /// Serves the connection to its end; none if it was a guest's and the guest was sent away.
    pub async fn last<F: Future>(&self, serve: F) -> Option<F::Output> {
        let mut serve = pin!(serve);
        poll_fn(|cx| {
            if let Poll::Ready(output) = serve.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let guest = self.guest.borrow();
            let is_over = guest.as_ref().is_some_and(|(client, _)| client.is_over(cx.waker()));
            if is_over { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// A request says that it is that member's.
    pub fn is_of(&self, link: &Rc<Link>) {
        let connections = link.connections.get();
        if self.member.borrow().is_some() || connections >= MEMBER_CONNECTIONS_MAX {
            return;
        }
        link.connections.set(connections + 1);
        *self.member.borrow_mut() = Some(link.clone());
        let guest = self.guest.take();
        drop(guest);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(link) = self.member.borrow().as_ref() {
            link.connections.set(link.connections.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::pending;

    fn come(guests: &Guests) -> Visit {
        guests.enter(guests.admission.enter().expect("a place"))
    }

    fn is_sent_away(visit: &Visit) -> bool {
        visit.last(pending::<()>()).now_or_never() == Some(None)
    }

    #[test]
    fn guests_leave_in_the_order_in_which_they_have_come_and_members_stay() {
        let (guests, link) = (Guests::new(), Rc::new(Link::new(7, &[], Arc::default())));
        let member = come(&guests);
        member.is_of(&link);
        member.is_of(&link);
        assert_eq!((link.connections.get(), guests.admission.open()), (1, 0));
        let mut visits: Vec<Visit> = (0..GUESTS_MAX - SPARE).map(|_| come(&guests)).collect();
        assert!(!visits.iter().any(is_sent_away), "there is room");
        visits.push(come(&guests));
        let away = visits.iter().filter(|visit| is_sent_away(visit)).count();
        assert!(away >= SPARE && visits[..away].iter().all(is_sent_away), "{away} of the oldest make room");
        assert!(!is_sent_away(&member) && !is_sent_away(&visits[GUESTS_MAX - SPARE]));
        visits.drain(..away);
        assert_eq!(guests.admission.open(), GUESTS_MAX - SPARE + 1 - away);
        drop(member);
        assert_eq!(link.connections.get(), 0);
    }

    #[test]
    fn a_member_has_so_many_places_and_no_more() {
        let (guests, link) = (Guests::new(), Rc::new(Link::new(7, &[], Arc::default())));
        let visits: Vec<Visit> = (0..=MEMBER_CONNECTIONS_MAX).map(|_| come(&guests)).collect();
        visits.iter().for_each(|visit| visit.is_of(&link));
        assert_eq!((link.connections.get(), guests.admission.open()), (MEMBER_CONNECTIONS_MAX, 1));
    }
}
