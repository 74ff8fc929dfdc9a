//! What fails: processes die, members pause, the network is parted. And what comes back.
#![forbid(unsafe_code)]

use super::world::{Event, World};
use kevel::stdx::time::Duration;

impl World {
    /// Something fails, and later something else.
    pub(super) fn fail(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.some(Duration::from_secs(4));
        self.plan(pause, Event::Fail);
        if self.faults_left == 0 {
            return;
        }
        self.faults_left -= 1;
        match self.prng.below(6) {
            0 | 1 => {
                let number = self.one();
                self.die(number);
            }
            2 => (0..self.nodes.len()).for_each(|number| self.die(number)),
            3 => self.pause(),
            4 if self.has_leases => self.pause(),
            _ => self.part(),
        }
    }

    fn one(&mut self) -> usize {
        self.prng.below(self.nodes.len() as u64) as usize
    }

    /// A process dies, often with the power, and starts again later.
    pub(super) fn die(&mut self, number: usize) {
        if self.nodes[number].life.take().is_none() {
            return;
        }
        self.tally.crashes += 1;
        let power = self.prng.chance(2, 3);
        let line = format_args!("{number} dies, power lost: {power}");
        self.trace.step(self.now, &[2, number as u64, u64::from(power)], line);
        self.nodes[number].disk.crash(power);
        let late = self.some(Duration::from_secs(3));
        self.plan(late, Event::Boot(number));
    }

    /// A member stops for a while, and knows nothing of it.
    fn pause(&mut self) {
        let number = self.one();
        self.trace.step(self.now, &[3, number as u64], format_args!("{number} pauses"));
        self.nodes[number].paused = true;
        let while_ = self.some(Duration::from_secs(5));
        self.plan(while_, Event::Resume(number));
    }

    /// Some do not hear the others for a while, or are not heard.
    fn part(&mut self) {
        let apart: Vec<bool> = self.nodes.iter().map(|_| self.prng.chance(1, 2)).collect();
        let (hears, is_heard) = [(false, false), (true, false), (false, true)][self.prng.below(3) as usize];
        self.trace.step(
            self.now,
            &[5],
            format_args!("{apart:?} are apart, hear: {hears}, are heard: {is_heard}"),
        );
        for (from, from_apart) in self.nodes.iter().zip(&apart) {
            for (to, to_apart) in self.nodes.iter().zip(&apart) {
                let is_cut = (*from_apart && !to_apart && !is_heard) || (!from_apart && *to_apart && !hears);
                if is_cut {
                    self.network.cut(from.id, to.id);
                }
            }
        }
        let while_ = self.some(Duration::from_secs(6));
        self.plan(while_, Event::Heal);
    }

    /// A member is there again, whatever has happened to it.
    pub(super) fn wake(&mut self, number: usize) {
        self.nodes[number].paused = false;
        if self.nodes[number].life.is_none() {
            self.boot(number);
        }
    }
}
