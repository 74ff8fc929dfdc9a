//! Times in which nothing is lost, nobody crashes, and the cluster gets on: now and then for two seconds, and at the
//! end until all agree.
#![forbid(unsafe_code)]

use super::super::judge::judge;
use super::peer::Role;
use super::world::World;

/// Rounds in which a calm cluster has to agree.
const CALM_ROUNDS: u64 = 400;

/// Rounds of a calm in the middle.
const LULL_ROUNDS: u64 = 20;

/// Rounds between two candidates.
const CAMPAIGN_ROUNDS: u64 = 40;

impl World {
    /// Nothing is lost any more: the cluster has to commit something new, and everybody to catch up.
    pub(super) fn calm_down(&mut self) {
        (self.crashes_left, self.alone) = (0, 0);
        if self.life.is_none() {
            self.boot();
        }
        let before = self.judge.committed.len() as u64;
        for round in 0..CALM_ROUNDS {
            if self.judge.committed.len() as u64 > before && self.lagging().is_empty() {
                return;
            }
            if round % CAMPAIGN_ROUNDS == CAMPAIGN_ROUNDS / 2 {
                self.somebody_campaigns(round / CAMPAIGN_ROUNDS);
            }
            if round % 60 == 0 {
                self.command();
            }
            self.calm_round();
        }
        let committed = self.judge.committed.len();
        let lagging = self.lagging();
        judge!(
            false,
            "a calm cluster does not agree: {committed} are committed, {before} were; {lagging:x?} lag"
        );
    }

    /// A calm in the middle. Members change, and what comes of it becomes durable; then the process often dies, so that
    /// a start finds it in the store.
    pub(super) fn lull(&mut self) {
        let crashes_left = std::mem::take(&mut self.crashes_left);
        self.alone = 0;
        if self.life.is_none() {
            self.boot();
        }
        let candidate = self.prng.below(self.peers.len() as u64);
        for round in 0..LULL_ROUNDS {
            if round == 2 {
                self.somebody_campaigns(candidate);
            }
            if round % 5 == 4 {
                self.change_members();
            }
            self.calm_round();
        }
        self.crashes_left = crashes_left;
        if self.prng.chance(2, 3) {
            self.crash();
        }
    }

    /// Members that have not applied everything that is committed.
    fn lagging(&self) -> Vec<u64> {
        let committed = self.judge.committed.len() as u64;
        let members = &self.judge.state(committed).members.known;
        let reach = |id: u64| match self.peers.iter().find(|peer| peer.id == id) {
            Some(peer) => peer.commit,
            None => self.life.as_ref().map_or(0, |life| life.replica.applied().index),
        };
        members.keys().copied().filter(|&id| reach(id) < committed).collect()
    }

    /// One of the peers that vote runs for a new term, if none of them leads.
    fn somebody_campaigns(&mut self, turn: u64) {
        let voters = self.judge.state(self.judge.committed.len() as u64).members.voters();
        let stand = |number: &usize| voters.contains(&self.peers[*number].id);
        let stand: Vec<usize> = (0..self.peers.len()).filter(stand).collect();
        if self.leader().is_none() && !stand.is_empty() {
            let floor = self.peers.iter().map(|peer| peer.term).max().unwrap_or(0);
            self.campaign_of(stand[turn as usize % stand.len()], floor, true);
        }
    }

    fn calm_round(&mut self) {
        self.tick();
        self.turn();
        (0..8).for_each(|_| self.work_on_log());
        self.work_on_checkpoint();
        for number in 0..self.peers.len() {
            self.peers[number].sync();
            let peer = &self.peers[number];
            let again = match peer.role {
                Role::Leader => peer.others().into_iter().map(|to| peer.append_to(to)).collect(),
                _ => vec![],
            };
            self.after_peer(number, again);
        }
        for message in std::mem::take(&mut self.messages) {
            self.deliver(message);
        }
    }
}
