//! When leases may and must expire.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::judge::{Judge, judge};
use kevel::stdx::time::{Duration, Instant};

/// How long after its end a lease may still be there: a tick to notice, a turn to propose, a slow disk.
const SLACK: Duration = Duration::from_millis(2500);

/// How long a revocation that failed is not tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// What a new leader adds to every lease: an election timeout.
const EXTENSION: Duration = Duration::from_secs(1);

/// Bounds of one lease.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The request that grants it; 0 for one that was there when the process began to lead. Leases follow one another
    /// under the same id.
    grant: u64,
    ttl: Duration,
    /// It is known to be there since this time. What was asked before may have met another lease of the same id.
    since: Option<Instant>,
    /// The member promised to keep it until then.
    earliest: Instant,
    /// It is to be gone some time after this; none while a renewal may be on its way.
    due: Option<Instant>,
}

/// All leases as far as clients can tell.
#[derive(Default)]
pub struct Leases {
    bounds: BTreeMap<i64, Bounds>,
    /// What clients were told to have, which outlives the process unless a checkpoint takes it back.
    promised: BTreeMap<i64, Instant>,
}

impl Leases {
    /// The entry that grants a lease is on its way to the disk.
    pub fn on_granted(&mut self, now: Instant, id: i64, grant: u64, ttl_seconds: i64) {
        let ttl = Duration::from_secs(ttl_seconds.unsigned_abs());
        self.bounds.insert(id, Bounds { grant, ttl, since: None, earliest: now + ttl, due: None });
        self.promised.remove(&id);
    }

    /// An answer shows that a grant is done. Its lease may have been revoked since, and the id granted again.
    pub fn on_grant_seen(&mut self, now: Instant, id: i64, grant: u64, renewals_on_their_way: bool) {
        if let Some(bounds) = self.bounds.get_mut(&id).filter(|bounds| bounds.grant == grant) {
            bounds.since = Some(now);
            bounds.due = (!renewals_on_their_way).then_some(now + bounds.ttl);
        }
    }

    /// An answer shows that a renewal is done. It happened between `asked` and now; others that are not answered may
    /// still be on their way.
    pub fn on_renewed(
        &mut self,
        asked: Instant,
        now: Instant,
        (id, ttl): (i64, i64),
        others_on_their_way: bool,
        judge: &Judge,
    ) {
        let Some(bounds) = self.bounds.get_mut(&id) else { return };
        let Some(since) = bounds.since else { return };
        if since < asked {
            judge!(bounds.ttl.as_secs() == ttl.unsigned_abs(), "lease {id} is renewed to {ttl} s");
            bounds.earliest = bounds.earliest.max(asked + bounds.ttl);
            // A checkpoint that was on its way may have come after the renewal, and take it back. Where the last one is
            // not applied yet, others before it may be what a crash leaves.
            let (left, said) = judge.model.remaining.get(&id).copied().unwrap_or_default();
            let applied = judge.when_applied(said);
            if said == 0 || applied.is_some_and(|applied| left <= 0 || applied < asked) {
                self.promised.insert(id, bounds.earliest);
            }
        }
        bounds.due = (!others_on_their_way).then_some(now + bounds.ttl);
    }

    /// A renewal was asked for, and may be done at any time from now on.
    pub fn on_renewing(&mut self, id: i64) {
        if let Some(bounds) = self.bounds.get_mut(&id) {
            bounds.due = None;
        }
    }

    /// The entry that revokes a lease is on its way to the disk; `expired` if no client asked for it.
    pub fn on_revoked(&mut self, now: Instant, id: i64, expired: bool) {
        self.promised.remove(&id);
        if let Some(bounds) = self.bounds.remove(&id)
            && expired
        {
            let early = bounds.earliest.since(now);
            judge!(early.is_zero(), "lease {id} expires {early:?} too early");
        }
    }

    /// The entry that says what is left of a lease is on its way to the disk.
    pub fn on_checkpoint(&mut self, id: i64, left: i64) {
        if left > 0 {
            self.promised.remove(&id);
        }
    }

    /// A renewal was refused.
    pub fn on_not_renewed(&mut self, now: Instant, id: i64, others_on_their_way: bool) {
        if let Some(bounds) = self.bounds.get_mut(&id) {
            bounds.due = (!others_on_their_way).then_some(bounds.earliest.max(now) + bounds.ttl);
        }
    }

    /// An alarm was cleared, perhaps the one that kept leases from being revoked: they are tried again.
    pub fn on_alarm_cleared(&mut self, now: Instant) {
        for bounds in self.bounds.values_mut() {
            bounds.due = bounds.due.map(|due| due.max(now + AGAIN));
        }
    }

    /// The log has stood still for so long.
    pub fn on_stall(&mut self, time: Duration) {
        for bounds in self.bounds.values_mut() {
            bounds.due = bounds.due.map(|due| due + time);
        }
    }

    /// The process is gone.
    pub fn on_crash(&mut self) {
        self.bounds.clear();
    }

    /// The member leads after a start, and has applied entries up to `applied`: every lease in the log runs again from
    /// the start, or from what a checkpoint has left of it, and somewhat longer. What it has granted since is on its
    /// way, perhaps behind another lease of the same id.
    pub fn on_leading(&mut self, now: Instant, judge: &Judge, applied: u64) {
        for (&id, &ttl_seconds) in &judge.model.leases {
            let ttl = Duration::from_secs(ttl_seconds.unsigned_abs());
            let (left, said) = judge.model.remaining.get(&id).copied().unwrap_or_default();
            let left = if left > 0 { Duration::from_secs(left.unsigned_abs()) } else { ttl };
            // A checkpoint that is on its way may come before or after the start.
            let (least, most) = if said <= applied { (left, left) } else { (Duration::ZERO, left.max(ttl)) };
            let (earliest, due) = (now + least, Some(now + most + EXTENSION));
            let earliest = earliest.max(self.promised.get(&id).copied().unwrap_or_default());
            self.bounds.entry(id).or_insert(Bounds { grant: 0, ttl, since: Some(now), earliest, due });
        }
    }

    /// The member has been up: whatever was due is gone.
    pub fn check(&self, now: Instant, judge: &Judge) {
        if judge.model.is_corrupt() {
            return;
        }
        for (id, bounds) in &self.bounds {
            if let Some(due) = bounds.due {
                let late = now.since(due + SLACK);
                judge!(late.is_zero(), "lease {id} should have expired {late:?} ago");
            }
        }
    }

    /// The member says how many whole seconds are left.
    pub fn on_time_to_live(&self, asked: Instant, now: Instant, id: i64, granted: i64, left: i64) {
        let known = |bounds: &&Bounds| bounds.since.is_some_and(|since| since < asked);
        let Some(bounds) = self.bounds.get(&id).filter(known) else { return };
        judge!(
            granted as u64 == bounds.ttl.as_secs(),
            "lease {id} was granted {:?}, not {granted} s",
            bounds.ttl
        );
        let least = bounds.earliest.since(now).as_secs();
        judge!(left.max(0) as u64 >= least, "lease {id} has {left} s left, {least} s were promised");
        if let Some(due) = bounds.due {
            let most = (due + SLACK).since(asked).as_secs() + 1;
            judge!(left.max(0) as u64 <= most, "lease {id} has {left} s left, at most {most} s are possible");
        }
    }
}
