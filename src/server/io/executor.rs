//! One executor: a thread that runs tasks and looks at its rings.
#![forbid(unsafe_code)]

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use super::probe::LOCKED_MEMORY_ADVICE;
use crate::stdx::time::Duration;

/// Memory that each executor registers for direct I/O.
const IO_MEMORY: usize = 1 << 20;
/// After how long glommio interrupts ready tasks to look at its rings: never. If its timer fires before the first
/// task has run, because the thread lost its CPU for that long, glommio takes the queue for empty and sleeps with tasks
/// in it. Whoever has much to do looks at the rings in between: `task::yield_now`, `task::wake_later`.
const PREEMPT: Duration = Duration::from_secs(60 * 60);

/// An executor that runs.
pub struct Executor(ExecutorJoinHandle<()>);

impl Executor {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it ended by a panic.
    pub fn join(self) -> Result<(), String> {
        self.0.join().map_err(|error| ended(&error.to_string()))
    }
}

/// What to say of an executor that ended with an error.
fn ended(error: &str) -> String {
    let no_memory = format!("os error {}", libc::ENOMEM);
    if error.contains(&no_memory) {
        return format!(
            "an executor ended: {error}; its rings found no lockable memory: {LOCKED_MEMORY_ADVICE}"
        );
    }
    format!("an executor ended: {error}")
}

/// Starts an executor on a thread of its own, on a CPU or wherever the kernel likes. It ends when what `start` gives
/// does.
///
/// # Errors
/// When the thread or its rings cannot be made.
pub fn spawn<F: Future<Output = ()> + 'static>(
    name: &str,
    cpu: Option<usize>,
    ring_depth: usize,
    start: impl FnOnce() -> F + Send + 'static,
) -> Result<Executor, String> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(IO_MEMORY)
        .ring_depth(ring_depth)
        .preempt_timer(PREEMPT)
        .spawn(start)
        .map(Executor)
        .map_err(|error| format!("cannot start executor {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_lack_of_locked_memory_is_said_to_be_one() {
        assert!(ended("IO error occurred: Cannot allocate memory (os error 12)").contains("LimitMEMLOCK"));
        assert!(!ended("closed").contains("LimitMEMLOCK"));
    }

    #[test]
    fn an_executor_runs_to_the_end_of_what_it_was_given() {
        let (told, hear) = mpsc::channel();
        let executor = spawn("test", None, 64, move || async move {
            let name = std::thread::current().name().map(str::to_owned);
            told.send(name).unwrap();
        })
        .unwrap();
        executor.join().unwrap();
        assert!(hear.recv().unwrap().is_some_and(|name| name.contains("test")));
    }
}
