//! The store against a plain map: random turns, snapshots held across turns, checkpoints anywhere, a disk that
//! crashes, runs full and forgets. A seed decides everything that happens.
#![forbid(unsafe_code)]

use super::{Applied, CheckpointError, CheckpointJob, Read, Reader, Snapshot, Store, Tree};
use crate::page::check::check;
use crate::page::hostile::HostileFile;
use crate::stdx::prng::Prng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Snapshots held at the same time.
const HELD_MAX: u32 = 4;

#[derive(Clone, Default, PartialEq)]
struct Model {
    maps: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    applied: Applied,
}

/// Plays `steps` steps of the run that `seed` decides, and panics where the store and the model differ.
pub fn run(seed: u64, steps: u64) {
    let mut prng = Prng::new(seed);
    let file = Arc::new(HostileFile::default());
    let store = Store::open(file.clone()).expect("a new file");
    let flavour = Flavour::new(&mut prng);
    let mut world = World {
        file,
        reader: store.readers().register(),
        store,
        flavour,
        model: Model::default(),
        durable: Model::default(),
        job: None,
        prng,
    };
    world.play(0, steps);
    world.check_all();
}

/// What is the same throughout a run.
struct Flavour {
    trees: u64,
    keys: u64,
    key_style: u64,
    value_max: u64,
    deletes: u64,
    turn_max: u64,
}

impl Flavour {
    fn new(prng: &mut Prng) -> Self {
        Self {
            trees: 1 + prng.below(3),
            keys: 1 << (3 + prng.below(9)),
            key_style: prng.below(6),
            value_max: [0, 20, 300, 2_100, 9_000, 60_000][prng.below(6) as usize],
            deletes: prng.below(60),
            turn_max: 1 << prng.below(9),
        }
    }
}

struct World {
    prng: Prng,
    flavour: Flavour,
    file: Arc<HostileFile>,
    store: Store,
    reader: Reader,
    /// What was published last.
    model: Model,
    /// What a crash falls back to.
    durable: Model,
    job: Option<(CheckpointJob, Model)>,
}

impl World {
    fn play(&mut self, depth: u32, steps: u64) {
        for _ in 0..steps {
            match self.prng.below(100) {
                0..60 => self.turn(),
                60..75 if depth < HELD_MAX => {
                    let mut reader = self.store.readers().register();
                    let snapshot = reader.snapshot();
                    let model = self.model.clone();
                    let steps = self.prng.below(12);
                    self.play(depth + 1, steps);
                    compare(&snapshot, &model);
                }
                75..85 => self.begin(),
                85..94 => self.execute(),
                94..96 if depth == 0 => self.crash(),
                96..98 if depth == 0 => self.check_all(),
                98..99 => self.store.tidy(),
                _ => {
                    self.probe();
                    self.find_many();
                }
            }
        }
    }

    /// One transaction, published or not.
    fn turn(&mut self) {
        let ops = 1 + self.prng.below(self.flavour.turn_max);
        let mut model = self.model.clone();
        let mut txn = self.store.write();
        for _ in 0..ops {
            if self.job.is_none() && self.prng.chance(1, 30) {
                txn.suspend();
                self.spill();
                txn = self.store.resume();
            }
            let (tree, key) = key(&mut self.prng, &self.flavour);
            if self.prng.chance(self.flavour.deletes, 100) {
                // Sometimes a neighbour that exists, else the key itself, which mostly does not.
                let victim = model.maps.range((tree, key.clone())..).next().map(|(k, _)| k.clone());
                let victim = victim.filter(|_| self.prng.chance(4, 5)).unwrap_or((tree, key));
                let had = model.maps.remove(&victim).is_some();
                assert_eq!(txn.delete(victim.0, &victim.1), had);
            } else {
                let value = value(&mut self.prng, &self.flavour);
                txn.put(tree, &key, &value);
                model.maps.insert((tree, key), value);
            }
            if self.prng.chance(1, 50) {
                let (tree, key) = crate::btree::fuzz::key(&mut self.prng, &self.flavour);
                let expected = model.maps.get(&(tree, key.clone())).map(Vec::as_slice);
                assert_eq!(txn.get(tree, &key), expected);
            }
        }
        if self.prng.chance(1, 10) {
            return;
        }
        model.applied.index += 1;
        model.applied.revision += ops as i64;
        txn.set_applied(model.applied);
        txn.commit();
        self.model = model;
    }

