//! The session cores: the real tickets, turns and watches, on streams that hold a few bytes.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use prost::Message as _;

use super::client::Waiting;
use super::judge::judge;
use super::outlets::Outlets;
use super::plant::Plant;
use super::spoil::spoil_walks;
use super::workload::Ask;
use super::world::{Event, TICK, World};
use kevel::btree::{Reader, Readers};
use kevel::error::Error;
use kevel::mvcc::View;
use kevel::mvcc::leaf_counts::LeafCounts;
use kevel::mvcc::pin::PinSlot;
use kevel::mvcc::remembered::PlanMemory;
use kevel::proto::etcdserverpb::{ResponseHeader, WatchResponse};
use kevel::replica::port::{Input, Ticket};
use kevel::response::Response;
use kevel::session::{FromReplica, Shell, Tickets, Transport, Watches, turn};
use kevel::stdx::time::Duration;
use kevel::watch::{Fault, History, Part, StreamId};

/// One session core.
pub struct Core {
    pub reader: Reader,
    pub watches: Watches,
    pub tickets: Tickets<(usize, Waiting)>,
    /// Tickets in use, for a planted bug.
    pub issued: Vec<Ticket>,
    pub outlets: Outlets,
    /// What its long answers hold.
    pub pins: PinSlot,
    pub plan_memory: PlanMemory,
    pub counts: LeafCounts,
    /// Came through the lane and was not taken yet.
    pub inbox: VecDeque<FromReplica>,
    /// A turn of the core is scheduled.
    pub turn_due: bool,
}

/// A turn of a core, which ends after some pieces of work.
struct Turn<'a> {
    world: &'a mut World,
    core: usize,
    pieces: usize,
}

impl Shell for Turn<'_> {
    fn on_reply(&mut self, ticket: Ticket, result: Result<Response, Error>) {
        self.world.on_reply(self.core, ticket, result);
    }

    fn on_installed(&mut self, _: Readers) {
        panic!("judge: nobody sends snapshots to this member");
    }

    fn on_read_ready(&mut self, ticket: Ticket) {
        if let Some((number, waiting)) = self.world.redeem(self.core, ticket)
            && !self.world.has_left(number, &waiting)
        {
            self.world.read(number, &waiting.ask, waiting.floor);
        }
    }

    fn watch<T>(&mut self, step: impl FnOnce(&mut Watches, &dyn History, &mut dyn Transport) -> T) -> T {
        self.world.watch(self.core, step)
    }

    fn is_over(&mut self) -> bool {
        let over = self.pieces == 0;
        self.pieces = self.pieces.saturating_sub(1);
        over
    }
}

impl World {
    /// A message has come to a session core.
    pub fn on_message(&mut self, core: usize, message: FromReplica) {
        self.trace.step(self.now, &[21, core as u64], format_args!("core {core} <- {}", show(&message)));
        self.member().cores[core].inbox.push_back(message);
        self.wake_core(core, self.params.lane_time);
    }

    fn wake_core(&mut self, core: usize, within: Duration) {
        if !std::mem::replace(&mut self.member().cores[core].turn_due, true) {
            let time = self.some(within);
            self.schedule(time, Event::SessionTurn(core));
        }
    }

    /// A turn of a session core: up to many messages, then a piece of the watchers' work.
    pub fn session_turn(&mut self, core: usize) {
        let pieces = match self.prng.below(4) {
            0 => 1,
            1 => 4,
            _ => usize::MAX,
        };
        // Not before each turn, so that an event that is matched anew gets on all the same.
        let spoils = self.spoils(Plant::WatcherSkipped, 2) || self.spoils(Plant::WatcherMetTwice, 2);
        let plant = self.plant.filter(|_| spoils);
        let core_state = &mut self.member().cores[core];
        spoil_walks(plant, core_state.watches.hub());
        core_state.turn_due = false;
        let mut inbox = std::mem::take(&mut core_state.inbox);
        let more = turn(&mut Turn { world: self, core, pieces }, &mut inbox);
        self.member().cores[core].inbox = inbox;
        self.member().cores[core].watches.hub().check_invariants();
        self.carry(core);
        if more {
            self.wake_core(core, Duration::from_millis(2));
        }
    }

    /// Shows a core's watches.
    pub fn watch<T>(
        &mut self,
        core: usize,
        step: impl FnOnce(&mut Watches, &dyn History, &mut dyn Transport) -> T,
    ) -> T {
        let Core { reader, watches, outlets, .. } = &mut self.member().cores[core];
        let snapshot = reader.snapshot();
        step(watches, &View::new(&snapshot), outlets)
    }

