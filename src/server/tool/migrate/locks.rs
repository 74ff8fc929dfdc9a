//! That nobody uses a data directory of etcd: etcd's own locks, taken while it is read.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::super::Failed;
use crate::server::io::ofd_lock;

/// The locks, held until this is dropped.
pub(super) struct Locks {
    files: Vec<File>,
}

impl Locks {
    /// Takes the lock of the database, which etcd has as long as it runs.
    ///
    /// # Errors
    /// When somebody has it, or the file cannot be opened.
    pub(super) fn take(database: &Path) -> Result<Self, Failed> {
        let file = open(database, File::open(database))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { files: vec![file] }),
            Err(TryLockError::WouldBlock) => Err(in_use(database)),
            Err(TryLockError::Error(error)) => Err(Failed::file("lock", database.display(), &error)),
        }
    }

    /// Takes the locks of the log's segments too. They are listed with the other lock held: etcd may begin a new one
    /// until then.
    ///
    /// # Errors
    /// As above.
    pub(super) fn take_log(&mut self, segments: &[PathBuf]) -> Result<(), Failed> {
        for path in segments {
            let file = open(path, OpenOptions::new().read(true).write(true).open(path))?;
            // A filesystem without locks has nobody to ask.
            if ofd_lock::try_lock(&file).is_ok_and(|is_free| !is_free) {
                return Err(in_use(path));
            }
            self.files.push(file);
        }
        Ok(())
    }
}

fn open(path: &Path, file: io::Result<File>) -> Result<File, Failed> {
    file.map_err(|error| Failed::file("open", path.display(), &error))
}

fn in_use(path: &Path) -> Failed {
    Failed::error(format!("{} is in use: stop the member of etcd that runs on it first", path.display()))
}
