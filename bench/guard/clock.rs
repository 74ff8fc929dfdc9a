//! Two clocks of a thread that other processes cannot turn: its CPU time and the instructions it has executed.
//!
//! Unsafe: system calls that write one struct or read one, both ours and alive during the call, and a descriptor that
//! the kernel has just handed to nobody else.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::Duration;

/// CPU time that this thread has used, in the kernel too.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which is ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "every thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The first version of the kernel's `perf_event_attr`, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Event {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

const HARDWARE: u32 = 0;
const HARDWARE_INSTRUCTIONS: u64 = 1;
/// The event has a counter of its own or none: it never shares one by turns.
const PINNED: u64 = 1 << 2;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;

/// Counts the instructions of the thread that opened it, in user mode.
pub struct Instructions(File);

impl Instructions {
    /// None where the machine or the kernel does not count, as in most virtual machines.
    pub fn open() -> Option<Self> {
        let event = Event {
            kind: HARDWARE,
            size: size_of::<Event>() as u32,
            config: HARDWARE_INSTRUCTIONS,
            flags: PINNED | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR,
            ..Event::default()
        };
        let (this_thread, any_cpu, no_group, no_flags) = (0, -1, -1, libc::c_ulong::from(0u32));
        // SAFETY: the call reads `size` bytes of the event, which is ours; the other arguments are numbers.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &event, this_thread, any_cpu, no_group, no_flags)
        };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: the descriptor is open, new, and nobody else's.
        let counter = Self(unsafe { File::from_raw_fd(fd) });
        counter.count().map(|_| counter)
    }

    /// How many so far; none if the event lost its counter.
    pub fn count(&self) -> Option<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}
