//! One connection's byte stream: bounded reads, and a close that loses nothing.
//!
//! ```text
//!   socket --recv--> scratch (one per core) --> who asked        at most READ_TURN_BYTES per turn, then others run
//! ```
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::io::{AsyncRead, AsyncWrite};

use super::{clock, task};
use crate::stdx::time::{Duration, Instant};

/// A byte stream between us and a client: a TCP or Unix socket, or TLS over one.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + 'static> ByteStream for S {}

/// What one connection may read before it lets others run.
const READ_TURN_BYTES: usize = 256 * 1024;
/// How long, and for how many bytes, a connection that is closed is read on.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where this core receives into.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// A connection's byte stream.
pub struct Wire<S> {
    stream: S,
    /// Bytes read before the protocol was known, served before the socket is asked.
    first: Bytes,
    /// What may still be read in this turn.
    read_left: usize,
    last_read: Instant,
}

impl<S: ByteStream> Wire<S> {
    /// A wire over `stream` whose `first` bytes have been read already.
    pub fn new(stream: S, first: Bytes) -> Self {
        Self { stream, first, read_left: READ_TURN_BYTES, last_read: clock::now() }
    }

    /// Begins a turn of the connection's task: it may read again.
    pub fn begin_turn(&mut self) {
        self.read_left = READ_TURN_BYTES;
    }

    /// Hands the next bytes to `take`; `None` at the stream's end. A turn that has read enough is woken for another.
    pub fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(take(&std::mem::take(&mut self.first)))));
        }
        if self.read_left == 0 {
            task::wake_later(cx.waker());
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let room = scratch.len().min(self.read_left);
            let length = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch[..room]))?;
            if length == 0 {
                return Poll::Ready(Ok(None));
            }
            self.read_left -= length;
            self.last_read = clock::now();
            Poll::Ready(Ok(Some(take(&scratch[..length]))))
        })
    }

    /// Sends some of what `slices` hold, one behind the other, and says how many bytes.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    /// Closes behind the last words: see [`linger`].
    pub async fn linger(&mut self) {
        linger(&mut self.stream).await;
    }

    /// When bytes last came in.
    pub fn last_read(&self) -> Instant {
        self.last_read
    }
}

/// Closes behind the last words: ends our side, and reads on until the client has ended its own, because closing a
/// socket with unread bytes throws away what the client has not read yet.
pub async fn linger<S: ByteStream>(stream: &mut S) {
    // What TLS has left to say waits for a client that takes nothing.
    let closing = poll_fn(|cx| Pin::new(&mut *stream).poll_close(cx));
    if !matches!(task::until(clock::now() + LINGER, closing).await, Some(Ok(()))) {
        return; // the client has gone, or takes nothing
    }
    let rest = async {
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match poll_fn(|cx| poll_discard(stream, cx)).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    };
    // A client that goes on sending has had its time.
    let _ = task::until(clock::now() + LINGER, rest).await;
}

fn poll_discard<S: ByteStream>(stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| Pin::new(stream).poll_read(cx, scratch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::io::executor;

    /// A stream that never ends its side.
    struct Stuck;

    impl AsyncRead for Stuck {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_client_that_takes_nothing_is_not_waited_for() {
        let run = || async {
            let began = clock::now();
            linger(&mut Stuck).await;
            assert!(clock::now().since(began) < 3 * LINGER);
        };
        executor::spawn("linger", None, 64, run).unwrap().join().unwrap();
    }
}
