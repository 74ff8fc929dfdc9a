//! Leases: promises that expire, and the keys that die with them.
//!
//! ```text
//!   grant ──▶ live ── renew (leader only) ──▶ live with a new expiry
//!               │ expiry passes, seen by the leader's expired()
//!               ▼
//!            due ── LeaseRevoke proposed through the log ──▶ revoked, its keys deleted in one revision
//! ```
//!
//! The [`Lessor`] keeps time in memory and the promise itself in the store: tree `Lease` holds id, TTL and, if
//! checkpointed, what was left of it. Which keys hang on a lease stands in tree `LeaseKey`, written by `mvcc`
//! together with the key. The lessor never deletes a key: revoking is an entry of the log like any other.
//!
//! Only the leader expires leases. A new leader (and a restarted one) gives every lease its full or checkpointed
//! TTL again, plus one election timeout: a lease may live longer than promised, never shorter.
//!
//! `lessor` has all this; `stored` has the ids of one state of the store, for whoever lists them.
//!
//! Absent on purpose: a clock (the time is passed in), and a scan over all leases: expiry is a heap whose entries
//! are checked against the lease when they come up, so a renewal changes one field.
#![forbid(unsafe_code)]

mod lessor;
mod stored;

pub use lessor::{Error, LeaseInfo, Lessor, MAX_TTL_SECONDS};
pub use stored::StoredIds;