    /// Sends what the hub has to say.
    pub fn pump(&mut self, core: usize) {
        if self.watch(core, |watches, _, transport| watches.pump(transport)) {
            self.wake_core(core, Duration::from_millis(2));
        }
        self.carry(core);
    }

    /// Puts what was sent on its way to the clients.
    fn carry(&mut self, core: usize) {
        for output in std::mem::take(&mut self.member().cores[core].outlets.sent) {
            if let Part::End(fault) = output.part {
                self.end_stream(core, output.stream, fault);
                continue;
            }
            let bytes = [&*output.head, &output.body].concat();
            self.trace.bytes(&bytes);
            match output.part {
                Part::Whole => self.arrive(core, output.stream, &bytes),
                Part::First { total } => self.begin(core, output.stream, bytes, total),
                Part::Rest | Part::End(_) => self.go_on(core, output.stream, &bytes),
            }
        }
    }

    /// A whole response is on its way.
    fn arrive(&mut self, core: usize, stream: StreamId, bytes: &[u8]) {
        let response = WatchResponse::decode(bytes).expect("an encoded response");
        self.deliver(core, stream, response, bytes.len());
    }

    /// The first part of a response is on its way.
    fn begin(&mut self, core: usize, stream: StreamId, bytes: Vec<u8>, total: usize) {
        if self.spoils(Plant::ProgressAmidParts, 4) {
            let revision = self.member().cores[core].watches.hub().revision();
            let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
            let promise = WatchResponse { header, watch_id: -1, ..WatchResponse::default() };
            self.deliver(core, stream, promise, 0);
        }
        if let Some(outlet) = self.member().cores[core].outlets.get(stream) {
            outlet.begin(bytes, total);
        }
    }

    /// More of a response is on its way. What has come takes no room, but the response is seen when it is whole.
    fn go_on(&mut self, core: usize, stream: StreamId, bytes: &[u8]) {
        let Some(outlet) = self.member().cores[core].outlets.get(stream) else { return };
        let Some((begun, total)) = outlet.go_on(bytes) else {
            outlet.take(bytes.len());
            if let Some(number) = self.clients.iter().position(|client| client.is_at(core, stream)) {
                let time = self.some(Duration::from_millis(20));
                self.schedule(time, Event::Window(number));
            }
            return;
        };
        self.tally.pieced += 1;
        if self.plant == Some(Plant::EventBetweenParts) {
            let mut response = WatchResponse::decode(&*begun).expect("an encoded response");
            let middle = response.events.len() / 2;
            if middle > 0 {
                response.events.remove(middle);
            }
            return self.deliver(core, stream, response, total);
        }
        self.arrive(core, stream, &begun);
    }

    /// The member has ended a stream: its client goes on with a new one.
    fn end_stream(&mut self, core: usize, stream: StreamId, fault: Fault) {
        let found = self.clients.iter().position(|client| client.is_at(core, stream));
        let Some(number) = found else { return };
        self.trace.step(
            self.now,
            &[26, number as u64],
            format_args!("client {number} loses its stream: {fault:?}"),
        );
        judge!(fault == Fault::Interrupted, "no response of this world is too large");
        self.clients[number].lose_stream();
        self.reconnect(number);
    }

    fn deliver(&mut self, core: usize, stream: StreamId, response: WatchResponse, len: usize) {
        let found = self.clients.iter().position(|client| client.is_at(core, stream));
        let Some(number) = found else { return };
        self.check_notification(number, &response);
        self.check_promise(number, &response);
        let mut response = response;
        if !self.spoil_watch(number, &mut response) && self.clients[number].receive(response, len) {
            let time = self.some(self.params.lane_time + Duration::from_millis(1));
            self.schedule(time, Event::Take(number));
        }
    }

