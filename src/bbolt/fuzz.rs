//! Write a random file, read it, damage it, read it again: what comes back is what was written, or an error.
#![forbid(unsafe_code)]

use super::check::check;
use super::layout::{INLINE_BYTES_MAX, PAGE_BYTES};
use super::reader::{Database, ReadError};
use super::walk::Walk;
use super::writer::{WriteError, Writer};
use crate::stdx::prng::Prng;

/// Pairs of one bucket, in order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// Buckets, in order.
pub type Buckets = Vec<(Vec<u8>, Pairs)>;

/// One file of a seed.
///
/// # Panics
/// When what is read is not what was written.
pub fn run(seed: u64) {
    let prng = &mut Prng::new(seed);
    let buckets = random_buckets(prng);
    let file = write(&buckets, prng.fork()).expect("pairs in order make a file");
    assert_eq!(read(&file).expect("a file of ours can be read"), buckets);
    check(&Database::open(&file[..]).expect("a file of ours")).expect("a file of ours is whole");
    for _ in 0..8 {
        let damaged = damage(&file, prng);
        // Whatever it says, it ends.
        drop(read(&damaged));
        drop(Database::open(&damaged[..]).and_then(|database| check(&database)));
    }
}

/// The file of buckets, values given in pieces.
///
/// # Errors
/// When they are not in order.
pub fn write(buckets: &Buckets, mut prng: Prng) -> Result<Vec<u8>, WriteError> {
    let mut count = Writer::counting();
    feed(&mut count, buckets, |_, _| Ok(()))?;
    let layout = count.finish()?;
    let (mut writer, mut file) = (Writer::new(layout), Vec::new());
    feed(&mut writer, buckets, |writer, mut value| {
        while !value.is_empty() {
            let (piece, rest) = value.split_at(1 + prng.below(value.len() as u64) as usize);
            writer.value(piece)?;
            value = rest;
            if prng.chance(1, 3) {
                file.extend_from_slice(&writer.take());
            }
        }
        Ok(())
    })?;
    assert_eq!(writer.finish()?, layout);
    file.extend_from_slice(&writer.take());
    assert_eq!(file.len() as u64, layout.bytes());
    Ok(file)
}

fn feed(
    writer: &mut Writer,
    buckets: &Buckets,
    mut value: impl FnMut(&mut Writer, &[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    for (name, pairs) in buckets {
        writer.bucket(name)?;
        for (key, bytes) in pairs {
            writer.pair(key, bytes.len())?;
            value(writer, bytes)?;
        }
    }
    Ok(())
}

/// All that a file has.
///
/// # Errors
/// What is damaged.
pub fn read(file: &[u8]) -> Result<Buckets, ReadError> {
    let database = Database::open(file)?;
    let (mut walk, mut buckets) = (database.buckets()?, Vec::new());
    while walk.advance()? {
        if let Some(bucket) = walk.open_bucket()? {
            buckets.push((walk.key().to_vec(), pairs(bucket)?));
        }
    }
    Ok(buckets)
}

fn pairs(mut walk: Walk<'_, '_, [u8]>) -> Result<Pairs, ReadError> {
    let mut pairs = Vec::new();
    while walk.advance()? {
        let mut value = vec![0; walk.value_len() as usize];
        let half = value.len() / 2;
        walk.value(half as u64, &mut value[half..])?;
        walk.value(0, &mut value[..half])?;
        pairs.push((walk.key().to_vec(), value));
    }
    Ok(pairs)
}

fn random_buckets(prng: &mut Prng) -> Buckets {
    let mut names: Vec<Vec<u8>> = (0..prng.below(12)).map(|_| random_key(prng)).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| (name, random_pairs(prng))).collect()
}

fn random_pairs(prng: &mut Prng) -> Pairs {
    let most = [0, 3, 40, 3000][prng.below(4) as usize];
    let value_max = [1, 100, 3000, 20_000][prng.below(4) as usize];
    let mut keys: Vec<Vec<u8>> = (0..prng.below(most + 1)).map(|_| random_key(prng)).collect();
    keys.sort();
    keys.dedup();
    let mut left = 2_000_000_usize;
    let mut value = || {
        let len = random_len(prng, value_max).min(left);
        left -= len;
        vec![prng.below(256) as u8; len]
    };
    keys.into_iter().map(|key| (key, value())).collect()
}

/// Often at the bounds where a page or an inner bucket is full.
fn random_len(prng: &mut Prng, most: u64) -> usize {
    let bound = [0, INLINE_BYTES_MAX, PAGE_BYTES, 2 * PAGE_BYTES][prng.below(4) as usize] as u64;
    let len =
        if prng.chance(1, 20) { (bound + 40).saturating_sub(prng.below(120)) } else { prng.below(most) };
    len as usize
}

fn random_key(prng: &mut Prng) -> Vec<u8> {
    let most = if prng.chance(1, 100) { 6000 } else { 20 };
    let len = 1 + prng.below(most);
    (0..len).map(|_| prng.below(4) as u8).collect()
}

/// The file with some bytes changed, numbers replaced by such as could be meant, or its end cut off.
fn damage(file: &[u8], prng: &mut Prng) -> Vec<u8> {
    let mut damaged = file.to_vec();
    for _ in 0..1 + prng.below(4) {
        // What is at the start of a page does the most harm.
        let page = prng.below(damaged.len() as u64 / PAGE_BYTES as u64) as usize * PAGE_BYTES;
        let most = if prng.chance(1, 2) { 64 } else { PAGE_BYTES as u64 - 8 };
        let at = page + prng.below(most) as usize;
        let pages = damaged.len() / PAGE_BYTES;
        match prng.below(4) {
            0 => damaged[at] ^= 1 << prng.below(8),
            1 => damaged[at..at + 8].copy_from_slice(&prng.below(pages as u64 + 2).to_le_bytes()),
            2 => damaged[at..at + 4].copy_from_slice(&(u32::MAX >> prng.below(32)).to_le_bytes()),
            _ => {
                let from = prng.below(pages as u64) as usize * PAGE_BYTES;
                damaged.copy_within(from..from + PAGE_BYTES, page);
            }
        }
    }
    if prng.chance(1, 8) {
        let len = prng.below(damaged.len() as u64) as usize;
        damaged.truncate(len);
    }
    damaged
}
