//! Clients that go away while their requests wait, and what has to go with them.
//!
//! What the replica was asked for is done all the same. Nobody is answered, and nothing is kept for them: a proposal is
//! forgotten as the server has it, a stream is closed, what a long answer pins is given back. Others come in their
//! place.
#![forbid(unsafe_code)]

use super::client::{Client, Waiting};
use super::judge::judge;
use super::plant::Plant;
use super::workload::Ask;
use super::world::World;
use kevel::proto::etcdserverpb::InternalRaftRequest;
use kevel::replica::port::Input;

impl World {
    /// A client goes away, now and then, and another comes in its place.
    pub fn may_leave(&mut self, number: usize) {
        if self.params.leaving == 0 || !self.prng.chance(1, self.params.leaving) {
            return;
        }
        self.tally.left += 1;
        self.trace.step(self.now, &[27, number as u64], format_args!("client {number} goes away"));
        let (core, plant) = (self.clients[number].core, self.plant);
        let readings = self.readings.extract_if(.., |_, reading| reading.is_of(number));
        for (_, reading) in readings.collect::<Vec<_>>() {
            if reading.pin().is_some() {
                self.unpin(&reading);
            }
        }
        if let Some(stream) = self.clients[number].stream {
            let state = &mut self.member().cores[core];
            if plant != Some(Plant::StreamKept) {
                state.watches.hub().close(stream);
            }
            state.outlets.close(stream);
            self.pump(core);
        }
        self.clients[number].leave();
        self.forget(number, core);
    }

    /// The replica is told of proposals that nobody waits for, if the lane takes it.
    fn forget(&mut self, number: usize, core: usize) {
        let slots = self.member().cores[core].tickets.slots();
        for slot in 0..slots {
            let tickets = &mut self.member().cores[core].tickets;
            let gone =
                tickets.take_if(slot, |(client, waiting)| *client == number && may_forget(&waiting.ask));
            let Some((_, waiting)) = gone else { continue };
            if !self.lane_is_full() {
                self.send(Input::Forget { id: waiting.id });
            }
        }
    }

    /// Whether the client that asked has gone.
    pub fn has_left(&self, number: usize, waiting: &Waiting) -> bool {
        waiting.visit != self.clients[number].visit
    }

    /// The hubs know of the streams and watches that clients have, and of no others.
    pub fn check_hubs(&mut self) {
        for core in 0..self.params.cores {
            let here = |client: &&Client| client.core == core && client.stream.is_some();
            let streams = self.clients.iter().filter(here).count();
            let watches: usize = self.clients.iter().filter(here).map(|client| client.watches.len()).sum();
            let stats = self.member().cores[core].watches.hub().stats();
            judge!(
                (stats.streams, stats.watchers) == (streams, watches),
                "core {core} has {streams} streams with {watches} watches, and the hub knows {stats:?}"
            );
        }
    }
}

/// A put, a deletion or a transaction, whose answer may be long.
fn may_forget(ask: &Ask) -> bool {
    let may = |entry: &InternalRaftRequest| {
        entry.put.is_some() || entry.delete_range.is_some() || entry.txn.is_some()
    };
    matches!(ask, Ask::Write(entry) if may(entry))
}
