//! Fuzzing of a connection: what clients may send, and what they may not, cut anywhere.
//!
//! Two properties. Where reads are cut changes nothing. And whatever comes, our own frames are well-formed, keep to the
//! client's windows and to the order of a stream's life, and nothing stays counted when the connection is gone.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::account::Account;
use super::connection::{Http2, Limits, Over};
use super::frame::{HEAD_BYTES, Head, PREFACE, flag, kind, setting};
use super::hpack::{Decoder, Encoder, Field, Fields};
use super::memory::Memory;
use super::stream::Stream;
use crate::stdx::prng::Prng;

const LIMITS: Limits = Limits { streams_max: 20 };
const ANSWER: Fields = Fields::Constant(&[(":status", "200"), ("content-type", "application/grpc")]);
const END: Fields = Fields::Constant(&[("grpc-status", "0")]);

/// One connection; panics when a property does not hold.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let frames = client(&mut prng);
    let bytes = frames.concat();
    assert_eq!(
        replay(&bytes, bytes.len().max(1)),
        replay(&bytes, 1 + prng.below(40) as usize),
        "seed {seed}"
    );
    converse(&mut prng, &frames);
}

/// What a client sends: mostly sense.
fn client(prng: &mut Prng) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::default();
    let mut frames = vec![PREFACE.to_vec(), settings(prng)];
    let (mut next, wild) = (1, prng.chance(1, 3));
    // Fewer SETTINGS than are too many in one read.
    let mut settings_left = 20;
    for _ in 0..prng.below(120) {
        let known = 1 + 2 * prng.below(u64::from(next).div_ceil(2) + 1) as u32;
        let length_max = if prng.chance(1, 10) { 16_000 } else { 40 };
        let payload = vec![prng.below(256) as u8; prng.below(length_max) as usize];
        frames.push(match prng.below(12) {
            0..=3 => {
                let id = next;
                next += 2 * (1 + prng.below(2) as u32);
                headers(prng, &mut encoder, id)
            }
            4 => frame(kind::DATA, prng.below(2) as u8 * flag::END_STREAM, known, &payload),
            5 if prng.chance(1, 3) => trailers(&mut encoder, known),
            5 => padded(prng, known, &payload),
            6 => frame(kind::RST_STREAM, 0, known, &8u32.to_be_bytes()),
            7 => {
                let stream = if prng.chance(1, 2) { 0 } else { known };
                frame(kind::WINDOW_UPDATE, 0, stream, &(1 + prng.below(200_000) as u32).to_be_bytes())
            }
            8 => frame(kind::PING, prng.below(2) as u8, 0, &[prng.below(256) as u8; 8]),
            9 if settings_left > 0 => {
                settings_left -= 1;
                settings(prng)
            }
            10 if wild => frame(prng.below(12) as u8, prng.below(256) as u8, prng.below(9) as u32, &payload),
            11 if wild && prng.chance(1, 4) => payload,
            _ => frame(kind::PRIORITY, 0, 1, &[0; 5]),
        });
    }
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&Head { length: payload.len(), kind, flags, stream }.bytes()[..], payload].concat()
}

