//! The pairs of a file of etcd, taken into a store that is empty: the other way round.
//!
//! Changes come in the order of their revisions, as the file has them, so each finds what it supersedes in `Index`
//! already. Whoever restores a file for a new cluster leaves out the members of the old one and names new ones; a
//! member that takes in a snapshot of its leader takes them too.
#![forbid(unsafe_code)]

use prost::Message;
use serde::Deserialize;

use crate::bbolt::ReadError;
use crate::btree::{Applied, Read, Tree, WriteTxn};
use crate::cluster::Cluster;
use crate::cluster::member::MemberContext;
use crate::mvcc::View;
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::{IndexEntry, LIVE, TOMBSTONE, garbage_key, index_key, lease_key};
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::leasepb::Lease;
use crate::proto::membershippb::{Attributes, Member};
use crate::wire::{KeyValue, key_of};

/// The buckets whose pairs are taken, in the order in which they have to be: a key finds its lease.
pub const BUCKETS: [&str; 8] = ["meta", "lease", "key", "alarm", "cluster", "auth", "authUsers", "authRoles"];

/// The buckets that say who belongs to the cluster.
pub const MEMBERS: [&str; 2] = ["members", "members_removed"];

/// What was taken so far.
#[derive(Default)]
pub struct Import {
    revision: i64,
    compacted: i64,
    /// Index and term of the last log entry that the file contains, as far as it says so.
    reached: (Option<u64>, Option<u64>),
    /// A tombstone or a value, built here.
    stored: Vec<u8>,
}

/// A downgrade as etcd stores it.
#[derive(Deserialize)]
struct Downgrade {
    #[serde(rename = "target-version", default)]
    target: String,
    #[serde(default)]
    enabled: bool,
}

fn refused<T>(what: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Damaged(what.into()))
}

impl Import {
    /// Nothing was taken.
    pub fn new() -> Self {
        Self { revision: 1, compacted: -1, ..Self::default() }
    }

    /// Takes a pair of a bucket.
    ///
    /// # Errors
    /// When it is none that etcd writes, or says what Kevel has no place for.
    pub fn pair(
        &mut self,
        txn: &mut WriteTxn<'_>,
        bucket: &str,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ReadError> {
        match bucket {
            "meta" => self.meta(key, value),
            "lease" => lease(txn, key, value),
            "key" => self.change(txn, key, value),
            "alarm" => alarm(txn, key),
            "cluster" => cluster(txn, key, value),
            "members" => member(txn, key, value),
            "members_removed" => removed(txn, key),
            _ => auth(bucket, key, value),
        }
    }

    /// What the store contains once the entries up to `index`, of term `term`, are in it too. `bump` is added to the
    /// revision, which is compacted to then.
    ///
    /// # Errors
    /// When the revision gets too large.
    pub fn applied(&self, index: u64, term: u64, bump: u64) -> Result<Applied, ReadError> {
        // etcd goes on behind a compaction, also where all that came before it is gone.
        let latest = self.revision.max(self.compacted);
        let revision = i64::try_from(bump).ok().and_then(|bump| latest.checked_add(bump));
        let Some(revision) = revision.filter(|&revision| revision < i64::MAX) else {
            return refused(format!("revision {latest} cannot be increased by {bump}"));
        };
        let compact_revision = if bump > 0 { revision } else { self.compacted };
        Ok(Applied { index, term, revision, compact_revision, swept_revision: -1 })
    }

    /// Index and term of the last log entry that the file contains, as far as it says so.
    pub fn reached(&self) -> (Option<u64>, Option<u64>) {
        self.reached
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        let number = || value.try_into().ok().map(u64::from_be_bytes);
        match key {
            b"scheduledCompactRev" => {
                let Some((revision, false)) = revision_of(value) else {
                    return refused("bucket meta: scheduledCompactRev is no revision");
                };
                self.compacted = revision.main;
            }
            b"consistent_index" => self.reached.0 = number(),
            b"term" => self.reached.1 = number(),
            _ => {}
        }
        Ok(())
    }

    fn change(&mut self, txn: &mut WriteTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        let unread = || ReadError::Damaged(format!("bucket key: the change at key {key:x?} cannot be read"));
        let (revision, is_tombstone) = revision_of(key).ok_or_else(unread)?;
        self.revision = self.revision.max(revision.main);
        if value.is_empty() {
            // What a restore that bumped the revision has left.
            return Ok(());
        }
        let user_key = key_of(value).filter(|key| !key.is_empty()).ok_or_else(unread)?;
        let newest = Revision::new(i64::MAX, i64::MAX);
        let before = View::new(&*txn).find_any(user_key, newest).map_err(|_| unread())?;
        let live = before.filter(|found| !found.entry.tombstone);
        let entry = match is_tombstone {
            true => IndexEntry::tombstone(),
            false => entry_of(txn, revision, value).ok_or_else(unread)?,
        };
        self.stored.clear();
        self.stored.push(if is_tombstone { TOMBSTONE } else { LIVE });
        self.stored.extend_from_slice(value);
        txn.put(Tree::Kv, &revision.to_bytes(), &self.stored);
        txn.put(Tree::Index, &index_key(user_key, revision), &entry.encode(revision.main));
        if let Some(found) = live {
            txn.put(Tree::Garbage, &garbage_key(revision.main, found.revision), &[]);
        }
        if is_tombstone {
            txn.put(Tree::Garbage, &garbage_key(revision.main + 1, revision), &[]);
        }
        let old_lease = live.map_or(0, |found| found.entry.lease);
        if old_lease != entry.lease {
            txn.delete(Tree::LeaseKey, &lease_key(old_lease, user_key));
            if entry.lease != 0 {
                txn.put(Tree::LeaseKey, &lease_key(entry.lease, user_key), &[]);
            }
        }
        Ok(())
    }
}

/// The revision that a key of bucket `key` names, and whether it is that of a tombstone.
fn revision_of(key: &[u8]) -> Option<(Revision, bool)> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
    let [main, sub] = [*main, *sub].map(i64::from_be_bytes);
    let is_tombstone = match mark {
        [] => false,
        b"t" => true,
        _ => return None,
    };
    // Sub revisions have four bytes in `Index`, and what is deleted dies at the revision behind it.
    let is_known = (0..i64::MAX).contains(&main) && u32::try_from(sub).is_ok();
    is_known.then_some((Revision::new(main, sub), is_tombstone))
}

