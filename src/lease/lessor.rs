//! The lessor.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

use prost::Message;

use crate::btree::{Read, Tree, WriteTxn};
use crate::proto::leasepb;
use crate::stdx::time::{Duration, Instant};

/// The longest TTL that can be asked for.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// How long a due lease is left alone after it was handed out, in case its revocation got lost.
const RETRY: Duration = Duration::from_secs(3);

/// Why a lease was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The id is taken.
    Exists,
    /// There is no such lease, or it is due.
    NotFound,
    /// Above [`MAX_TTL_SECONDS`].
    TtlTooLarge,
}

/// What a question about one lease is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Whole seconds left; 0 when due.
    pub ttl: i64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl_seconds: i64,
    /// When the leader revokes it. The heap has an entry with this instant.
    expiry: Instant,
    /// Seconds that a checkpoint left it; 0 without one.
    remaining_seconds: i64,
}

type FixedHash = BuildHasherDefault<DefaultHasher>;

/// All leases of a member.
#[derive(Debug)]
pub struct Lessor {
    leases: HashMap<i64, Lease, FixedHash>,
    /// Expiries, soonest first. Stale entries (renewed, revoked) are dropped when they come up or outnumber the
    /// leases.
    heap: BinaryHeap<Reverse<(Instant, i64)>>,
    min_ttl_seconds: i64,
    /// True on the leader: only there do leases run out.
    primary: bool,
}

impl Lessor {
    /// No leases yet. A TTL below `min_ttl_seconds` is raised to it.
    pub fn new(min_ttl_seconds: i64) -> Self {
        assert!(min_ttl_seconds > 0, "a lease lives for some time");
        let leases = HashMap::default();
        Self { leases, heap: BinaryHeap::new(), min_ttl_seconds, primary: false }
    }

    /// The leases that the store has. They don't run before [`Lessor::promote`].
    ///
    /// # Panics
    /// When a stored lease cannot be decoded.
    pub fn restore(min_ttl_seconds: i64, store: &impl Read) -> Self {
        let mut lessor = Self::new(min_ttl_seconds);
        let mut cursor = store.cursor(Tree::Lease);
        cursor.seek(&[]);
        while cursor.valid() {
            let stored = leasepb::Lease::decode(cursor.value())
                .unwrap_or_else(|error| panic!("lease record {:?} is damaged: {error}", cursor.key()));
            let lease = Lease {
                ttl_seconds: stored.ttl,
                expiry: Instant::default(),
                remaining_seconds: stored.remaining_ttl,
            };
            lessor.leases.insert(stored.id, lease);
            cursor.next();
        }
        lessor
    }

    /// Makes a lease and stores it. Returns the TTL granted, in seconds.
    ///
    /// # Errors
    /// [`Error::NotFound`] for id 0 (etcd's answer), [`Error::TtlTooLarge`], [`Error::Exists`].
    pub fn grant(&mut self, txn: &mut WriteTxn<'_>, now: Instant, id: i64, ttl: i64) -> Result<i64, Error> {
        if id == 0 {
            return Err(Error::NotFound);
        }
        if ttl > MAX_TTL_SECONDS {
            return Err(Error::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::Exists);
        }
        let ttl_seconds = ttl.max(self.min_ttl_seconds);
        let lease = Lease { ttl_seconds, expiry: now + seconds(ttl_seconds), remaining_seconds: 0 };
        self.leases.insert(id, lease);
        store(txn, id, &lease);
        if self.primary {
            self.schedule(lease.expiry, id);
        }
        Ok(ttl_seconds)
    }

