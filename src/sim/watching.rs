//! Watch streams: how requests reach the hub, how responses reach the clients, and what a client makes of them.
#![forbid(unsafe_code)]

use prost::Message as _;

use super::check_watch::Watched;
use super::judge::judge;
use super::plant::Plant;
use super::world::{Event, World};
use kevel::btree::Read;
use kevel::proto::etcdserverpb::*;
use kevel::stdx::time::Duration;

impl World {
    pub fn create_watch(&mut self, number: usize, request: WatchCreateRequest) {
        let core = self.clients[number].core;
        let Some(stream) = self.clients[number].stream else { return };
        // Until the member leads, its state may be older, as in etcd.
        let leads = self.leads_since.is_some();
        let acknowledged = if leads { self.judge.state(self.judge.acknowledged).revision } else { 0 };
        self.clients[number].creating.push_back((request.clone(), acknowledged));
        let now = self.now;
        self.watch(core, |watches, history, _| watches.hub().create(now, stream, &request, history));
        self.pump(core);
    }

    pub fn cancel_watch(&mut self, number: usize) {
        let client = &self.clients[number];
        let count = client.watches.len() as u64;
        let Some(stream) = client.stream.filter(|_| count > 0) else { return };
        let which = self.prng.below(count) as usize;
        let (&watch_id, core) =
            (self.clients[number].watches.keys().nth(which).expect("counted"), self.clients[number].core);
        self.member().cores[core].watches.hub().cancel(stream, watch_id);
        self.pump(core);
    }

    pub fn ask_progress(&mut self, number: usize) {
        let core = self.clients[number].core;
        let Some(stream) = self.clients[number].stream else { return };
        let known = self.member().cores[core].reader.snapshot().applied().revision;
        self.clients[number].progress_known.push_back(known);
        self.watch(core, |watches, history, _| watches.hub().progress(stream, history));
        self.pump(core);
    }

    /// The client takes the oldest response from its stream.
    pub fn take(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let progress_first = self.plant == Some(Plant::ProgressOvertakes);
        let first = client
            .transit
            .iter()
            .position(|(r, _)| progress_first && r.events.is_empty() && !r.created && !r.canceled);
        let Some((response, len)) = client.transit.remove(first.unwrap_or(0)) else { return };
        let (core, stream) = (client.core, client.stream);
        if let Some(stream) = stream {
            self.member().cores[core].outlets.take(stream, len);
        }
        if !self.clients[number].transit.is_empty() {
            let time = self.some(self.params.lane_time + Duration::from_millis(1));
            self.schedule(time, Event::Take(number));
        }
        let time = self.some(Duration::from_millis(20));
        self.schedule(time, Event::Window(number));
        self.on_watch_response(number, &response);
    }

    pub fn on_window(&mut self, number: usize) {
        let client = &self.clients[number];
        let (core, stream) = (client.core, client.stream);
        let settling = self.requests_left == 0;
        let capacity = if settling { self.params.window.max(1 << 16) } else { self.params.window };
        if self.spoils(Plant::RoomUntold, 4) {
            return;
        }
        if let Some(stream) = stream {
            let core_state = &mut self.member().cores[core];
            core_state.outlets.set_capacity(stream, capacity);
            let room = core_state.outlets.room(stream);
            core_state.watches.hub().on_window(stream, room);
            self.pump(core);
        }
    }

    pub fn on_watch_response(&mut self, number: usize, response: &WatchResponse) {
        let line = format_args!(
            "client {number} watch {} at {:?}: {} events{}{}",
            response.watch_id,
            response.header.as_ref().map(|h| h.revision),
            response.events.len(),
            if response.created { ", created" } else { "" },
            if response.canceled { ", canceled" } else { "" },
        );
        self.trace.step(self.now, &[22, number as u64], line);
        let client = &mut self.clients[number];
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            let (request, acknowledged) = client.creating.pop_front().expect("a watch is being created");
            if response.canceled {
                let empty = request.range_end.len() > 1 && request.range_end <= request.key
                    || request.range_end.len() == 1
                        && *request.range_end != [0]
                        && request.range_end <= request.key;
                judge!(empty, "{request:?} is refused: {}", response.cancel_reason);
                return;
            }
            judge!(revision >= acknowledged, "a watch begins at {revision}, after {acknowledged} was seen");
            judge!(revision <= self.judge.durable_revision(), "a watch begins at {revision}");
            let watched = Watched::new(request, revision);
            let twin = client.watches.insert(response.watch_id, watched);
            judge!(twin.is_none(), "two watches with id {}", response.watch_id);
        } else if response.watch_id == -1 {
            self.tally.progress += 1;
            client.progressed = client.progressed.max(revision);
            for watched in client.watches.values_mut() {
                judge!(!watched.compacted, "progress is promised while a watch is compacted");
                watched.on_response(&self.judge, response);
            }
        } else {
            let limit = self.params.max_request_bytes + self.params.fragment_slack_bytes;
            let len = response.encoded_len();
            judge!(
                !response.fragment || response.events.len() < 2 || len < limit,
                "a fragment of {} events has {len} bytes, {limit} are too many",
                response.events.len()
            );
            let Some(watched) = client.watches.get_mut(&response.watch_id) else {
                panic!("judge: a response to watch {}, which does not exist", response.watch_id)
            };
            self.tally.events += watched.on_response(&self.judge, response) as u64;
            self.tally.progress += u64::from(response.events.is_empty() && !response.canceled);
            if response.canceled && response.compact_revision == 0 {
                client.watches.remove(&response.watch_id);
            }
        }
        self.saw(number, revision);
    }
}
