//! A snapshot that another member has sent, made into a store. Nothing in here is of the running replica: a thread does
//! it at leisure.
#![forbid(unsafe_code)]

use std::sync::Arc;

use raft::eraftpb::{ConfState, Message, SnapshotMetadata};

use super::apply::State;
use super::recover::check_revisions;
use crate::bbolt::{Database, Source, check};
use crate::btree::Store;
use crate::page::{self, Owner, PageFile};
use crate::snapshot::fill::{checkpoint, fill};
use crate::snapshot::installed;

/// A snapshot of a leader: the message about it, and a store that has what the leader had. The store is durable in a
/// file of its own.
pub struct Arrival {
    pub(super) message: Box<Message>,
    pub(super) store: Store,
    pub(super) state: State,
}

/// What the store of this member needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    /// Whose store it will be.
    pub owner: Owner,
    /// The shortest lease, in seconds.
    pub lease_ttl_min: i64,
    /// What nobody can guess, for the lessor.
    pub secret: u64,
}

impl Arrival {
    /// Takes the file of etcd that came with `message` into the empty file `into`. `rest` is called now and then, to
    /// let others go on.
    ///
    /// # Errors
    /// Why message and file are no snapshot of a leader of this cluster, or what the disk answers.
    pub fn build<S: Source + ?Sized>(
        message: Box<Message>,
        source: &S,
        into: Arc<dyn PageFile>,
        recipient: &Recipient,
        rest: impl FnMut(),
    ) -> Result<Self, String> {
        let metadata = metadata(&message)?;
        let database = Database::open(source).map_err(|error| error.to_string())?;
        check::check(&database).map_err(|error| error.to_string())?;
        let mut store = Store::open(into.clone()).map_err(|error| error.to_string())?;
        page::claim(&*into, recipient.owner).map_err(|error| error.to_string())?;
        store.set_owner(recipient.owner);
        let import = fill(&mut store, &database, true, rest).map_err(|error| error.to_string())?;
        check_reached(&metadata, import.reached())?;
        let applied = import.applied(metadata.index, metadata.term, 0).map_err(|error| error.to_string())?;
        check_revisions(&applied)?;
        let mut txn = store.write();
        installed::note(&mut txn, metadata.index, metadata.term);
        txn.set_applied(applied);
        txn.commit();
        checkpoint(&mut store).map_err(|error| error.to_string())?;
        let state =
            State::restore(&store.readers().register().snapshot(), recipient.lease_ttl_min, recipient.secret);
        let state =
            state.map_err(|_| "a record of a member, an alarm or a lease cannot be read".to_owned())?;
        check_members(metadata.conf_state.unwrap_or_default(), state.cluster.conf_state())?;
        Ok(Self { message, store, state })
    }

    /// Index of the last entry in it.
    pub fn index(&self) -> u64 {
        self.store.applied().index
    }
}

fn metadata(message: &Message) -> Result<SnapshotMetadata, String> {
    let snapshot = message.snapshot.as_ref();
    let metadata = snapshot.and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err(format!(
            "the message of term {} is about a snapshot at entry {} of term {}",
            message.term, metadata.index, metadata.term
        ));
    }
    Ok(metadata)
}

/// Entries that the file lacks would be lost, and those that it has beyond would be applied twice.
fn check_reached(metadata: &SnapshotMetadata, reached: (Option<u64>, Option<u64>)) -> Result<(), String> {
    let (index, term) = reached;
    if index != Some(metadata.index) || term != Some(metadata.term) {
        return Err(format!(
            "the message is about a snapshot at entry {} of term {}, and the database says that its consistent index \
             is {} of term {}",
            metadata.index,
            metadata.term,
            index.unwrap_or_default(),
            term.unwrap_or_default()
        ));
    }
    Ok(())
}

/// Raft goes by the message, and a start goes by the store.
fn check_members(mut told: ConfState, stored: ConfState) -> Result<(), String> {
    told.voters.sort_unstable();
    told.learners.sort_unstable();
    if told != stored || stored.voters.is_empty() {
        return Err(format!("the members are {told:?} in the message and {stored:?} in the database"));
    }
    Ok(())
}
