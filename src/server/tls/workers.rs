//! Threads for what is slow in a handshake: a signature with an RSA key takes a millisecond, and an executor would
//! serve nobody meanwhile. Executors move the bytes; a thread looks at them.
//!
//! Each handshake has at most one step in line, and the number of handshakes is bounded, so the line is too. Handshakes
//! that have begun go first: under more than the threads can do, some end then, where each would else wait behind the
//! beginnings of all others until its time is over.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures::channel::oneshot;
use rustls::{Connection, Error};

/// CPUs for each thread: handshakes leave most of a machine to the clients that are served.
const CPUS_PER_THREAD: usize = 4;
/// The largest number of threads.
const THREADS_MAX: usize = 4;

/// One side of a connection.
pub type Session = Box<Connection>;

/// What came of a step.
pub type Stepped = (Session, Result<(), Error>);

struct Job {
    session: Session,
    answer: oneshot::Sender<Stepped>,
}

impl Job {
    /// Whether a signature was made for the handshake already, or it is this member that began it.
    fn has_begun(&self) -> bool {
        matches!(*self.session, Connection::Client(_)) || self.session.negotiated_cipher_suite().is_some()
    }
}

/// The steps that wait.
struct Line {
    inbox: Receiver<Job>,
    begun: VecDeque<Job>,
    new: VecDeque<Job>,
}

impl Line {
    fn new(inbox: Receiver<Job>) -> Self {
        Self { inbox, begun: VecDeque::new(), new: VecDeque::new() }
    }

    /// Waits for the next step. None when there will be no more.
    fn next(&mut self) -> Option<Job> {
        while let Ok(job) = self.inbox.try_recv() {
            self.push(job);
        }
        if self.begun.is_empty() && self.new.is_empty() {
            let job = self.inbox.recv().ok()?;
            self.push(job);
        }
        self.begun.pop_front().or_else(|| self.new.pop_front())
    }

    fn push(&mut self, job: Job) {
        if job.has_begun() { self.begun.push_back(job) } else { self.new.push_back(job) }
    }
}

/// The threads, which end when the last of these is dropped.
#[derive(Clone)]
pub struct Workers(Sender<Job>);

impl Workers {
    /// Starts the threads for a machine with so many CPUs.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(cpus: usize) -> io::Result<Self> {
        Self::start_threads("handshakes", (cpus / CPUS_PER_THREAD).clamp(1, THREADS_MAX))
    }

    /// Starts a thread for the handshakes with other members: clients cannot keep members from one another.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_for_peers() -> io::Result<Self> {
        Self::start_threads("peer-handshakes", 1)
    }

    fn start_threads(name: &str, count: usize) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let line = Arc::new(Mutex::new(Line::new(inbox)));
        for number in 0..count {
            let line = line.clone();
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || work(&line))?;
        }
        Ok(Self(jobs))
    }

    /// Has a thread look at what a session has received.
    ///
    /// # Errors
    /// When the threads have ended.
    pub async fn step(&self, session: Session) -> io::Result<Stepped> {
        let (answer, stepped) = oneshot::channel();
        let ended = || io::Error::other("the threads for handshakes have ended");
        self.0.send(Job { session, answer }).map_err(|_| ended())?;
        stepped.await.map_err(|_| ended())
    }
}

fn work(line: &Mutex<Line>) {
    loop {
        let job = line.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(Job { mut session, answer }) = job else { return };
        // One whose client has gone meanwhile is not worth the effort.
        if !answer.is_canceled() {
            let result = session.process_new_packets().map(drop);
            let _ = answer.send((session, result));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::super::provider::provider;

    /// Threads that take no step, and the steps that wait for them.
    pub fn stuck() -> (Workers, Receiver<impl Send>) {
        let (jobs, inbox) = mpsc::channel::<Job>();
        (Workers(jobs), inbox)
    }

    /// A client that trusts nobody.
    pub fn client() -> ClientConnection {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// What a server needs that has made its certificate for itself.
    pub fn server_config() -> Arc<ServerConfig> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap())
    }

    fn job(session: impl Into<Connection>) -> Job {
        Job { session: Box::new(session.into()), answer: oneshot::channel().0 }
    }

    #[test]
    fn handshakes_that_have_begun_go_before_new_ones() {
        let new = || ServerConnection::new(server_config()).unwrap();
        let (mut begun, mut hello) = (new(), Vec::new());
        client().write_tls(&mut hello).unwrap();
        begun.read_tls(&mut &hello[..]).unwrap();
        begun.process_new_packets().unwrap();
        assert!(begun.is_handshaking(), "the client's last words have not come");
        let (jobs, inbox) = mpsc::channel();
        let mut line = Line::new(inbox);
        for job in [job(new()), job(new()), job(begun), job(client())] {
            jobs.send(job).unwrap();
        }
        drop(jobs);
        let order: Vec<bool> = std::iter::from_fn(|| line.next()).map(|job| job.has_begun()).collect();
        assert_eq!(order, [true, true, false, false]);
    }
}
