//! The thread that prepares log segments and deletes them, on the virtual clock.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::disk::Disk;
use super::judge::judge;
use super::log_disk::{By, SIZES};
use super::plant::Plant;
use super::world::{Event, World};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};
use kevel::wal::SegmentName;
use kevel::wal::folder::{LogFile, is_full};
use kevel::wal::prepare::{Fill, Preparation};

/// How long the disk of the log may have no room.
const FULL: Duration = Duration::from_millis(700);

/// The thread.
pub struct Preparer {
    preparation: Preparation,
    /// Not needed any more, and not looked at yet.
    released: VecDeque<SegmentName>,
    /// What it has to show.
    ready: Option<LogFile>,
    /// Since when the log waits for a file.
    awaited: Option<Instant>,
    /// An attempt takes its time, or the thread sleeps until the next one.
    busy: bool,
    has_failed: bool,
}

impl Default for Preparer {
    /// The first file is asked for.
    fn default() -> Self {
        let mut preparation = Preparation::new(SIZES);
        preparation.want(Fill::Zeros);
        let released = VecDeque::new();
        Self { preparation, released, ready: None, awaited: None, busy: false, has_failed: false }
    }
}

impl Preparer {
    /// Segments are not needed any more.
    pub fn release(&mut self, disk: &Disk, names: &[SegmentName]) {
        self.released.extend(names);
        if !self.busy {
            self.let_go(disk);
        }
    }

    fn let_go(&mut self, disk: &Disk) {
        let folder = disk.folder(By::Preparer);
        for name in self.released.drain(..) {
            // What cannot be deleted is deleted after the next start.
            let _ = self.preparation.release(folder, name);
        }
        folder.told(By::Preparer);
    }

    /// Works on the file that is wanted. True if that is made now, or cannot be.
    fn attempt(&mut self, disk: &Disk) -> bool {
        match self.preparation.attempt(disk.folder(By::Preparer)) {
            None => false,
            Some(Ok(file)) => {
                self.ready = Some(file);
                true
            }
            Some(Err(error)) => {
                assert!(is_full(&error), "preparing a segment: {error}");
                self.has_failed = true;
                true
            }
        }
    }

    /// The next file, once it is there; the one after it is asked for.
    pub fn take(&mut self, disk: &Disk, prng: &mut Prng) -> Option<LogFile> {
        if self.busy {
            return None;
        }
        let file = self.ready.take()?;
        judge!(
            disk.folder(By::Preparer).is_blank(file),
            "{file} holds something before it becomes a segment"
        );
        self.preparation.want(if prng.chance(2, 3) { Fill::Zeros } else { Fill::Blocks });
        disk.folder(By::Preparer).told(By::Preparer);
        Some(file)
    }

    /// Does at once what is wanted.
    pub fn prepare(&mut self, disk: &Disk) {
        self.attempt(disk);
        self.let_go(disk);
    }
}

impl World {
    /// The thread goes on, if it has something to do.
    pub fn prepare_segment(&mut self) {
        let preparer = &mut self.member.as_mut().expect("a member that runs").preparer;
        let is_idle = preparer.preparation.pause().is_none();
        if preparer.busy || is_idle || preparer.has_failed && self.plant == Some(Plant::FullForEver) {
            return;
        }
        if self.prng.chance(1, 12) && !preparer.has_failed {
            self.disk.folder(By::Preparer).set_room(Some(self.prng.below(3) as u32));
            let time = self.some(FULL);
            self.schedule(time, Event::LogDiskFreed);
        }
        let preparer = &mut self.member.as_mut().expect("a member that runs").preparer;
        preparer.busy = preparer.attempt(&self.disk);
        if preparer.busy {
            let late = self.prng.chance(1, 8);
            let time = self.some(if late { Duration::from_millis(200) } else { self.params.write_time * 2 });
            self.schedule(time, Event::Prepared);
        }
    }

    /// An attempt has come to its end.
    pub fn on_prepared(&mut self) {
        let preparer = &mut self.member.as_mut().expect("a member that runs").preparer;
        preparer.busy = false;
        preparer.let_go(&self.disk);
        match preparer.preparation.pause() {
            Some(pause) => self.schedule(pause, Event::Prepare),
            None => self.write_next(),
        }
    }

    /// The file for the segment that the log is about to create; none while the log has to wait.
    pub fn take_prepared(&mut self) -> Option<LogFile> {
        let preparer = &mut self.member.as_mut().expect("a member that runs").preparer;
        let Some(file) = preparer.take(&self.disk, &mut self.prng) else {
            preparer.awaited.get_or_insert(self.now);
            return None;
        };
        if let Some(since) = preparer.awaited.take() {
            // The log has stood still, and whatever has to come soon comes later.
            self.leases.on_stall(self.now.since(since));
            self.fullness.on_stall(self.now.since(since));
        }
        self.prepare_segment();
        Some(file)
    }
}