    /// Who asks how far the stream is hears of no less than what was in the store then. An answer to an earlier
    /// question may still be on its way.
    fn check_promise(&mut self, number: usize, response: &WatchResponse) {
        if response.watch_id != -1 || response.created {
            return;
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let known = &mut self.clients[number].progress_known;
        let first = known.front().copied().unwrap_or(0);
        judge!(revision >= first, "progress to {revision}, and the store was at {first}");
        known.retain(|&known| known > revision);
    }

    /// Who has just got events need not be told how far the watch is.
    fn check_notification(&mut self, number: usize, response: &WatchResponse) {
        let (now, client) = (self.now, &mut self.clients[number]);
        let watch = response.watch_id;
        if response.created || response.canceled || watch == -1 {
            client.events_sent.remove(&watch);
        } else if !response.events.is_empty() {
            client.events_sent.insert(watch, now);
        } else if let Some(&last) = client.events_sent.get(&watch) {
            // An interval is seen to end at a tick, and its end is handled behind the work that was there before.
            // Events that are sent until then count for the interval before.
            let soon = now.since(last) + TICK * 2;
            judge!(soon >= client.interval, "watch {watch} is told how far it is, {soon:?} after events");
        }
    }

    /// Planted bugs of the watch path. True if the response is lost.
    fn spoil_watch(&mut self, number: usize, response: &mut WatchResponse) -> bool {
        let has_events = !response.events.is_empty();
        match self.plant {
            Some(Plant::LostOnCatchUp) => {
                let last = response.events.last().and_then(|event| event.kv.as_ref());
                let behind = last.is_some_and(|kv| {
                    response.header.as_ref().is_some_and(|header| header.revision > kv.mod_revision)
                });
                behind && self.prng.chance(1, 4)
            }
            Some(Plant::DoubledEvent) if has_events && self.prng.chance(1, 8) => {
                if self.clients[number].receive(response.clone(), response.encoded_len()) {
                    self.schedule(Duration::ZERO, Event::Take(number));
                }
                false
            }
            Some(Plant::LastFragmentMarked) if has_events && self.prng.chance(1, 4) => {
                let watch = self.clients[number].watches.get(&response.watch_id);
                response.fragment |= watch.is_some_and(|watch| watch.request.fragment);
                false
            }
            Some(Plant::FragmentLost) => response.fragment && self.prng.chance(1, 4),
            Some(Plant::FragmentCut) => {
                if response.fragment && self.prng.chance(1, 4) {
                    response.events.pop();
                }
                false
            }
            Some(Plant::PrevLost) => {
                if let Some(event) = response.events.last_mut().filter(|_| self.prng.chance(1, 4)) {
                    event.prev_kv = None;
                }
                false
            }
            _ => false,
        }
    }

    /// Hands something to the replica, or refuses it where the lane is full.
    pub fn submit(&mut self, core: usize, ticket: Ticket, input: Input) {
        if self.lane_is_full() {
            if let Input::Propose { id, .. } = &input {
                self.judge.refused.insert(*id);
            }
            if self.plant == Some(Plant::RefusedAndDone) {
                self.send(input);
            }
            return self.on_reply(core, ticket, Err(Error::TooManyRequests));
        }
        self.send(input);
    }

    /// Gives up on what has waited too long.
    pub fn expire(&mut self, core: usize) {
        let now = self.now;
        let latest = self.params.request_timeout + TICK * 2;
        for (_, waiting) in self.member().cores[core].tickets.iter() {
            let late = now.since(waiting.asked + latest);
            judge!(late.is_zero(), "{} should have timed out {late:?} ago", waiting.ask);
        }
        while let Some((number, waiting)) = self.member().cores[core].tickets.expire(now) {
            self.trace.step(now, &[23, number as u64], format_args!("client {number} waits no more"));
            let early = (waiting.asked + self.params.request_timeout).since(now);
            judge!(early.is_zero(), "{} times out {early:?} too early", waiting.ask);
            self.clients[number].waiting -= usize::from(!self.has_left(number, &waiting));
            self.check_timeout(&waiting);
            self.give_up(number, &waiting, Error::Timeout);
        }
    }

    fn on_reply(&mut self, core: usize, ticket: Ticket, result: Result<Response, Error>) {
        if self.spoils(Plant::ReplyLost, 40) {
            return;
        }
        match (self.redeem(core, ticket), result) {
            (Some((number, waiting)), Err(error @ Error::TooManyRequests)) => {
                // The replica has refused it, or the lane.
                self.judge.refused.extend((waiting.id != 0).then_some(waiting.id));
                self.give_up(number, &waiting, error);
            }
            // Who has gone away sees nothing; what the lessor says is true all the same.
            (Some((number, waiting)), _)
                if self.has_left(number, &waiting) && matches!(waiting.ask, Ask::Write(_)) => {}
            (Some((number, waiting)), result) => self.check_reply(number, &waiting, result),
            // The client has given up.
            (None, _) => {}
        }
    }

    fn redeem(&mut self, core: usize, ticket: Ticket) -> Option<(usize, Waiting)> {
        let redeemed = self.member().cores[core].tickets.redeem(ticket);
        let (number, waiting) = redeemed.or_else(|| self.redeem_another(core))?;
        self.clients[number].waiting -= usize::from(!self.has_left(number, &waiting));
        Some((number, waiting))
    }
}

fn show(message: &FromReplica) -> String {
    match message {
        FromReplica::Publish(batch) => format!("publish {}", batch.revision),
        FromReplica::Reply(ticket, result) => format!("reply {:x} {result:?}", ticket.0),
        FromReplica::Installed(_, revision) => format!("installed at {revision}"),
        FromReplica::ReadReady(ticket) => format!("read ready {:x}", ticket.0),
    }
}
