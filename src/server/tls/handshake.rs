//! Handshakes of one core, from the first byte to a connection or a line in the log.
//!
//! ```text
//!   accepted ──▶ line ──▶ slot ──▶ bytes in ──▶ a thread looks at them ──▶ bytes out ──▶ ... ──▶ connection
//!                          │ at most SLOTS; where others wait in line, who has been there longest is sent away
//! ```
//!
//! A client that says nothing keeps its slot for ten seconds, or for one where others wait. The time that a thread
//! takes for it is not the client's: who waits for us is not sent away.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use futures::io::AsyncRead;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, InvalidMessage, ServerConfig, ServerConnection,
};

use super::errors::go_text;
use super::stream::{TlsStream, poll_push};
use super::workers::{Session, Workers};
use super::x509::{Facts, Revoked};
use crate::server::io::idle::IdleClients;
use crate::server::io::tcp::Tcp;
use crate::server::io::{clock, task};
use crate::stdx::time::Duration;

/// How long a handshake may take, as with etcd.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes of a core that are under way at the same time.
const SLOTS: usize = 512;
/// Time between two looks for a client to be sent away, while others wait.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const READ_BYTES: usize = 4 * 1024;

/// The handshakes of one core.
pub struct Handshakes {
    workers: Workers,
    under_way: Cell<usize>,
    line: RefCell<VecDeque<oneshot::Sender<Slot>>>,
    /// Those that have a slot and whose next words are waited for, who has kept us waiting longest first.
    slow: Rc<IdleClients>,
    looks: Cell<bool>,
}

/// Why there is no connection.
pub struct Refusal {
    /// In the words of the log.
    pub why: String,
    /// The other side went away before it had said anything wrong.
    pub is_end: bool,
    /// The name that the other side wanted to reach; mostly empty.
    pub server_name: String,
    /// What the other side's certificate says, if it showed one.
    pub certificate: Option<Box<Facts>>,
}

impl Refusal {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_end: false, server_name: String::new(), certificate: None }
    }
}

/// A connection whose handshake is over.
pub struct Welcomed {
    /// The connection.
    pub stream: TlsStream,
    /// What the other side's certificate says, if it had to show one.
    pub certificate: Option<Box<Facts>>,
    /// The name that the other side wanted to reach; mostly empty.
    pub server_name: String,
}

impl Handshakes {
    /// A core without handshakes.
    pub fn new(workers: Workers) -> Rc<Self> {
        Rc::new(Self {
            workers,
            under_way: Cell::new(0),
            line: RefCell::default(),
            slow: IdleClients::new(),
            looks: Cell::new(false),
        })
    }

    /// Plays the server's part on an accepted connection, of which the `first` bytes have been read.
    ///
    /// # Errors
    /// What is wrong with the other side, or that it went.
    pub async fn accept(
        self: &Rc<Self>,
        tcp: Tcp,
        first: &[u8],
        config: Arc<ServerConfig>,
        revoked: Option<&Revoked>,
    ) -> Result<Welcomed, Refusal> {
        let deadline = clock::now() + PATIENCE;
        let late = || Refusal::new("read: i/o timeout");
        let slot = task::until(deadline, self.slot()).await.flatten().ok_or_else(late)?;
        let session = ServerConnection::new(config).map_err(|error| Refusal::new(go_text(&error, true)))?;
        let shaking = shake(&self.workers, tcp, Box::new(session.into()), first, Some(&self.slow));
        let shaken = task::until(deadline, Box::pin(shaking)).await;
        drop(slot);
        let (stream, session) = shaken.unwrap_or_else(|| Err(late()))?;
        finish(stream, session, revoked)
    }

    /// Sends away some who take long.
    pub fn evict(&self) {
        self.slow.evict(clock::now());
    }

    /// A place among the handshakes that are under way, until dropped.
    async fn slot(self: &Rc<Self>) -> Option<Slot> {
        if self.under_way.get() < SLOTS {
            self.under_way.set(self.under_way.get() + 1);
            return Some(Slot(self.clone()));
        }
        let (turn, wait) = oneshot::channel();
        self.line.borrow_mut().push_back(turn);
        if !self.looks.replace(true) {
            task::spawn(self.clone().make_way());
        }
        // Whoever leaves hands over its place.
        wait.await.ok()
    }

    /// Sends away who takes longest, as long as others wait.
    async fn make_way(self: Rc<Self>) {
        while !self.line.borrow().is_empty() {
            self.evict();
            task::sleep(LOOK).await;
        }
        self.looks.set(false);
    }
}

