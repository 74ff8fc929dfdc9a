//! The end of a world: when everything has come to rest, what must be there and what must be gone.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::client::Client;
use super::judge::judge;
use super::workload::Ask;
use super::world::World;
use kevel::lease::StoredIds;
use kevel::proto::etcdserverpb::*;
use kevel::replica::port::{Input, LeaseCall, Output, Ticket};
use kevel::response::Response;
use kevel::stdx::time::Instant;

impl World {
    /// Whether nobody waits for anything.
    pub fn is_settled(&mut self) -> bool {
        let (last, revision) = (self.judge.last(), self.judge.durable_revision());
        let member = self.member();
        let behind = member.cores.iter_mut().any(|core| {
            let hub = core.watches.hub();
            hub.needs_work() || hub.revision() != revision || core.turn_due
        });
        let busy = !member.writes.is_empty() || !member.inbox.is_empty();
        let applied = member.replica.applied();
        let garbage = applied.swept_revision < applied.compact_revision;
        let applied = applied.index == last && !garbage;
        let quiet = self.readings.is_empty() && self.clients.iter().all(Client::is_settled);
        let settled = !behind && !busy && applied && quiet;
        self.leads_since.is_some() && settled && self.judge.durable == last
    }

    /// When nothing is left to do, every watch has everything, and the store is what the log says.
    pub fn conclude(&mut self) {
        self.tally.seconds = self.now.as_nanos() / 1_000_000_000;
        let current = self.judge.durable_revision();
        for client in &self.clients {
            for watched in client.watches.values().filter(|watched| !watched.compacted) {
                let missing = watched.owed(&self.judge, current);
                judge!(missing.is_empty(), "{:?} never showed {missing:?}", watched.request);
            }
        }
        let waiting = self.member().replica.waiting();
        let tickets: usize = self.member().cores.iter().map(|core| core.tickets.len()).sum();
        judge!(
            waiting + tickets == 0,
            "nobody waits, and the replica knows of {waiting}, the cores of {tickets}"
        );
        let keys = self.judge.model.pairs(&[0], &[0], current).len() as i64;
        let counted = self.member().keys + self.member().replica.tally().growth.keys;
        judge!(counted == keys, "{counted} keys live by what was counted, and {keys} do");
        let everything = RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            ..RangeRequest::default()
        };
        let floor = self.judge.durable;
        self.read(0, &Ask::Range(Box::new(everything)), floor);
        self.read(0, &Ask::Hash(0), floor);
        while let Some((&id, _)) = self.readings.first_key_value() {
            self.read_on(id);
        }
        self.check_remembered(true);
        self.check_hubs();
        self.check_progress(current);
        self.check_leases();
    }

    /// The store and the lessor have the leases that the log says.
    fn check_leases(&mut self) {
        let expected: Vec<i64> = self.judge.model.leases.keys().copied().collect();
        let (now, ticket) = (self.now, Ticket(0));
        let replica = &mut self.member().replica;
        let mut reader = replica.readers().register();
        let mut stored: Vec<i64> = StoredIds::new(&reader.snapshot()).collect();
        stored.sort_unstable();
        let call = LeaseCall::Expiries { ids: stored.clone() };
        replica.step(Input::Lease { ticket, call });
        let mut outputs = vec![];
        replica.drain(now, &mut outputs);
        let leads = replica.is_leader();
        judge!(stored == expected, "there are leases {stored:?}, not {expected:?}");
        for output in outputs {
            if let Output::Reply { result: Ok(Response::LeaseExpiries { expiries, .. }), .. } = output {
                let run = expiries.iter().all(|expiry| *expiry > Instant::default());
                judge!(!leads || run, "of leases {stored:?} not all run: {expiries:?}");
            }
        }
    }

    /// Nothing is under way, so every stream whose watches have begun gets its promise at once.
    fn check_progress(&mut self, current: i64) {
        for number in 0..self.clients.len() {
            let mut watches = self.clients[number].watches.values();
            let due = watches.len() > 0
                && watches.all(|watched| !watched.compacted && watched.request.start_revision <= current);
            self.clients[number].progressed = 0;
            self.on_window(number);
            self.ask_progress(number);
            while let Some((response, _)) = self.clients[number].transit.pop_front() {
                self.on_watch_response(number, &response);
            }
            let promised = self.clients[number].progressed;
            judge!(!due || promised == current, "progress of client {number} is {promised}, not {current}");
        }
    }
}
