//! Leases, copied and packed.
#![forbid(unsafe_code)]

use crate::wire::{put_varint, take_varint};

/// Bytes that are allocated at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Length of a lease's id.
const ID_BYTES: usize = 8;

/// The leases of one state in the order of their ids.
#[derive(Default)]
pub(super) struct Leases {
    /// Of each lease the id, the length of its record and the record. None lies in two chunks.
    chunks: Vec<Vec<u8>>,
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    chunk: usize,
    at: usize,
}

impl Leases {
    /// Adds a lease behind all others.
    pub(super) fn push(&mut self, id: &[u8; ID_BYTES], record: &[u8]) {
        let bytes = ID_BYTES + 10 + record.len();
        let is_full = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() < bytes;
        if self.chunks.last().is_none_or(is_full) {
            self.chunks.push(Vec::with_capacity(bytes.max(CHUNK_BYTES)));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.extend_from_slice(id);
            put_varint(chunk, record.len() as u64);
            chunk.extend_from_slice(record);
        }
    }

    /// The id and the record of the lease at a place, and the place behind it; none behind the last.
    pub(super) fn at(&self, place: Position) -> Option<(&[u8], &[u8], Position)> {
        let chunk = self.chunks.get(place.chunk)?;
        let Some((id, mut rest)) = chunk.get(place.at..)?.split_at_checked(ID_BYTES) else {
            return self.at(Position { chunk: place.chunk + 1, at: 0 });
        };
        let len = take_varint(&mut rest)? as usize;
        let (record, rest) = rest.split_at_checked(len)?;
        Some((id, record, Position { at: chunk.len() - rest.len(), ..place }))
    }

    /// Bytes that they take.
    pub(super) fn held_bytes(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_in_their_order_and_take_little() {
        let mut leases = Leases::default();
        assert!(leases.at(Position::default()).is_none());
        let record = |n: u64| vec![n as u8; if n == 500 { 100_000 } else { (n % 20) as usize }];
        for n in 0..20_000u64 {
            leases.push(&n.to_be_bytes(), &record(n));
        }
        let mut place = Position::default();
        for n in 0..20_000u64 {
            let (id, stored, next) = leases.at(place).expect("a lease");
            assert_eq!((id, stored), (&n.to_be_bytes()[..], &record(n)[..]));
            place = next;
        }
        assert!(leases.at(place).is_none());
        assert!(leases.held_bytes() < 20_000 * 20 + 4 * CHUNK_BYTES);
    }
}