/// A place among the handshakes that are under way.
struct Slot(Rc<Handshakes>);

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut line = self.0.line.borrow_mut();
            std::iter::from_fn(|| line.pop_front()).find(|next| !next.is_canceled())
        };
        match next {
            // A place that reaches nobody any more is dropped in turn.
            Some(next) => drop(next.send(Slot(self.0.clone()))),
            None => self.0.under_way.set(self.0.under_way.get() - 1),
        }
    }
}

/// Plays the client's part on a connection to a host.
///
/// # Errors
/// What is wrong with the other side, or that it went.
pub async fn connect(
    workers: &Workers,
    tcp: Tcp,
    host: &str,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| io::Error::other(format!("{host} is no name of a server")))?;
    let session = ClientConnection::new(config, name);
    let session = session.map_err(|error| io::Error::other(go_text(&error, false)))?;
    let shaking = Box::pin(shake(workers, tcp, Box::new(session.into()), &[], None));
    match task::until(clock::now() + PATIENCE, shaking).await {
        Some(Ok((tcp, session))) => Ok(TlsStream::new(tcp, session)),
        Some(Err(refusal)) => Err(io::Error::other(refusal.why)),
        None => Err(io::Error::new(io::ErrorKind::TimedOut, "net/http: TLS handshake timeout")),
    }
}

/// Both sides speak in turn until they have agreed. A client may be among the `slow` while its words are waited for.
async fn shake(
    workers: &Workers,
    mut tcp: Tcp,
    mut session: Session,
    first: &[u8],
    slow: Option<&Rc<IdleClients>>,
) -> Result<(Tcp, Session), Refusal> {
    let lost = |error: io::Error| Refusal::new(error.to_string());
    session = open(workers, &mut tcp, session, first).await?;
    let (mut buffer, mut waited) = (vec![0; READ_BYTES], Duration::ZERO);
    loop {
        let began = clock::now();
        let reading = turn(&mut tcp, &mut session, &mut buffer);
        let read = match slow {
            None => reading.await,
            // Whoever says a little now and then has kept us waiting all the time between.
            Some(slow) => {
                let sent_away = "too many handshakes are under way, and this one took too long";
                slow.wait_after(waited, reading).await.ok_or_else(|| Refusal::new(sent_away))?
            }
        };
        waited += clock::now().since(began);
        let Some(length) = read.map_err(lost)? else { return Ok((tcp, session)) };
        if length == 0 {
            return Err(Refusal { is_end: true, ..Refusal::new("EOF") });
        }
        session = open(workers, &mut tcp, session, &buffer[..length]).await?;
    }
}

/// Says what is to be said, and reads what comes next; none where both have agreed.
async fn turn(tcp: &mut Tcp, session: &mut Session, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    poll_fn(|cx| poll_push(tcp, session, cx)).await?;
    if !session.is_handshaking() {
        return Ok(None);
    }
    poll_fn(|cx| Pin::new(&mut *tcp).poll_read(cx, buffer)).await.map(Some)
}

/// Has a thread look at bytes that have come.
pub(super) async fn open(
    workers: &Workers,
    tcp: &mut Tcp,
    mut session: Session,
    mut bytes: &[u8],
) -> Result<Session, Refusal> {
    let broken = |error: io::Error| Refusal::new(error.to_string());
    while !bytes.is_empty() {
        if session.read_tls(&mut bytes).map_err(broken)? == 0 {
            // Nothing is read behind the word that the other side ends.
            return Err(Refusal { is_end: true, ..Refusal::new("EOF") });
        }
        let (stepped, result) = workers.step(session).await.map_err(broken)?;
        session = stepped;
        if let Err(error) = result {
            return Err(refuse(tcp, session, &error).await);
        }
    }
    Ok(session)
}

/// Tells the other side what is wrong with it, if it can be told at once.
async fn refuse(tcp: &mut Tcp, mut session: Session, error: &Error) -> Refusal {
    // What is no TLS is not answered by TLS.
    if !matches!(error, Error::InvalidMessage(InvalidMessage::InvalidContentType)) {
        let pushed = poll_fn(|cx| {
            let _ = poll_push(tcp, &mut session, cx);
            std::task::Poll::Ready(())
        });
        pushed.await;
    }
    let is_server = matches!(*session, Connection::Server(_));
    Refusal {
        why: go_text(error, is_server),
        is_end: false,
        server_name: server_name(&session),
        certificate: shown(&session).ok().and_then(|shown| shown.into_iter().next()).map(Box::new),
    }
}

