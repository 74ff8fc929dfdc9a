//! Bounded lock-free lanes between cores.
//!
//! ```text
//!   session core 1 ──┬── Input ────────▶ replica core        every producer may push, one consumer drains
//!   session core 2 ──┘
//!   replica core   ───── FromReplica ──▶ session core n      one lane per session core
//! ```
//!
//! A lane is FIFO. It never blocks: a producer that meets a full lane gets its message back and decides (a
//! request is refused, an answer waits in an [`Outbox`]). Waking a sleeping core costs some 30 microseconds, so
//! consumers take everything that is there before they sleep, and producers wake once per turn where they can.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::stdx::sync::{Arc, ArrayQueue, AtomicWaker};

/// Bytes that the messages of one lane carry, beyond which no further message may carry any. The last message that may
/// is looked at no closer, so the lane carries two of the longest answers at most.
const CARRIED_BYTES_MAX: usize = ANSWER_ASSEMBLED_BYTES_MAX;

struct Ring<T> {
    queue: ArrayQueue<T>,
    consumer: AtomicWaker,
    /// Bytes of what messages carry that have not arrived; orders nothing else.
    carried: AtomicUsize,
}

/// One end that pushes. Any number of them, on any thread.
pub struct Sender<T>(Arc<Ring<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The end that drains. One, on one core.
pub struct Receiver<T>(Arc<Ring<T>>);

/// A lane for up to `capacity` messages.
pub fn lane<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let ring = Arc::new(Ring {
        queue: ArrayQueue::new(capacity),
        consumer: AtomicWaker::new(),
        carried: AtomicUsize::new(0),
    });
    (Sender(ring.clone()), Receiver(ring))
}

impl<T> Sender<T> {
    /// Pushes and wakes the consumer. A full lane gives the message back.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.push(message)?;
        self.wake();
        Ok(())
    }

    /// Pushes without waking: the caller wakes once when its turn ends.
    pub fn push(&self, message: T) -> Result<(), T> {
        self.0.queue.push(message)
    }

    /// Wakes the consumer.
    pub fn wake(&self) {
        self.0.consumer.wake();
    }
}

impl<T> Receiver<T> {
    /// Takes what is there, up to `limit` messages, without waiting.
    pub fn take(&self, limit: usize, into: &mut VecDeque<T>) {
        while into.len() < limit {
            let Some(message) = self.0.queue.pop() else { return };
            into.push_back(message);
        }
    }

