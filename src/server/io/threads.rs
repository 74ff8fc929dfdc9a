//! Threads for work that would hold an executor up for seconds.
#![forbid(unsafe_code)]

use std::io;
use std::thread;

use futures::channel::oneshot;

/// What a thread is to do.
pub type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread of this name. An error where the system has no thread left: then the work was not begun.
pub type Start = fn(&'static str, Work) -> io::Result<()>;

/// Starts a thread as the system does.
///
/// # Errors
/// When the system has no thread left.
pub fn start(name: &'static str, work: Work) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Does something on a thread of its own, and waits for it.
///
/// # Errors
/// When the system has no thread left.
pub async fn run<T: Send + 'static>(
    start: Start,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // Nobody waits any more where the task that asked has ended.
    start(name, Box::new(move || drop(done.send(work()))))?;
    result.await.map_err(|_| io::Error::other(format!("the thread {name} has ended")))
}
