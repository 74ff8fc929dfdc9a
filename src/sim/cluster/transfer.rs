//! Snapshots between members: made in slices while the sender goes on, made into a store by the receiver, and placed
//! in steps between which either may die.
//!
//! ```text
//!   SendSnapshot ──▶ slices of the file ──▶ on the way ──▶ a store of its own ──▶ Input::Snapshot
//!         ▲                                                                          │
//!         └── SnapshotSent ◀── placed: renamed, then durable ◀── PlaceSnapshot ◀─────┤
//!                         ◀── removed ◀───────────────────────── RefuseSnapshot ◀────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb::Message;

use super::super::judge::judge;
use super::super::plant::Plant;
use super::network::HELD;
use super::node::Life;
use super::world::{Event, World};
use kevel::btree::{Read as _, Reader, Readers};
use kevel::limits::SNAPSHOTS_SENT_MAX;
use kevel::mvcc::View;
use kevel::mvcc::pin::{PinSlot, Pins};
use kevel::page::Owner;
use kevel::replica::arrival::{Arrival, Recipient};
use kevel::replica::install::Replaced;
use kevel::replica::port::Input;
use kevel::session::FromReplica;
use kevel::snapshot::{Gathering, SnapshotFile};
use kevel::stdx::time::Duration;

/// When a sender hears of a failure of which nobody tells it.
const SILENCE: Duration = Duration::from_secs(4);

/// The process that sends a snapshot, and the member that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub number: usize,
    pub life: u64,
    to: u64,
    /// Which of the snapshots of this life it is; 0 for one that was never begun.
    serial: u64,
}

/// The snapshots of a process: those that it sends, and the one that it takes.
pub struct Transfers {
    /// Where further ones may pin their revisions.
    slots: Vec<PinSlot>,
    /// Snapshots that were begun.
    begun: u64,
    sending: BTreeMap<u64, Sending>,
    /// Who has sent the one that is being taken in.
    receiving: Option<Sender>,
    /// What snapshots have taken the place of: somebody may still look at it.
    replaced: Vec<Replaced>,
}

/// A snapshot that is sent.
struct Sending {
    /// The file, as long as it is being made.
    making: Option<Making>,
    serial: u64,
    slot: PinSlot,
    message: Box<Message>,
}

struct Making {
    reader: Reader,
    file: SnapshotFile,
    is_counted: bool,
    bytes: Vec<u8>,
    /// The revision that is pinned.
    pinned: Option<i64>,
}

impl Transfers {
    /// Snapshots that are sent at the same time.
    pub const MAX: usize = SNAPSHOTS_SENT_MAX;

    /// None is under way. The first slot is that of the session core.
    pub fn new(pins: &Pins) -> Self {
        let slots = (1..=Self::MAX).map(|slot| pins.slot(slot)).collect();
        Self { slots, begun: 0, sending: BTreeMap::new(), receiving: None, replaced: vec![] }
    }

    /// Whether a snapshot is being taken in.
    pub fn receives(&self) -> bool {
        self.receiving.is_some()
    }

    /// Who has sent the snapshot that is being taken in.
    pub fn take_receiving(&mut self) -> Option<Sender> {
        self.receiving.take()
    }
}

impl Sending {
    /// Of the newest state. With a planted bug nothing is pinned.
    fn begin(
        sender: Sender,
        readers: &Readers,
        mut slot: PinSlot,
        message: Box<Message>,
        is_pinned: bool,
    ) -> Self {
        let mut reader = readers.register();
        let mut compacted = reader.snapshot().applied().compact_revision;
        while is_pinned && !slot.pin(compacted, || reader.snapshot().applied().compact_revision) {
            compacted = reader.snapshot().applied().compact_revision;
        }
        let file = {
            let state = reader.snapshot();
            let mut gathering = Gathering::new(&state).expect("a store whose records can be read");
            while !gathering.step(100).expect("a store whose records can be read") {}
            SnapshotFile::new(gathering.finish())
        };
        let pinned = is_pinned.then_some(compacted);
        let making = Making { reader, file, is_counted: false, bytes: vec![], pinned };
        Self { making: Some(making), serial: sender.serial, slot, message }
    }

