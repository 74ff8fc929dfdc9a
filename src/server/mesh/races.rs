//! Lanes under the model checker; see [`crate::stdx::sync`].
//!
//! A consumer that sleeps looks whether it was woken, and must have been once all producers are done: then nobody is
//! left to wake it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::{Outbox, Receiver, lane};
use crate::stdx::sync::explore::explore;
use crate::stdx::sync::plant::{Fault, Plant, is_found};

/// A consumer's sleep.
struct Sleep {
    woken: AtomicBool,
    /// Producers that have not done their last wake.
    producers: AtomicUsize,
}

impl Wake for Sleep {
    fn wake(self: Arc<Self>) {
        // Not a store: the model would let a swap on another thread miss it.
        self.woken.swap(true, Ordering::AcqRel);
    }
}

impl Sleep {
    fn new(producers: usize) -> Arc<Self> {
        Arc::new(Self { woken: AtomicBool::new(false), producers: AtomicUsize::new(producers) })
    }

    /// A producer on a thread of its own.
    fn spawn<T: 'static>(
        self: &Arc<Self>,
        producer: impl FnOnce() -> Vec<T> + 'static,
    ) -> thread::JoinHandle<Vec<T>> {
        let sleep = self.clone();
        thread::spawn(move || {
            let sent = producer();
            sleep.producers.fetch_sub(1, Ordering::AcqRel);
            sent
        })
    }

    /// Polls `ready` as often as it is woken, and takes up to `limit` messages whenever it is. Ends when the producers
    /// have.
    fn consume<T, F: Future<Output = ()>>(
        self: &Arc<Self>,
        receiver: &Receiver<T>,
        limit: usize,
        ready: impl Fn() -> F,
    ) -> Vec<T> {
        let waker = Waker::from(self.clone());
        let mut all = Vec::new();
        loop {
            if pin!(ready()).poll(&mut Context::from_waker(&waker)).is_ready() {
                let mut batch = VecDeque::new();
                receiver.take(limit, &mut batch);
                all.extend(batch);
                continue;
            }
            loop {
                let left = self.producers.load(Ordering::Acquire);
                if self.woken.swap(false, Ordering::AcqRel) {
                    break;
                }
                if left == 0 {
                    assert!(receiver.is_empty(), "nobody woke the consumer");
                    return all;
                }
                thread::yield_now();
            }
            // Who registers while the producer wakes is woken at once, again and again.
            thread::yield_now();
        }
    }
}

/// A producer sends one by one, to a consumer who takes one by one.
fn send_and_take() -> u64 {
    explore(3, || {
        let (sender, receiver) = lane(2);
        let sleep = Sleep::new(1);
        let producer =
            sleep.spawn(move || (0..3).filter(|&number| sender.send(number) != Err(number)).collect());
        let got = sleep.consume(&receiver, 1, || receiver.ready());
        assert_eq!(got, producer.join().unwrap(), "messages are lost or out of order");
    })
}

/// A producer pushes a turn's messages and wakes once.
fn wake_once() -> u64 {
    explore(3, || {
        let (sender, receiver) = lane(2);
        let sleep = Sleep::new(1);
        let producer = sleep.spawn(move || {
            let sent = (0..2).filter(|&number| sender.push(number) != Err(number)).collect();
            sender.wake();
            sent
        });
        let got = sleep.consume(&receiver, usize::MAX, || receiver.ready());
        assert_eq!(got, producer.join().unwrap(), "messages are lost or out of order");
    })
}

/// Two producers, each with a message.
fn send_from_two() -> u64 {
    explore(1, || {
        let (sender, receiver) = lane(2);
        let sleep = Sleep::new(2);
        let producers = [0, 1].map(|producer| {
            let sender = sender.clone();
            sleep.spawn(move || vec![sender.send(producer).unwrap()])
        });
        let mut got = sleep.consume(&receiver, 1, || receiver.ready());
        producers.into_iter().for_each(|producer| drop(producer.join().unwrap()));
        got.sort_unstable();
        assert_eq!(got, [0, 1], "messages are lost");
    })
}

/// An outbox in front of a lane that is too small.
fn overflow() -> u64 {
    explore(2, || {
        let (sender, receiver) = lane(2);
        let sleep = Sleep::new(1);
        let producer = sleep.spawn(move || {
            let mut outbox = Outbox::new(sender);
            (0..4).for_each(|number| outbox.push(number));
            let all = outbox.flush() || outbox.flush() || outbox.flush();
            assert_eq!(all, outbox.waiting.is_empty());
            (0..4 - outbox.waiting.len()).collect()
        });
        let got = sleep.consume(&receiver, 3, || receiver.ready());
        assert_eq!(got, producer.join().unwrap(), "messages are lost or out of order");
    })
}

#[test]
fn lanes_keep_order_and_wake() {
    for model in [send_and_take, wake_once, overflow, send_from_two] {
        let executions = model();
        assert!(executions > 50, "only {executions} orders were tried");
    }
}

#[test]
#[should_panic(expected = "nobody woke the consumer")]
fn a_consumer_that_looks_before_it_registers_is_found() {
    explore(2, || {
        let (sender, receiver) = lane(2);
        let sleep = Sleep::new(1);
        let producer = sleep.spawn(move || vec![sender.send(()).unwrap()]);
        let look_and_register = |cx: &mut Context<'_>| {
            if !receiver.is_empty() {
                return Poll::Ready(());
            }
            receiver.0.consumer.register(cx.waker());
            Poll::Pending
        };
        sleep.consume(&receiver, 1, || poll_fn(look_and_register));
        producer.join().unwrap();
    });
}

#[test]
fn faults_are_found() {
    let plant = |line, fault| Plant {
        file: "server/mesh/mod.rs",
        text: include_str!("mod.rs"),
        occurrence: 0,
        line,
        fault,
    };
    for (plant, model) in [
        (plant("self.0.consumer.register", Fault::LeftOut), send_and_take as fn() -> u64),
        (plant("self.0.consumer.wake()", Fault::LeftOut), send_and_take),
        (plant("self.0.consumer.wake()", Fault::LeftOut), send_from_two),
        (plant("self.0.consumer.wake()", Fault::LeftOut), wake_once),
        (plant("self.0.consumer.wake()", Fault::LeftOut), overflow),
    ] {
        assert!(is_found(&plant, || _ = model()), "{}", plant.line);
    }
}
