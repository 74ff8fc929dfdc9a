//! May this process use io_uring? Asked once, before the first executor, so that a refusal is one clear line
//! instead of a panic in a thread.
//!
//! Unsafe: raw system calls whose arguments are built here.
#![allow(unsafe_code)]

use std::io;

/// glommio refuses to start an executor below this; its rings are locked memory.
const MEMLOCK_MIN: u64 = 512 * 1024;
/// `sizeof(struct io_uring_params)`.
const PARAMS_BYTES: usize = 120;
/// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`.
const MEMBARRIER_REGISTER: libc::c_int = 1 << 4;

/// What must happen before the process has a second thread, and before descriptors are counted.
///
/// - The descriptor limit is raised to what it may be.
/// - Huge pages are declined: the allocator asks for them, and a member whose heap is small blocks here and there
///   then holds 2 MiB for each (idle 23 MiB instead of 6), at no gain in time that could be measured.
/// - glommio puts an executor to sleep with a membarrier. The kernel wants a process to register for it, and
///   registering with threads alive waits for a grace period: the first sleep would take some 11 ms.
pub fn early_init() {
    raise_descriptor_limit();
    // SAFETY: both calls take integers and touch no memory of ours. A failure (old kernel, seccomp) only costs
    // memory or the 11 ms, so the results are not looked at.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        libc::syscall(libc::SYS_membarrier, MEMBARRIER_REGISTER, 0, 0);
    }
}

/// Lets the process open as many descriptors as its hard limit allows, as every Go program does on its own.
fn raise_descriptor_limit() {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the struct at the pointer, which lives on our stack. A refusal leaves the
    // limit as it was, and `descriptor_limit` then says so.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) == 0 {
            limits.rlim_cur = limits.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits);
        }
    }
}

/// Checks that an executor can be started.
///
/// # Errors
/// One line that says what the operator has to allow.
pub fn probe() -> Result<(), String> {
    let mut params = [0u8; PARAMS_BYTES];
    // SAFETY: the kernel reads and writes at most `PARAMS_BYTES` bytes at the pointer; all zero asks for defaults.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    if descriptor < 0 {
        return Err(refusal(&io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just returned to us and nobody else knows it.
    unsafe { libc::close(descriptor as libc::c_int) };
    let memlock = limit(libc::RLIMIT_MEMLOCK);
    if memlock < MEMLOCK_MIN {
        return Err(format!(
            "the limit on locked memory is {memlock} bytes but io_uring needs {MEMLOCK_MIN}: raise it \
             (ulimit -l 512, LimitMEMLOCK=512K, or --ulimit memlock=524288 for a container)"
        ));
    }
    Ok(())
}

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is refused (EPERM): allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile, and set kernel.io_uring_disabled=0"
                .to_owned()
        }
        Some(libc::ENOSYS) => "io_uring is not there (ENOSYS): a Linux kernel from 5.8 on is needed, with \
             io_uring_setup, io_uring_enter and io_uring_register allowed by the seccomp profile"
            .to_owned(),
        Some(libc::ENOMEM) => "io_uring found no lockable memory (ENOMEM): raise the memlock limit \
             (ulimit -l 8192, LimitMEMLOCK=8M, or --ulimit memlock=8388608 for a container)"
            .to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

/// The soft limit of a resource; `u64::MAX` when it has none.
#[expect(clippy::useless_conversion, reason = "the resource's type differs between libcs")]
fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct at the pointer, which lives on our stack.
    let result = unsafe { libc::getrlimit(resource, &raw mut limits) };
    assert_eq!(result, 0, "getrlimit knows its resources");
    if limits.rlim_cur == libc::RLIM_INFINITY { u64::MAX } else { u64::from(limits.rlim_cur) }
}

/// How many descriptors the process may open.
pub fn descriptor_limit() -> u64 {
    limit(libc::RLIMIT_NOFILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_allow() {
        for (errno, word) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "kernel"), (libc::ENOMEM, "memlock")] {
            let line = refusal(&io::Error::from_raw_os_error(errno));
            assert!(line.contains(word) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_process_has_descriptors() {
        let before = descriptor_limit();
        early_init();
        assert!(descriptor_limit() >= before && before > 3);
    }
}
