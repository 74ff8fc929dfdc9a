//! What the member shows, and what it may show.
#![forbid(unsafe_code)]

use prost::Message as _;

use super::super::judge::judge;
use super::judge::value_of;
use super::peer::Members;
use super::world::World;
use kevel::btree::{Read, Tree};
use kevel::mvcc::view::View;
use kevel::proto::membershippb::Member;
use kevel::replica::port::{Input, Ticket};

impl World {
    /// A client asks the member to read what is newest.
    pub(super) fn ask_read(&mut self) {
        let floor = self.judge.committed.len() as u64;
        let life = self.life();
        life.ids += 2;
        let ticket = Ticket(life.ids.into());
        life.reads.insert(ticket.0, floor);
        life.replica.step(Input::ReadIndex { ticket });
    }

    pub(super) fn on_read_ready(&mut self, ticket: Ticket) {
        let life = self.life();
        let applied = life.replica.applied().index;
        let floor = life.reads.remove(&ticket.0);
        judge!(
            floor.is_some_and(|floor| applied >= floor),
            "a read may look at entry {applied}, and {floor:?} was committed before it was asked for"
        );
    }

    /// What the member shows is what the script has committed.
    pub(super) fn look(&mut self) {
        let life = self.life.as_mut().expect("a member that runs");
        let snapshot = life.reader.snapshot();
        let applied = snapshot.applied();
        let gate = life.replica.gate();
        if gate.term() == 0 {
            return;
        }
        let is_open = gate.is_open();
        let logs: Vec<_> = self.peers.iter().map(|peer| (peer.id, peer.log.as_slice())).collect();
        self.judge.on_turn(gate.committed(), gate.applied(), &logs);
        let elsewhere = self.judge.committed_elsewhere;
        judge!(
            !is_open || applied.index >= elsewhere,
            "reads need no round, entry {} is applied, and another leader has committed {elsewhere}",
            applied.index
        );
        let state = self.judge.state(applied.index);
        judge!(
            applied.revision == state.revision,
            "entry {} is applied, at revision {} and not {}",
            applied.index,
            applied.revision,
            state.revision
        );
        let voters = state.members.known.values().filter(|(_, votes)| *votes).count();
        judge!(!is_open || voters == 1, "reads need no round beside {voters} members that vote");
        let view = View::new(&snapshot);
        for key in (0..6).map(|number| format!("k{number}").into_bytes()) {
            let shown = view.value_at(&key, applied.revision).expect("a store whose records can be read");
            let shown = shown.map(value_of);
            judge!(
                shown.as_ref() == state.pairs.get(&key),
                "entry {} is applied, and {} is {shown:?}",
                applied.index,
                String::from_utf8_lossy(&key)
            );
        }
        judge!(
            members_of(&snapshot) == state.members,
            "entry {} is applied, and members are {:x?}, not {:x?}",
            applied.index,
            members_of(&snapshot),
            state.members
        );
        let numbers = [5, gate.term(), gate.committed(), applied.index];
        let line = format_args!("term {}, commit {}, applied {}", numbers[1], numbers[2], numbers[3]);
        self.trace.step(self.now, &numbers, line);
    }
}

/// Who is a member, as the store says.
fn members_of(read: &impl Read) -> Members {
    let mut members = Members::default();
    let mut cursor = read.cursor(Tree::Member);
    cursor.seek(&[]);
    while cursor.valid() {
        let id = u64::from_be_bytes(cursor.key().try_into().expect("a member's key is its id"));
        if cursor.value().is_empty() {
            members.removed.insert(id);
        } else {
            let member = Member::decode(cursor.value()).expect("a stored member");
            let raft = member.raft_attributes.unwrap_or_default();
            let url = raft.peer_urls.first().cloned().unwrap_or_default();
            members.known.insert(id, (url, !raft.is_learner));
        }
        cursor.next();
    }
    members
}
