//! Whose turn it is among the connections of a core.
//!
//! Many writing clients come in waves: the answers of one log write wake them all at once, and each costs the core a
//! system call or two. A client that reads must not wait until such a wave has passed. So connections are tasks of a
//! small executor inside glommio's, with two queues:
//!
//! ```text
//!   woken ──┬─▶ ahead    connections whose last requests were reads, with short answers    4 of these, then
//!           └─▶ behind   the others                                                        1 of these
//! ```
//!
//! One turn, and others for [`SLICE`]; then the rings are looked at, which is how new requests are seen at all, and the
//! core's other tasks run.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use async_task::Runnable;
use crossbeam_queue::SegQueue;
use futures::task::AtomicWaker;

use super::{clock, task};
use crate::stdx::time::Duration;

/// How long connections run before the rings are looked at: some fifty times what the look costs.
const SLICE: Duration = Duration::from_micros(250);
/// Turns ahead for each turn behind, so that a flood of reads does not stop the writers.
const AHEAD_RATIO: u32 = 4;

/// The connections of one core that are ready to run.
///
/// Tasks stay on the core that spawned them. The queues are lock-free and shared because a waker may be called, and so
/// must be callable, from any thread.
#[derive(Default)]
pub struct Turns {
    ahead: SegQueue<Runnable>,
    behind: SegQueue<Runnable>,
    runner: AtomicWaker,
}

/// A connection's say in which queue it waits. It begins ahead, and HTTP/1.1's connections stay there: a probe must be
/// answered while the member is busy.
#[derive(Clone)]
pub struct Priority(Arc<AtomicBool>);

impl Priority {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// From its next wake-up on the connection waits ahead of others, or behind.
    pub fn set(&self, ahead: bool) {
        // Nothing else is published with it: only the core's own scheduling reads it.
        self.0.store(ahead, Ordering::Relaxed);
    }

    fn is_ahead(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Turns {
    /// A core without connections, whose turns are taken on this executor.
    pub fn start() -> Arc<Self> {
        let turns = Arc::new(Self::default());
        task::spawn(run(turns.clone()));
        turns
    }

    /// Runs the future that `connection` makes on this core, in turn with the others.
    pub fn spawn<F: Future<Output = ()> + 'static>(self: &Arc<Self>, connection: impl FnOnce(Priority) -> F) {
        let priority = Priority::new();
        let (turns, place) = (self.clone(), priority.clone());
        let schedule = move |runnable| turns.queue(place.is_ahead(), runnable);
        let (runnable, handle) = async_task::spawn_local(connection(priority), schedule);
        handle.detach();
        runnable.schedule();
    }

    fn queue(&self, ahead: bool, runnable: Runnable) {
        if ahead { &self.ahead } else { &self.behind }.push(runnable);
        self.runner.wake();
    }

    fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.behind.is_empty()
    }

    /// The next in turn. `ahead` counts those who went ahead of others since one of the others had a turn.
    fn next(&self, ahead: &mut u32) -> Option<Runnable> {
        if *ahead >= AHEAD_RATIO {
            *ahead = 0;
            if let Some(runnable) = self.behind.pop() {
                return Some(runnable);
            }
        }
        if let Some(runnable) = self.ahead.pop() {
            *ahead += 1;
            return Some(runnable);
        }
        *ahead = 0;
        self.behind.pop()
    }
}

async fn run(turns: Arc<Turns>) {
    let mut ahead = 0;
    loop {
        poll_fn(|cx| {
            if !turns.is_empty() {
                return Poll::Ready(());
            }
            turns.runner.register(cx.waker());
            if turns.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        // A slice begins behind the first turn: for a connection that is alone the clock is not read.
        let mut end = None;
        while let Some(runnable) = turns.next(&mut ahead) {
            runnable.run();
            if turns.is_empty() {
                break;
            }
            let now = clock::now();
            if now >= *end.get_or_insert(now + SLICE) {
                break;
            }
        }
        if !turns.is_empty() {
            task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// A connection that takes its priority in a first turn and notes its name in a second.
    fn client(turns: &Arc<Turns>, order: &Rc<RefCell<String>>, name: char, is_ahead: bool) {
        let order = order.clone();
        turns.spawn(|priority| async move {
            priority.set(is_ahead);
            let mut woken = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut woken, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            order.borrow_mut().push(name);
        });
    }

    #[test]
    fn readers_go_ahead_and_leave_every_fifth_turn_to_writers() {
        let turns = Arc::new(Turns::default());
        let order = Rc::default();
        "wwwrrrrrr".chars().for_each(|name| client(&turns, &order, name, name == 'r'));
        // First turns: all stand ahead.
        for _ in 0..9 {
            turns.ahead.pop().expect("nine are ready").run();
        }
        let mut ahead = 0;
        while let Some(runnable) = turns.next(&mut ahead) {
            runnable.run();
        }
        assert_eq!(order.borrow().as_str(), "rrrrwrrww");
    }

    #[test]
    fn a_flood_ahead_does_not_stop_those_behind() {
        let turns = Arc::new(Turns::default());
        turns.spawn(|_| {
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
        });
        let done = Rc::new(RefCell::new(false));
        let (mark, mut yields) = (done.clone(), 3);
        turns.spawn(|priority| async move {
            priority.set(false);
            poll_fn(|cx| {
                yields -= 1;
                cx.waker().wake_by_ref();
                if yields == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            *mark.borrow_mut() = true;
        });
        let mut ahead = 0;
        for _ in 0..20 {
            turns.next(&mut ahead).expect("one of them is always ready").run();
        }
        assert!(*done.borrow());
    }
}
