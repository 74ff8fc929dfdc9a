//! Which keys are used, and how they are spelled: a prefix and the key's number in decimal, filled up with zeros, so
//! that numbers and keys sort alike.
#![forbid(unsafe_code)]

use clap::ValueEnum;
use kevel::stdx::prng::Prng;

use crate::zipf::Zipf;

/// How numbers are drawn from the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// All alike
    Uniform,
    /// Some hot, most cold; the hot ones lie scattered
    Zipf,
    /// One after the other, from 0 again at the end
    Sequential,
}

/// Keys by number.
#[derive(Clone, Debug)]
pub struct Spelling {
    prefix: Vec<u8>,
    digits: usize,
}

impl Spelling {
    /// Keys of `size` bytes that begin with `prefix` and can count to `space`.
    ///
    /// # Errors
    /// When they cannot.
    pub fn new(prefix: &str, size: usize, space: u64) -> Result<Self, String> {
        let digits = size.saturating_sub(prefix.len());
        let needed = space.saturating_sub(1).max(1).ilog10() as usize + 1;
        if digits < needed {
            let least = prefix.len() + needed;
            return Err(format!(
                "keys of {size} bytes are too short for {space} keys that begin with {prefix:?}: {least} at least"
            ));
        }
        Ok(Self { prefix: prefix.as_bytes().to_vec(), digits })
    }

    /// Bytes of a key.
    pub fn size(&self) -> usize {
        self.prefix.len() + self.digits
    }

    /// Writes the digits of `number` over the end of a key.
    pub fn write(&self, mut number: u64, key: &mut [u8]) {
        for digit in key[self.prefix.len()..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// The key of `number`.
    pub fn key(&self, number: u64) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.resize(self.size(), b'0');
        self.write(number, &mut key);
        key
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

/// The end of the range of keys that begin with `prefix`, as etcd's clients compute it.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Draws numbers of keys, for one of several that draw.
#[derive(Clone, Debug)]
pub struct Draw {
    space: u64,
    prng: Prng,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Uniform,
    Zipf { zipf: Zipf, stride: u64 },
    Sequential { next: u64, step: u64 },
}

impl Draw {
    /// The draw of number `at` of `among`, who share the key space.
    pub fn new(choice: Choice, exponent: f64, space: u64, at: u64, among: u64, seed: u64) -> Self {
        assert!(space > 0, "there is a key");
        let how = match choice {
            Choice::Uniform => How::Uniform,
            Choice::Zipf => How::Zipf { zipf: Zipf::new(space, exponent), stride: coprime(space) },
            Choice::Sequential => How::Sequential { next: at, step: among },
        };
        Self { space, prng: Prng::new(seed ^ (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)), how }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        match &mut self.how {
            How::Uniform => self.prng.below(self.space),
            How::Zipf { zipf, stride } => {
                let rank = zipf.draw(&mut self.prng);
                (u128::from(rank) * u128::from(*stride) % u128::from(self.space)) as u64
            }
            How::Sequential { next, step } => {
                let number = *next % self.space;
                *next += *step;
                number
            }
        }
    }
}

/// A number near the golden section of `n` that shares no divisor with it: multiples scatter and never collide.
fn coprime(n: u64) -> u64 {
    let first = ((n as f64 * 0.618) as u64).max(1);
    (first..).find(|&candidate| gcd(candidate, n) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers() {
        let spelling = Spelling::new("a/", 8, 1_000_000).expect("long enough");
        assert_eq!(spelling.key(42), b"a/000042");
        assert!(spelling.key(99) < spelling.key(100));
        assert!(Spelling::new("a/", 7, 1_000_000).is_err());
        assert!(Spelling::new("", 1, 10).is_ok() && Spelling::new("", 1, 11).is_err());
    }

    #[test]
    fn prefixes_end_where_others_begin() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }

    #[test]
    fn sequential_draws_cover_the_space_once() {
        let mut seen: Vec<u64> = (0..3)
            .flat_map(|at| {
                let mut draw = Draw::new(Choice::Sequential, 1.0, 30, at, 3, 0);
                (0..10).map(move |_| draw.draw()).collect::<Vec<_>>()
            })
            .collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..30));
    }

    #[test]
    fn the_same_seed_draws_the_same_and_hot_keys_lie_apart() {
        let draws = |seed| {
            let mut draw = Draw::new(Choice::Zipf, 0.99, 1000, 0, 1, seed);
            (0..5000).map(|_| draw.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let mut counts = [0; 1000];
        draws(1).into_iter().for_each(|number| counts[number as usize] += 1);
        let mut hot: Vec<usize> = (0..1000).collect();
        hot.sort_by_key(|&number| -counts[number]);
        assert!(counts[hot[0]] > 400 && hot[0].abs_diff(hot[1]) > 100, "{:?}", &hot[..2]);
    }

    #[test]
    fn scattering_is_a_permutation() {
        for n in [1, 2, 10, 97, 1000] {
            let stride = coprime(n);
            let mut all: Vec<u64> = (0..n).map(|rank| rank * stride % n).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..n));
        }
    }
}
