//! Fuzzing of the message decoder, random streams cut anywhere against a decoder that has the whole stream; and of
//! packed messages, against another reader of the format.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{Decoder, HEAD_BYTES};
use super::packed;
use crate::server::call::status::Status;
use crate::server::gzip;
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

/// One packed message, whole or spoilt; panics when what it unpacks to is not what another reader makes of it, or when
/// it takes more steps than its length allows.
pub fn packed(seed: u64) {
    let mut prng = Prng::new(seed);
    let length_max = 1 + prng.below(400_000) as usize;
    let whole: Vec<Bytes> = (0..prng.below(4)).map(|_| member(&mut prng)).collect();
    let mut bytes = whole.concat();
    if prng.chance(1, 2) {
        spoil(&mut prng, &mut bytes);
    }
    let mut expected = Vec::new();
    // One byte more than may be tells that the message is too long.
    let reader = flate2::read::MultiGzDecoder::new(&bytes[..]);
    let read =
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, length_max as u64 + 1), &mut expected);
    match (unpacked(&bytes, length_max), read) {
        (Ok(plain), Ok(_)) => assert!(plain == expected, "seed {seed}: another message"),
        (Err(status), Ok(_)) => {
            let too_long = expected.len() > length_max && status.code == super::Code::ResourceExhausted;
            let reserved = status.message.ends_with("gzip: invalid header");
            assert!(too_long || bytes.is_empty() || reserved, "seed {seed}: {status:?}");
        }
        // The other reader refuses flags that Go does not look at.
        (Ok(_), Err(error)) => assert!(error.to_string().contains("header"), "seed {seed}: {error}"),
        (Err(_), Err(_)) => {}
    }
}

/// Unpacks a message step by step, none of which may be long.
fn unpacked(bytes: &[u8], length_max: usize) -> Result<Bytes, Status> {
    let mut unpacking = packed::begin(Bytes::copy_from_slice(bytes), length_max)?;
    // What a step may take in and give out, twice over.
    let steps_max = 8 + bytes.len() / 512 + length_max / (64 * 1024);
    for _ in 0..steps_max {
        if let Some(plain) = packed::step(&mut unpacking, length_max)? {
            return Ok(plain);
        }
    }
    panic!("more than {steps_max} steps for {} bytes", bytes.len());
}

/// A member of the format: long or short, of few different bytes or of many.
fn member(prng: &mut Prng) -> Bytes {
    let length = [0, 10, 1000, 300_000][prng.below(4) as usize];
    let letters = 1 + prng.below(256);
    let plain: Vec<u8> = (0..prng.below(length + 1)).map(|_| prng.below(letters) as u8).collect();
    gzip::pack([&plain[..]]).expect("a compressor takes any bytes")
}

/// Changes, takes out or adds some bytes, most of them at the head and the tail.
fn spoil(prng: &mut Prng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + prng.below(3) {
        let length = bytes.len() as u64;
        let at = match prng.below(3) {
            0 => prng.below(12).min(length),
            1 => length - prng.below(12).min(length),
            _ => prng.below(length + 1),
        } as usize;
        match prng.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, prng.next_u64() as u8),
            _ if at == bytes.len() => {}
            2 => bytes[at] ^= 1 << prng.below(8),
            _ => drop(bytes.remove(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_packed_messages() {
        (0..200).for_each(super::packed);
    }

    #[test]
    fn a_second_of_fuzzing() {
        assert!(super::fuzz(1, 1) > 100);
    }
}
