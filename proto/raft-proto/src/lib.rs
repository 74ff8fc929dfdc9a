//! The message crate that `raft` 0.7 links, in our own making: same paths, same names, current prost.
//!
//! `raft` was written for code generators that give every field `get_x`, `set_x`, `mut_x` and `take_x`, and it
//! measures and encodes messages through the `protobuf` crate's trait. Types come from prost here (`eraftpb.proto`,
//! entry data as [`bytes::Bytes`]); [`access`](mod@access) adds the accessors, [`codec`] the trait, [`confchange`]
//! and [`confstate`] the few functions that `raft` expects beside the types.
#![forbid(unsafe_code)]

mod access;
mod codec;
mod confchange;
mod confstate;

pub use confchange::{
    CONF_CHANGE_UPDATE_NODE, ConfChangeI, new_conf_change_single, parse_conf_change, stringify_conf_change,
};
pub use confstate::conf_state_eq;

/// The types of `eraftpb.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod eraftpb {
    include!(concat!(env!("OUT_DIR"), "/eraftpb.rs"));
}

/// All message types at once.
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
        EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}

/// Conversions.
pub mod util {
    use crate::eraftpb::ConfState;

    impl<V, L> From<(V, L)> for ConfState
    where
        V: IntoIterator<Item = u64>,
        L: IntoIterator<Item = u64>,
    {
        fn from((voters, learners): (V, L)) -> Self {
            ConfState {
                voters: voters.into_iter().collect(),
                learners: learners.into_iter().collect(),
                ..ConfState::default()
            }
        }
    }
}
