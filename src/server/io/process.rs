//! What a process settles with the kernel before its first executor: signals, descriptors, huge pages.
//!
//! Unsafe: raw system calls whose arguments are built here.
#![allow(unsafe_code)]

/// Descriptors kept for files, rings and other members, as etcd keeps them: clients have those beyond.
pub const DESCRIPTORS_RESERVED: u64 = 150;
/// Signals that Go's runtime drops when a program did not ask for them, and that would end any other process.
const IGNORED_SIGNALS: [libc::c_int; 9] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGIO,
    libc::SIGPWR,
];
/// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`.
const MEMBARRIER_REGISTER: libc::c_int = 1 << 4;

/// What must happen before the process has a second thread, and before descriptors are counted.
///
/// - The descriptor limit is raised to what it may be.
/// - Huge pages are declined: the allocator asks for them, and a member whose heap is small blocks here and there
///   then holds 2 MiB for each (idle 23 MiB instead of 6), at no gain in time that could be measured.
/// - glommio puts an executor to sleep with a membarrier. The kernel wants a process to register for it, and
///   registering with threads alive waits for a grace period: the first sleep would take some 11 ms.
/// - Signals are ignored that Go's runtime ignores: scripts send them to etcd for lack of better.
pub fn early_init() {
    raise_descriptor_limit();
    ignore_signals();
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

fn ignore_signals() {
    for signal in IGNORED_SIGNALS {
        // SAFETY: the call takes integers. The signals are the kernel's own, so it cannot fail.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Checks that there are descriptors for clients beyond the reserve.
///
/// # Errors
/// One line that says what to raise.
pub fn enough_descriptors() -> Result<(), String> {
    check_descriptors(descriptor_limit())
}

fn check_descriptors(limit: u64) -> Result<(), String> {
    if limit > DESCRIPTORS_RESERVED {
        return Ok(());
    }
    Err(format!(
        "file descriptor limit of the process is too low; please set higher: it is {limit}, and {DESCRIPTORS_RESERVED} \
         are kept for files and rings (ulimit -n 65536, LimitNOFILE=65536, or --ulimit nofile=65536:65536 for a \
         container)"
    ))
}

/// The soft limit of a resource; `u64::MAX` when it has none.
#[expect(clippy::useless_conversion, reason = "the resource's type differs between libcs")]
pub(super) fn limit(resource: libc::__rlimit_resource_t) -> u64 {
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
    fn clients_need_descriptors_of_their_own() {
        for limit in [0, 64, DESCRIPTORS_RESERVED] {
            let error = check_descriptors(limit).unwrap_err();
            assert!(error.contains(&format!("it is {limit},")) && error.contains("ulimit -n"), "{error}");
        }
        assert_eq!(check_descriptors(DESCRIPTORS_RESERVED + 1), Ok(()));
    }

    #[test]
    fn a_process_survives_the_signals_that_go_ignores() {
        early_init();
        for signal in IGNORED_SIGNALS {
            // SAFETY: the call takes an integer.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
        }
    }

    #[test]
    fn the_process_has_descriptors() {
        let before = descriptor_limit();
        early_init();
        assert!(descriptor_limit() >= before && before > 3);
    }
}
