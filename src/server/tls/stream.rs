//! A connection whose handshake is over, as a stream of bytes.
//!
//! ```text
//!   socket ──▶ SEALED (one per core) ──▶ session ──▶ who reads        at most what the reader has room for, at once
//!   who writes ──▶ session: records of 16 KB ──▶ socket               at most WRITE_BYTES at once
//! ```
//!
//! # Invariants
//!
//! - What was taken from who writes is counted as written once it is with the kernel. Until then the write is pending,
//!   and the next one begins with the same bytes: nothing stays behind in the session of which nobody knows.
//! - A session holds less than a record of what was received, and at most [`WRITE_BYTES`] of what is to be sent.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};

use super::errors;
use super::workers::Session;
use crate::server::io::tcp::Tcp;

/// Bytes that are sealed together: four records, which leave with one system call.
const WRITE_BYTES: usize = 64 * 1024;
/// Bytes that are read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where this core receives sealed bytes into.
    static SEALED: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A connection with TLS.
pub struct TlsStream {
    tcp: Tcp,
    session: Session,
    /// Bytes that were taken from who writes, and are not all with the kernel.
    taken: usize,
    /// Our side has said that it ends.
    ended: bool,
    /// What is wrong with what came. Nothing is read behind it.
    failure: Option<String>,
}

impl TlsStream {
    /// A connection behind its handshake.
    pub fn new(tcp: Tcp, session: Session) -> Self {
        Self { tcp, session, taken: 0, ended: false, failure: None }
    }

    /// Sends what the session has ready.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_push(&mut self.tcp, &mut self.session, cx)
    }

    /// Reads from the socket, and hands on what can be opened of it. Ready with none at the end.
    fn poll_pull(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        SEALED.with_borrow_mut(|sealed| {
            // No more than the reader takes: the session holds at most the record that had begun before.
            let room = into.len().min(sealed.len());
            let length = ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut sealed[..room]))?;
            if length == 0 {
                return Poll::Ready(Ok(None));
            }
            let (mut left, mut filled) = (&sealed[..length], 0);
            while !left.is_empty() {
                // Nothing behind the word that the other side ends is read.
                if self.session.read_tls(&mut left)? == 0 {
                    break;
                }
                if let Err(error) = self.session.process_new_packets() {
                    self.failure = Some(errors::go_text(&error, true));
                    break;
                }
                filled += take(&mut self.session, &mut into[filled..]);
            }
            if self.session.wants_write() {
                // An answer that the protocol asks for. It goes with the next write if the socket is full.
                let _ = self.poll_push(cx)?;
            }
            Poll::Ready(Ok(Some(filled)))
        })
    }
}

/// Takes what a session has opened.
fn take(session: &mut Session, into: &mut [u8]) -> usize {
    if into.is_empty() { 0 } else { session.reader().read(into).unwrap_or(0) }
}

/// Sends what a session has ready.
pub fn poll_push(tcp: &mut Tcp, session: &mut Session, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while session.wants_write() {
        match session.write_tls(&mut Socket(tcp, cx)) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// A socket as the session wants it: one that says so when it would have to wait.
struct Socket<'a, 'b>(&'a mut Tcp, &'a mut Context<'b>);

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.0).poll_write_vectored(self.1, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match this.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Who ends without a word has ended.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                read => return Poll::Ready(read),
            }
            if let Some(why) = &this.failure {
                return Poll::Ready(Err(io::Error::other(why.clone())));
            }
            match ready!(this.poll_pull(cx, into))? {
                None => return Poll::Ready(Ok(0)),
                Some(0) => {}
                Some(filled) => return Poll::Ready(Ok(filled)),
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == 0 {
            // What is older goes first, so that no more than one round is held.
            ready!(this.poll_push(cx))?;
            this.taken = seal(&mut this.session, slices)?;
        }
        ready!(this.poll_push(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.taken)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_push(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ended && this.failure.is_none() {
            this.ended = true;
            this.session.send_close_notify();
        }
        ready!(this.poll_push(cx))?;
        Pin::new(&mut this.tcp).poll_close(cx)
    }
}

/// Makes records of the first bytes of `slices`; says how many those were.
fn seal(session: &mut Session, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    /// Slices that are looked at together.
    const TOGETHER: usize = 64;
    let (mut chosen, mut count, mut bytes) = ([IoSlice::new(&[]); TOGETHER], 0, 0);
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        let room = WRITE_BYTES - bytes;
        if room == 0 || count == TOGETHER {
            break;
        }
        chosen[count] = IoSlice::new(&slice[..slice.len().min(room)]);
        bytes += chosen[count].len();
        count += 1;
    }
    session.writer().write_vectored(&chosen[..count])
}