fn settings(prng: &mut Prng) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut set = |name: u16, value: u32| {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    };
    if prng.chance(1, 2) {
        set(setting::INITIAL_WINDOW_SIZE, prng.below(100_000) as u32);
    }
    if prng.chance(1, 4) {
        set(setting::HEADER_TABLE_SIZE, prng.below(200) as u32);
    }
    if prng.chance(1, 8) {
        set(setting::MAX_FRAME_SIZE, 16_384 + prng.below(100_000) as u32);
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A request's HEADERS, in up to three frames.
fn headers(prng: &mut Prng, encoder: &mut Encoder, id: u32) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.encode(
        &Fields::Constant(&[(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C")]),
        &mut block,
    );
    if prng.chance(1, 2) {
        encoder.encode(
            &Fields::Constant(&[("content-type", "application/grpc"), ("te", "trailers")]),
            &mut block,
        );
    }
    if prng.chance(1, 8) {
        let token = "x".repeat(prng.below(300) as usize);
        encoder.encode(&Fields::Own(vec![("token", token.into())]), &mut block);
    }
    let end = prng.below(2) as u8 * flag::END_STREAM;
    if prng.chance(3, 4) {
        return frame(kind::HEADERS, end | flag::END_HEADERS, id, &block);
    }
    let (first, rest) = block.split_at(prng.below(block.len() as u64) as usize);
    let (second, third) = rest.split_at(prng.below(rest.len() as u64) as usize);
    [
        frame(kind::HEADERS, end, id, first),
        frame(kind::CONTINUATION, 0, id, second),
        frame(kind::CONTINUATION, flag::END_HEADERS, id, third),
    ]
    .concat()
}

/// DATA with up to 255 bytes of padding.
fn padded(prng: &mut Prng, stream: u32, data: &[u8]) -> Vec<u8> {
    let padding = prng.below(256) as usize;
    let data = &data[..data.len().min(16_000)];
    frame(kind::DATA, flag::PADDED, stream, &[&[padding as u8], data, &vec![0; padding]].concat())
}

/// The end of what a client says, as fields.
fn trailers(encoder: &mut Encoder, stream: u32) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.encode(&Fields::Constant(&[("x-end", "1")]), &mut block);
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block)
}

type Outcome = (Vec<u8>, Result<(), Over>, Vec<Vec<u8>>);

/// What comes of `bytes`, read `step` at a time: what we said, whether it goes on, and the paths asked for.
fn replay(bytes: &[u8], step: usize) -> Outcome {
    let memory = Memory::new();
    let http2 = Http2::new(LIMITS, memory.clone());
    http2.begin_turn(Waker::noop());
    let result = bytes.chunks(step).try_for_each(|chunk| http2.receive(chunk));
    let mut requests = Vec::new();
    while let Some((head, _)) = http2.next_request() {
        requests.push(head.path.expect("a request has a path").value().to_vec());
    }
    (sent(&http2), result, requests)
}

fn sent(http2: &Http2) -> Vec<u8> {
    let mut bytes = Vec::new();
    let polled = http2.poll_send(|slices| {
        let before = bytes.len();
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        Poll::Ready(Ok(bytes.len() - before))
    });
    assert!(matches!(polled, Poll::Ready(Ok(()))));
    bytes
}

/// The client's frames one by one, and an application that does anything that it may in between.
fn converse(prng: &mut Prng, frames: &[Vec<u8>]) {
    let memory = Memory::new();
    let http2 = Http2::new(LIMITS, memory.clone());
    let account = Account::new(memory.clone());
    let mut open = Vec::new();
    let mut judge = Judge::default();
    assert_eq!(http2.receive(&frames[0]), Ok(()), "the preface");
    for bytes in &frames[1..] {
        // Windows count from when we hear of them: what was written before may still be what they were.
        judge.we_said(&sent(&http2));
        judge.client_said(bytes);
        let over = http2.receive(bytes).is_err();
        if let Some(payload) = judge.stopping.take() {
            let _ = http2.receive(&frame(kind::PING, flag::ACK, 0, &payload));
        }
        while let Some((_, stream)) = http2.next_request() {
            open.push(Served { stream, begun: false, over: false });
        }
        if !open.is_empty() {
            for _ in 0..prng.below(4) {
                let at = prng.below(open.len() as u64) as usize;
                act(prng, &mut open[at], &account);
            }
        }
        if prng.chance(1, 60) {
            http2.shut_down();
        }
        if over {
            break;
        }
    }
    http2.close();
    judge.we_said(&sent(&http2));
    assert_eq!((account.unsent(), memory.held()), (0, 0), "what waited was given back");
    let cx = Context::from_waker(Waker::noop());
    assert!(open.iter().all(|served| served.stream.poll_gone(&cx).is_ready()));
}

/// A request being served.
struct Served {
    stream: Stream,
    /// Its head is out, its end is not.
    begun: bool,
    /// Its end was said.
    over: bool,
}

fn act(prng: &mut Prng, Served { stream, begun, over }: &mut Served, account: &Rc<Account>) {
    let cx = Context::from_waker(Waker::noop());
    // That a stream is gone is no matter here.
    let _ = match prng.below(8) {
        0 | 1 => {
            let _ = stream.poll_data(&cx);
            Ok(())
        }
        2 => {
            stream.stop_reading();
            Ok(())
        }
        3 if !*begun && !*over => {
            stream.refuse(&Fields::Own(vec![(":status", "200".into()), ("grpc-status", "5".into())]))
        }
        5 if *begun => {
            *begun = false;
            *over = true;
            stream.end(END)
        }
        _ if *begun && stream.poll_gone(&cx).is_pending() => {
            let length_max = if prng.chance(1, 4) { 200_000 } else { 100 };
            let body = vec![7; prng.below(length_max) as usize];
            stream.send_data(&[1; 5][..prng.below(6) as usize], Bytes::from(body), account)
        }
        _ if !*begun && !*over && stream.poll_gone(&cx).is_pending() => {
            *begun = true;
            stream.send_head(&ANSWER)
        }
        _ => Ok(()),
    };
}

/// A client that looks closely.
struct Judge {
    /// What may still be sent on the connection.
    window: i64,
    /// What may still be sent on each stream, beside what every stream may.
    windows: BTreeMap<u32, i64>,
    initial: i64,
    /// Streams on which a head came, and whether the end did.
    ended: BTreeMap<u32, bool>,
    payload_max: usize,
    decoder: Decoder,
    /// Of the PING that belongs to a stop, until it is acknowledged.
    stopping: Option<[u8; 8]>,
    fields: usize,
    /// What the client sends makes no sense any more.
    lost: bool,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            window: 65_535,
            windows: BTreeMap::new(),
            initial: 65_535,
            ended: BTreeMap::new(),
            payload_max: 16_384,
            decoder: Decoder::default(),
            stopping: None,
            fields: 0,
            lost: false,
        }
    }
}

