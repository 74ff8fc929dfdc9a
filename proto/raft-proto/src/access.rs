//! Accessors in the manner of older generators, for the names that `raft` calls.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::eraftpb::*;

/// A shared default instance, to answer `get_x` of a message field that is not set.
fn unset<T: Default + Sync>(cell: &'static OnceLock<T>) -> &'static T {
    cell.get_or_init(T::default)
}

/// Writes the accessors of one message: `copy` for numbers and flags, `list` and `blob` for what is lent and
/// taken, `choice` for enumerations (prost itself makes their setter), `part` for messages within.
macro_rules! accessors {
    ($($message:ident { $($kind:ident $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident;)* })*) => {
        $(impl $message {
            /// A message with nothing set.
            pub fn new() -> Self { Self::default() }
            $(accessors!(@$kind $field: $type, $get $set $mutate $take);)*
        })*
    };
    (@copy $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident) => {
        #[inline] pub fn $get(&self) -> $type { self.$field }
        #[inline] pub fn $set(&mut self, value: $type) { self.$field = value; }
    };
    (@choice $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident) => {
        #[inline] pub fn $get(&self) -> $type { self.$field() }
    };
    (@list $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident) => {
        #[inline] pub fn $get(&self) -> &[$type] { &self.$field }
        #[inline] pub fn $set(&mut self, value: Vec<$type>) { self.$field = value; }
        #[inline] pub fn $mutate(&mut self) -> &mut Vec<$type> { &mut self.$field }
        #[inline] pub fn $take(&mut self) -> Vec<$type> { std::mem::take(&mut self.$field) }
    };
    (@blob $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident) => {
        #[inline] pub fn $get(&self) -> &[u8] { &self.$field }
        #[inline] pub fn $set(&mut self, value: $type) { self.$field = value; }
        #[inline] pub fn $mutate(&mut self) -> &mut $type { &mut self.$field }
        #[inline] pub fn $take(&mut self) -> $type { std::mem::take(&mut self.$field) }
    };
    (@part $field:ident: $type:ty, $get:ident $set:ident $mutate:ident $take:ident) => {
        #[inline] pub fn $get(&self) -> &$type {
            static UNSET: OnceLock<$type> = OnceLock::new();
            self.$field.as_ref().unwrap_or_else(|| unset(&UNSET))
        }
        #[inline] pub fn $set(&mut self, value: $type) { self.$field = Some(value); }
        #[inline] pub fn $mutate(&mut self) -> &mut $type { self.$field.get_or_insert_with(Default::default) }
        #[inline] pub fn $take(&mut self) -> $type { self.$field.take().unwrap_or_default() }
    };
}

accessors! {
    Entry {
        choice entry_type: EntryType, get_entry_type set_entry_type mut_entry_type take_entry_type;
        copy term: u64, get_term set_term mut_term take_term;
        copy index: u64, get_index set_index mut_index take_index;
        blob data: Bytes, get_data set_data mut_data take_data;
        blob context: Bytes, get_context set_context mut_context take_context;
    }
    SnapshotMetadata {
        part conf_state: ConfState, get_conf_state set_conf_state mut_conf_state take_conf_state;
        copy index: u64, get_index set_index mut_index take_index;
        copy term: u64, get_term set_term mut_term take_term;
    }
    Snapshot {
        blob data: Bytes, get_data set_data mut_data take_data;
        part metadata: SnapshotMetadata, get_metadata set_metadata mut_metadata take_metadata;
    }
    Message {
        choice msg_type: MessageType, get_msg_type set_msg_type mut_msg_type take_msg_type;
        copy to: u64, get_to set_to mut_to take_to;
        copy from: u64, get_from set_from mut_from take_from;
        copy term: u64, get_term set_term mut_term take_term;
        copy log_term: u64, get_log_term set_log_term mut_log_term take_log_term;
        copy index: u64, get_index set_index mut_index take_index;
        list entries: Entry, get_entries set_entries mut_entries take_entries;
        copy commit: u64, get_commit set_commit mut_commit take_commit;
        part snapshot: Snapshot, get_snapshot set_snapshot mut_snapshot take_snapshot;
        copy reject: bool, get_reject set_reject mut_reject take_reject;
        copy reject_hint: u64, get_reject_hint set_reject_hint mut_reject_hint take_reject_hint;
        blob context: Bytes, get_context set_context mut_context take_context;
        copy priority: i64, get_priority set_priority mut_priority take_priority;
    }
    HardState {
        copy term: u64, get_term set_term mut_term take_term;
        copy vote: u64, get_vote set_vote mut_vote take_vote;
        copy commit: u64, get_commit set_commit mut_commit take_commit;
    }
    ConfState {
        list voters: u64, get_voters set_voters mut_voters take_voters;
        list learners: u64, get_learners set_learners mut_learners take_learners;
        list voters_outgoing: u64,
            get_voters_outgoing set_voters_outgoing mut_voters_outgoing take_voters_outgoing;
        list learners_next: u64, get_learners_next set_learners_next mut_learners_next take_learners_next;
        copy auto_leave: bool, get_auto_leave set_auto_leave mut_auto_leave take_auto_leave;
    }
    ConfChange {
        copy id: u64, get_id set_id mut_id take_id;
        choice change_type: ConfChangeType, get_change_type set_change_type mut_change_type take_change_type;
        copy node_id: u64, get_node_id set_node_id mut_node_id take_node_id;
        blob context: Bytes, get_context set_context mut_context take_context;
    }
    ConfChangeSingle {
        choice change_type: ConfChangeType, get_change_type set_change_type mut_change_type take_change_type;
        copy node_id: u64, get_node_id set_node_id mut_node_id take_node_id;
    }
    ConfChangeV2 {
        choice transition: ConfChangeTransition,
            get_transition set_transition mut_transition take_transition;
        list changes: ConfChangeSingle, get_changes set_changes mut_changes take_changes;
        blob context: Bytes, get_context set_context mut_context take_context;
    }
}

impl Snapshot {
    /// True when it stands for no snapshot at all: a real one covers at least one entry.
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}

impl Message {
    /// True when a snapshot travels in it.
    pub fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }
}
