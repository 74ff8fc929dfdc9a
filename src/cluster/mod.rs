//! What a cluster agrees on beside its data: who belongs to it, its version, and the alarms that stop it.
//!
//! All of it is changed by entries of the log alone, in the transaction of the entry, and kept in memory beside its
//! trees, from which a start reads it back:
//!
//! | in memory | tree | key |
//! |---|---|---|
//! | [`Alarms`] | `Alarm` | the encoded AlarmMember, as in etcd's bucket |
//! | [`Cluster`], members and removed ids | `Member` | the id; without a value for an id that never comes back |
//! | [`Cluster`], versions | `Meta` | `cluster_version`, `downgrade_target` |
//!
//! [`stored`] is how the records of members and alarms are read, here and by those who answer from a published state.
//! A membership entry takes effect or not by the rules of [`membership`]; [`member`] is what such an entry carries.
//! [`reconfig`] says whether such an entry may be proposed, [`version`] what the cluster's version is to be.
//! [`corruption`] says what the members' hashes mean, and whom to accuse of data that differ.
//! [`discovery`] is how the founders of a cluster find one another.
//! [`cost`] is here because the alarm NOSPACE forbids what costs something.
//!
//! Absent on purpose: who leads and how far anybody is. That is raft's, and changes without the log.
#![forbid(unsafe_code)]

pub mod alarms;
pub mod corruption;
pub mod cost;
pub mod discovery;
pub mod member;
pub mod members;
pub mod membership;
pub mod reconfig;
pub mod stored;
pub mod version;

pub use alarms::Alarms;
pub use members::Cluster;
