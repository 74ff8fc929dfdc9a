//! What a connection has to say, in the order in which it leaves.
//!
//! Sent frame by frame, a large answer would cost two system calls per 16 KB and a batch of small ones a call each. So
//! frames are collected, and the connection sends them when it has nothing more to do. Large bodies are not copied:
//! they are remembered with their place among the collected bytes. An idle connection owns no buffer: it goes back to
//! the core's pool once it is sent.
//!
//! ```text
//!   bytes     head small head | head | head head small |          one system call sends from all places in order
//!   bodies                    ^ 16 KB ^ 16 KB
//! ```
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::Poll;

use bytes::{Buf, Bytes};

use super::frame::{HEAD_BYTES, Head, flag, kind};

/// Collected bytes from which on data waits in its stream: eight DATA frames of 16 KB.
pub const OUT_BYTES_MAX: usize = 128 * 1024;
/// Collected bytes from which on nothing more is read of the client, because it would make us say more. The figure is
/// well above what data may fill: a client whose socket is full of data must still be heard when it takes a call back.
const CLOGGED_BYTES: usize = 2 * OUT_BYTES_MAX;
/// Bytes that are with the kernel already and may stay in front of those that are not.
const SENT_BYTES_MAX: usize = 64 * 1024;
/// What the pool of a core keeps: one wave of answers has all its connections write before the first of them sends.
const POOL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How large a buffer may be to be kept, and how small it begins.
const BUFFER_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;
const BUFFER_BYTES_MIN: usize = 1024;
/// A body from this length on is sent from where it is; below, copying it costs less than another place to send from.
const BODY_BYTES_MIN: usize = 2048;
/// Places that one system call sends from.
const SLICES: usize = 32;
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
    /// What goes in front of the byte at a place in `bytes`, in order.
    bodies: VecDeque<(usize, Bytes)>,
    /// What is left of the bodies.
    body_bytes: usize,
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
        self.bytes.len() - self.sent + self.body_bytes
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
            && self.unsent() == self.pongs * (HEAD_BYTES + PING_BYTES)
    }

    /// Appends a frame whose payload is these parts, one behind the other.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum();
        self.begin(Head { length, kind, flags, stream }, length);
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    /// Appends a DATA frame.
    pub fn data(&mut self, stream: u32, prefix: &[u8], body: Bytes) {
        let length = prefix.len() + body.len();
        let copies = body.len() < BODY_BYTES_MIN;
        self.begin(
            Head { length, kind: kind::DATA, flags: 0, stream },
            if copies { length } else { prefix.len() },
        );
        self.bytes.extend_from_slice(prefix);
        if copies {
            self.bytes.extend_from_slice(&body);
        } else {
            self.body_bytes += body.len();
            self.bodies.push_back((self.bytes.len(), body));
        }
    }

    /// Appends the head of a frame, of which so many bytes more will be copied.
    fn begin(&mut self, head: Head, copied: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes = POOL.with_borrow_mut(Pool::take);
        }
        self.bytes.reserve(HEAD_BYTES + copied);
        self.bytes.extend_from_slice(&head.bytes());
        self.wrote += HEAD_BYTES + head.length;
    }

    /// Appends the acknowledgement of a PING.
    pub fn pong(&mut self, payload: &[u8; PING_BYTES]) {
        self.frame(kind::PING, flag::ACK, 0, &[payload]);
        self.pongs += 1;
    }

    /// Sends what is collected through `write`, which says how much it took.
    pub fn poll_send(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.unsent() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.gather(&mut slices);
            match write(&slices[..filled]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => self.advance(taken),
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

    /// The next places to send from; returns how many.
    fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let (mut at, mut filled) = (self.sent, 0);
        let mut add = |slice: &'a [u8]| {
            if !slice.is_empty() && filled < SLICES {
                slices[filled] = IoSlice::new(slice);
                filled += 1;
            }
        };
        for (place, body) in self.bodies.iter().take(SLICES) {
            add(&self.bytes[at..*place]);
            add(body);
            at = *place;
        }
        if self.bodies.len() <= SLICES {
            add(&self.bytes[at..]);
        }
        filled
    }

    /// The next `taken` bytes are with the kernel.
    fn advance(&mut self, mut taken: usize) {
        while taken > 0 {
            let place = self.bodies.front().map_or(self.bytes.len(), |(place, _)| *place);
            let step = taken.min(place - self.sent);
            self.sent += step;
            taken -= step;
            if taken == 0 {
                break;
            }
            // The kernel takes no more than there is.
            let Some((_, body)) = self.bodies.front_mut() else { return };
            let step = taken.min(body.len());
            body.advance(step);
            self.body_bytes -= step;
            taken -= step;
            if body.is_empty() {
                self.bodies.pop_front();
            }
        }
    }

    /// Throws away what was sent, so that a client who never takes everything does not make the buffer grow.
    fn cut_off(&mut self) {
        if self.sent > SENT_BYTES_MAX.min(self.bytes.len() - self.sent) {
            self.bytes.drain(..self.sent);
            self.bodies.iter_mut().for_each(|(place, _)| *place -= self.sent);
            (self.sent, self.cut) = (0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::prng::Prng;

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
        let mut prng = Prng::new(1);
        for round in 0..1000_u32 {
            while !out.is_full() {
                let length = if prng.chance(1, 2) { 100 } else { 10_000 };
                let body = vec![round as u8; length];
                said.extend_from_slice(
                    &Head { length: length + 2, kind: kind::DATA, flags: 0, stream: round }.bytes(),
                );
                said.extend_from_slice(b"ab");
                said.extend_from_slice(&body);
                out.data(round, b"ab", body.into());
            }
            let mut takes = prng.below(20_000) as usize;
            let polled = out.poll_send(|slices| {
                let mut taken = 0;
                for slice in slices {
                    let step = slice.len().min(takes);
                    sent.extend_from_slice(&slice[..step]);
                    (takes, taken) = (takes - step, taken + step);
                }
                if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
            });
            assert!(polled.is_pending() && out.bytes.len() < 2 * OUT_BYTES_MAX);
        }
        assert!(sent == said[..sent.len()] && sent.len() > 5_000_000);
    }

    #[test]
    fn what_was_taken_is_not_sent_again() {
        let mut out = Out::default();
        out.frame(kind::DATA, flag::END_STREAM, 5, &[b"ab", b"c"]);
        out.data(7, b"", vec![b'x'; BODY_BYTES_MIN].into());
        let all = 12 + HEAD_BYTES + BODY_BYTES_MIN;
        assert_eq!((out.unsent(), out.wrote(), out.bodies.len()), (all, all, 1));
        let mut sent = Vec::new();
        let polled = out.poll_send(|slices| {
            if sent.len() == 5 {
                return Poll::Pending;
            }
            sent.extend_from_slice(&slices[0][..5]);
            Poll::Ready(Ok(5))
        });
        assert!(polled.is_pending() && out.unsent() == all - 5);
        let polled = out.poll_send(|slices| {
            let before = sent.len();
            slices.iter().for_each(|slice| sent.extend_from_slice(slice));
            Poll::Ready(Ok(sent.len() - before))
        });
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        assert_eq!(&sent[..12], b"\0\0\x03\0\x01\0\0\0\x05abc");
        assert_eq!((sent.len(), &sent[all - 2..]), (all, &b"xx"[..]));
        assert!(matches!(out.poll_send(|_| unreachable!("nothing is left")), Poll::Ready(Ok(()))));
    }
}
