//! One other member: where it is, what waits for it, and whether it answers.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use raft::eraftpb::Message;

use super::client::Connection;
use super::outgoing::Outgoing;
use crate::config::Url;
use crate::server::io::clock;
use crate::server::log::Line;
use crate::server::metrics::contacts::Contact;
use crate::stdx::time::{Duration, Instant};

/// Connections kept for further requests.
const IDLE_MAX: usize = 4;
/// Different failures that are said of a member before it answers again.
const SAID_MAX: usize = 8;
/// How long a connection is kept: the other side closes one that is silent for five seconds.
const IDLE: Duration = Duration::from_secs(3);

/// One other member.
pub struct Link {
    /// Its id.
    pub id: u64,
    /// Where it is; the one in use first.
    urls: RefCell<VecDeque<Url>>,
    /// Its stream of appends.
    pub append: Outgoing,
    /// Its stream of other messages.
    pub message: Outgoing,
    /// Messages that wait to be posted, at most [`super::pipeline::MESSAGES_MAX`].
    pub posts: RefCell<VecDeque<Box<Message>>>,
    /// Tasks that post them.
    pub posting: Cell<usize>,
    /// Connections that it has dialled.
    pub connections: Cell<usize>,
    /// It looks for a digest behind a snapshot, as whoever has dialled a stream for it has said.
    pub takes_digest: Cell<bool>,
    /// Connections without a request, and since when; the oldest first.
    idle: RefCell<VecDeque<(Instant, Connection)>>,
    /// It belongs to the cluster no more.
    gone: Cell<bool>,
    /// What other cores know of it.
    contact: Arc<Contact>,
    /// What was said to be wrong since it last answered.
    said: RefCell<BTreeSet<String>>,
    /// Addresses that have refused a connection, one after the other.
    refusals: Cell<usize>,
}

impl Link {
    /// A member at these addresses.
    pub fn new(id: u64, urls: &[String], contact: Arc<Contact>) -> Self {
        Self {
            id,
            urls: RefCell::new(parse(urls)),
            append: Outgoing::default(),
            message: Outgoing::default(),
            posts: RefCell::default(),
            posting: Cell::new(0),
            connections: Cell::new(0),
            takes_digest: Cell::new(false),
            idle: RefCell::default(),
            gone: Cell::new(false),
            contact,
            said: RefCell::default(),
            refusals: Cell::new(0),
        }
    }

    /// The member has moved, or has not.
    pub fn set_urls(&self, urls: &[String]) {
        let urls = parse(urls);
        let is_same =
            |known: &VecDeque<Url>| known.len() == urls.len() && urls.iter().all(|url| known.contains(url));
        if !is_same(&self.urls.borrow()) {
            *self.urls.borrow_mut() = urls;
            self.idle.borrow_mut().clear();
        }
    }

    /// Where to reach it now.
    ///
    /// # Errors
    /// When it has no address that this member can reach.
    pub fn url(&self) -> io::Result<Url> {
        let url = self.urls.borrow().front().cloned();
        let url = url.ok_or_else(|| io::Error::other("the member has no peer URL that can be read"))?;
        if url.is_unix() {
            return Err(io::Error::other(format!("{url} is not built yet: it needs Unix sockets")));
        }
        Ok(url)
    }

    /// A connection that has been used before; none if there is none that is likely to live.
    pub fn take_idle(&self) -> Option<Connection> {
        let now = clock::now();
        let (since, connection) = self.idle.borrow_mut().pop_back()?;
        (now.since(since) < IDLE).then_some(connection)
    }

    /// Keeps a connection for the next request.
    pub fn keep_idle(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        idle.push_back((clock::now(), connection));
        let oldest = if idle.len() > IDLE_MAX { idle.pop_front() } else { None };
        drop(idle);
        drop(oldest);
    }