    /// A slice of the file. The whole file, once it is made; an error where the store does not have it any more.
    fn go_on(&mut self, budget: usize) -> Result<Option<Vec<u8>>, ()> {
        let Some(making) = &mut self.making else { return Err(()) };
        let state = making.reader.snapshot();
        let view = View::new(&state);
        if !making.is_counted {
            making.is_counted = making.file.count(&view, budget).map_err(drop)?.is_some();
            return Ok(None);
        }
        let (piece, is_last) = making.file.write(&view, 40 * budget, budget).map_err(drop)?;
        making.bytes.extend_from_slice(&piece);
        if !is_last {
            return Ok(None);
        }
        self.message.snapshot = Some(making.file.message().clone());
        drop(state);
        Ok(self.end())
    }

    /// The file is made, or never will be.
    fn end(&mut self) -> Option<Vec<u8>> {
        let making = self.making.take()?;
        if let Some(pinned) = making.pinned {
            self.slot.unpin(pinned);
        }
        Some(making.bytes)
    }
}

impl World {
    /// A member wants to send its newest state to another one.
    pub(super) fn send_snapshot(&mut self, number: usize, to: u64, message: Box<Message>) {
        let is_pinned = self.plant != Some(Plant::ClusterUnpinned);
        let Some(life) = &mut self.nodes[number].life else { return };
        let transfers = &mut life.transfers;
        transfers.begun += 1;
        let sender = Sender { number, life: life.number, to, serial: transfers.begun };
        let slot = if transfers.sending.contains_key(&to) { None } else { transfers.slots.pop() };
        let Some(slot) = slot else {
            return self.plan(HELD, Event::SnapshotSent(Sender { serial: 0, ..sender }, false));
        };
        let sending = Sending::begin(sender, &life.replica.readers(), slot, message, is_pinned);
        transfers.sending.insert(to, sending);
        let line = format_args!("{number} makes a snapshot for {to:x}");
        self.trace.step(self.now, &[16, number as u64, to], line);
        self.make_snapshot(sender);
    }

    /// A slice of a snapshot's file is made.
    pub(super) fn make_snapshot(&mut self, sender: Sender) {
        let Sender { number, life, to, .. } = sender;
        let late = self.some(Duration::from_millis(20));
        let budget = 1 + self.prng.below(40) as usize;
        let is_paused = self.nodes[number].paused;
        let Some(running) = self.life(number, life) else { return };
        let sending =
            running.transfers.sending.get_mut(&to).filter(|sending| sending.serial == sender.serial);
        let Some(sending) = sending else { return };
        if is_paused {
            return self.plan(HELD, Event::MakeSnapshot(sender));
        }
        match sending.go_on(budget) {
            Ok(None) => self.plan(late, Event::MakeSnapshot(sender)),
            Ok(Some(bytes)) => {
                let message = sending.message.clone();
                let from = self.nodes[number].id;
                match self.passage(from, to) {
                    Some(late) => self.plan(late, Event::SnapshotComes(sender, message, bytes)),
                    None => self.plan(SILENCE, Event::SnapshotSent(sender, false)),
                }
            }
            Err(()) => judge!(false, "{number} cannot make a snapshot for {to:x}"),
        }
    }

    /// A sender hears what has become of its snapshot.
    pub(super) fn on_snapshot_sent(&mut self, sender: Sender, is_taken: bool) {
        let Sender { number, life, to, serial } = sender;
        if self.nodes[number].paused {
            return self.plan(HELD, Event::SnapshotSent(sender, is_taken));
        }
        let Some(running) = self.life(number, life) else { return };
        if serial > 0 {
            let is_it = running.transfers.sending.get(&to).is_some_and(|sending| sending.serial == serial);
            let sending = if is_it { running.transfers.sending.remove(&to) } else { None };
            let Some(mut sending) = sending else { return };
            sending.end();
            running.transfers.slots.push(sending.slot);
        }
        running.replica.step(Input::SnapshotSent { to, is_taken });
        let line = format_args!("{number} hears of its snapshot for {to:x}: {is_taken}");
        self.trace.step(self.now, &[17, number as u64, to, u64::from(is_taken)], line);
        self.turn_soon(number);
    }

    /// Says to a sender what has become of its snapshot.
    pub(super) fn tell_sender(&mut self, sender: Sender, is_taken: bool) {
        match self.passage(sender.to, self.nodes[sender.number].id) {
            Some(late) => self.plan(late, Event::SnapshotSent(sender, is_taken)),
            None => self.plan(SILENCE, Event::SnapshotSent(sender, false)),
        }
    }

