//! The log's writer: entries in, the bytes of a block write out.

use super::load::{HEADER, entry};
use super::meter::Meter;
use kevel::wal::{Appender, Metadata};
use raft::eraftpb::{Entry, HardState};
use std::hint::black_box;

/// Entries in a batch.
const ENTRIES: u64 = 100;
/// Batches in a repetition; they do not fill a segment.
const BATCHES: u64 = 100;

pub fn run(meter: &mut Meter) {
    // Framed, encoded and summed up, in the buffer of the write before; the state goes along when it has changed.
    meter.measure("log append of 100 entries", "batch", prepare, |(log, batches)| {
        let mut buffer = Vec::new();
        for batch in batches.iter() {
            let commit = batch[0].index - 1;
            let state = HardState { term: HEADER.raft_term, vote: HEADER.member_id, commit };
            let write = log.append(black_box(batch), Some(&state), None, buffer);
            buffer = black_box(write).bytes;
        }
        BATCHES
    });
}

fn prepare() -> (Appender, Vec<Vec<Entry>>) {
    let metadata = Metadata { node_id: HEADER.member_id, cluster_id: HEADER.cluster_id };
    let puts: Vec<_> = (0..ENTRIES).map(|number| entry(1, number)).collect();
    let batch = |first: u64| {
        let entries = puts.iter().zip(first..);
        let entry = |(data, index): (&bytes::Bytes, u64)| Entry {
            term: HEADER.raft_term,
            index,
            data: data.clone(),
            ..Entry::default()
        };
        entries.map(entry).collect()
    };
    let batches = (0..BATCHES).map(|number| batch(1 + number * ENTRIES)).collect();
    (Appender::create(metadata), batches)
}
