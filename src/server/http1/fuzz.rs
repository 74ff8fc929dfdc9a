//! Fuzzing of requests' heads and of percent-encoding.
//!
//! Where reads are cut changes nothing of what becomes of a connection. And what is escaped comes back as it was,
//! whatever stands beside it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};

use super::connection::{HEAD_BYTES_MAX, Read, read_head};
use super::head::FIELDS_MAX;
use super::query::{Query, unescape_path};
use crate::stdx::prng::Prng;

/// One client; panics when a property does not hold.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let bytes = client(&mut prng);
    let whole = outcome(&bytes, bytes.len(), bytes.len().max(1));
    for _ in 0..2 {
        let (first, chunk) = (prng.below(bytes.len() as u64 + 1) as usize, 1 + prng.below(60) as usize);
        assert_eq!(
            outcome(&bytes, first, chunk),
            whole,
            "seed {seed}, cut at {first} and every {chunk} bytes"
        );
    }
    escapes(&mut prng);
    broken_escapes(&mut prng);
}

/// Some requests, one behind the other: mostly sense.
fn client(prng: &mut Prng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + prng.below(4) {
        let (method, target) = (one(prng, &METHODS), one(prng, &TARGETS));
        bytes.extend_from_slice(format!("{method}{target}{}", one(prng, &VERSIONS)).as_bytes());
        let many = prng.chance(1, 8);
        let fields = if many { FIELDS_MAX as u64 - 3 + prng.below(6) } else { prng.below(6) };
        for _ in 0..fields {
            bytes.extend_from_slice(one(prng, if many { &PLAIN } else { &FIELDS }).as_bytes());
        }
        bytes.extend_from_slice(one(prng, &ENDS).as_bytes());
    }
    for _ in 0..prng.below(3) {
        let at = prng.below(bytes.len() as u64) as usize;
        bytes[at] = prng.below(256) as u8;
    }
    if prng.chance(1, 50) {
        // Longer than any head may be.
        let long = "x".repeat(HEAD_BYTES_MAX - 80 + prng.below(160) as usize);
        bytes.splice(0..0, format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n").into_bytes());
    }
    bytes
}

const METHODS: [&str; 6] = ["GET ", "POST ", "HEAD ", "", "G\tET ", "OPTIONS "];
const TARGETS: [&str; 6] = ["/health", "/metrics?a=b", "*", "http://h/x", "", "/%zz"];
const VERSIONS: [&str; 6] =
    [" HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/1.1\n", " HTTP/2.0\r\n", "\r\n", " HTTP/1.1\r\n"];
const PLAIN: [&str; 2] = ["Host: x\r\n", "A: b\r\n"];
const FIELDS: [&str; 18] = [
    "Host: x\r\n",
    "Host: x:80\n",
    "host:\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: +3\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Expect: x\r\n",
    "Origin: http://a\r\n",
    "Accept-Encoding: gzip\r\n",
    " folded\r\n",
    " \n",
    "\r\r\n",
    "a b: c\r\n",
    "X: \u{e9}\r\n",
];
const ENDS: [&str; 5] = ["\r\n", "\n", "\r\n\r\n", "", "\r"];

fn one<'a>(prng: &mut Prng, of: &[&'a str]) -> &'a str {
    of[prng.below(of.len() as u64) as usize]
}

/// What becomes of a connection whose first bytes came at once and the others in chunks: its heads, and its end.
fn outcome(bytes: &[u8], first: usize, chunk: usize) -> Vec<String> {
    let (first, rest) = bytes.split_at(first);
    let mut input = BytesMut::from(first);
    let mut stream = Chunks(rest.chunks(chunk).map(Bytes::copy_from_slice).collect());
    let mut seen = Vec::new();
    loop {
        let mut context = Context::from_waker(Waker::noop());
        let read = pin!(read_head(&mut stream, &mut input)).poll(&mut context);
        let Poll::Ready(Ok(read)) = read else { panic!("a stream that has everything waits for nothing") };
        match read {
            Read::Head(head, _held) => {
                assert!(head.bytes <= input.len() && head.bytes > 0, "a head takes what has come");
                seen.push(format!("{head:?}"));
                input.advance(head.bytes);
            }
            Read::Gone => {
                seen.push("gone".to_owned());
                return seen;
            }
            Read::Refused(answer) => {
                seen.push(format!("{} {:?}", answer.status, answer.body));
                return seen;
            }
        }
    }
}

/// A stream that has all its chunks, and takes everything.
struct Chunks(VecDeque<Bytes>);

impl AsyncRead for Chunks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(chunk) = self.0.front_mut() else { return Poll::Ready(Ok(0)) };
        let length = chunk.len().min(into.len());
        chunk.copy_to_slice(&mut into[..length]);
        if chunk.is_empty() {
            self.0.pop_front();
        }
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Chunks {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Names and values come back as they were, with as much escaped as the writer likes.
fn escapes(prng: &mut Prng) {
    const LETTERS: [char; 12] = ['a', 'b', '%', '+', ' ', '&', '=', ';', '/', '\u{e9}', '\u{1f600}', '\0'];
    let text = |prng: &mut Prng| -> String {
        (0..prng.below(6)).map(|_| LETTERS[prng.below(LETTERS.len() as u64) as usize]).collect()
    };
    let pairs: Vec<(String, String)> = (0..prng.below(5)).map(|_| (text(prng), text(prng))).collect();
    let escaped = |prng: &mut Prng, text: &str, must: &[u8]| {
        text.bytes().fold(String::new(), |escaped, byte| {
            let plain = byte.is_ascii_graphic() && !must.contains(&byte) && prng.chance(3, 4);
            if plain {
                escaped + char::from(byte).encode_utf8(&mut [0; 4])
            } else {
                format!("{escaped}%{byte:02x}")
            }
        })
    };
    let query: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(prng, name, b"%+&=;"), escaped(prng, value, b"%+&;")))
        .collect();
    let query = query.join("&");
    for (name, _) in &pairs {
        let expected: Vec<&str> =
            pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| &value[..]).collect();
        assert_eq!(Query::new(&query).values(name).collect::<Vec<_>>(), expected, "{query}");
        assert!(Query::new(&query).has(name));
    }
    let path = text(prng);
    assert_eq!(unescape_path(&escaped(prng, &path, b"%")).unwrap(), path);
}

/// A path is one exactly where each `%` has two hexadecimal digits behind it.
fn broken_escapes(prng: &mut Prng) {
    let path: String = (0..prng.below(10)).map(|_| char::from(b"%a0gG+/"[prng.below(7) as usize])).collect();
    let parts: Vec<&str> = path.split('%').collect();
    let digits = |part: &&str| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    assert_eq!(unescape_path(&path).is_some(), parts[1..].iter().all(digits), "{path}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_hundred_clients() {
        (0..400).for_each(super::run);
    }
}
