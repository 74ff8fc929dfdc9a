//! What is done with the data directory of a member that does not run. `kevel snapshot` does the work of `etcdutl
//! snapshot` on files, with its flags, its output and its texts; `kevel migrate` makes a member of etcd one of Kevel,
//! or the other way; `kevel rebuild` has the cluster of a damaged member rebuild it.
//!
//! ```text
//!   migrate    a member of etcd made one of Kevel, and the other way
//!   snapshot   the subcommands of kevel snapshot
//!   restore    a data directory from a file, or an empty one
//!   rebuild    a damaged member removed, added again, and begun anew
//!   folders    whose folders are, and whether they can be renamed
//!   flags      a command line as cobra reads it
//!   print      the forms of output
//!   tests      snapshots and what is made of them
//! ```
//!
//! Statuses are etcdutl's: 1 for what goes wrong, 4 for a form of output that does not exist, 128 for arguments that
//! make no sense.
#![forbid(unsafe_code)]

mod flags;
mod folders;
pub mod migrate;
mod print;
pub mod rebuild;
mod restore;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

/// What ends a command: the status that the process exits with, and what is said.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    status: u8,
    text: String,
}

/// Something went wrong.
const STATUS_ERROR: u8 = 1;
/// A form of output does not exist.
const STATUS_BAD_FEATURE: u8 = 4;
/// Arguments make no sense.
const STATUS_BAD_ARGUMENTS: u8 = 128;

impl Failed {
    fn new(status: u8, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn error(text: impl Into<String>) -> Self {
        Self::new(STATUS_ERROR, text)
    }

    /// A file that is named cannot be used: Go's text where there is no such file, for scripts look for it.
    fn file(what: &str, path: impl Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::error(format!("{what} {path}: no such file or directory")),
            _ => Self::error(format!("{what} {path}: {error}")),
        }
    }
}

/// Says what a command has done, or why it has not, and gives the status that the process exits with.
fn finish(result: Result<String, Failed>) -> ExitCode {
    match result {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Failed { status, text }) => {
            eprintln!("Error: {text}");
            ExitCode::from(status)
        }
    }
}
