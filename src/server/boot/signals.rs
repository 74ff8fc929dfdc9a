//! SIGTERM and SIGINT: one orderly stop, then the signal's own ending.
//!
//! The process ends as killed by the signal it got (status 143 or 130), as etcd's does; as process 1 of a
//! container, where the kernel ignores default dispositions, with 0.
#![forbid(unsafe_code)]

use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Calls `stop` with the first signal that arrives, on a thread of its own. A second signal ends the process at
/// once.
///
/// # Errors
/// When the handlers cannot be registered.
pub fn watch(stop: impl FnOnce(i32) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            match stop.take() {
                Some(stop) => stop(signal),
                None => end(signal),
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
        _ => "signal",
    }
}
