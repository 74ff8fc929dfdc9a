//! Threads for what is slow in a handshake: a signature with an RSA key takes a millisecond, and an executor would
//! serve nobody meanwhile. Executors move the bytes; a thread looks at them.
//!
//! Each handshake has at most one step in line, and the number of handshakes is bounded, so the line is too.
#![forbid(unsafe_code)]

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

/// The threads, which end when the last of these is dropped.
#[derive(Clone)]
pub struct Workers(Sender<Job>);

impl Workers {
    /// Starts the threads for a machine with so many CPUs.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(cpus: usize) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        for number in 0..(cpus / CPUS_PER_THREAD).clamp(1, THREADS_MAX) {
            let inbox = inbox.clone();
            thread::Builder::new().name(format!("handshakes-{number}")).spawn(move || work(&inbox))?;
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

fn work(inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut session, answer }) = job else { return };
        // One whose client has gone meanwhile is not worth the effort.
        if !answer.is_canceled() {
            let result = session.process_new_packets().map(drop);
            let _ = answer.send((session, result));
        }
    }
}
