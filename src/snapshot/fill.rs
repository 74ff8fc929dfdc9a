//! A file of etcd taken into an empty store, bucket by bucket, in transactions and checkpoints of bounded size.
#![forbid(unsafe_code)]

use std::fmt;

use super::import::{BUCKETS, Import, MEMBERS};
use crate::bbolt::walk::Walk;
use crate::bbolt::{Database, ReadError, Source};
use crate::btree::{CheckpointError, Store, WriteTxn};

/// Bytes that one transaction takes in.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of pages in memory from which on they are written.
const DIRTY_BYTES_MAX: u64 = 48 << 20;

/// Why a file was not taken in.
#[derive(Debug)]
pub enum FillError {
    /// The file's fault.
    File(ReadError),
    /// The disk's fault, on which the store is.
    Store(CheckpointError),
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Store(error) => write!(f, "cannot write the store: {error}"),
        }
    }
}

impl std::error::Error for FillError {}

impl From<ReadError> for FillError {
    fn from(error: ReadError) -> Self {
        Self::File(error)
    }
}

/// Takes in all buckets, with those of the members or without. `rest` is called between two transactions, to let
/// others go on.
///
/// # Errors
/// What is wrong with the file, or with the disk.
pub fn fill<S: Source + ?Sized>(
    store: &mut Store,
    database: &Database<'_, S>,
    with_members: bool,
    mut rest: impl FnMut(),
) -> Result<Import, FillError> {
    let mut import = Import::new();
    let members = if with_members { &MEMBERS[..] } else { &[] };
    for &bucket in BUCKETS.iter().chain(members) {
        let Some(mut walk) = database.bucket(bucket.as_bytes())? else { continue };
        let mut is_last = false;
        while !is_last {
            let mut txn = store.write();
            is_last = batch(&mut txn, &mut import, bucket, &mut walk)?;
            txn.commit();
            if store.stats().dirty_bytes > DIRTY_BYTES_MAX {
                checkpoint(store)?;
            }
            rest();
        }
    }
    Ok(import)
}

/// Takes in the next pairs of a bucket. True when there are no more.
fn batch<S: Source + ?Sized>(
    txn: &mut WriteTxn<'_>,
    import: &mut Import,
    bucket: &str,
    walk: &mut Walk<'_, '_, S>,
) -> Result<bool, ReadError> {
    let (mut value, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES {
        if !walk.advance()? {
            return Ok(true);
        }
        walk.read_value(&mut value)?;
        import.pair(txn, bucket, walk.key(), &value)?;
        bytes += walk.key().len() + value.len() + 100;
    }
    Ok(false)
}

/// Makes what was taken in so far durable.
///
/// # Errors
/// What the disk answers.
pub fn checkpoint(store: &mut Store) -> Result<(), FillError> {
    if let Some(job) = store.begin_checkpoint() {
        job.execute().map_err(FillError::Store)?;
        store.finish_checkpoint(job.generation());
    }
    Ok(())
}
