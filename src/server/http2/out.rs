//! What a connection has to say, in the order in which it leaves.
//!
//! Sent frame by frame, a large answer would cost two system calls per 16 KB and a batch of small ones a call each. So
//! frames are collected, and the connection sends them when it has nothing more to do. An idle connection owns no
//! buffer: it goes back to the core's pool once it is sent.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::task::Poll;

use super::frame::{HEAD_BYTES, Head, flag, kind};

/// Collected bytes from which on data waits in its stream: eight DATA frames of 16 KB.
pub const OUT_BYTES_MAX: usize = 128 * 1024;
/// ... and from which on the client waits with whatever makes us say more. Well above what data may fill: a client
/// whose socket is full of data must still be heard when it takes a call back.
const CLOGGED_BYTES: usize = 2 * OUT_BYTES_MAX;
/// Bytes that are with the kernel already and may stay in front of those that are not.
const SENT_BYTES_MAX: usize = 64 * 1024;
/// What the pool of a core keeps: one wave of answers has all its connections write before the first of them sends.
const POOL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How large a buffer may be to be kept, and how small it begins.
const BUFFER_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;
const BUFFER_BYTES_MIN: usize = 1024;
/// Payload of a PING frame.
const PING_BYTES: usize = 8;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { buffers: Vec::new(), bytes: 0 }) };
}

/// Buffers for the next writers of this core.
struct Pool {
    buffers: Vec<Vec<u8>>,
    /// What they have room for, together.
    bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        match self.buffers.pop() {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(BUFFER_BYTES_MIN),
        }
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes <= BUFFER_BYTES_MAX && self.bytes + bytes <= POOL_BYTES_MAX {
            buffer.clear();
            self.bytes += bytes;
            self.buffers.push(buffer);
        }
    }
}

/// Collected frames.
#[derive(Default)]
pub struct Out {
    bytes: Vec<u8>,
    /// `bytes[..sent]` is with the kernel already.
    sent: usize,
    /// The bytes may begin inside a frame: a part of them was sent and cut off.
    cut: bool,
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

    /// Whether so much waits that data has to stay in its stream.
    pub fn is_full(&self) -> bool {
        self.unsent() >= OUT_BYTES_MAX
    }

    /// Whether so much waits that the client has to wait with more.
    pub fn is_clogged(&self) -> bool {
        self.unsent() >= CLOGGED_BYTES
    }

    /// Whether all that is collected are acknowledgements of pings.
    pub fn holds_only_pongs(&self) -> bool {
        !self.cut
            && self.sent == 0
            && self.pongs > 0
            && self.bytes.len() == self.pongs * (HEAD_BYTES + PING_BYTES)
    }

    /// Appends a frame whose payload is these parts, one behind the other.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, parts: &[&[u8]]) {
        if self.bytes.capacity() == 0 {
            self.bytes = POOL.with_borrow_mut(Pool::take);
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

    /// Throws away what was sent, so that a client who never takes everything does not make the buffer grow.
    fn cut_off(&mut self) {
        if self.sent > SENT_BYTES_MAX.min(self.unsent()) {
            self.bytes.drain(..self.sent);
            (self.sent, self.cut) = (0, true);
        }
    }

    /// Sends what is collected through `write`, which says how much it took.
    pub fn poll_send(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match write(&self.bytes[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => self.sent += taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.cut_off();
                    return Poll::Pending;
                }
            }
        }
        if self.bytes.capacity() > 0 {
            (self.sent, self.pongs, self.cut) = (0, 0, false);
            let buffer = std::mem::take(&mut self.bytes);
            POOL.with_borrow_mut(|pool| pool.give_back(buffer));
        }
        Poll::Ready(Ok(()))
    }
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
    fn the_pool_keeps_a_bounded_amount() {
        let mut pool = Pool { buffers: Vec::new(), bytes: 0 };
        pool.give_back(Vec::with_capacity(BUFFER_BYTES_MAX + 1));
        assert_eq!(pool.take().capacity(), BUFFER_BYTES_MIN, "too large to keep");
        (0..20).for_each(|_| pool.give_back(Vec::with_capacity(BUFFER_BYTES_MAX)));
        assert_eq!((pool.buffers.len(), pool.bytes), (8, POOL_BYTES_MAX));
        assert_eq!(
            (pool.take().capacity(), pool.bytes),
            (BUFFER_BYTES_MAX, POOL_BYTES_MAX - BUFFER_BYTES_MAX)
        );
    }

    #[test]
    fn a_client_that_never_takes_everything_costs_a_bounded_amount() {
        let (mut out, mut sent, mut said) = (Out::default(), Vec::new(), Vec::new());
        for round in 0..1000_u32 {
            while !out.is_full() {
                out.frame(kind::DATA, 0, round, &[&[round as u8; 1000]]);
                said.extend_from_slice(
                    &Head { length: 1000, kind: kind::DATA, flags: 0, stream: round }.bytes(),
                );
                said.extend_from_slice(&[round as u8; 1000]);
            }
            let mut takes = 10_007;
            let polled = out.poll_send(|bytes| {
                let taken = bytes.len().min(std::mem::take(&mut takes));
                sent.extend_from_slice(&bytes[..taken]);
                if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
            });
            assert!(polled.is_pending() && out.bytes.len() < 2 * OUT_BYTES_MAX);
        }
        assert!(sent == said[..sent.len()]);
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
