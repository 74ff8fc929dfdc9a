//! A turn of the session loop, on the executor's clock.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::Session;
use crate::btree::Readers;
use crate::error::Error;
use crate::replica::port::Ticket;
use crate::response::Response;
use crate::server::io::clock;
use crate::server::mesh::Receiver;
use crate::session::{self, FromReplica, Shell, Transport};
use crate::stdx::time::{Duration, Instant};
use crate::watch::History;

/// A turn of the session loop; see [`crate::session::turn`].
pub struct SessionTurn<'a> {
    session: &'a Rc<Session>,
    /// Where the replica's messages come from.
    lane: &'a Receiver<FromReplica>,
    /// When the turn began.
    began: Instant,
    /// Pieces of work since the clock was looked at last.
    pieces: u32,
}

/// How long a turn of the session loop may keep other tasks of the core waiting.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);
/// Pieces of work between two looks at the clock.
const PIECES_UNTIMED: u32 = 4;

impl<'a> SessionTurn<'a> {
    /// A turn that begins now.
    pub fn new(session: &'a Rc<Session>, lane: &'a Receiver<FromReplica>) -> Self {
        Self { session, lane, began: clock::now(), pieces: 0 }
    }
}

impl Shell for SessionTurn<'_> {
    fn on_reply(&mut self, ticket: Ticket, result: Result<Response, Error>) {
        let carried = result.as_ref().map_or(0, Response::pairs_len);
        self.session.on_reply(self.began, ticket, result);
        self.lane.arrived(carried);
    }

    fn on_installed(&mut self, readers: Readers) {
        self.session.install(readers);
    }

    fn on_read_ready(&mut self, ticket: Ticket) {
        self.session.on_read_ready(ticket);
    }

    fn watch<T>(
        &mut self,
        step: impl FnOnce(&mut session::Watches, &dyn History, &mut dyn Transport) -> T,
    ) -> T {
        let session = self.session;
        session.view(|view| session.watches.with(|watches, transport| step(watches, view, transport)))
    }

    fn is_over(&mut self) -> bool {
        self.pieces += 1;
        self.pieces.is_multiple_of(PIECES_UNTIMED) && clock::now().since(self.began) > TURN_TIME_MAX
    }
}
