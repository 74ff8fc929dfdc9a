//! Tasks and sleeping on this core's executor.
//!
//! A panic in a task is a broken law of ours: the server's panic hook logs it and aborts the process, so no task
//! is wrapped in `catch_unwind` (glommio would otherwise lose the executor's thread and leave the process alive).
#![forbid(unsafe_code)]

/// Places that tasks of one executor take and give back.
pub use glommio::sync::Semaphore;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::{clock, watchdog};
use crate::stdx::pace::Pace;
use crate::stdx::time::{Duration, Instant};

/// How long tasks that ask with [`make_room`] may run, all together, before the rings are looked at.
const SLICE: Duration = Duration::from_millis(1);

thread_local! {
    /// When those that ask with [`make_room`] have run long enough; `None` once the rings were looked at.
    static SLICE_END: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Tasks that wait for the next slice.
    static LINE: RefCell<VecDeque<Waker>> = const { RefCell::new(VecDeque::new()) };
}

/// Runs `future` on this core, on its own. It is polled a first time before this returns: no `RefCell` that it uses may
/// be borrowed across the call.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(watchdog::watched(future)).detach();
}

/// Lets every other task that is ready run, and the rings be looked at, before this one goes on.
///
/// A task that only wakes itself would not do: glommio looks at its rings when no task is ready, or when its preemption
/// timer fires, which `executor` keeps from happening. A timer of the shortest time is looked at together with the
/// rings.
pub async fn yield_now() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

/// Ready at once unless tasks that ask this have run for a millisecond since the rings were looked at: for work of
/// which many tasks may have a little at the same time. Those that have to wait do so in a line, and are woken one
/// after the other: however many they are, each is polled a few times.
pub async fn make_room() {
    let mut room = Room::default();
    poll_fn(|cx| room.poll(cx)).await;
}

/// [`yield_now`], and then [`make_room`]: for work in slices each of which may take a tenth of a millisecond. All who
/// have only yielded go on at the same time, and a thousand of them would keep the rings from being looked at.
pub async fn take_turns() {
    yield_now().await;
    make_room().await;
}

/// What [`make_room`] waits for, for a task that is written as a poll. The task that begins to poll one goes on until
/// it is ready.
#[derive(Debug, Default)]
pub struct Room {
    /// The task stood in the line, and was woken.
    was_woken: bool,
}

impl Room {
    /// Ready when the task may run.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let granted = has_room(self.was_woken);
        LINE.with_borrow_mut(|line| {
            if granted {
                self.was_woken = false;
                // The next one runs behind this one, and finds out by itself whether there is room for it.
                if let Some(next) = line.pop_front() {
                    next.wake();
                }
                return Poll::Ready(());
            }
            if std::mem::replace(&mut self.was_woken, true) {
                line.push_front(cx.waker().clone());
            } else {
                line.push_back(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Steps between two looks at the clock: less than a tenth of a millisecond where each takes some hundred nanoseconds.
const STEPS: u32 = 256;

/// The pace of long work on this core: see [`make_room`].
#[derive(Debug, Default)]
pub struct Paced {
    steps: Cell<u32>,
}

impl Pace for Paced {
    async fn step(&self) {
        let steps = self.steps.get() + 1;
        self.steps.set(steps % STEPS);
        if steps == STEPS {
            make_room().await;
        }
    }
}

/// Whether a task may run that is the first in the line, or that has just come.
fn has_room(is_first: bool) -> bool {
    let now = clock::now();
    match SLICE_END.get() {
        None => {
            SLICE_END.set(Some(now + SLICE));
            spawn(end_slices());
            true
        }
        Some(end) => now < end && (is_first || LINE.with_borrow(VecDeque::is_empty)),
    }
}

/// Ends the slice when the rings were looked at, and begins others as long as somebody waits for one.
async fn end_slices() {
    yield_now().await;
    while let Some(next) = LINE.with_borrow_mut(VecDeque::pop_front) {
        SLICE_END.set(Some(clock::now() + SLICE));
        next.wake();
        yield_now().await;
    }
    SLICE_END.set(None);
}

/// Wakes a task that has more to do once the others and the rings had their turn; see [`yield_now`].
pub fn wake_later(waker: &Waker) {
    let waker = waker.clone();
    spawn(async move {
        yield_now().await;
        waker.wake();
    });
}

/// Waits for `delay`.
pub async fn sleep(delay: Duration) {
    glommio::timer::sleep(delay).await;
}

/// Ready once its instant has passed. Belongs to one task.
pub struct Alarm {
    due: Instant,
    timer: glommio::timer::Timer,
    armed: bool,
}

impl Alarm {
    /// Rings at `due`.
    pub fn at(due: Instant) -> Self {
        Self { due, timer: glommio::timer::Timer::new(due.since(super::clock::now())), armed: false }
    }

    /// When it rings.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Ready when it has rung; registers the task otherwise.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // glommio's timer files itself anew at every poll: once is enough, as the task stays the same.
        if self.armed && super::clock::now() < self.due {
            return Poll::Pending;
        }
        self.armed = true;
        Pin::new(&mut self.timer).poll(cx).map(|_| ())
    }
}

/// Runs `future` until `deadline`; `None` when time ran out first.
pub async fn until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut alarm = Alarm::at(deadline);
    let mut future = std::pin::pin!(future);
    poll_fn(move |cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        alarm.poll(cx).map(|()| None)
    })
    .await
}

/// Lets the other tasks of its own executor have their turn, and does not wait for the rings: for connections, whose
/// executor looks after that (`turns`).
pub async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::server::io::clock;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(8);
        builder.make().unwrap().run(test)
    }

    #[test]
    fn an_alarm_rings_when_it_is_due_and_not_before() {
        run(async {
            let due = clock::now() + Duration::from_millis(3);
            assert_eq!(until(due, std::future::pending::<()>()).await, None);
            assert!(clock::now() >= due);
            assert_eq!(until(due, async { 7 }).await, Some(7), "what is ready is ready, however late");
        });
    }

    #[test]
    fn a_crowd_that_makes_room_is_polled_in_turn_and_not_all_at_once() {
        run(async {
            const TASKS: usize = 300;
            let (left, polls) = (Rc::new(Cell::new(TASKS)), Rc::new(Cell::new(0)));
            for _ in 0..TASKS {
                let (left, polls) = (left.clone(), polls.clone());
                let mut room = Box::pin(make_room());
                spawn(async move {
                    poll_fn(|cx| {
                        polls.set(polls.get() + 1);
                        room.as_mut().poll(cx)
                    })
                    .await;
                    let end = clock::now() + Duration::from_micros(100);
                    while clock::now() < end {}
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                yield_now().await;
            }
            assert!(polls.get() < 3 * TASKS, "{} polls for {TASKS} tasks", polls.get());
            make_room().await;
        });
    }

    #[test]
    fn tasks_that_make_room_leave_some_to_timers() {
        run(async {
            const TASKS: usize = 8;
            let left = Rc::new(Cell::new(TASKS));
            for _ in 0..TASKS {
                let left = left.clone();
                spawn(async move {
                    make_room().await;
                    let end = clock::now() + Duration::from_millis(2);
                    while clock::now() < end {}
                    left.set(left.get() - 1);
                });
            }
            sleep(Duration::from_micros(1)).await;
            assert!(left.get() > 0, "the timer has rung before all of them had run");
            while left.get() > 0 {
                yield_now().await;
            }
        });
    }
}
