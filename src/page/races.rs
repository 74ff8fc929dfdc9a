//! Readers, the table and the pager under the model checker; see [`crate::stdx::sync`].
//!
//! Each model publishes pages that say in which state they belong, and reads them in a pinned state from another
//! thread. A page that says something else was reused too early; one that is written, reused or freed without coming
//! after the read is found by its witness.
#![forbid(unsafe_code)]

use std::sync::Arc as FileArc;

use loom::thread;

use super::file::MemoryFile;
use super::layout::{HEADER, Kind, PageRef, u64_at};
use super::meta::{Applied, TREES};
use super::pager::Pager;
use super::readers::{PageReader, Pinned};
use super::witness;
use crate::stdx::sync::explore;
use crate::stdx::sync::plant::{Fault, Plant, is_found};

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> u64 {
    explore::explore(preemptions, move || {
        witness::begin();
        model();
    })
}

/// A store whose first state is 1.
fn store() -> Pager {
    let mut pager = Pager::open(FileArc::new(MemoryFile::default())).unwrap();
    let root = pager.make(Kind::Leaf);
    show(&mut pager, root, 1);
    pager
}

/// Publishes the next state: the root is replaced, and the page before is free for whatever comes.
fn publish(pager: &mut Pager) {
    let root = pager.published().roots[0];
    let root = pager.copy(root);
    let number = pager.published().applied.index + 1;
    show(pager, root, number);
}

fn show(pager: &mut Pager, root: PageRef, number: u64) {
    pager.page_mut(root.id)[HEADER..HEADER + 8].copy_from_slice(&number.to_le_bytes());
    pager.draft.roots[0] = root;
    pager.draft.applied = Applied { index: number, ..pager.draft.applied };
    pager.commit();
}

/// Everything that a checkpoint does, at once.
fn checkpoint(pager: &mut Pager) {
    let job = pager.begin_checkpoint().expect("something was published");
    job.execute().unwrap();
    let generation = job.generation();
    drop(job);
    pager.finish_checkpoint(generation);
}

/// Nobody reads any more, so all that was left behind is used again: what the store holds are two meta pages, the root
/// and, after a checkpoint, the list of free pages.
fn check_reclaimed(pager: &mut Pager, lists: u64) {
    pager.tidy();
    pager.tidy();
    pager.check_invariants();
    let sizes = pager.sizes();
    assert_eq!(sizes.used + sizes.leaving, 3 + lists, "pages wait for readers who are gone");
}

/// Reads a pinned state, looks again, and says which it was.
fn look(pinned: &Pinned<'_>) -> u64 {
    let state = *pinned.state();
    let page = pinned.view().page(state.roots[0]);
    assert_eq!(u64_at(page, HEADER), state.applied.index, "a page of another state");
    thread::yield_now();
    assert_eq!(u64_at(page, HEADER), state.applied.index, "a pinned page has changed");
    pinned.witness(page);
    state.applied.index
}

/// A reader pins twice while the writer publishes, frees and reuses.
fn pin_and_publish() -> u64 {
    explore(2, || {
        let mut pager = store();
        let (table, pins) = pager.reader_source();
        let mut reader = PageReader::new(table, &pins);
        let reading = thread::spawn(move || {
            let first = look(&reader.pin());
            let second = look(&reader.pin());
            assert!(first <= second, "a reader went back");
            reader
        });
        (0..3).for_each(|_| publish(&mut pager));
        let _idle = reading.join().unwrap();
        check_reclaimed(&mut pager, 0);
    })
}

/// A reader registers and goes while the writer publishes.
fn register_and_publish() -> u64 {
    explore(2, || {
        let mut pager = store();
        let (table, pins) = pager.reader_source();
        let old = PageReader::new(table.clone(), &pins);
        let reading = thread::spawn(move || {
            let mut reader = PageReader::new(table, &pins);
            drop(old);
            look(&reader.pin());
        });
        (0..3).for_each(|_| publish(&mut pager));
        reading.join().unwrap();
        check_reclaimed(&mut pager, 0);
    })
}

/// A reader looks while a checkpoint drops the copies, and what it leaves is reused.
fn pin_and_checkpoint() -> u64 {
    explore(2, || {
        let mut pager = store();
        let (table, pins) = pager.reader_source();
        let mut reader = PageReader::new(table, &pins);
        let reading = thread::spawn(move || {
            look(&reader.pin());
            look(&reader.pin());
        });
        checkpoint(&mut pager);
        publish(&mut pager);
        checkpoint(&mut pager);
        publish(&mut pager);
        reading.join().unwrap();
        checkpoint(&mut pager);
        check_reclaimed(&mut pager, 1);
    })
}

/// Two readers find the same page nowhere but in the file, while the writer replaces it.
fn load_twice() -> u64 {
    explore(1, || {
        let mut pager = store();
        checkpoint(&mut pager);
        let (table, pins) = pager.reader_source();
        let mut one = PageReader::new(table.clone(), &pins);
        let mut other = PageReader::new(table, &pins);
        let reading = thread::spawn(move || look(&one.pin()));
        let also = thread::spawn(move || look(&other.pin()));
        publish(&mut pager);
        reading.join().unwrap();
        also.join().unwrap();
    })
}

