//! One turn of a session core.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::watches::{Transport, Watches};
use crate::btree::Readers;
use crate::error::Error;
use crate::mvcc::EventBatch;
use crate::replica::port::Ticket;
use crate::response::Response;
use crate::watch::History;

/// What the replica tells a session core.
#[derive(Debug)]
pub enum FromReplica {
    /// The response to a request.
    Reply(Ticket, Result<Response, Error>),
    /// A read may go on.
    ReadReady(Ticket),
    /// The events of one revision, for every core.
    Publish(Arc<EventBatch>),
    /// A snapshot with everything up to a revision has taken the place of the store, which is read this way from now
    /// on.
    Installed(Readers, i64),
}

/// The world around a session core.
pub trait Shell {
    /// A reply has come.
    fn on_reply(&mut self, ticket: Ticket, result: Result<Response, Error>);

    /// Another store has taken the place of the one that was read so far.
    fn on_installed(&mut self, readers: Readers);

    /// The state that a read waits for is published.
    fn on_read_ready(&mut self, ticket: Ticket);

    /// Shows the core's watches, the newest published state, and the way to the streams.
    fn watch<T>(&mut self, step: impl FnOnce(&mut Watches, &dyn History, &mut dyn Transport) -> T) -> T;

    /// Whether the core's other tasks must run before this turn goes on. Asked before each piece of work.
    fn is_over(&mut self) -> bool;
}

/// Takes what the replica said, in its order, and does the watchers' work. True if more is left to do at once; other
/// tasks of the core run first.
pub fn turn(shell: &mut impl Shell, inbox: &mut VecDeque<FromReplica>) -> bool {
    shell.watch(|watches, _, transport| watches.ask_room(transport));
    while !shell.is_over()
        && let Some(message) = inbox.pop_front()
    {
        match message {
            FromReplica::Reply(ticket, result) => shell.on_reply(ticket, result),
            FromReplica::ReadReady(ticket) => shell.on_read_ready(ticket),
            FromReplica::Installed(readers, revision) => {
                shell.on_installed(readers);
                // No core hears of the revisions up to this one: who watches reads them from the store.
                let batch = Arc::new(EventBatch { revision, compact_revision: -1, events: Vec::new() });
                shell.watch(|watches, _, _| watches.publish(batch));
            }
            FromReplica::Publish(batch) => shell.watch(|watches, _, _| watches.publish(batch)),
        }
    }
    let more = shell.watch(|watches, history, transport| watches.work(history, transport));
    more || !inbox.is_empty()
}