impl Judge {
    fn client_said(&mut self, bytes: &[u8]) {
        let Some(head) = bytes.first_chunk().map(|head| Head::parse(*head)) else {
            self.lost = true;
            return;
        };
        let payload = &bytes[HEAD_BYTES..];
        // Bytes that are no frame swallow what comes behind them: nobody knows then what was said.
        self.lost |= head.kind != kind::HEADERS && payload.len() != head.length;
        match head.kind {
            kind::WINDOW_UPDATE if payload.len() == 4 => {
                let more =
                    i64::from(u32::from_be_bytes(payload.try_into().expect("four bytes")) & 0x7fff_ffff);
                match head.stream {
                    0 => self.window += more,
                    stream => *self.windows.entry(stream).or_default() += more,
                }
            }
            kind::SETTINGS if head.flags & flag::ACK == 0 => {
                for &[a, b, value @ ..] in payload.as_chunks::<6>().0 {
                    let value = u32::from_be_bytes(value);
                    match u16::from_be_bytes([a, b]) {
                        setting::INITIAL_WINDOW_SIZE => self.initial = i64::from(value),
                        setting::MAX_FRAME_SIZE => self.payload_max = value as usize,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn we_said(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let head = Head::parse(*bytes.first_chunk().expect("whole heads"));
            let payload = &bytes[HEAD_BYTES..HEAD_BYTES + head.length];
            bytes = &bytes[HEAD_BYTES + head.length..];
            assert!(head.length <= self.payload_max || self.lost);
            let ends = head.flags & flag::END_STREAM != 0;
            match head.kind {
                kind::HEADERS => {
                    let ended = self.ended.entry(head.stream).or_default();
                    assert!(!*ended, "nothing behind the end");
                    *ended = ends;
                    assert_eq!(head.flags & flag::END_HEADERS, flag::END_HEADERS, "short blocks");
                    let fields = &mut self.fields;
                    let each = |field: &Field| {
                        assert!([&b":status"[..], b"content-type", b"grpc-status"].contains(&field.name()));
                        *fields += 1;
                        ControlFlow::Continue(())
                    };
                    self.decoder.decode(payload, each).expect("a block that can be decoded");
                }
                kind::DATA => {
                    assert_eq!(self.ended.get(&head.stream), Some(&false), "between head and end");
                    let window = self.windows.entry(head.stream).or_default();
                    *window -= head.length as i64;
                    self.window -= head.length as i64;
                    let is_within = self.window >= 0 && self.initial + *window >= 0;
                    assert!(is_within || self.lost, "no more than the client takes");
                }
                kind::RST_STREAM => {
                    self.ended.insert(head.stream, true);
                    assert_eq!(payload.len(), 4);
                }
                kind::PING if head.flags & flag::ACK == 0 => {
                    self.stopping = Some(payload.try_into().expect("eight bytes"));
                }
                kind::WINDOW_UPDATE => assert_ne!(payload, [0; 4]),
                kind::SETTINGS | kind::PING | kind::GOAWAY => assert_eq!(head.stream, 0),
                other => panic!("a frame of kind {other}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_connections() {
        (0..5000).chain([204_177]).for_each(super::run);
    }
}
