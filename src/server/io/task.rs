//! Tasks and sleeping on this core's executor.
//!
//! A panic in a task is a broken law of ours: the server's panic hook logs it and aborts the process, so no task
//! is wrapped in `catch_unwind` (glommio would otherwise lose the executor's thread and leave the process alive).
#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::stdx::time::{Duration, Instant};

/// Runs `future` on this core, on its own. It is polled a first time before this returns: no `RefCell` that it uses may
/// be borrowed across the call.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

/// Lets every other task that is ready run, and the rings be looked at, before this one goes on.
///
/// A task that only wakes itself would not do: glommio looks at its rings when no task is ready, or when its preemption
/// timer fires, which `server/run.rs` keeps from happening. A timer of the shortest time is looked at
/// together with the rings.
pub async fn yield_now() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
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
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        alarm.poll(cx).map(|()| None)
    })
    .await
}
