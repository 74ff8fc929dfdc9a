//! What is counted of reads that are under way, and of those that nobody confirms.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use super::member::unanswered;
use crate::server::grpc::Status;

#[test]
fn reads_that_nobody_confirms_are_counted_as_slow_or_as_failed() {
    let (session, _lane) = unanswered();
    let ended = Rc::new(RefCell::new(Vec::new()));
    let read = || {
        let ended = ended.clone();
        session.linearizable(move |_, result: Result<(), Status>| ended.borrow_mut().push(result.is_ok()));
    };
    let counted = || (session.metrics.read_indexes_slow.get(), session.metrics.read_indexes_failed.get());
    read();
    assert_eq!((counted(), ended.borrow().len()), ((0, 0), 0), "the read waits");
    read();
    assert_eq!((counted(), &ended.borrow()[..]), ((0, 1), &[false][..]), "the lane is full");
    while ended.borrow().len() < 2 {
        session.expire();
    }
    assert_eq!((counted(), &ended.borrow()[..]), ((1, 1), &[false, false][..]), "nobody answers in time");
}

#[test]
fn answers_that_hold_a_state_are_counted_while_they_do() {
    let (session, _lane) = unanswered();
    let held = || session.metrics.store_readers.get();
    let revision = session.view(|view| view.revision());
    let (pin, reader) = (session.pin(revision), session.reader());
    assert!(pin.is_some());
    assert_eq!(held(), 2);
    drop(pin);
    assert_eq!(held(), 1);
    drop(reader);
    assert_eq!(held(), 0);
}
