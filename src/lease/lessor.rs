//! The lessor.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use prost::Message;

use crate::btree::{Read, Tree, WriteTxn};
use crate::proto::leasepb;
use crate::stdx::keyed_hash::KeyedHash;
use crate::stdx::time::{Duration, Instant};

/// The longest TTL that can be asked for.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// How long a due lease is left alone after it was handed out, in case its revocation got lost.
const RETRY: Duration = Duration::from_secs(3);

/// Entries of revoked leases that the heap may hold, beside as many as there are leases, before it is built anew.
const STALE_MIN: usize = 64;

/// Why a lease was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The id is taken.
    Exists,
    /// There is no such lease, or it is due.
    NotFound,
    /// Above [`MAX_TTL_SECONDS`].
    TtlTooLarge,
    /// A stored lease cannot be read, or is missing.
    Damaged,
}

/// What a question about one lease is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Whole seconds left; not above 0 when due.
    pub ttl: i64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl_seconds: i64,
    /// When the leader revokes it. Never earlier than what it was before, while it leads.
    expiry: Instant,
    /// Instant of the lease's only valid queue entry; others are stale. Up to `expiry` it is in `heap`, later in
    /// `handed_out`.
    queued: Instant,
    /// Seconds that a checkpoint left the lease; 0 without one. A new leader counts from there.
    remaining_seconds: i64,
}

/// All leases of a member.
#[derive(Debug)]
pub struct Lessor {
    /// Clients choose the ids, so the hash has a secret.
    leases: HashMap<i64, Lease, KeyedHash>,
    /// When to look at which lease, soonest first. A renewal does not touch it: the entry comes up too early and is
    /// put back. Entries of revoked leases are dropped when they come up or outnumber the leases.
    heap: BinaryHeap<Reverse<(Instant, i64)>>,
    /// Leases that were due, and when to hand them out again, soonest first. Most are gone by then.
    handed_out: VecDeque<(Instant, i64)>,
    min_ttl_seconds: i64,
    /// True on the leader: only there do leases run out.
    primary: bool,
}

impl Lessor {
    /// No leases yet. A TTL below `min_ttl_seconds` is raised to it. `secret` must not be known to clients.
    pub fn new(min_ttl_seconds: i64, secret: u64) -> Self {
        assert!(min_ttl_seconds > 0, "a lease lives for some time");
        let leases = HashMap::with_hasher(KeyedHash::new(secret));
        Self { leases, heap: BinaryHeap::new(), handed_out: VecDeque::new(), min_ttl_seconds, primary: false }
    }

    /// The leases that the store has. They don't run before [`Lessor::promote`].
    ///
    /// # Errors
    /// [`Error::Damaged`] when a stored lease cannot be decoded, or is stored under another id.
    pub fn restore(min_ttl_seconds: i64, secret: u64, store: &impl Read) -> Result<Self, Error> {
        let mut lessor = Self::new(min_ttl_seconds, secret);
        let mut cursor = store.cursor(Tree::Lease);
        cursor.seek(&[]);
        while cursor.valid() {
            let stored = leasepb::Lease::decode(cursor.value()).map_err(|_| Error::Damaged)?;
            if cursor.key() != stored.id.to_be_bytes() {
                return Err(Error::Damaged);
            }
            let lease = Lease {
                ttl_seconds: stored.ttl.max(min_ttl_seconds),
                expiry: Instant::default(),
                queued: Instant::default(),
                remaining_seconds: stored.remaining_ttl,
            };
            lessor.leases.insert(stored.id, lease);
            cursor.next();
        }
        Ok(lessor)
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
        let expiry = now + seconds(ttl_seconds);
        let lease = Lease { ttl_seconds, expiry, queued: expiry, remaining_seconds: 0 };
        self.leases.insert(id, lease);
        store(txn, id, &lease);
        if self.primary {
            self.heap.push(Reverse((expiry, id)));
            if self.heap.len() > STALE_MIN + 2 * self.leases.len() {
                self.rebuild();
            }
        }
        Ok(ttl_seconds)
    }

    /// Forgets a lease and its record. Its keys are the caller's to delete.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`] when the store does not have the record.
    pub fn revoke(&mut self, txn: &mut WriteTxn<'_>, id: i64) -> Result<(), Error> {
        self.leases.remove(&id).ok_or(Error::NotFound)?;
        let is_stored = txn.delete(Tree::Lease, &id.to_be_bytes());
        if is_stored { Ok(()) } else { Err(Error::Damaged) }
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
        lease.expiry = now + seconds(lease.ttl_seconds);
        Ok(lease.ttl_seconds)
    }

