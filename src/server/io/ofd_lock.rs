//! Locks that etcd and its tools respect: an open-file-description lock on each log segment.
//!
//! Unsafe: one fcntl.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the whole file against other processes until it is closed. False when another has it.
///
/// # Errors
/// What the system answers; a filesystem without locks answers too.
pub fn try_lock(file: &File) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and fcntl only reads `lock`.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_locked_by_one_open_description_until_that_is_closed() {
        let path = std::env::temp_dir().join(format!("kevel-ofd-lock-{}", std::process::id()));
        let first = File::create(&path).unwrap();
        let second = File::options().write(true).open(&path).unwrap();
        assert!(try_lock(&first).unwrap() && try_lock(&first).unwrap(), "its own lock is no obstacle");
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
        let readable = File::open(&path).unwrap();
        let refused = try_lock(&readable).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF), "no lock on what is only read");
        std::fs::remove_file(&path).unwrap();
    }
}