    /// The pages of the suspended transaction get their places in the file, on a disk that may fail.
    fn spill(&mut self) {
        let Some(job) = self.store.begin_spill() else { return };
        let fails = self.prng.chance(1, 4);
        if fails {
            let calls = self.prng.below(3);
            self.file.fail_after(Some(calls));
        }
        assert!(job.execute().is_ok() || fails, "the disk takes all");
        self.file.fail_after(None);
        let late = self.prng.chance(1, 2).then_some(job);
        assert!(self.store.finish_spill() || fails, "the disk takes all");
        self.store.tidy();
        drop(late);
    }

    fn begin(&mut self) {
        if let Some(job) = self.store.begin_checkpoint() {
            assert!(self.job.is_none(), "one checkpoint at a time");
            self.job = Some((job, self.model.clone()));
        }
    }

    /// Executes the job under way, on a disk that may fail at any call; then either there is room again or the process
    /// ends.
    fn execute(&mut self) {
        let Some((job, model)) = self.job.take() else { return };
        if self.prng.chance(1, 2) {
            let calls = self.prng.below(12);
            self.file.fail_after(Some(calls));
        }
        let result = job.execute();
        self.file.fail_after(None);
        match result {
            Ok(()) => {
                let generation = job.generation();
                // A slow checkpointer may still hold its job when the news arrives.
                let late = self.prng.chance(1, 2).then_some(job);
                self.store.finish_checkpoint(generation);
                self.turn();
                drop(late);
                self.durable = model;
                self.check_file();
            }
            // Full: again when there is room. A crash meanwhile finds the old state.
            Err(CheckpointError::Write(_)) => self.job = Some((job, model)),
            // The old state or the new one is on the disk.
            Err(CheckpointError::Sync(_)) => self.restart(Some(model)),
        }
    }

    fn crash(&mut self) {
        self.restart(None);
    }

    /// Loses power and opens what is left: the last durable state, or the one that was about to become it.
    fn restart(&mut self, maybe: Option<Model>) {
        let bytes = self.file.crash(&mut self.prng);
        self.file = Arc::new(HostileFile::new(bytes));
        self.store = Store::open(self.file.clone()).unwrap_or_else(|error| panic!("after a crash: {error}"));
        self.reader = self.store.readers().register();
        self.job = None;
        if let Some(model) = maybe.filter(|model| model.applied == self.store.applied()) {
            self.durable = model;
        }
        self.model = self.durable.clone();
        self.check_file();
        self.check_all();
    }

    fn check_file(&self) {
        let report = check(&*self.file, Tree::NAMES).expect("a file that can be opened");
        assert!(report.is_sound(), "{report}");
    }

    /// One seek compared in both directions.
    fn probe(&mut self) {
        let (tree, key) = key(&mut self.prng, &self.flavour);
        let snapshot = self.reader.snapshot();
        let mut cursor = snapshot.cursor(tree);
        cursor.seek(&key);
        let mut up = self.model.maps.range((tree, key.clone())..).take_while(|((t, _), _)| *t == tree);
        for _ in 0..self.prng.below(40) {
            let Some(((_, key), value)) = up.next() else {
                assert!(!cursor.valid());
                break;
            };
            assert_eq!((cursor.key(), cursor.value()), (key.as_slice(), value.as_slice()));
            assert_eq!(snapshot.get(tree, key), Some(value.as_slice()));
            cursor.next();
        }
        cursor.seek(&key);
        if cursor.valid() {
            cursor.prev();
        } else {
            cursor.seek_last();
        }
        let mut down = self.model.maps.range((tree, Vec::new())..(tree, key)).rev();
        for _ in 0..self.prng.below(40) {
            let Some(((_, key), value)) = down.next() else {
                assert!(!cursor.valid());
                break;
            };
            assert_eq!((cursor.key(), cursor.value()), (key.as_slice(), value.as_slice()));
            cursor.prev();
        }
    }