    /// Waits until something is there.
    pub async fn ready(&self) {
        poll_fn(|cx| {
            // Registered before the look: a message pushed in between wakes us.
            self.0.consumer.register(cx.waker());
            if self.0.queue.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// A message has been dealt with that carried `bytes`.
    pub fn arrived(&self, bytes: usize) {
        if bytes > 0 {
            self.0.carried.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether a look would find nothing.
    pub fn is_empty(&self) -> bool {
        self.0.queue.is_empty()
    }
}

/// A sender for messages that may not be lost: what a full lane refuses waits here, in order.
///
/// While anything waits, [`Outbox::is_backed_up`] has the producer take nothing new, so no more waits than the replies
/// and events of what the producer had taken before.
pub struct Outbox<T> {
    lane: Sender<T>,
    /// Bounded by what the producer had taken when the lane became full.
    waiting: VecDeque<T>,
    pushed: bool,
}

impl<T> Outbox<T> {
    /// An outbox in front of `lane`.
    pub fn new(lane: Sender<T>) -> Self {
        Self { lane, waiting: VecDeque::new(), pushed: false }
    }

    /// Counts `bytes` that the next message carries, until they have [`arrived`], so that a consumer that is slower
    /// than its producer fills no memory. False, and nothing is counted, where the lane carries too much already.
    ///
    /// [`arrived`]: Receiver::arrived
    #[must_use = "what the lane refuses to carry must not be sent"]
    pub fn carry(&self, bytes: usize) -> bool {
        let carried = &self.lane.0.carried;
        let may = bytes == 0 || carried.load(Ordering::Relaxed) <= CARRIED_BYTES_MAX;
        if may && bytes > 0 {
            carried.fetch_add(bytes, Ordering::Relaxed);
        }
        may
    }

    /// Queues a message behind all earlier ones.
    pub fn push(&mut self, message: T) {
        self.pushed = true;
        if self.waiting.is_empty() {
            if let Err(message) = self.lane.push(message) {
                self.waiting.push_back(message);
            }
        } else {
            self.waiting.push_back(message);
        }
    }

    /// Whether the consumer is so far behind that the lane is full. Who fills the lane takes nothing new meanwhile.
    pub fn is_backed_up(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends a turn: moves on what now fits and wakes the consumer once. True when everything is on its way.
    pub fn flush(&mut self) -> bool {
        // The consumer was woken for a message that waited here when the lane was full, and may sleep again by now.
        let news = std::mem::take(&mut self.pushed) || !self.waiting.is_empty();
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.lane.push(message) {
                self.waiting.push_front(message);
                break;
            }
        }
        if news {
            self.lane.wake();
        }
        self.waiting.is_empty()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::stdx::waker::Wakes;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn a_full_lane_gives_back_and_an_outbox_keeps_order() {
        let (sender, receiver) = lane(2);
        let mut outbox = Outbox::new(sender.clone());
        (0..5).for_each(|n| outbox.push(n));
        assert!(!outbox.flush());
        assert_eq!(sender.push(9), Err(9));
        let mut got = VecDeque::new();
        while got.len() < 5 {
            receiver.take(usize::MAX, &mut got);
            outbox.flush();
        }
        assert_eq!(got, [0, 1, 2, 3, 4]);
        assert!(outbox.flush() && receiver.is_empty());
    }

    #[test]
    fn an_outbox_is_backed_up_while_its_lane_is_full() {
        let (sender, receiver) = lane(2);
        let mut outbox = Outbox::new(sender);
        (0..2).for_each(|n| outbox.push(n));
        assert!(outbox.flush() && !outbox.is_backed_up());
        outbox.push(2);
        assert!(outbox.is_backed_up() && !outbox.flush() && outbox.is_backed_up());
        receiver.take(1, &mut VecDeque::new());
        assert!(outbox.flush() && !outbox.is_backed_up());
    }

    #[test]
    fn messages_carry_a_bounded_amount_until_it_has_arrived() {
        let (sender, receiver) = lane::<()>(2);
        let outbox = Outbox::new(sender);
        assert!(outbox.carry(CARRIED_BYTES_MAX) && outbox.carry(1));
        assert!(!outbox.carry(1) && outbox.carry(0));
        receiver.arrived(1);
        assert!(outbox.carry(1));
    }

    #[test]
    fn what_fits_only_later_wakes_the_consumer_again() {
        let (sender, receiver) = lane(2);
        let (waker, wakes) = Wakes::new();
        let mut outbox = Outbox::new(sender);
        (0..4).for_each(|n| outbox.push(n));
        assert!(!outbox.flush());
        let mut got = VecDeque::new();
        receiver.take(usize::MAX, &mut got);
        assert!(pin!(receiver.ready()).poll(&mut Context::from_waker(&waker)).is_pending(), "it sleeps");
        assert!(outbox.flush(), "there is room now");
        assert_eq!(wakes.count(), 1, "the rest came without a word");
    }

    #[test]
    fn a_push_from_another_thread_wakes_the_consumer() {
        let (sender, receiver) = lane(64);
        let producer = std::thread::spawn(move || {
            for n in 0..10_000u32 {
                let mut message = n;
                while let Err(back) = sender.send(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        let mut batch = VecDeque::new();
        while next < 10_000 {
            futures::executor::block_on(receiver.ready());
            receiver.take(64, &mut batch);
            for n in batch.drain(..) {
                assert_eq!(n, next);
                next += 1;
            }
        }
        producer.join().unwrap();
    }
}

#[cfg(all(test, feature = "loom"))]
mod races;
