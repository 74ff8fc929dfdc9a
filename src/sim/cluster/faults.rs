//! What fails: processes die, members pause or stop in order, the network is parted. And what comes back.
#![forbid(unsafe_code)]

use super::world::{Event, World};
use kevel::replica::port::Input;
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
        match self.prng.below(8) {
            0 | 1 => {
                let number = self.one();
                self.die(number);
            }
            2 => (0..self.nodes.len()).for_each(|number| self.die(number)),
            3 => self.pause(),
            4 if self.has_leases => self.pause(),
            5 => self.stop_in_order(),
            6 => {
                // Somebody takes a process that goes on for one that has ended.
                let number = self.one();
                self.tell_gone(number, 2);
            }
            _ => self.part(),
        }
    }

    fn one(&mut self) -> usize {
        self.prng.below(self.nodes.len() as u64) as usize
    }

    /// A process dies, often with the power, and starts again later.
    pub(super) fn die(&mut self, number: usize) {
        if self.nodes[number].life.is_none() {
            return;
        }
        self.tally.crashes += 1;
        let power = self.prng.chance(2, 3);
        self.end_process(number, power);
        let late = self.some(Duration::from_secs(3));
        self.plan(late, Event::Boot(number));
    }

    /// Once in so many times, a process dies while something takes its time, which is then left undone.
    pub(super) fn die_amid(&mut self, number: usize, one_in: u64, time: Duration) {
        if self.is_calm || self.faults_left == 0 || !self.prng.chance(1, one_in) {
            return;
        }
        self.faults_left -= 1;
        let Some(life) = self.nodes[number].life.as_ref().map(|life| life.number) else { return };
        let late = self.some(time);
        self.plan(late, Event::Die(number, life));
    }

    /// A process ends, with the power or without, and so do its connections.
    pub(super) fn end_process(&mut self, number: usize, power: bool) {
        let Some(mut life) = self.nodes[number].life.take() else { return };
        let line = format_args!("{number} ends, power lost: {power}");
        self.trace.step(self.now, &[2, number as u64, u64::from(power)], line);
        self.tally.crashes_midway += u64::from(life.transfers.receives());
        if let Some(sender) = life.transfers.take_receiving() {
            self.tell_sender(sender, false);
        }
        drop(life);
        self.nodes[number].disk.crash(power);
        self.tell_gone(number, if power { 6 } else { 1 });
    }

    /// The members hear that a process has ended, one of so many.
    fn tell_gone(&mut self, number: usize, one_in: u64) {
        for other in (0..self.nodes.len()).filter(|&other| other != number) {
            if self.prng.chance(1, one_in) {
                let late = self.some(Duration::from_millis(400));
                self.plan(late, Event::Gone(other, self.nodes[number].id));
            }
        }
    }

    /// A member hears that the process of another one has ended. It matters to whoever follows that one.
    pub(super) fn on_gone(&mut self, number: usize, id: u64) {
        let (own, is_paused) = (self.nodes[number].id, self.nodes[number].paused);
        if is_paused || !self.hears(own, id) {
            return;
        }
        let Some(life) = &mut self.nodes[number].life else { return };
        if life.replica.gate().leader() == id {
            life.replica.step(Input::PeerGone(id));
            self.turn_soon(number);
        }
    }

    /// An operator stops a process: it hands leadership over if it leads, ends, and starts again later.
    fn stop_in_order(&mut self) {
        let number = self.one();
        let Some(life) = &mut self.nodes[number].life else { return };
        life.replica.step(Input::Resign);
        life.is_leaving = true;
        self.trace.step(self.now, &[24, number as u64], format_args!("{number} is told to stop"));
        self.turn_soon(number);
    }

    /// A process that was told to stop does so, once another member leads or that takes too long.
    pub(super) fn leave_if_done(&mut self, number: usize, life: u64) {
        let Some(running) = self.life(number, life) else { return };
        if running.is_leaving && !running.replica.is_leaving() {
            self.end_process(number, false);
            let late = self.some(Duration::from_secs(2));
            self.plan(late, Event::Boot(number));
        }
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
        if !self.nodes[number].awaits_start {
            self.boot(number);
        }
    }
}
