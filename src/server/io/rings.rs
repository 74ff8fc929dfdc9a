//! Two things that glommio decides for its io_uring rings and has no setting for. Each is one call of a C function that
//! is led here by the linker (`--wrap`, in `proto/build.rs`); the true function is called `__real_...`.
//!
//! # Rings do not interrupt their thread
//!
//! Unless told otherwise, the kernel interrupts a ring's thread, if need be on another CPU, to finish what has
//! completed, though an executor looks at its rings all the time. IORING_SETUP_COOP_TASKRUN (Linux 5.19) lets it
//! finish when the thread enters the kernel the next time anyway; a thread that sleeps is woken as ever. A renewed
//! lease costs a third less CPU for it.
//!
//! This leans on one fact: whoever looks for completions without entering the kernel does so for a moment only. An
//! executor that spins before it parks would not.
//!
//! # Rings without locked memory
//!
//! glommio refuses to start below 512 KiB of lockable memory. Registered buffers need it, and glommio does without
//! those when the kernel refuses them. The rings themselves count on some kernels (before 5.12, and from 6.14 on), and
//! a shallow one needs 8 KiB (`probe::Rings::depth`). So glommio's question about the limit is answered as if there
//! were enough.
//!
//! Unsafe: two functions that C code calls, each of which calls the true one.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};

/// From Linux's `io_uring.h`.
const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;

/// The beginning of liburing's `struct io_uring_params`, which is as far as anything is changed here.
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

// SAFETY: the linker gives liburing's function this name; the signature is that of its header.
unsafe extern "C" {
    fn __real_io_uring_queue_init_params(entries: c_uint, ring: *mut c_void, params: *mut Params) -> c_int;
}

/// Makes a ring as the caller wants it, and cooperative if the kernel knows that.
///
/// # Safety
/// As for liburing's function: `ring` has room for a `struct io_uring`, `params` points to a `struct io_uring_params`,
/// and nobody else uses either meanwhile.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut Params,
) -> c_int {
    #[cfg(test)]
    tests::MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    // SAFETY: `params` points to a whole `struct io_uring_params`, which `Params` is the beginning of.
    let asked = unsafe { (*params).flags };
    for flags in [asked | IORING_SETUP_COOP_TASKRUN, asked] {
        // SAFETY: as above. The kernel reads nothing of `params` that a refused call could have changed.
        let result = unsafe {
            (*params).flags = flags;
            __real_io_uring_queue_init_params(entries, ring, params)
        };
        if result != -libc::EINVAL {
            return result;
        }
    }
    -libc::EINVAL
}

/// What glommio asks for before it makes rings.
const MEMLOCK_WANTED: libc::rlim64_t = 512 * 1024;

// SAFETY: the linker gives the C library's function this name; the signature is that of its header.
unsafe extern "C" {
    fn __real_getrlimit64(resource: c_uint, limits: *mut libc::rlimit64) -> c_int;
}

/// The limits of a resource; for locked memory no less than glommio wants.
///
/// # Safety
/// As for the C library's function: `limits` is valid for writing.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_getrlimit64(resource: c_uint, limits: *mut libc::rlimit64) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { __real_getrlimit64(resource, limits) };
    if result == 0 && resource == libc::RLIMIT_MEMLOCK as c_uint {
        // SAFETY: the call has succeeded, so `limits` is a valid struct.
        let limits = unsafe { &mut *limits };
        limits.rlim_cur = limits.rlim_cur.max(MEMLOCK_WANTED);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn glommio_finds_enough_lockable_memory() {
        let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a struct on this stack.
        let result = unsafe { libc::getrlimit64(libc::RLIMIT_MEMLOCK, &raw mut limits) };
        assert!(result == 0 && limits.rlim_cur >= super::MEMLOCK_WANTED, "{}", limits.rlim_cur);
    }

    /// Rings made here.
    pub static MADE: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn the_rings_of_an_executor_are_made_here() {
        let before = MADE.load(Ordering::Relaxed);
        glommio::LocalExecutor::default().run(async {});
        assert!(MADE.load(Ordering::Relaxed) >= before + 2, "glommio makes its rings in another way");
    }
}
