//! What signals do to a member, which is what they do to etcd and to any program in Go.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT | one orderly stop, then the signal's own ending; another, a second later or more, ends at once |
//! | SIGQUIT | the end at once, with status 2 |
//! | SIGHUP | the default: the end, unless it was ignored from the start |
//! | SIGPIPE, SIGUSR1, SIGUSR2 and others that report or ask | nothing (`io::process::early_init`) |
//!
//! To etcd a second SIGTERM or SIGINT is nothing. A member whose stop is held up, by a disk that does not answer, say,
//! ends with it here: all that is acknowledged is in the log. Within the first second it is nothing here too, because
//! a terminal and whoever passes signals on may both send the same one, and a stop should not cost the calls in flight
//! for that.
//!
//! The process ends as killed by the signal it got (status 143 or 130); as process 1 of a container, where the kernel
//! ignores default dispositions, with 0.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::server::log::{self, lines};

/// The status with which Go ends after it has told where every goroutine was.
const STATUS_QUIT: i32 = 2;

/// Signals so soon after the first one are taken for the same.
const SAME: Duration = Duration::from_secs(1);

/// Whether a signal is one too many for a member that was told to stop at `first`.
fn ends_at_once(first: Instant, now: Instant) -> bool {
    now.duration_since(first) >= SAME
}

/// Calls `stop` with the first SIGTERM or SIGINT that arrives, on a thread of its own; a later one ends
/// the process.
///
/// # Errors
/// When the handlers cannot be registered.
pub fn watch(stop: impl FnOnce(i32) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let (mut stop, mut first) = (Some(stop), Instant::now());
        for signal in signals.forever() {
            if signal == SIGQUIT {
                lines::signal(name(signal));
                log::flush();
                std::process::exit(STATUS_QUIT);
            }
            if let Some(stop) = stop.take() {
                first = Instant::now();
                stop(signal);
            } else if ends_at_once(first, Instant::now()) {
                lines::signal_again(name(signal));
                log::flush();
                end(signal);
            }
        }
    })?;
    Ok(())
}

/// Ends the process the way `signal` does by default.
pub fn end(signal: i32) -> ! {
    if std::process::id() != 1 {
        let _ = low_level::emulate_default_handler(signal);
    }
    std::process::exit(0)
}

/// The name that the log line shows.
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "terminated",
        SIGINT => "interrupt",
        SIGQUIT => "quit",
        _ => "signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn the_first_signal_stops_and_one_that_follows_at_once_does_nothing() {
        let (told, stopped) = mpsc::channel();
        watch(move |signal| told.send(signal).unwrap()).unwrap();
        low_level::raise(SIGINT).unwrap();
        assert_eq!(stopped.recv_timeout(Duration::from_secs(10)), Ok(SIGINT));
        low_level::raise(SIGTERM).unwrap();
        assert!(stopped.recv_timeout(Duration::from_millis(100)).is_err(), "the process goes on");
        let first = Instant::now();
        assert!(!ends_at_once(first, first + Duration::from_millis(900)));
        assert!(ends_at_once(first, first + Duration::from_secs(1)));
        assert_eq!((name(SIGTERM), name(SIGINT), name(SIGQUIT)), ("terminated", "interrupt", "quit"));
    }
}