/// Looks at who has come, behind the handshake, as etcd does.
fn finish(tcp: Tcp, session: Session, revoked: Option<&Revoked>) -> Result<Welcomed, Refusal> {
    let server_name = server_name(&session);
    let shown = match shown(&session) {
        Ok(shown) => shown,
        Err(why) => return Err(Refusal { server_name, ..Refusal::new(why) }),
    };
    let is_revoked = |facts: &&Facts| revoked.is_some_and(|revoked| revoked.has(facts));
    let why = shown.iter().find(is_revoked).map(|facts| {
        let hex: String = facts.serial.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("transport: certificate serial {hex} revoked")
    });
    let certificate = shown.into_iter().next().map(Box::new);
    match why {
        Some(why) => Err(Refusal { why, is_end: false, server_name, certificate }),
        None => Ok(Welcomed { stream: TlsStream::new(tcp, session), certificate, server_name }),
    }
}

fn server_name(session: &Session) -> String {
    match &**session {
        Connection::Server(session) => session.server_name().unwrap_or_default().to_owned(),
        Connection::Client(_) => String::new(),
    }
}

/// What the certificates say that the other side has shown: its own, and those that lead from it to an authority.
fn shown(session: &Session) -> Result<Vec<Facts>, &'static str> {
    const UNREAD: &str = "tls: failed to parse client certificate: x509: malformed certificate";
    let shown = session.peer_certificates().unwrap_or_default().iter();
    shown.map(|certificate| Facts::read(certificate).ok_or(UNREAD)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::workers::tests::{client, server_config, stuck};
    use super::*;
    use crate::server::io::{dial, executor, socket};

    #[test]
    fn who_waits_for_a_thread_is_not_sent_away_and_who_says_nothing_is() {
        let listening = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let port = listening.local_addr().unwrap().port();
        let run = move || async move {
            let (workers, steps) = stuck();
            let handshakes = Handshakes::new(workers);
            let mut hello = Vec::new();
            client().write_tls(&mut hello).unwrap();
            let shake = async |first: Vec<u8>| {
                let tcp = dial::dial("127.0.0.1", port, None, PATIENCE).await.unwrap();
                let handshakes = handshakes.clone();
                task::spawn(async move {
                    let _ = handshakes.accept(tcp, &first, server_config(), None).await;
                });
            };
            let later = || clock::now() + Duration::from_secs(5);
            shake(hello).await;
            let waits = loop {
                match steps.try_recv() {
                    Ok(step) => break step,
                    Err(_) => task::sleep(Duration::from_millis(1)).await,
                }
            };
            assert_eq!(handshakes.slow.evict(later()), 0);
            shake(Vec::new()).await;
            let end = clock::now() + PATIENCE;
            while handshakes.slow.evict(later()) == 0 {
                assert!(clock::now() < end, "it says nothing");
                task::sleep(Duration::from_millis(1)).await;
            }
            drop(waits);
        };
        executor::spawn("slow", None, 64, run).unwrap().join().unwrap();
        drop(listening);
    }

    #[test]
    fn who_finds_no_place_waits_until_somebody_leaves() {
        let run = || async {
            let handshakes = Handshakes::new(Workers::start(1).unwrap());
            let mut places = Vec::new();
            for _ in 0..SLOTS {
                places.push(handshakes.slot().await.unwrap());
            }
            // One who has given up waiting does not keep the place that becomes free.
            let short = clock::now() + Duration::from_millis(5);
            assert!(task::until(short, handshakes.slot()).await.is_none());
            let (served, mark) = (Rc::new(Cell::new(0)), handshakes.clone());
            for _ in 0..3 {
                let (served, handshakes) = (served.clone(), mark.clone());
                task::spawn(async move {
                    let place = handshakes.slot().await;
                    served.set(served.get() + 1);
                    drop(place);
                });
            }
            task::sleep(Duration::from_millis(5)).await;
            assert_eq!(served.get(), 0);
            drop(places.pop());
            while served.get() < 3 {
                task::yield_now().await;
            }
            drop(places);
            assert_eq!(handshakes.under_way.get(), 0);
        };
        executor::spawn("slots", None, 64, run).unwrap().join().unwrap();
    }
}