    /// A snapshot is there. The receiver makes a store of it, which takes its time.
    pub(super) fn on_snapshot_comes(&mut self, sender: Sender, message: Box<Message>, bytes: Vec<u8>) {
        let (from, secret) = (message.from, self.prng.next_u64());
        let Some(number) = self.number_of(sender.to) else { return };
        let node = &mut self.nodes[number];
        if node.paused {
            return self.plan(HELD, Event::SnapshotComes(sender, message, bytes));
        }
        let takes_two = self.plant == Some(Plant::ClusterTwoSnapshots);
        let is_free = |life: &&mut Life| life.transfers.receiving.is_none() || takes_two;
        let Some(life) = node.life.as_mut().filter(is_free) else {
            return self.tell_sender(sender, false);
        };
        if life.replica.cluster().removed.contains(&from) {
            self.refuse(sender.to, from);
            return self.tell_sender(sender, false);
        }
        life.transfers.receiving = Some(sender);
        let owner = Owner { member_id: node.id, cluster_id: self.foundation.cluster_id };
        let recipient = Recipient { owner, lease_ttl_min: 2, secret };
        let into = node.disk.begin_next();
        let life = life.number;
        let arrival = Arrival::build(message, &bytes[..], into, &recipient, || {})
            .unwrap_or_else(|why| panic!("judge: {number} cannot take a snapshot: {why}"));
        let line = format_args!("{number} takes a snapshot up to {}, {} bytes", arrival.index(), bytes.len());
        self.trace.step(self.now, &[18, number as u64, arrival.index(), bytes.len() as u64], line);
        self.tally.snapshots += 1;
        let longest =
            if self.prng.chance(1, 3) { Duration::from_secs(4) } else { Duration::from_millis(100) };
        let late = self.some(longest);
        self.die_amid(number, 8, late);
        self.plan(late, Event::SnapshotBuilt(number, life, Box::new(arrival)));
    }

    /// The store of a snapshot is whole and durable.
    pub(super) fn on_snapshot_built(&mut self, number: usize, life: u64, arrival: Box<Arrival>) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(HELD, Event::SnapshotBuilt(number, life, arrival));
        }
        self.nodes[number].disk.settle_next();
        let Some(running) = self.life(number, life) else { return };
        running.replica.step(Input::Snapshot(arrival));
        self.turn_soon(number);
    }

    /// The store of a snapshot gets the store file's name, and later that is durable.
    pub(super) fn place_snapshot(&mut self, number: usize, life: u64, is_renamed: bool) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(HELD, Event::PlaceSnapshot(number, life, is_renamed));
        }
        if !is_renamed {
            self.nodes[number].disk.place_next();
            let late = self.some(Duration::from_millis(30));
            self.die_amid(number, 8, late);
            return self.plan(late, Event::PlaceSnapshot(number, life, true));
        }
        if self.plant != Some(Plant::ClusterPlaceUnsynced) {
            self.nodes[number].disk.settle_name();
        }
        self.die_amid(number, 4, Duration::from_millis(10));
        let Some(running) = self.life(number, life) else { return };
        let sender = running.transfers.receiving;
        running.replica.step(Input::SnapshotPlaced);
        if let Some(sender) = sender {
            self.tell_sender(sender, true);
        }
        self.turn_soon(number);
    }

    /// Raft has no use for the snapshot that has come.
    pub(super) fn refuse_snapshot(&mut self, number: usize) {
        self.nodes[number].disk.remove_next();
        let receiving = self.nodes[number].life.as_mut().and_then(|life| life.transfers.take_receiving());
        if let Some(sender) = receiving {
            self.tell_sender(sender, true);
        }
    }

    /// A snapshot is published: what it shows has to be the history.
    pub(super) fn install_snapshot(
        &mut self,
        number: usize,
        readers: Readers,
        revision: i64,
        replaced: Replaced,
    ) {
        self.judge.on_install(number, revision);
        self.tally.installed += 1;
        let mut reader = readers.register();
        let snapshot = reader.snapshot();
        for key in self.judge.keys() {
            let shown = super::clients::value_of(&snapshot, key, revision);
            self.judge.on_read(revision, revision, key, shown.as_deref());
        }
        drop(snapshot);
        let line = format_args!("{number} has a new store, at revision {revision}");
        self.trace.step(self.now, &[19, number as u64, revision as u64], line);
        let Some(life) = &mut self.nodes[number].life else { return };
        life.looker = reader;
        life.transfers.replaced.push(replaced);
        life.transfers.receiving = None;
        self.tell_core(number, FromReplica::Installed(readers, revision));
    }
}
