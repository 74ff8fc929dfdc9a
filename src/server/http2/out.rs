//! What a connection has to say, in the order in which it leaves.
//!
//! Sent frame by frame, a large answer would cost two system calls per 16 KB and a batch of small ones a call each. So
//! frames are collected, and the connection sends them when it has nothing more to do. An idle connection owns no
//! buffer: it goes back to the core's pool once it is sent.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::task::{Poll, ready};

use super::frame::{HEAD_BYTES, Head, flag, kind};

/// Collected bytes from which on data waits in its stream: eight DATA frames of 16 KB.
pub const OUT_BYTES_MAX: usize = 128 * 1024;
/// Buffers kept for the next writer, and how large one may be to be kept.
const POOL_BUFFERS_MAX: usize = 8;
const POOL_BUFFER_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;
/// Payload of a PING frame.
const PING_BYTES: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Collected frames.
#[derive(Default)]
pub struct Out {
    bytes: Vec<u8>,
    /// `bytes[..sent]` is with the kernel already.
    sent: usize,
    /// Acknowledgements of PING among `bytes`.
    pongs: usize,
    /// Bytes collected since the turn began.
    wrote: usize,
}

impl Out {
    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.wrote = 0;
    }

    /// Bytes collected since the turn began.
    pub fn wrote(&self) -> usize {
        self.wrote
    }

    /// Bytes that are still to be sent.
    pub fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether so much waits that data has to stay in its stream, and the client to wait with more.
    pub fn is_full(&self) -> bool {
        self.unsent() >= OUT_BYTES_MAX
    }

    /// Whether all that is collected are acknowledgements of pings.
    pub fn holds_only_pongs(&self) -> bool {
        // After a partial send the rest may begin inside a frame.
        self.sent == 0 && self.pongs > 0 && self.bytes.len() == self.pongs * (HEAD_BYTES + PING_BYTES)
    }

    /// Appends a frame whose payload is these parts, one behind the other.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, parts: &[&[u8]]) {
        if self.bytes.capacity() == 0 {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let length = parts.iter().map(|part| part.len()).sum();
        self.bytes.reserve(HEAD_BYTES + length);
        self.bytes.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.wrote += HEAD_BYTES + length;
    }

    /// Appends the acknowledgement of a PING.
    pub fn pong(&mut self, payload: &[u8; PING_BYTES]) {
        self.frame(kind::PING, flag::ACK, 0, &[payload]);
        self.pongs += 1;
    }

    /// Sends what is collected through `write`, which says how much it took.
    pub fn poll_send(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let taken = ready!(write(&self.bytes[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken;
        }
        if self.bytes.capacity() > 0 {
            (self.sent, self.pongs) = (0, 0);
            recycle(std::mem::take(&mut self.bytes));
        }
        Poll::Ready(Ok(()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pongs_are_told_from_anything_else() {
        let mut out = Out::default();
        assert!(!out.holds_only_pongs());
        out.pong(&[1; 8]);
        out.pong(&[2; 8]);
        assert!(out.holds_only_pongs());
        // As long as a pong, and none.
        out.frame(kind::PING, 0, 0, &[&[3; 8]]);
        assert!(!out.holds_only_pongs());
    }

    #[test]
    fn what_was_taken_is_not_sent_again() {
        let mut out = Out::default();
        out.frame(kind::DATA, flag::END_STREAM, 5, &[b"ab", b"c"]);
        assert_eq!((out.unsent(), out.wrote()), (12, 12));
        let mut sent = Vec::new();
        let polled = out.poll_send(|bytes| {
            if sent.len() == 5 {
                return Poll::Pending;
            }
            sent.extend_from_slice(&bytes[..5]);
            Poll::Ready(Ok(5))
        });
        assert!(polled.is_pending() && out.unsent() == 7);
        let polled = out.poll_send(|bytes| {
            sent.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        });
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        assert_eq!(sent, b"\0\0\x03\0\x01\0\0\0\x05abc");
        assert!(matches!(out.poll_send(|_| unreachable!("nothing is left")), Poll::Ready(Ok(()))));
    }
}
