//! What a member has applied since it started, for metrics: plain numbers, read by the replica core after each turn.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::mvcc::txn::Ops;
use crate::mvcc::write::Growth;
use crate::request::Request;
use crate::response::Response;

/// Kinds of entries that are counted each for itself, by etcd's names of them.
pub const APPLIES: [&str; 9] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "Alarm",
    "ClusterVersionSet",
    "ClusterMemberAttrSet",
];

/// Index into [`APPLIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the label")]
pub enum ApplyKind {
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
}

impl ApplyKind {
    fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Put(_) => ApplyKind::Put,
            Request::DeleteRange(_) => ApplyKind::DeleteRange,
            Request::Txn(_) => ApplyKind::Txn,
            Request::Compaction(_) => ApplyKind::Compaction,
            Request::LeaseGrant(_) => ApplyKind::LeaseGrant,
            Request::LeaseRevoke(_) => ApplyKind::LeaseRevoke,
            Request::Alarm(_) => ApplyKind::Alarm,
            Request::ClusterVersionSet(_) => ApplyKind::ClusterVersionSet,
            Request::ClusterMemberAttrSet(_) => ApplyKind::ClusterMemberAttrSet,
            _ => return None,
        })
    }
}

/// Counts since the start; but for the number of keys none of them goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ranges inside entries.
    pub ranges: u64,
    /// Puts.
    pub puts: u64,
    /// Deletions, as operations.
    pub deletes: u64,
    /// Entries with more than one operation.
    pub txns: u64,
    /// Leases revoked, by whomever.
    pub leases_revoked: u64,
    /// ... because their time was over.
    pub leases_expired: u64,
    /// Slices of compactions.
    pub sweeps: u64,
    /// Turns that ended in the middle of an entry.
    pub suspensions: u64,
    /// What writes added to the store. Keys may become fewer.
    pub growth: Growth,
    /// Entries by kind, and whether they failed or succeeded. Reading what is compacted is no failure.
    pub applied: [[u64; 2]; APPLIES.len()],
}

impl Tally {
    /// Counts an entry. `expiry` says that this member proposed it for a lease whose time was over.
    pub(super) fn count(
        &mut self,
        request: &Request,
        reply: &Result<Response, Error>,
        ops: &Ops,
        expiry: bool,
    ) {
        self.ranges += u64::from(ops.ranges);
        self.puts += u64::from(ops.puts);
        self.deletes += u64::from(ops.deletes);
        self.txns += u64::from(ops.sum() > 1);
        self.growth.keys += ops.growth.keys;
        self.growth.put_bytes += ops.growth.put_bytes;
        if let Some(kind) = ApplyKind::of(request) {
            let success = matches!(reply, Ok(_) | Err(Error::Compacted));
            self.applied[kind as usize][usize::from(success)] += 1;
            if kind == ApplyKind::LeaseRevoke && success {
                self.leases_revoked += 1;
                self.leases_expired += u64::from(expiry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{LeaseRevokeRequest, PutRequest};

    #[test]
    fn entries_are_counted_by_kind_outcome_and_operations() {
        let mut tally = Tally::default();
        let put = Request::Put(PutRequest::default());
        let ok = Ok(Response::Done);
        tally.count(&put, &ok, &Ops { puts: 1, ..Ops::default() }, false);
        tally.count(&put, &ok, &Ops { puts: 1, ranges: 1, ..Ops::default() }, false);
        tally.count(&put, &Err(Error::LeaseNotFound), &Ops::default(), false);
        let revoke = Request::LeaseRevoke(LeaseRevokeRequest { id: 1 });
        tally.count(&revoke, &ok, &Ops { deletes: 2, ..Ops::default() }, false);
        tally.count(&revoke, &ok, &Ops::default(), true);
        tally.count(&revoke, &Err(Error::LeaseNotFound), &Ops::default(), true);
        assert_eq!((tally.puts, tally.ranges, tally.deletes, tally.txns), (2, 1, 2, 2));
        assert_eq!((tally.leases_revoked, tally.leases_expired), (2, 1));
        assert_eq!(tally.applied[ApplyKind::Put as usize], [1, 2]);
        assert_eq!(tally.applied[ApplyKind::LeaseRevoke as usize], [1, 2]);
        assert_eq!(APPLIES[ApplyKind::LeaseRevoke as usize], "LeaseRevoke");
        assert_eq!(APPLIES[ApplyKind::ClusterMemberAttrSet as usize], "ClusterMemberAttrSet");
    }
}
