//! Random lives with crashes in which every acknowledged put must come back.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::world::{Crash, TICK, World};
use crate::replica::port::{Input, Output};
use crate::stdx::prng::Prng;
use crate::stdx::time::Duration;

/// A life with puts, checkpoints and crashes, everything in an order that the seed decides. Returns what happened,
/// for comparing two runs.
fn random_life(seed: u64) -> String {
    let prng = &mut Prng::new(seed);
    let mut world = World::new(seed);
    world.segment_bytes = 16 * 1024;
    let mut trace = String::new();
    // What each key may read: the last acknowledged value, and those proposed since.
    let mut allowed: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    let mut open: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut highest = 0;

    world.start().unwrap();
    for _ in 0..200 {
        match prng.below(20) {
            0..8 => {
                let key = format!("k{}", prng.below(6));
                let value = format!("{}-{}", world.next_id, "x".repeat(prng.below(2000) as usize));
                let ticket = world.put(&key, &value);
                allowed.entry(key.clone()).or_insert_with(|| vec![None]).push(Some(value.clone()));
                open.insert(ticket, (key, value));
            }
            8..12 => {
                world.sync();
            }
            12..14 => {
                world.now = world.now + TICK;
                world.step(Input::Tick);
            }
            14 => world.now = world.now + Duration::from_secs(prng.below(7)),
            15 => {
                world.finish_checkpoint();
            }
            16 if prng.chance(1, 3) => {
                let crash = if prng.chance(1, 2) { Crash::Clean } else { Crash::Torn(prng.next_u64()) };
                world.crash(crash);
                let said = world.start().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                writeln!(trace, "{said}").unwrap();
                open.clear();
                world.settle(|_| {});
                let revision = world.replica().applied().revision;
                assert!(revision >= highest, "seed {seed}: the revision went back to {revision}");
                for (key, values) in &mut allowed {
                    let value = world.get(key);
                    assert!(
                        values.contains(&value),
                        "seed {seed}: {key} lost its value, or never had this one"
                    );
                    // Whatever is there now is durable: nothing older may come back.
                    *values = vec![value];
                }
            }
            _ => {}
        }
        let mut answered = Vec::new();
        world.drain(|output| match output {
            Output::Reply { ticket, result } => {
                let response = result.as_ref().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                answered.push((ticket.0, response.revision()));
            }
            Output::AppendWal { ready, write } => {
                writeln!(trace, "write {ready} {} {}", write.offset, write.bytes.len()).unwrap();
            }
            _ => {}
        });
        for (ticket, revision) in answered {
            assert!(revision > highest, "seed {seed}: revisions grow");
            highest = revision;
            let (key, value) = open.remove(&(ticket as u64)).expect("one answer for each ticket");
            let values = allowed.get_mut(&key).expect("a key that was put");
            let at =
                values.iter().position(|known| known.as_ref() == Some(&value)).expect("a value proposed");
            values.drain(..at);
            let value = world.get(&key);
            assert!(values.contains(&value), "seed {seed}: {key} is answered before it is published");
            writeln!(trace, "reply {ticket} {revision}").unwrap();
        }
    }
    trace
}

#[test]
fn acknowledged_puts_survive_crashes() {
    for seed in 0..150 {
        random_life(seed);
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..10 {
        assert_eq!(random_life(seed), random_life(seed));
    }
}
