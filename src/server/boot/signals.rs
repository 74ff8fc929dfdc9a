//! What signals do to a member, which is what they do to etcd and to any program in Go.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT | one orderly stop, then the signal's own ending; another one meanwhile changes nothing |
//! | SIGQUIT | the end at once, with status 2 |
//! | SIGHUP | the default: the end, unless it was ignored from the start |
//! | SIGPIPE, SIGUSR1, SIGUSR2 and others that report or ask | nothing (`io::process::early_init`) |
//!
//! The process ends as killed by the signal it got (status 143 or 130); as process 1 of a container, where the kernel
//! ignores default dispositions, with 0.
#![forbid(unsafe_code)]

use std::thread;

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::server::log::{self, lines};

/// The status with which Go ends after it has told where every goroutine was.
const STATUS_QUIT: i32 = 2;

/// Calls `stop` with the first SIGTERM or SIGINT that arrives, on a thread of its own.
///
/// # Errors
/// When the handlers cannot be registered.
pub fn watch(stop: impl FnOnce(i32) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            if signal == SIGQUIT {
                lines::signal(name(signal));
                log::flush();
                std::process::exit(STATUS_QUIT);
            }
            if let Some(stop) = stop.take() {
                stop(signal);
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
    fn the_first_signal_stops_and_the_second_does_nothing() {
        let (told, stopped) = mpsc::channel();
        watch(move |signal| told.send(signal).unwrap()).unwrap();
        low_level::raise(SIGINT).unwrap();
        assert_eq!(stopped.recv_timeout(Duration::from_secs(10)), Ok(SIGINT));
        low_level::raise(SIGTERM).unwrap();
        assert!(stopped.recv_timeout(Duration::from_millis(100)).is_err(), "the process goes on");
        assert_eq!((name(SIGTERM), name(SIGINT), name(SIGQUIT)), ("terminated", "interrupt", "quit"));
    }
}
