//! io_uring rings that do not interrupt their thread.
//!
//! Unless told otherwise, the kernel interrupts a ring's thread, if need be on another CPU, to finish what has
//! completed, though an executor looks at its rings all the time. IORING_SETUP_COOP_TASKRUN (Linux 5.19) lets it
//! finish when the thread enters the kernel the next time anyway; a thread that sleeps is woken as ever. A renewed
//! lease costs a third less CPU for it.
//!
//! glommio has no setting for that. Its one call of liburing's `io_uring_queue_init_params` is led here by the linker
//! (`--wrap`, in `proto/build.rs`), which calls the true one `__real_...`. What it leans on: whoever looks for completions
//! without entering the kernel does so for a moment only. An executor that spins before it parks would not.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Rings made here.
    pub static MADE: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn the_rings_of_an_executor_are_made_here() {
        let before = MADE.load(Ordering::Relaxed);
        glommio::LocalExecutor::default().run(async {});
        assert!(MADE.load(Ordering::Relaxed) >= before + 2, "glommio makes its rings in another way");
    }
}
