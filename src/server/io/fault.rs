//! Last words for a page that cannot be read.
//!
//! The store file and, while a member starts, its log are mapped. When the disk fails under a mapping, or somebody cuts
//! the file short, the kernel sends SIGBUS to whoever reads there. Nothing can be answered from such a page, so the
//! process ends, but it says why.
//!
//! Unsafe: a signal handler, which calls nothing but write.
#![allow(unsafe_code)]

const WORDS: &[u8] = b"{\"level\":\"fatal\",\"caller\":\"server/io/fault.rs\",\"msg\":\"a page of the store or of \
the log could not be read: the disk has failed, or a file was cut short while in use; check the disk and the kernel's \
log, then restore this member from a snapshot if the file is damaged\"}\n";

/// Sees to it that the process says why when it ends for an unreadable page.
pub fn explain() {
    // SAFETY: the handler is async-signal-safe (it calls write alone), the struct lives during the call, and all zero
    // is a valid value of it. SA_RESETHAND puts the default back before the handler runs: the access that faulted is
    // tried again when it returns, and ends the process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = say as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND;
        // A refusal leaves the default, which ends the process without a word.
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn say(_signal: libc::c_int) {
    // SAFETY: pointer and length are those of a constant.
    unsafe { libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len()) };
}