/// After a restart two readers are the first to come to a part of the table, and to the page in it.
fn open_and_load() -> u64 {
    explore(2, || {
        let file = FileArc::new(MemoryFile::default());
        let mut pager = Pager::open(file.clone()).unwrap();
        for tree in 1..TREES {
            pager.draft.roots[tree] = pager.make(Kind::Leaf);
        }
        let root = pager.make(Kind::Leaf);
        show(&mut pager, root, 1);
        checkpoint(&mut pager);
        drop(pager);
        let pager = Pager::open(file).unwrap();
        let (table, pins) = pager.reader_source();
        let mut one = PageReader::new(table.clone(), &pins);
        let mut other = PageReader::new(table, &pins);
        let reading = thread::spawn(move || look(&one.pin()));
        look(&other.pin());
        reading.join().unwrap();
    })
}

/// A checkpoint is written on a thread of its own, which keeps the job for a while; the writer goes on.
fn checkpoint_elsewhere() -> u64 {
    explore(3, || {
        let mut pager = store();
        let job = pager.begin_checkpoint().unwrap();
        let generation = job.generation();
        let (done, hears) = loom::sync::mpsc::channel();
        let checkpointer = thread::spawn(move || {
            job.execute().unwrap();
            done.send(()).unwrap();
            drop(job);
        });
        publish(&mut pager);
        hears.recv().unwrap();
        pager.finish_checkpoint(generation);
        publish(&mut pager);
        pager.tidy();
        checkpointer.join().unwrap();
        checkpoint(&mut pager);
        check_reclaimed(&mut pager, 1);
    })
}

/// The writer goes before its reader.
fn outlive() -> u64 {
    explore(3, || {
        let mut pager = store();
        let (table, pins) = pager.reader_source();
        let mut reader = PageReader::new(table, &pins);
        let reading = thread::spawn(move || look(&reader.pin()));
        publish(&mut pager);
        checkpoint(&mut pager);
        publish(&mut pager);
        drop(pager);
        reading.join().unwrap();
    })
}

#[test]
fn pinned_states_stay_and_what_nobody_reads_is_used_again() {
    for (model, least) in [
        (pin_and_publish as fn() -> u64, 1_000),
        (register_and_publish, 500),
        (pin_and_checkpoint, 5000),
        (load_twice, 100),
        (open_and_load, 40),
        (checkpoint_elsewhere, 5),
        (outlive, 5000),
    ] {
        let executions = model();
        assert!(executions >= least, "only {executions} orders were tried, {least} are known");
    }
}

/// What a fault in one line of a file does to a model: `occurrence` is that of the line's text.
fn check_found(file: (&'static str, &'static str), faults: &[(&'static str, usize, Fault, fn() -> u64)]) {
    for &(line, occurrence, fault, model) in faults {
        let plant = Plant { file: file.0, text: file.1, occurrence, line, fault };
        assert!(is_found(&plant, || _ = model()), "{fault:?} at {line:?} is not found");
    }
}

#[test]
fn faults_of_pins_are_found() {
    check_found(
        ("page/readers.rs", include_str!("readers.rs")),
        &[
            ("self.changes.fetch_add", 0, Fault::LeftOut, register_and_publish),
            ("if self.pins.changes.load", 0, Fault::LeftOut, register_and_publish),
            ("self.pins.newest.store", 0, Fault::LeftOut, pin_and_publish),
            ("self.pins.newest.store", 0, Fault::Relaxed, pin_and_publish),
            ("fence(Ordering::SeqCst)", 0, Fault::LeftOut, pin_and_publish),
            ("fence(Ordering::SeqCst)", 1, Fault::LeftOut, pin_and_publish),
            ("newest.load(Ordering::Relaxed)", 0, Fault::LeftOut, pin_and_publish),
            ("slot.load(Ordering::Acquire)", 0, Fault::Relaxed, pin_and_publish),
            ("slot.load(Ordering::Acquire)", 0, Fault::LeftOut, pin_and_publish),
            ("self.slot.store(generation", 0, Fault::Relaxed, pin_and_publish),
            ("self.slot.store(generation", 0, Fault::LeftOut, pin_and_publish),
            ("self.slot.store(IDLE", 0, Fault::Relaxed, pin_and_publish),
            ("self.slot.store(IDLE", 0, Fault::LeftOut, pin_and_publish),
        ],
    );
}

#[test]
fn faults_of_the_table_are_found() {
    check_found(
        ("page/table.rs", include_str!("table.rs")),
        &[
            ("let chunk = self.top[id.index() / CHUNK].load", 0, Fault::Relaxed, open_and_load),
            ("match slot.compare_exchange(null_mut(), chunk", 0, Fault::Relaxed, open_and_load),
            ("self.entry(PageId::NONE).swap", 0, Fault::Relaxed, pin_and_publish),
            ("self.table.entry(PageId::NONE).load", 0, Fault::Relaxed, pin_and_publish),
            ("match entry.compare_exchange(null_mut(), loaded", 0, Fault::Relaxed, load_twice),
            ("let ptr = self.table.entry(id).load", 0, Fault::Relaxed, load_twice),
        ],
    );
}
