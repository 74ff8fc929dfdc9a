//! A hash of numbers under a secret, for maps whose keys a client chooses.
//!
//! Who does not know the secret cannot choose numbers that meet in one place of the table. Two rounds of a
//! multiplication to 128 bits, folded (as wyhash and ahash do), each with a key of its own: some nanoseconds. The
//! same secret gives the same hash in every run.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher};

use super::prng::Prng;

/// The secret of one map.
#[derive(Clone, Debug)]
pub struct KeyedHash {
    keys: [u64; 4],
}

impl KeyedHash {
    /// A hash that `secret` decides.
    pub fn new(secret: u64) -> Self {
        let mut prng = Prng::new(secret);
        // Odd factors lose no bit.
        Self { keys: [prng.next_u64(), prng.next_u64() | 1, prng.next_u64(), prng.next_u64() | 1] }
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { keys: self.keys, hash: 0 }
    }
}

/// A hash under way.
#[derive(Debug)]
pub struct KeyedHasher {
    keys: [u64; 4],
    hash: u64,
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let [before, first, between, second] = self.keys;
        let once = fold(self.hash ^ number ^ before, first);
        self.hash = fold(once ^ between, second);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number as u64);
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fullest of 4096 places, when `numbers` are put there by the lowest or the highest bits of their hash.
    fn fullest(numbers: impl Iterator<Item = i64>, secret: u64, shift: u32) -> usize {
        let hash = KeyedHash::new(secret);
        let mut places = vec![0; 4096];
        numbers.for_each(|number| places[(hash.hash_one(number) >> shift) as usize & 4095] += 1);
        places.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn numbers_of_any_pattern_spread() {
        for (secret, shift) in [(1, 0), (2, 52), (3, 0)] {
            let in_order = fullest(1..=4096, secret, shift);
            let in_strides = fullest((1..=4096).map(|n| n << 40), secret, shift);
            assert!(in_order < 12 && in_strides < 12, "{in_order} and {in_strides} in one place");
        }
    }

    #[test]
    fn numbers_that_meet_under_one_secret_part_under_another() {
        let hash = KeyedHash::new(7);
        let meet: Vec<i64> = (0..4_000_000).filter(|n| hash.hash_one(n) & 4095 == 9).take(900).collect();
        assert_eq!(fullest(meet.iter().copied(), 7, 0), meet.len());
        assert!(fullest(meet.iter().copied(), 8, 0) < 12);
    }

    #[test]
    fn bytes_count_with_their_length() {
        let hash = KeyedHash::new(1);
        let one = |bytes: &[u8]| {
            let mut hasher = hash.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        assert_ne!(one(b"a"), one(b"a\0"));
        assert_ne!(one(b"12345678"), one(b"123456781"));
    }
}
