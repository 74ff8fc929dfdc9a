//! One connection's byte stream, as h2 wants to see it.
//!
//! ```text
//!   socket --recv--> scratch (one per core) --> h2          at most READ_TURN_BYTES per turn, then others run
//!   socket <--send-- out (taken from a pool) <-- h2         h2's flush does nothing; `push` sends, once per turn
//! ```
//!
//! h2 writes each DATA frame as a header and a payload and flushes after each batch of frames. Sent like that, a
//! large answer costs two system calls per 16 KB and a batch of small ones a call each. So writes are collected:
//! the connection task calls [`Wire::push`] when it has nothing more to do, and a write that finds
//! [`OUT_BYTES_MAX`] collected pushes first. h2 hands over whole frames, so between its writes the collected
//! bytes end at a frame's end: [`Wire::append`] relies on that.
//!
//! An idle connection owns no buffer here: `out` goes back to the pool once it is sent.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use super::sniff::{self, Sniffer};
use super::{clock, task};
use crate::stdx::time::Instant;

/// A byte stream between us and a client: a TCP or Unix socket, or TLS over one.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + 'static> ByteStream for S {}

/// Collected bytes from which on a write sends first. Eight DATA frames of 16 KB.
pub const OUT_BYTES_MAX: usize = 128 * 1024;
/// What one connection may read before it lets others run.
const READ_TURN_BYTES: usize = 256 * 1024;
/// What is read and thrown away at most while a connection is closed.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
const SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers kept for the next writer, and how large one may be to be kept.
const POOL_BUFFERS_MAX: usize = 8;
const POOL_BUFFER_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;

thread_local! {
    /// Where this core receives into: h2 gets a copy of what came, instead of a zeroed buffer each time.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

struct State<S> {
    stream: S,
    /// Bytes read before the protocol was known, served before the socket is asked.
    first: Bytes,
    /// Collected output; `out[..sent]` is with the kernel already.
    out: Vec<u8>,
    sent: usize,
    sniffer: Sniffer,
    /// What may still be read in this turn.
    read_left: usize,
    /// What was collected in this turn.
    wrote: usize,
    last_read: Instant,
}

/// A shared handle: h2 owns one as its transport, the connection task another to push and to look.
pub struct Wire<S>(Rc<RefCell<State<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: ByteStream> Wire<S> {
    /// A wire over `stream` whose `first` bytes have been read already.
    pub fn new(stream: S, first: Bytes) -> Self {
        Self(Rc::new(RefCell::new(State {
            stream,
            first,
            out: Vec::new(),
            sent: 0,
            sniffer: Sniffer::default(),
            read_left: READ_TURN_BYTES,
            wrote: 0,
            last_read: clock::now(),
        })))
    }

    /// Begins a turn of the connection task: it may read again.
    pub fn begin_turn(&self) {
        let state = &mut *self.0.borrow_mut();
        (state.read_left, state.wrote) = (READ_TURN_BYTES, 0);
    }

    /// Sends what is collected. `Pending` registers the task for when the socket takes more.
    pub fn push(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().push(cx)
    }

    /// Bytes collected in this turn.
    pub fn wrote(&self) -> usize {
        self.0.borrow().wrote
    }

    /// Whether all that is collected are acknowledgements of pings.
    pub fn holds_only_pongs(&self) -> bool {
        let state = self.0.borrow();
        // After a partial send the rest may begin inside a frame.
        state.sent == 0 && sniff::are_pongs(&state.out)
    }

    /// Whether a DATA frame has begun to come in since the last call.
    pub fn take_data_seen(&self) -> bool {
        self.0.borrow_mut().sniffer.take_data_seen()
    }

    /// Collects bytes of our own, whole HTTP/2 frames, behind what h2 wrote.
    pub fn append(&self, frames: &[u8]) {
        self.0.borrow_mut().collect(&[io::IoSlice::new(frames)]);
    }

    /// Says the last words and closes: sends what is collected, ends our side, and reads on until the client has
    /// ended its own, because closing a socket with unread bytes throws away what the client has not read yet.
    pub async fn linger(&self) {
        let sent = poll_fn(|cx| self.push(cx)).await;
        if sent.is_err() || poll_fn(|cx| self.poll_close(cx)).await.is_err() {
            return; // the client has gone
        }
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            let read = poll_fn(|cx| self.poll_discard(cx)).await;
            match read {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    }

    fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_close(cx)
    }

    fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        SCRATCH.with_borrow_mut(|scratch| Pin::new(&mut state.stream).poll_read(cx, scratch))
    }

    /// The PING frames received since the last call.
    pub fn take_pings(&self) -> u32 {
        self.0.borrow_mut().sniffer.take_pings()
    }

    /// When bytes last came in.
    pub fn last_read(&self) -> Instant {
        self.0.borrow().last_read
    }
}

impl<S: ByteStream> State<S> {
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        if self.out.capacity() > 0 {
            self.sent = 0;
            recycle(std::mem::take(&mut self.out));
        }
        Poll::Ready(Ok(()))
    }

    fn collect(&mut self, slices: &[io::IoSlice<'_>]) -> usize {
        if self.out.capacity() == 0 {
            self.out = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let before = self.out.len();
        slices.iter().for_each(|slice| self.out.extend_from_slice(slice));
        let collected = self.out.len() - before;
        self.wrote += collected;
        collected
    }

    fn poll_collect(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.out.len() - self.sent >= OUT_BYTES_MAX {
            ready!(self.push(cx))?;
        }
        Poll::Ready(Ok(self.collect(slices)))
    }
}

fn recycle(mut buffer: Vec<u8>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOL_BUFFERS_MAX && buffer.capacity() <= POOL_BUFFER_BYTES_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    });
}

impl<S: ByteStream> tokio::io::AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.first.has_remaining() {
            let n = state.first.len().min(into.remaining());
            let bytes = state.first.split_to(n);
            state.sniffer.feed(&bytes);
            into.put_slice(&bytes);
            return Poll::Ready(Ok(()));
        }
        if state.read_left == 0 {
            task::wake_later(cx.waker());
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let room = into.remaining().min(scratch.len()).min(state.read_left);
            let n = ready!(Pin::new(&mut state.stream).poll_read(cx, &mut scratch[..room]))?;
            let bytes = &scratch[..n];
            state.read_left -= n;
            state.last_read = clock::now();
            state.sniffer.feed(bytes);
            into.put_slice(bytes);
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: ByteStream> tokio::io::AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_collect(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_collect(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection task pushes at the end of its turn
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.push(cx))?;
        Pin::new(&mut state.stream).poll_close(cx)
    }
}
