//! Streams that a client may keep open for ever: what tells them that the member stops.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// One core's long streams, other than watches.
#[derive(Debug, Default)]
pub struct Streams {
    closing: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

impl Streams {
    /// Ends them all, and those that are opened later.
    pub fn close_all(&self) {
        self.closing.set(true);
        // Taken out first: a woken stream may look at the list.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Ready once the streams are to end.
    pub fn closed(&self) -> Closed<'_> {
        Closed { streams: self, place: None }
    }
}

/// See [`Streams::closed`].
#[derive(Debug)]
pub struct Closed<'a> {
    streams: &'a Streams,
    place: Option<usize>,
}

impl Future for Closed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.streams.closing.get() {
            self.place = None;
            return Poll::Ready(());
        }
        let mut waiting = self.streams.waiting.borrow_mut();
        let known = self.place.and_then(|place| waiting.get_mut(place));
        let before = match known {
            Some(known) if known.will_wake(cx.waker()) => None,
            Some(known) => Some(std::mem::replace(known, cx.waker().clone())),
            None => {
                let place = waiting.insert(cx.waker().clone());
                drop(waiting);
                self.place = Some(place);
                return Poll::Pending;
            }
        };
        drop(waiting);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.filter(|_| !self.streams.closing.get()) {
            let own = self.streams.waiting.borrow_mut().remove(place);
            drop(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_hears_of_the_end_and_leaves_no_trace_when_it_ends_before() {
        let streams = Streams::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut early = Box::pin(streams.closed());
        let mut late = Box::pin(streams.closed());
        for _ in 0..3 {
            assert!(early.as_mut().poll(&mut cx).is_pending() && late.as_mut().poll(&mut cx).is_pending());
        }
        drop(early);
        assert_eq!(streams.waiting.borrow().len(), 1);
        streams.close_all();
        assert!(late.as_mut().poll(&mut cx).is_ready());
        drop(late);
        assert!(Box::pin(streams.closed()).as_mut().poll(&mut cx).is_ready(), "and whoever comes later");
        assert!(streams.waiting.borrow().is_empty());
    }
}
