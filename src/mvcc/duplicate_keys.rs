//! Looking for a key that a transaction would write twice, as etcd looks for it.
//!
//! A transaction may have as many operations as fit into a request, so the search counts its steps and pauses when its
//! caller's [`Pace`] says so.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use super::key_set::KeySet;
use crate::error::Error;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, RequestOp, TxnRequest};
use crate::stdx::pace::Pace;

/// Looks for a key that is put twice, or put and deleted, by operations that would all run.
///
/// # Errors
/// [`Error::DuplicateKey`] if there is one.
pub async fn check(request: &TxnRequest, pace: &impl Pace) -> Result<(), Error> {
    for branch in [&request.success, &request.failure] {
        if !is_single(branch) {
            writes(branch, pace).await?;
        }
    }
    Ok(())
}

/// Whether a branch is one operation by itself, which is what the apiserver sends and has nothing to collide with.
fn is_single(branch: &[RequestOp]) -> bool {
    match branch {
        [] => true,
        [op] => !matches!(op.request, Some(Op::RequestTxn(_))),
        _ => false,
    }
}

/// What a list of operations writes.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: KeySet<&'a [u8]>,
}

impl<'a> Writes<'a> {
    /// Whether `later` puts a key that is put or deleted here. Costs the smaller of the two.
    async fn forbids(&self, later: &Writes<'a>, pace: &impl Pace) -> bool {
        let (few, many) = if self.puts.len() < later.puts.len() {
            (&self.puts, &later.puts)
        } else {
            (&later.puts, &self.puts)
        };
        for key in few {
            pace.step().await;
            if many.contains(key) {
                return true;
            }
        }
        self.deletes.contains_any(&later.puts, pace).await
    }

    /// Adds everything that `other` writes. Costs the smaller of the two, so that transactions nested in each other
    /// cost together no more than the logarithm of their size for each key.
    async fn absorb(&mut self, mut other: Writes<'a>, pace: &impl Pace) {
        if self.puts.len() < other.puts.len() {
            std::mem::swap(&mut self.puts, &mut other.puts);
        }
        for key in other.puts {
            pace.step().await;
            self.puts.insert(key);
        }
        self.deletes.absorb(other.deletes, pace).await;
    }
}

type Search<'a> = Pin<Box<dyn Future<Output = Result<Writes<'a>, Error>> + 'a>>;

/// What `ops` write, if they write no key twice.
///
/// The order matters, and with it what etcd does not see: this level's deletes, then the nested transactions one
/// after the other (a delete in a later one is not held against a put in an earlier), then this level's puts.
fn writes<'a>(ops: &'a [RequestOp], pace: &'a impl Pace) -> Search<'a> {
    Box::pin(async move {
        let mut all = Writes::default();
        for op in ops {
            pace.step().await;
            if let Some(Op::RequestDeleteRange(request)) = &op.request {
                delete(&mut all.deletes, request);
            }
        }
        for op in ops {
            let Some(Op::RequestTxn(request)) = &op.request else { continue };
            let success = writes(&request.success, pace).await?;
            let failure = writes(&request.failure, pace).await?;
            // Only one branch runs, so both may put the same key. A key of an earlier transaction is refused in either.
            if all.forbids(&success, pace).await || all.forbids(&failure, pace).await {
                return Err(Error::DuplicateKey);
            }
            all.absorb(success, pace).await;
            all.absorb(failure, pace).await;
        }
        for op in ops {
            let Some(Op::RequestPut(request)) = &op.request else { continue };
            pace.step().await;
            if all.deletes.contains(&request.key) || !all.puts.insert(&request.key) {
                return Err(Error::DuplicateKey);
            }
        }
        Ok(all)
    })
}

/// Adds what a DeleteRange covers. An end of one zero byte, which elsewhere means no end at all, is compared as it
/// stands here, as etcd does: such an interval is empty, and hides nothing and forbids nothing.
fn delete<'a>(deletes: &mut KeySet<&'a [u8]>, request: &'a DeleteRangeRequest) {
    if request.range_end.is_empty() {
        deletes.insert_key(&request.key);
    } else {
        deletes.insert_range(&request.key, &request.range_end);
    }
}
