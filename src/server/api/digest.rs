//! HashKV taken on a session core, in slices: a large store takes seconds, and clients must not wait so long.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::long::pinned;
use crate::error::Error;
use crate::mvcc::hash::{HashKv, KvHash};
use crate::server::io::{clock, task};
use crate::server::session::Session;

/// Changes digested before other tasks of the core run.
pub(super) const HASH_SLICE: usize = 2048;

/// The hash of the compaction to this very revision, if this member has taken it.
pub fn of_compaction(session: &Session, revision: i64) -> Option<KvHash> {
    let current = session.view(|view| view.revision());
    session.member.compaction_hashes.get(revision, current)
}

/// Hashes the history up to a revision, or all of it for zero; nothing when nobody wants the hash any more. One hash of
/// a core is taken at a time.
///
/// # Errors
/// When the revision is not there, or a record cannot be read.
pub async fn history(
    session: &Rc<Session>,
    revision: i64,
    is_wanted: impl Fn() -> bool,
) -> Result<Option<KvHash>, Error> {
    let place = session.digests.place();
    place.turn().await;
    if !is_wanted() {
        return Ok(None);
    }
    let began = clock::now();
    let begin = || session.view(|view| HashKv::new(view, revision));
    let (mut digest, pin) = pinned(begin()?, HashKv::pin, |revision| session.pin(revision), begin)?;
    loop {
        if pin.is_lost() {
            return Err(Error::Compacted);
        }
        if let Some(hash) = session.view(|view| digest.step(view, HASH_SLICE))? {
            session.metrics.hashed(true, clock::now().since(began));
            return Ok(Some(hash));
        }
        task::yield_now().await;
        if !is_wanted() {
            return Ok(None);
        }
    }
}