/// What `Index` says of a put; nothing if it contradicts itself.
fn entry_of(txn: &WriteTxn<'_>, revision: Revision, value: &[u8]) -> Option<IndexEntry> {
    let kv = KeyValue::decode(value)?;
    let is_possible = (0..=revision.main).contains(&kv.create_revision) && kv.version > 0;
    let kv_len = u32::try_from(value.len()).ok()? as usize;
    // A key may name a lease that has gone, to which etcd does not attach it either.
    let has_lease = kv.lease != 0 && txn.get(Tree::Lease, &kv.lease.to_be_bytes()).is_some();
    let lease = if has_lease { kv.lease } else { 0 };
    let (create_revision, version) = (kv.create_revision, kv.version);
    is_possible.then_some(IndexEntry { tombstone: false, create_revision, version, lease, kv_len })
}

fn lease(txn: &mut WriteTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    match Lease::decode(value) {
        Ok(lease) if lease.id != 0 && key == lease.id.to_be_bytes() => {
            txn.put(Tree::Lease, key, value);
            Ok(())
        }
        _ => refused(format!("bucket lease: the lease at key {key:x?} cannot be read")),
    }
}

fn alarm(txn: &mut WriteTxn<'_>, key: &[u8]) -> Result<(), ReadError> {
    let Ok(alarm) = AlarmMember::decode(key) else {
        return refused(format!("bucket alarm: {key:x?} is no alarm"));
    };
    txn.put(Tree::Alarm, &alarm.encode_to_vec(), &[]);
    Ok(())
}

fn cluster(txn: &mut WriteTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    match key {
        b"clusterVersion" => Cluster::default().set_version(txn, &String::from_utf8_lossy(value)),
        b"downgrade" => match serde_json::from_slice::<Downgrade>(value) {
            Ok(downgrade) => {
                Cluster::default().set_downgrade(txn, downgrade.enabled, &downgrade.target);
            }
            Err(error) => return refused(format!("bucket cluster: downgrade cannot be read: {error}")),
        },
        _ => {}
    }
    Ok(())
}

fn id_of(key: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(key).ok().filter(|text| !text.starts_with('+'))?;
    u64::from_str_radix(text, 16).ok()
}

fn member(txn: &mut WriteTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let read = serde_json::from_slice::<MemberContext>(value).ok();
    let Some(context) = read.filter(|context| context.id != 0 && id_of(key) == Some(context.id)) else {
        return refused(format!("bucket members: the member at key {key:x?} cannot be read"));
    };
    let (name, client_urls) = (context.name.clone(), context.client_urls.clone());
    // A member that has not published its attributes yet has none.
    let attributes = Attributes { name, client_urls };
    let published = (attributes != Attributes::default()).then_some(attributes);
    let member = Member { member_attributes: published, ..context.into_member(None) };
    Cluster::default().set_member(txn, member);
    Ok(())
}

fn removed(txn: &mut WriteTxn<'_>, key: &[u8]) -> Result<(), ReadError> {
    let Some(id) = id_of(key) else {
        return refused(format!("bucket members_removed: {key:x?} is no id of a member"));
    };
    Cluster::default().remove_member(txn, id);
    Ok(())
}

/// A store without passwords would give everybody what some were to have.
fn auth(bucket: &str, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let says_nothing = bucket == "auth" && (key != b"authEnabled" || value == [0]);
    if says_nothing {
        return Ok(());
    }
    refused(
        "the snapshot has users, roles or authentication, which Kevel does not have yet: disable authentication and \
         remove them before the snapshot is saved",
    )
}