    /// Connections that are kept.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.idle.borrow().len()
    }

    /// What other cores know of it.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Whether the member belongs to the cluster no more.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// The member belongs to the cluster no more: its tasks end.
    pub fn end(&self) {
        self.gone.set(true);
        self.posts.borrow_mut().clear();
        self.append.end();
        self.message.end();
    }

    /// It answers.
    pub fn on_success(&self) {
        self.refusals.set(0);
        if self.contact.activate(clock::now()) {
            self.said.borrow_mut().clear();
            Line::info("peer became active").id("peer-id", self.id).write();
        }
    }

    /// An attempt to connect has failed with `error`. True if nobody listens at any of its addresses.
    pub fn is_refused(&self, error: &io::Error) -> bool {
        let is_refusal = error.kind() == io::ErrorKind::ConnectionRefused;
        self.refusals.set(if is_refusal { self.refusals.get() + 1 } else { 0 });
        is_refusal && self.refusals.get() >= self.urls.borrow().len()
    }

    /// It does not answer, or refuses: each failure is said once as long as that goes on, however many tasks and
    /// addresses take turns.
    pub fn on_failure(&self, what: &str, error: &io::Error) {
        // Another address may do.
        if self.urls.borrow().len() > 1 {
            self.urls.borrow_mut().rotate_left(1);
        }
        let said = format!("failed to {what} {:x} ({error})", self.id);
        if self.contact.deactivate() {
            Line::warn("peer became inactive (message send to peer failed)")
                .id("peer-id", self.id)
                .text("error", &said)
                .write();
        } else if !self.is_news(&said) {
            return;
        } else {
            Line::warn("cannot reach a member of the cluster; trying on")
                .id("peer-id", self.id)
                .text("error", &said)
                .write();
        }
        self.said.borrow_mut().insert(said);
    }

    /// Whether a failure was not said since the member last answered.
    fn is_news(&self, said: &str) -> bool {
        let known = self.said.borrow();
        known.len() < SAID_MAX && !known.contains(said)
    }
}

fn parse(urls: &[String]) -> VecDeque<Url> {
    urls.iter().filter_map(|url| Url::parse(url).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_said_once_until_the_member_answers() {
        let link = Link::new(1, &["http://a:1".into(), "http://b:2".into()], Arc::default());
        let fail = |what: &str, why: &str| {
            let before = link.said.borrow().len();
            link.on_failure(what, &io::Error::other(why.to_owned()));
            link.said.borrow().len() - before
        };
        link.on_success();
        let mut lines = 0;
        for _ in 0..10 {
            lines += fail("dial", "a refuses")
                + fail("post a message to", "b refuses")
                + fail("dial", "b refuses");
        }
        assert_eq!(lines, 3);
        let many: usize = (0..100).map(|number| fail("dial", &number.to_string())).sum();
        assert_eq!(many, SAID_MAX - 3);
        link.on_success();
        assert_eq!(fail("dial", "a refuses"), 1);
    }

    #[test]
    fn a_member_is_tried_at_all_its_addresses() {
        let link = Link::new(1, &["http://a:1".into(), "no url".into(), "http://b:2".into()], Arc::default());
        let host = || link.url().unwrap().host;
        assert_eq!(host(), "a");
        link.on_failure("dial", &io::Error::other("x"));
        assert_eq!(host(), "b");
        link.set_urls(&["http://a:1".into(), "http://b:2".into()]);
        assert_eq!(host(), "b", "nothing has changed");
        link.set_urls(&["unix://c:3".into()]);
        assert!(link.url().unwrap_err().to_string().contains("Unix"));
        assert!(Link::new(1, &[], Arc::default()).url().is_err());
    }

    #[test]
    fn a_member_has_gone_when_all_its_addresses_refuse() {
        let link = Link::new(1, &["http://a:1".into(), "http://b:2".into()], Arc::default());
        let refused = |kind: io::ErrorKind| link.is_refused(&kind.into());
        assert!(!refused(io::ErrorKind::ConnectionRefused));
        assert!(!refused(io::ErrorKind::TimedOut));
        assert!(!refused(io::ErrorKind::ConnectionRefused));
        assert!(refused(io::ErrorKind::ConnectionRefused));
        link.on_success();
        assert!(!refused(io::ErrorKind::ConnectionRefused));
    }
}
