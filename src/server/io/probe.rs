//! Whether a process may use io_uring, found out before its first executor. So a refusal is one clear line instead of a
//! panic in a thread.
//!
//! Unsafe: raw system calls whose arguments are built here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::process;

/// Locked memory that the registered buffers of one executor take: three rings register the same megabyte.
const REGISTERED_BYTES: u64 = 3 << 20;
/// Rings that glommio makes for an executor.
const RINGS_PER_EXECUTOR: u64 = 3;
/// Depths of rings, the best first.
const DEPTHS: [u64; 4] = [512, 256, 128, 64];
/// `sizeof(struct io_uring_params)`.
const PARAMS_BYTES: usize = 120;
/// `IORING_REGISTER_PROBE` and the size of its `struct io_uring_probe` without operations.
const REGISTER_PROBE: libc::c_uint = 8;
const PROBE_BYTES: usize = 16;
/// What helps when the kernel refuses the memory of a ring.
pub(super) const LOCKED_MEMORY_ADVICE: &str = "raise the memlock limit (ulimit -l 8192, LimitMEMLOCK=8M, or --ulimit \
                                               memlock=8388608 for a container)";

/// What this process may use of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// The limit on locked memory.
    pub memlock_bytes: u64,
    /// It suffices for buffers that the kernel keeps mapped. Without them each write of the log maps its own.
    pub registered: bool,
}

impl Rings {
    /// How many operations each ring of this many executors may hold: as many as are of use, or as few as the limit on
    /// locked memory asks for. Kernels before 5.12 and from 6.14 on count rings towards it.
    pub fn depth(&self, executors: usize) -> usize {
        // Other processes of the same user count too.
        let budget = self.memlock_bytes / 2;
        let fits = |depth: &&u64| RINGS_PER_EXECUTOR * executors as u64 * ring_bytes(**depth) <= budget;
        *DEPTHS.iter().find(fits).unwrap_or(&DEPTHS[DEPTHS.len() - 1]) as usize
    }
}

/// The memory of a ring: its submissions, then its completions with the indices of both.
fn ring_bytes(depth: u64) -> u64 {
    const SUBMISSION_BYTES: u64 = 64;
    const COMPLETION_BYTES: u64 = 16;
    const INDEX_BYTES: u64 = 4;
    const HEAD_BYTES: u64 = 320;
    const PAGE_BYTES: u64 = 4096;
    let pages = |bytes: u64| bytes.next_multiple_of(PAGE_BYTES);
    pages(depth * SUBMISSION_BYTES) + pages(2 * depth * COMPLETION_BYTES + depth * INDEX_BYTES + HEAD_BYTES)
}

/// Checks that an executor can be started: each of io_uring's three calls must be allowed.
///
/// # Errors
/// One line that says what the operator has to allow.
pub fn probe() -> Result<Rings, String> {
    let ring = setup().map_err(|error| refusal("io_uring_setup", &error))?;
    let mut probe = [0u8; PROBE_BYTES];
    // SAFETY: the kernel reads and writes the header of a probe at the pointer, which asks for no operations.
    let registered = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_PROBE, probe.as_mut_ptr(), 0)
    };
    if registered < 0 {
        return Err(refusal("io_uring_register", &io::Error::last_os_error()));
    }
    // SAFETY: the call takes integers and a null pointer: it submits nothing and waits for nothing.
    let entered = unsafe {
        let no_mask = std::ptr::null::<libc::sigset_t>();
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0, 0, 0, no_mask, 0)
    };
    if entered < 0 {
        return Err(refusal("io_uring_enter", &io::Error::last_os_error()));
    }
    let memlock_bytes = process::limit(libc::RLIMIT_MEMLOCK);
    Ok(Rings { memlock_bytes, registered: memlock_bytes >= REGISTERED_BYTES })
}

/// A small ring.
fn setup() -> io::Result<OwnedFd> {
    let mut params = [0u8; PARAMS_BYTES];
    // SAFETY: the kernel reads and writes at most `PARAMS_BYTES` bytes at the pointer; all zero asks for defaults. The
    // descriptor that it returns is ours alone.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr());
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor as libc::c_int))
    }
}

fn refusal(call: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "{call} is refused ({error}): allow io_uring_setup, io_uring_enter and io_uring_register in the \
             container's seccomp profile, and set kernel.io_uring_disabled=0"
        ),
        Some(libc::ENOSYS) => format!(
            "{call} is not there ({error}): a Linux kernel from 5.8 on is needed, with io_uring_setup, \
             io_uring_enter and io_uring_register allowed by the seccomp profile"
        ),
        Some(libc::ENOMEM) => {
            format!("{call} found no lockable memory ({error}): {LOCKED_MEMORY_ADVICE}")
        }
        _ => format!("{call} does not work: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_call_and_what_to_allow() {
        for (errno, word) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "kernel"), (libc::ENOMEM, "memlock")] {
            for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
                let line = refusal(call, &io::Error::from_raw_os_error(errno));
                assert!(line.starts_with(call) && line.contains(word) && !line.contains('\n'), "{line}");
            }
        }
    }

    #[test]
    fn rings_are_as_deep_as_locked_memory_lets_them_be() {
        let depth = |memlock_bytes, executors| Rings { memlock_bytes, registered: false }.depth(executors);
        assert_eq!((depth(u64::MAX, 64), depth(8 << 20, 2), depth(512 << 10, 1)), (512, 512, 512));
        assert_eq!((depth(64 << 10, 1), depth(64 << 10, 4), depth(0, 1)), (64, 64, 64));
        assert_eq!((ring_bytes(512), ring_bytes(64)), (53_248, 8_192));
        assert!(depth(8 << 20, 63) < 512);
    }
}
