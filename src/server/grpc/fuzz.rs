//! Fuzzing of the message decoder: random streams, cut anywhere, against a decoder that has the whole stream.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{Decoder, HEAD_BYTES};
use crate::server::call::status::Status;
use crate::stdx::prng::Prng;

const LENGTH_MAX: usize = 3000;

/// Runs rounds for `seconds`; panics on the first disagreement, naming the round's seed.
pub fn fuzz(seed: u64, seconds: u64) -> u64 {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        for _ in 0..100 {
            round(seed.wrapping_add(rounds));
            rounds += 1;
        }
    }
    rounds
}

/// One stream: some messages, perhaps a bad head or a cut, delivered in random chunks.
fn round(seed: u64) {
    let mut prng = Prng::new(seed);
    let stream = stream(&mut prng);
    let encoding: Option<&str> = prng.chance(1, 4).then_some("snappy");
    let (expected, end) = model(&stream, encoding);
    let mut decoder = Decoder::new(LENGTH_MAX, encoding.map(Into::into));
    let mut rest = Bytes::from(stream);
    let mut got = Vec::new();
    let mut error = None;
    // Sometimes everything is pushed before anything is taken.
    let lazy = prng.chance(1, 4);
    let coarse = prng.chance(1, 2);
    let chunk_max = 1 + prng.below(if coarse { 5000 } else { 20 });
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(1 + prng.below(chunk_max) as usize));
        decoder.push(chunk);
        if !lazy {
            drain(&mut decoder, &mut got, &mut error);
        }
    }
    drain(&mut decoder, &mut got, &mut error);
    assert!(got == expected, "seed {seed}: {} messages, expected {}", got.len(), expected.len());
    let outcome = error.map_or_else(|| decoder.finish(), Err);
    assert_eq!(outcome, end, "seed {seed}");
}

fn drain(decoder: &mut Decoder, got: &mut Vec<Vec<u8>>, error: &mut Option<Status>) {
    loop {
        match decoder.take() {
            Ok(Some(message)) => got.push(message.to_vec()),
            Ok(None) => return,
            Err(status) => *error = Some(status),
        }
    }
}

fn stream(prng: &mut Prng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..prng.below(8) {
        let length = match prng.below(8) {
            0 => 0,
            1 => LENGTH_MAX + prng.below(2) as usize,
            2 => prng.below(3000) as usize,
            _ => prng.below(40) as usize,
        };
        bytes.push(if prng.chance(1, 20) { prng.below(4) as u8 } else { 0 });
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.extend((0..length).map(|_| prng.next_u64() as u8));
    }
    if prng.chance(1, 4) {
        bytes.truncate(prng.below(bytes.len() as u64 + 1) as usize);
    }
    bytes
}

/// The messages of a whole stream, and how it ends.
fn model(mut bytes: &[u8], encoding: Option<&str>) -> (Vec<Vec<u8>>, Result<(), Status>) {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) {
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        if length > LENGTH_MAX || head[0] != 0 {
            // Which error it is the unit tests say; here only that it is the same one wherever it is cut.
            let mut whole = Decoder::new(LENGTH_MAX, encoding.map(Into::into));
            whole.push(Bytes::copy_from_slice(head));
            return (messages, whole.take().map(|_| ()));
        }
        let Some((message, rest)) = rest.split_at_checked(length) else { break };
        messages.push(message.to_vec());
        bytes = rest;
    }
    let end =
        if bytes.is_empty() { Ok(()) } else { Err(Status::new(super::Code::Internal, "unexpected EOF")) };
    (messages, end)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_of_fuzzing() {
        assert!(super::fuzz(1, 1) > 100);
    }
}