    /// Whether a checkpoint says that less than the full TTL is left. A renewal must not be promised before that is
    /// taken back through the log: the next leader would let the lease run out too early.
    pub fn is_checkpointed(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.remaining_seconds > 0)
    }

    /// Records what the leader says is left of a lease: the next leader starts from there, this one goes on.
    pub fn checkpoint(&mut self, txn: &mut WriteTxn<'_>, id: i64, remaining_seconds: i64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.remaining_seconds = remaining_seconds;
        store(txn, id, lease);
    }

    /// What is left of a lease.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn time_to_live(&self, now: Instant, id: i64) -> Result<LeaseInfo, Error> {
        let lease = self.leases.get(&id).ok_or(Error::NotFound)?;
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let ttl = whole(lease.expiry.since(now)) - whole(now.since(lease.expiry));
        Ok(LeaseInfo { granted_ttl: lease.ttl_seconds, ttl })
    }

    /// When a lease ends; none for one that is gone.
    pub fn expiry(&self, id: i64) -> Option<Instant> {
        self.leases.get(&id).map(|lease| lease.expiry)
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
            lease.queued = lease.expiry;
        }
        self.rebuild();
    }

    /// No longer the leader's: nothing expires here.
    pub fn demote(&mut self) {
        self.primary = false;
        self.heap.clear();
        self.handed_out.clear();
    }

    /// The instant from which [`Lessor::expired`] may have something; none while nothing runs.
    pub fn next_expiry(&self) -> Option<Instant> {
        let first = self.heap.peek().map(|Reverse((queued, _))| *queued);
        let again = self.handed_out.front().map(|(queued, _)| *queued);
        first.into_iter().chain(again).min()
    }

    /// Leases that are due, to be revoked through the log. Each is handed out again after a while if it is still
    /// there. No more than `limit` entries are looked at, many of which may be of renewed or revoked leases:
    /// [`Lessor::next_expiry`] says whether to go on.
    pub fn expired(&mut self, now: Instant, limit: usize) -> Vec<i64> {
        let mut due = Vec::new();
        for _ in 0..limit {
            let Some((queued, id)) = self.take_queued(now) else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.queued == queued) else {
                continue;
            };
            if lease.expiry <= now {
                due.push(id);
                lease.queued = now + RETRY;
                self.handed_out.push_back((lease.queued, id));
            } else {
                lease.queued = lease.expiry;
                self.heap.push(Reverse((lease.queued, id)));
            }
        }
        due
    }

    /// The next entry to look at.
    fn take_queued(&mut self, now: Instant) -> Option<(Instant, i64)> {
        if let Some(again) = self.handed_out.pop_front_if(|(queued, _)| *queued <= now) {
            return Some(again);
        }
        self.next_expiry().filter(|queued| *queued <= now)?;
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    fn rebuild(&mut self) {
        self.handed_out.clear();
        self.heap = self.leases.iter().map(|(&id, lease)| Reverse((lease.queued, id))).collect();
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
        let mut lessor = Lessor::new(2, 1);
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
        lessor.checkpoint(&mut txn, 2, 20);
        let unmoved = lessor.time_to_live(at(1), 2);
        assert_eq!(unmoved, Ok(LeaseInfo { granted_ttl: 100, ttl: 99 }));
        lessor.revoke(&mut txn, 3).unwrap();
        txn.commit();
        let mut reader = store.readers().register();
        let mut lessor = Lessor::restore(2, 1, &reader.snapshot()).unwrap();
        assert_eq!(lessor.expired(at(1000), 10), [0i64; 0], "a follower expires nothing");
        lessor.promote(at(1000), Duration::from_secs(1));
        assert_eq!(lessor.expiry(1), Some(at(1011)));
        assert_eq!((lessor.expiry(2), lessor.expiry(3)), (Some(at(1021)), None));
        assert_eq!(lessor.expired(at(1010), 10), [0i64; 0]);
        assert_eq!(lessor.expired(at(1011), 10), [1]);
        assert_eq!(lessor.time_to_live(at(1001), 2), Ok(LeaseInfo { granted_ttl: 100, ttl: 20 }));
    }

    #[test]
    fn neither_renewals_nor_short_lives_grow_the_heap() {
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        (1..=10).for_each(|id| assert_eq!(lessor.grant(&mut txn, at(0), id, 10), Ok(10)));
        for second in 1..1000 {
            (1..=10).for_each(|id| assert_eq!(lessor.renew(at(second), id), Ok(10)));
            lessor.grant(&mut txn, at(second), 11, 1_000_000).unwrap();
            lessor.revoke(&mut txn, 11).unwrap();
            assert!(lessor.expired(at(second), 10).is_empty());
        }
        assert!(lessor.heap.len() <= 100);
        assert_eq!(lessor.expired(at(1009), 100).len(), 10, "each once");
    }

    #[test]
    fn random_lives_end_when_a_list_says_they_do() {
        let mut prng = crate::stdx::prng::Prng::new(4);
        let (mut store, mut lessor) = (Store::in_memory(), leader());
        let mut txn = store.write();
        let mut expiries = std::collections::BTreeMap::new();
        for second in 0..3000 {
            for _ in 0..prng.below(6) {
                let (id, ttl) = (1 + prng.below(40) as i64, 2 + prng.below(60));
                match prng.below(4) {
                    0 => {
                        let granted = lessor.grant(&mut txn, at(second), id, ttl as i64);
                        assert_eq!(granted.is_ok(), !expiries.contains_key(&id));
                        expiries.entry(id).or_insert((second + ttl, ttl));
                    }
                    1 => {
                        assert_eq!(lessor.revoke(&mut txn, id).is_ok(), expiries.remove(&id).is_some());
                    }
                    _ => {
                        let renewed = lessor.renew(at(second), id).is_ok();
                        let lease = expiries.get_mut(&id).filter(|(expiry, _)| *expiry > second);
                        assert_eq!(renewed, lease.is_some());
                        if let Some((expiry, ttl)) = lease {
                            *expiry = second + *ttl;
                        }
                    }
                }
            }
            let mut due = Vec::new();
            while lessor.next_expiry().is_some_and(|expiry| expiry <= at(second)) {
                for id in lessor.expired(at(second), 1) {
                    due.push(id);
                    lessor.revoke(&mut txn, id).unwrap();
                }
            }
            due.sort_unstable();
            let ended: Vec<i64> =
                expiries.iter().filter(|(_, (expiry, _))| *expiry <= second).map(|(id, _)| *id).collect();
            assert_eq!(due, ended);
            expiries.retain(|_, (expiry, _)| *expiry > second);
        }
    }
}
