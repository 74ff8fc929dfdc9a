//! Requests that nobody has looked at yet.
//!
//! ```text
//!   client ── push ──▶ | request | request | (over) | request | ── pop ──▶ application
//!                                              ▲
//!                                              the client took it back, or broke its stream
//! ```
//!
//! Requests whose stream is over stay in line until they are met or thrown out in bulk, so taking one back costs a
//! client as much as it costs us.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::request::RequestHead;

/// Fields of the requests of one connection that may wait.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests whose stream is over may stay in line up to this, and to the number of open streams.
const OVER_MAX: usize = 64;
/// Requests that a client may take back before somebody looks, for each stream that it may have open. A client that
/// cancels all its calls at once takes back one for each.
const TAKEN_BACK_PER_STREAM: usize = 4;

/// A request that nobody has looked at yet.
pub struct Waiting {
    pub head: Box<RequestHead>,
    /// Where its stream is kept, and its id.
    pub key: u32,
    pub id: u32,
    /// Bytes of its fields.
    pub bytes: usize,
}

/// The requests of one connection, in the order in which they came.
#[derive(Default)]
pub struct Backlog {
    requests: VecDeque<Waiting>,
    /// Bytes of the fields of `requests`.
    bytes: usize,
    /// How many of `requests` have a stream that is over.
    over: usize,
    /// Requests that were taken back since somebody last looked.
    taken_back: usize,
}

impl Backlog {
    /// Whether a request with fields of `bytes` may not wait here.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.bytes + bytes > BYTES_MAX
    }

    /// Bytes of the fields of the requests.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A request came.
    pub fn push(&mut self, request: Waiting) {
        self.bytes += request.bytes;
        self.requests.push_back(request);
    }

    /// Somebody looks: the first request whose stream `is_open`.
    pub fn pop(&mut self, is_open: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        self.taken_back = 0;
        while let Some(request) = self.requests.pop_front() {
            self.bytes -= request.bytes;
            if is_open(&request) {
                return Some(request);
            }
            self.over -= 1;
        }
        None
    }

    /// A client that may have `streams` open takes a request back. False when those are too many.
    pub fn take_back(&mut self, streams: usize) -> bool {
        self.taken_back += 1;
        self.taken_back <= TAKEN_BACK_PER_STREAM * streams
    }

    /// The stream of a request is over; `open` streams are not, and `is_open` tells which.
    pub fn forget(&mut self, open: usize, is_open: impl Fn(&Waiting) -> bool) {
        self.over += 1;
        if self.over <= open + OVER_MAX {
            return;
        }
        let bytes = &mut self.bytes;
        self.requests.retain(|request| {
            let stays = is_open(request);
            *bytes -= if stays { 0 } else { request.bytes };
            stays
        });
        self.over = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u32) -> Waiting {
        Waiting { head: Box::default(), key: id, id, bytes: 1000 }
    }

    #[test]
    fn requests_come_out_in_order_and_those_taken_back_do_not() {
        let mut backlog = Backlog::default();
        (1..=4).for_each(|id| backlog.push(request(id)));
        let is_even = |request: &Waiting| request.id.is_multiple_of(2);
        [1, 3].iter().for_each(|_| backlog.forget(2, is_even));
        let ids: Vec<_> = std::iter::from_fn(|| backlog.pop(is_even)).map(|request| request.id).collect();
        assert_eq!((ids, backlog.bytes(), backlog.over), (vec![2, 4], 0, 0));
    }

    #[test]
    fn what_was_taken_back_does_not_pile_up() {
        let mut backlog = Backlog::default();
        for id in 0..100_000 {
            backlog.push(request(id));
            backlog.forget(0, |_| false);
            assert!(backlog.requests.len() <= OVER_MAX && !backlog.is_full(0));
        }
    }

    #[test]
    fn a_client_may_take_back_all_its_calls_and_no_more_before_somebody_looks() {
        let mut backlog = Backlog::default();
        assert!((0..400).all(|_| backlog.take_back(100)) && !backlog.take_back(100));
        assert!(backlog.pop(|_| true).is_none());
        assert!(backlog.take_back(100));
    }
}
