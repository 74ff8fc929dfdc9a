//! A disk that does everything a disk is allowed to do: it forgets what was not synced, in part and out of order,
//! tears writes between sectors, runs full, fails, and returns other bytes than were written.
#![forbid(unsafe_code)]

use super::file::PageFile;
use super::layout::PAGE_SIZE;
use crate::stdx::prng::Prng;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a disk writes whole.
const SECTOR: usize = 512;

/// The disk.
#[derive(Default)]
pub struct HostileFile {
    disk: Mutex<Disk>,
}

#[derive(Default)]
struct Disk {
    /// What reads see.
    live: Vec<u8>,
    /// What is sure to be there after a crash.
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Calls that still succeed.
    calls_left: Option<u64>,
    calls: u64,
}

#[derive(Clone)]
enum Unsynced {
    Write { at: usize, bytes: Vec<u8> },
    Resize { len: usize },
}

impl HostileFile {
    /// A disk with these bytes, synced.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { disk: Mutex::new(Disk { live: bytes.clone(), durable: bytes, ..Disk::default() }) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After this many more writes, resizes and syncs every one fails; the first of them may be half done.
    pub fn fail_after(&self, calls: Option<u64>) {
        self.disk().calls_left = calls;
    }

    /// Writes, resizes and syncs so far.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// The bytes as they are read now.
    pub fn bytes(&self) -> Vec<u8> {
        self.disk().live.clone()
    }

    /// What is found after power was lost: any part of what was not synced, in any order.
    pub fn crash(&self, prng: &mut Prng) -> Vec<u8> {
        let disk = self.disk();
        let (mut bytes, mut unsynced) = (disk.durable.clone(), disk.unsynced.clone());
        while !unsynced.is_empty() {
            let next = unsynced.swap_remove(prng.below(unsynced.len() as u64) as usize);
            if prng.chance(1, 3) {
                continue;
            }
            match next {
                Unsynced::Resize { len } => bytes.resize(len, 0),
                Unsynced::Write { at, bytes: written } => {
                    let whole = prng.chance(1, 2);
                    for (sector, from) in written.chunks(SECTOR).zip((at..).step_by(SECTOR)) {
                        if whole || prng.chance(1, 2) {
                            bytes.resize(bytes.len().max(from + sector.len()), 0);
                            bytes[from..from + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
        bytes
    }
}

impl Disk {
    /// Counts a call; an error when the disk has failed by now. True from the first failing one.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match &mut self.calls_left {
            Some(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.live[at..at + bytes.len()].copy_from_slice(bytes);
        self.unsynced.push(Unsynced::Write { at, bytes: bytes.to_vec() });
    }
}

impl PageFile for HostileFile {
    fn name(&self) -> String {
        "a hostile disk".into()
    }

    fn pages(&self) -> u32 {
        (self.disk().live.len() / PAGE_SIZE) as u32
    }

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        let at = first as usize * PAGE_SIZE;
        let disk = self.disk();
        into.copy_from_slice(disk.live.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
        let at = first as usize * PAGE_SIZE;
        let mut disk = self.disk();
        if at + bytes.len() > disk.live.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = disk.call() {
            let half = (bytes.len() / 2).next_multiple_of(SECTOR);
            disk.write(at, &bytes[..half]);
            return Err(error);
        }
        disk.write(at, bytes);
        Ok(())
    }

    fn resize(&self, pages: u32) -> io::Result<()> {
        let len = pages as usize * PAGE_SIZE;
        let mut disk = self.disk();
        disk.call()?;
        disk.live.resize(len, 0);
        disk.unsynced.push(Unsynced::Resize { len });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        for unsynced in std::mem::take(&mut disk.unsynced) {
            match unsynced {
                Unsynced::Resize { len } => disk.durable.resize(len, 0),
                Unsynced::Write { at, bytes } => disk.durable[at..at + bytes.len()].copy_from_slice(&bytes),
            }
        }
        Ok(())
    }
}
