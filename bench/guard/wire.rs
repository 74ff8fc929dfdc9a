//! Messages: requests from the chunk they came in to a checked struct, responses to the bytes that leave.

use super::load::{HEADER, KEYS, Replicated, namespace, put, shuffled};
use super::meter::Meter;
use bytes::{BufMut, Bytes, BytesMut};
use kevel::mvcc::range::Plan;
use kevel::mvcc::{Planned, Progress, Slices, View, check};
use kevel::proto::etcdserverpb::{PutRequest, RangeRequest};
use kevel::response::{Response, encode};
use kevel::server::api::decode::{decode, decode_kept};
use kevel::server::grpc::frame::Decoder;
use kevel::stdx::prng::Prng;
use prost::Message;
use std::hint::black_box;

/// Messages in one repetition.
const MESSAGES: u64 = 2_000;
/// Different ones among them: as few as are still in a core's cache, where a chunk is that was just received.
const DIFFERENT: usize = 250;
/// Pairs in a range's response.
const PAIRS: u64 = 10;
/// Longest message that the server takes by default.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

pub fn run(meter: &mut Meter) {
    let mut prng = Prng::new(2);
    let numbers = &shuffled(KEYS, &mut prng)[..MESSAGES as usize];

    // A chunk as h2 hands it on, cut into the message, decoded and checked.
    let puts: Vec<Bytes> = numbers[..DIFFERENT].iter().map(|&number| framed(&put(number))).collect();
    meter.repeat("put request, decode", "request", || {
        for chunk in puts.iter().cycle().take(MESSAGES as usize) {
            let (request, message) = decode_kept::<PutRequest>(&cut(chunk)).expect("a put");
            check::put(&request).expect("a legal put");
            black_box((request, message));
        }
        MESSAGES
    });

    let ranges: Vec<Bytes> = numbers[..DIFFERENT].iter().map(|&number| framed(&range(number))).collect();
    meter.repeat("range request, decode", "request", || {
        for chunk in ranges.iter().cycle().take(MESSAGES as usize) {
            let request = decode::<RangeRequest>(cut(chunk)).expect("a range");
            check::range(&request).expect("a legal range");
            black_box(request);
        }
        MESSAGES
    });

    meter.repeat("put response, encode", "response", || {
        for revision in 1_000_000..1_000_000 + MESSAGES as i64 {
            let response = black_box(Response::Put { revision, prev_kv: None });
            black_box(encode(&response, black_box(&HEADER)));
        }
        MESSAGES
    });

    // The two halves of an answer, as `server/api/kv` goes about them: the walk over the index that learns its length,
    // and the copying of values from where they were put, in no order, among a hundred thousand.
    let replicated = Replicated::filled();
    let mut reader = replicated.store.readers().register();
    let requests: Vec<RangeRequest> = numbers.iter().map(|&number| range(number)).collect();
    let mut planner = replicated.store.readers().register();
    meter.repeat("range of 10 pairs, plan", "response", || {
        for request in &requests {
            let snapshot = planner.snapshot();
            let view = View::new(&snapshot);
            let plan = Plan::new(&view, black_box(request)).expect("a legal range");
            let Ok(Progress::Done(emission)) = plan.step(&view, 1024) else {
                panic!("ten pairs are planned at once")
            };
            black_box(emission);
        }
        MESSAGES
    });
    let mut plan = || {
        let snapshot = planner.snapshot();
        let view = View::new(&snapshot);
        let planned = requests.iter().map(|request| {
            let plan = Plan::new(&view, request).expect("a legal range");
            let emission = plan.finish(&view).expect("a plan");
            assert!(emission.kvs() == PAIRS, "ten pairs are there");
            emission
        });
        planned.collect::<Vec<_>>()
    };
    meter.measure("range response of 10 pairs, encode", "response", &mut plan, |planned| {
        for emission in planned {
            let snapshot = reader.snapshot();
            let view = View::new(&snapshot);
            let mut out = BytesMut::with_capacity(emission.encoded_len(&HEADER));
            let complete = emission.emit(&view, &HEADER, &mut out, usize::MAX);
            assert!(complete == Ok(true), "it is written at once");
            black_box(out.freeze());
        }
        MESSAGES
    });
}

/// The range of a namespace: ten keys.
fn range(number: u64) -> RangeRequest {
    let (key, end) = namespace(number);
    RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// A message with its head, in a chunk of its own.
fn framed(message: &impl Message) -> Bytes {
    let mut chunk = BytesMut::new();
    chunk.put_u8(0);
    chunk.put_u32(message.encoded_len() as u32);
    message.encode(&mut chunk).expect("memory has room");
    chunk.freeze()
}

/// The message in a chunk, by a reader of its own as each call has.
fn cut(chunk: &Bytes) -> Bytes {
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX, None);
    decoder.push(black_box(chunk).clone());
    decoder.take().ok().flatten().expect("a whole message")
}
