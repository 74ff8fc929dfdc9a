//! The session core of a member: what the replica says to it, in that order, and the streams of its watchers. The
//! order of replies, events and the watchers' work is the server's own ([`kevel::session`]).
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::super::outlets::Outlets;
use super::super::plant::Plant;
use super::super::spoil::nothing_at;
use super::super::world::TICK;
use super::world::{Event, World};
use kevel::btree::{Read as _, Reader, Readers};
use kevel::error::Error;
use kevel::mvcc::View;
use kevel::replica::port::Ticket;
use kevel::response::Response;
use kevel::session::{FromReplica, Shell, Transport, Watches, turn};
use kevel::stdx::time::Duration;
use kevel::watch::encode::Identity;
use kevel::watch::{Budget, History, HubConfig};

/// The session core.
pub struct Core {
    pub reader: Reader,
    pub watches: Watches,
    pub outlets: Outlets,
    /// Said by the replica, and not taken yet.
    pub inbox: VecDeque<FromReplica>,
    pub turn_due: bool,
}

impl Core {
    /// The core of a member whose store is at `revision`.
    pub fn new(world: &mut World, member_id: u64, readers: &Readers, revision: i64) -> Self {
        let identity = Identity { cluster_id: world.foundation.cluster_id, member_id, raft_term: 0 };
        let config = HubConfig {
            identity,
            max_request_bytes: world.params.max_request_bytes,
            fragment_slack_bytes: world.params.fragment_slack_bytes,
            seed: world.prng.next_u64(),
            limits: world.params.hub_limits,
            ..HubConfig::default()
        };
        let (bytes, looks) = (world.params.hub_slice_bytes, world.params.hub_slice_looks);
        let budget = Budget { revisions: 1 + world.prng.below(8) as usize, bytes, looks };
        Self {
            reader: readers.register(),
            watches: Watches::new(config, revision, budget),
            outlets: Outlets::default(),
            inbox: VecDeque::new(),
            turn_due: false,
        }
    }
}

/// A turn of a core, which ends after some pieces of work.
struct Turn<'a> {
    world: &'a mut World,
    number: usize,
    pieces: usize,
}

impl Shell for Turn<'_> {
    fn on_reply(&mut self, ticket: Ticket, result: Result<Response, Error>) {
        self.world.on_reply(self.number, ticket, result);
    }

    fn on_installed(&mut self, readers: Readers) {
        self.world.on_installed(self.number, &readers);
    }

    fn on_read_ready(&mut self, ticket: Ticket) {
        self.world.on_read_ready(self.number, ticket);
    }

    fn watch<T>(&mut self, step: impl FnOnce(&mut Watches, &dyn History, &mut dyn Transport) -> T) -> T {
        self.world.watch(self.number, step)
    }

    fn is_over(&mut self) -> bool {
        let over = self.pieces == 0;
        self.pieces = self.pieces.saturating_sub(1);
        over
    }
}

impl World {
    /// The replica of a member says something to the core.
    pub(super) fn tell_core(&mut self, number: usize, message: FromReplica) {
        let Some(life) = &mut self.nodes[number].life else { return };
        life.core.inbox.push_back(message);
        self.wake_core(number, self.params.lane_time);
    }

    fn wake_core(&mut self, number: usize, within: Duration) {
        let Some(life) = &mut self.nodes[number].life else { return };
        if !std::mem::replace(&mut life.core.turn_due, true) {
            let life = life.number;
            let late = self.some(within);
            self.plan(late, Event::CoreTurn(number, life));
        }
    }

    /// A turn of the core: what the replica has said, or some of it, then a piece of the watchers' work.
    pub(super) fn core_turn(&mut self, number: usize, life: u64) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(TICK, Event::CoreTurn(number, life));
        }
        let pieces = [1, 4, usize::MAX, usize::MAX][self.prng.below(4) as usize];
        let Some(running) = self.life(number, life) else { return };
        running.core.turn_due = false;
        let mut inbox = std::mem::take(&mut running.core.inbox);
        let more = turn(&mut Turn { world: self, number, pieces }, &mut inbox);
        let Some(running) = self.life(number, life) else { return };
        running.core.inbox = inbox;
        running.core.watches.hub().check_invariants();
        self.carry(number);
        if more {
            self.wake_core(number, Duration::from_millis(2));
        }
    }

    /// Another store is read from now on.
    fn on_installed(&mut self, number: usize, readers: &Readers) {
        let plant = self.plant;
        let core = &mut self.nodes[number].life.as_mut().expect("a member that runs").core;
        if plant == Some(Plant::ClusterInstallSkips) {
            // What the snapshot has skipped counts as told.
            let current = readers.register().snapshot().applied().revision;
            for revision in core.watches.hub().revision() + 1..current {
                core.watches.publish(nothing_at(revision, -1));
            }
        }
        if plant != Some(Plant::ClusterReaderKept) {
            core.reader = readers.register();
        }
        if plant == Some(Plant::ClusterInstallRepeats) {
            self.repeat_events(number);
        }
    }

    /// Shows the watches of a core.
    pub(super) fn watch<T>(
        &mut self,
        number: usize,
        step: impl FnOnce(&mut Watches, &dyn History, &mut dyn Transport) -> T,
    ) -> T {
        let core = &mut self.nodes[number].life.as_mut().expect("a member that runs").core;
        let Core { reader, watches, outlets, .. } = core;
        let snapshot = reader.snapshot();
        step(watches, &View::new(&snapshot), outlets)
    }

    /// Sends what the hub has to say.
    pub(super) fn pump(&mut self, number: usize) {
        if self.watch(number, |watches, _, transport| watches.pump(transport)) {
            self.wake_core(number, Duration::from_millis(2));
        }
        self.carry(number);
    }

    /// Puts what was sent on its way to the clients.
    fn carry(&mut self, number: usize) {
        let Some(life) = &mut self.nodes[number].life else { return };
        for output in std::mem::take(&mut life.core.outlets.sent) {
            self.carry_one(number, &output);
        }
    }
}
