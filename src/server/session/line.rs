//! Places in a line: whoever is first has the turn, until it gives up its place.
//!
//! No waker is woken or dropped while the line is borrowed: either may end a task, which gives up its own place.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Those of one core that do something one after the other, by the order in which they came.
#[derive(Default)]
pub struct Line {
    places: RefCell<BTreeMap<u64, Option<Waker>>>,
    /// The number of the next that comes.
    next: Cell<u64>,
}

impl Line {
    /// A place behind all others.
    pub fn place(self: &Rc<Self>) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        self.places.borrow_mut().insert(number, None);
        Place { line: self.clone(), number }
    }
}

/// A place in a line. Dropped, it lets the next one begin.
pub struct Place {
    line: Rc<Line>,
    number: u64,
}

impl Place {
    /// Waits until this place is the first.
    pub async fn turn(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Ready when this place is the first.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_first() {
            return Poll::Ready(());
        }
        let before = self.line.places.borrow_mut().insert(self.number, Some(cx.waker().clone()));
        drop(before);
        Poll::Pending
    }

    /// Whether this place is the first.
    pub fn is_first(&self) -> bool {
        self.line.places.borrow().first_key_value().is_some_and(|(first, _)| *first == self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let was_first = self.is_first();
        let mut places = self.line.places.borrow_mut();
        let own = places.remove(&self.number);
        let next =
            if was_first { places.first_entry().and_then(|mut first| first.get_mut().take()) } else { None };
        drop(places);
        drop(own);
        if let Some(next) = next {
            next.wake();
        }
    }
}