    /// Forgets a lease and its record. Its keys are the caller's to delete.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn revoke(&mut self, txn: &mut WriteTxn<'_>, id: i64) -> Result<(), Error> {
        self.leases.remove(&id).ok_or(Error::NotFound)?;
        let stored = txn.delete(Tree::Lease, &id.to_be_bytes());
        assert!(stored, "lease {id} was in memory but not in the store");
        Ok(())
    }

    /// Whether keys can be attached to it.
    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Gives a lease its full TTL again and returns it, in seconds.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown lease and for one that is due: its revocation is on the way.
    pub fn renew(&mut self, now: Instant, id: i64) -> Result<i64, Error> {
        let primary = self.primary;
        let lease = self.leases.get_mut(&id).ok_or(Error::NotFound)?;
        if primary && lease.expiry <= now {
            return Err(Error::NotFound);
        }
        let ttl_seconds = lease.ttl_seconds;
        lease.expiry = now + seconds(ttl_seconds);
        let expiry = lease.expiry;
        if primary {
            self.schedule(expiry, id);
        }
        Ok(ttl_seconds)
    }

    /// Records what the leader says is left of a lease; a later leader starts from there.
    pub fn checkpoint(&mut self, txn: &mut WriteTxn<'_>, now: Instant, id: i64, remaining_seconds: i64) {
        let primary = self.primary;
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.remaining_seconds = remaining_seconds;
        store(txn, id, lease);
        if primary {
            lease.expiry = now + left(lease);
            let expiry = lease.expiry;
            self.schedule(expiry, id);
        }
    }

    /// What is left of a lease.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn time_to_live(&self, now: Instant, id: i64) -> Result<LeaseInfo, Error> {
        let lease = self.leases.get(&id).ok_or(Error::NotFound)?;
        let ttl = lease.expiry.since(now).as_secs();
        Ok(LeaseInfo { granted_ttl: lease.ttl_seconds, ttl: i64::try_from(ttl).unwrap_or(i64::MAX) })
    }

    /// All ids, the soonest to expire first.
    pub fn leases(&self) -> Vec<i64> {
        let mut ids: Vec<(Instant, i64)> =
            self.leases.iter().map(|(&id, lease)| (lease.expiry, id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Becomes the leader's lessor: every lease runs again from what is left of it, plus `extend`.
    pub fn promote(&mut self, now: Instant, extend: Duration) {
        self.primary = true;
        for lease in self.leases.values_mut() {
            lease.expiry = now + extend + left(lease);
        }
        self.rebuild();
    }

    /// No longer the leader's: nothing expires here.
    pub fn demote(&mut self) {
        self.primary = false;
        self.heap.clear();
    }

    /// The instant from which [`Lessor::expired`] may have something; none while nothing runs.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((expiry, _))| *expiry)
    }

    /// Up to `limit` leases that are due, to be revoked through the log. Each is handed out again after a while
    /// if it is still there.
    pub fn expired(&mut self, now: Instant, limit: usize) -> Vec<i64> {
        let mut due = Vec::new();
        while due.len() < limit {
            match self.heap.peek() {
                Some(&Reverse((expiry, id))) if expiry <= now => {
                    self.heap.pop();
                    // A renewed or revoked lease leaves its old entry behind; an entry past the lease's own
                    // expiry is a retry.
                    if self.leases.get(&id).is_some_and(|lease| lease.expiry <= now) {
                        due.push(id);
                        self.heap.push(Reverse((now + RETRY, id)));
                    }
                }
                _ => break,
            }
        }
        due
    }

    fn schedule(&mut self, expiry: Instant, id: i64) {
        self.heap.push(Reverse((expiry, id)));
        // Renewals leave stale entries; half of the heap may be such before it is built anew.
        if self.heap.len() > 64 + 2 * self.leases.len() {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        self.heap = self.leases.iter().map(|(&id, lease)| Reverse((lease.expiry, id))).collect();
    }
}

fn left(lease: &Lease) -> Duration {
    seconds(if lease.remaining_seconds > 0 { lease.remaining_seconds } else { lease.ttl_seconds })
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn store(txn: &mut WriteTxn<'_>, id: i64, lease: &Lease) {
    let record = leasepb::Lease { id, ttl: lease.ttl_seconds, remaining_ttl: lease.remaining_seconds };
    txn.put(Tree::Lease, &id.to_be_bytes(), &record.encode_to_vec());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn leader() -> Lessor {
        let mut lessor = Lessor::new(2);
        lessor.promote(at(0), Duration::ZERO);
        lessor
    }

    #[test]
    fn grants_are_checked_in_etcds_order_and_small_ttls_raised() {
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        assert_eq!(lessor.grant(&mut txn, at(0), 0, MAX_TTL_SECONDS + 1), Err(Error::NotFound));
        assert_eq!(lessor.grant(&mut txn, at(0), 7, MAX_TTL_SECONDS + 1), Err(Error::TtlTooLarge));
        assert_eq!(lessor.grant(&mut txn, at(0), 7, -5), Ok(2));
        assert_eq!(lessor.grant(&mut txn, at(0), 7, 5), Err(Error::Exists));
        assert_eq!(lessor.time_to_live(at(1), 7), Ok(LeaseInfo { granted_ttl: 2, ttl: 1 }));
    }

    #[test]
    fn a_renewed_lease_expires_late_and_a_lost_revocation_is_repeated() {
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        lessor.grant(&mut txn, at(0), 1, 10).unwrap();
        lessor.grant(&mut txn, at(0), 2, 10).unwrap();
        assert_eq!(lessor.renew(at(6), 2), Ok(10));
        assert_eq!(lessor.expired(at(9), 10), [0i64; 0]);
        assert_eq!(lessor.expired(at(10), 10), [1]);
        assert_eq!(lessor.renew(at(10), 1), Err(Error::NotFound));
        assert_eq!(lessor.expired(at(12), 10), [0i64; 0]);
        assert_eq!(lessor.expired(at(13), 10), [1]);
        lessor.revoke(&mut txn, 1).unwrap();
        assert_eq!(lessor.revoke(&mut txn, 1), Err(Error::NotFound));
        assert_eq!(lessor.expired(at(20), 10), [2]);
    }

    #[test]
    fn a_restart_extends_and_never_revives() {
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        lessor.grant(&mut txn, at(0), 1, 10).unwrap();
        lessor.grant(&mut txn, at(0), 2, 100).unwrap();
        lessor.grant(&mut txn, at(0), 3, 50).unwrap();
        lessor.checkpoint(&mut txn, at(1), 2, 20);
        lessor.revoke(&mut txn, 3).unwrap();
        txn.commit();
        let mut reader = store.readers().register();
        let mut lessor = Lessor::restore(2, &reader.snapshot());
        assert_eq!(lessor.expired(at(1000), 10), [0i64; 0], "a follower expires nothing");
        lessor.promote(at(1000), Duration::from_secs(1));
        assert_eq!(lessor.leases(), [1, 2]);
        assert_eq!(lessor.expired(at(1010), 10), [0i64; 0]);
        assert_eq!(lessor.expired(at(1011), 10), [1]);
        assert_eq!(lessor.time_to_live(at(1001), 2), Ok(LeaseInfo { granted_ttl: 100, ttl: 20 }));
    }

    #[test]
    fn many_renewals_do_not_grow_the_heap() {
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        (1..=10).for_each(|id| assert_eq!(lessor.grant(&mut txn, at(0), id, 10), Ok(10)));
        for second in 1..10_000 {
            for id in 1..=10 {
                lessor.renew(at(second), id).unwrap();
            }
        }
        assert!(lessor.heap.len() <= 100);
    }
}