    /// Many keys at once, near to each other and far: some that are there, some that are not.
    fn find_many(&mut self) {
        let (tree, _) = key(&mut self.prng, &self.flavour);
        let mut keys = Vec::new();
        for _ in 0..1 + self.prng.below(20) {
            let (_, key) = key(&mut self.prng, &self.flavour);
            let run = self.prng.below(30) as usize;
            let there = self.model.maps.range((tree, key.clone())..).take_while(|((t, _), _)| *t == tree);
            keys.extend(there.take(run).map(|((_, key), _)| key.clone()));
            keys.push(key);
        }
        let snapshot = self.reader.snapshot();
        let mut finder = snapshot.finder(tree);
        let leaves: Vec<_> = keys.iter().map(|key| finder.leaf(key)).collect();
        for (key, leaf) in keys.iter().zip(leaves) {
            let expected = self.model.maps.get(&(tree, key.clone())).map(Vec::as_slice);
            assert!(leaf.and_then(|leaf| leaf.get(key)) == expected, "another value under {key:?}");
        }
    }

    fn check_all(&mut self) {
        let model = self.model.clone();
        compare(&self.reader.snapshot(), &model);
        self.store.check_invariants();
    }
}

fn compare(snapshot: &Snapshot<'_>, model: &Model) {
    assert_eq!(snapshot.applied(), model.applied);
    let mut expected = model.maps.iter();
    for tree in Tree::ALL {
        let mut cursor = snapshot.cursor(tree);
        cursor.seek(b"");
        while cursor.valid() {
            let ((t, key), value) = expected.next().expect("no more than the model has");
            assert_eq!((tree, cursor.key()), (*t, key.as_slice()));
            assert!(cursor.value() == value.as_slice(), "another value under {key:?}");
            cursor.next();
        }
    }
    assert!(expected.next().is_none(), "no less than the model has");
}

fn key(prng: &mut Prng, flavour: &Flavour) -> (Tree, Vec<u8>) {
    let tree = Tree::ALL[prng.below(flavour.trees) as usize * 3];
    let n = prng.below(flavour.keys);
    let key = match flavour.key_style {
        0 => n.to_be_bytes().to_vec(),
        1 => format!("/registry/pods/default/pod-{n:06}").into_bytes(),
        2 => format!("{n:o}").into_bytes(),
        // Lengths around what fits into a cell, most of it in common.
        3 => {
            let mut key = vec![b'k'; 950 + (n % 150) as usize];
            key.extend_from_slice(&n.to_be_bytes());
            key
        }
        // Little in common, of any length.
        4 => {
            let mut own = Prng::new(n);
            let len = [1, 4, 40, 400, 1_500, 5_000][own.below(6) as usize];
            (0..1 + own.below(len)).map(|_| own.below(4) as u8 * 80).collect()
        }
        _ => {
            let mut key = format!("/a/{}/", n % 7).into_bytes();
            key.extend_from_slice(&vec![b'x'; (n % 13) as usize * 90]);
            key.extend_from_slice(&(!n).to_be_bytes());
            key
        }
    };
    (tree, key)
}

fn value(prng: &mut Prng, flavour: &Flavour) -> Vec<u8> {
    let max = if prng.chance(1, 8) { flavour.value_max } else { flavour.value_max / 8 };
    let len = prng.below(max + 1) as usize;
    let mut value = vec![prng.next_u64() as u8; len];
    if let Some(first) = value.first_chunk_mut::<8>() {
        *first = prng.next_u64().to_le_bytes();
    }
    value
}
