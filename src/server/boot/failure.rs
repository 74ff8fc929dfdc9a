//! Why a member does not start.
//!
//! A failure has two parts, which become the message and the `error` of one line in the log: what could not be done,
//! and the reason with what to do about it. Each step of `server::run` names its own.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;

/// What could not be done, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// What could not be done.
    pub what: &'static str,
    /// The reason, and what to do about it.
    pub why: String,
}

/// Makes the reasons of one step failures of that step.
pub fn to<E: Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |why| Failure { what, why: why.to_string() }
}

/// The reason that an error of the file system at `path` is, and what to do about it where that is known.
pub fn at_path(verb: &str, path: impl Display, error: &io::Error) -> String {
    format!("cannot {verb} {path}: {error}{}", advice(error))
}

/// What to do about an error of the file system; empty where the error says it all.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; let the user that the member runs as write there, or name another folder with --data-dir or --wal-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount it for writing, or name another folder with --data-dir or --wal-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on that file system",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; a file stands where a folder belongs: move it away, or name another folder with --data-dir or --wal-dir"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_what_to_do() {
        for (errno, word) in [
            (libc::EACCES, "the user that the member runs as"),
            (libc::EROFS, "for writing"),
            (libc::ENOSPC, "make room"),
            (libc::ENOTDIR, "a file stands"),
            (libc::EEXIST, "a file stands"),
        ] {
            let reason = at_path("open", "/a/b", &io::Error::from_raw_os_error(errno));
            assert!(reason.starts_with("cannot open /a/b: ") && reason.contains(word), "{reason}");
        }
        let plain = at_path("read", "/a", &io::Error::other("odd"));
        assert_eq!(to("cannot start")(plain).why, "cannot read /a: odd");
    }
}
