//! Transactions deeper than prost reads, as a client may send them, broken ones too.
//!
//! The same transaction is read by prost where it stands by itself, and by hand where it stands deep within others.
#![forbid(unsafe_code)]

use kevel::nested;
use kevel::proto::etcdserverpb::request_op::Request;
use kevel::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use kevel::stdx::prng::Prng;
use prost::Message;

/// Levels around a transaction that prost does not read any more.
const LEVELS: u64 = 60;

/// One transaction; panics when a property does not hold.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let request = random(&mut prng, 4);
    let bytes = request.encode_to_vec();
    assert_eq!(nested::decode(bytes.clone().into()).as_ref(), Ok(&request), "seed {seed}");
    let depth = LEVELS + prng.below(60);
    assert_eq!(
        nested::decode(within(bytes.clone(), depth).into()),
        Ok(around(request, depth)),
        "seed {seed}"
    );
    let spoilt = spoilt(&mut prng, bytes);
    let deep = nested::decode(within(spoilt.clone(), depth).into());
    if let Ok(read) = TxnRequest::decode(&spoilt[..]) {
        assert_eq!(deep, Ok(around(read, depth)), "seed {seed}: prost and the reader by hand differ");
    }
    // Cut anywhere, and with anything in front of it, it ends in a transaction or an error.
    let whole = within(spoilt, depth);
    let _ = nested::decode(whole[..prng.below(whole.len() as u64 + 1) as usize].to_vec().into());
}

fn random(prng: &mut Prng, depth: u64) -> TxnRequest {
    let mut request = TxnRequest::default();
    for _ in 0..prng.below(3) {
        request.compare.push(Compare { key: key(prng), range_end: key(prng), ..Compare::default() });
    }
    for _ in 0..prng.below(3) {
        request.success.push(operation(prng, depth));
    }
    for _ in 0..prng.below(3) {
        request.failure.push(operation(prng, depth));
    }
    request
}

fn operation(prng: &mut Prng, depth: u64) -> RequestOp {
    let request = match prng.below(4) {
        0 => None,
        1 => Some(Request::RequestRange(RangeRequest {
            key: key(prng),
            limit: prng.below(9) as i64,
            ..Default::default()
        })),
        2 if depth > 0 => Some(Request::RequestTxn(random(prng, depth - 1))),
        _ => Some(Request::RequestPut(PutRequest { key: key(prng), value: key(prng), ..Default::default() })),
    };
    RequestOp { request }
}

fn key(prng: &mut Prng) -> bytes::Bytes {
    vec![prng.below(256) as u8; prng.below(5) as usize].into()
}

/// The bytes of a transaction as the only operation of another one, and so on.
fn within(bytes: Vec<u8>, depth: u64) -> Vec<u8> {
    (0..depth).fold(bytes, |bytes, _| field(2, field(4, bytes)))
}

/// The same, as a message.
fn around(request: TxnRequest, depth: u64) -> TxnRequest {
    (0..depth).fold(request, |request, _| {
        let operation = RequestOp { request: Some(Request::RequestTxn(request)) };
        TxnRequest { success: vec![operation], ..TxnRequest::default() }
    })
}

fn field(number: u32, bytes: Vec<u8>) -> Vec<u8> {
    let mut field = Vec::with_capacity(bytes.len() + 6);
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend(bytes);
    field
}

/// With a few bytes changed, doubled or taken out.
fn spoilt(prng: &mut Prng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..prng.below(4) {
        let at = prng.below(bytes.len() as u64 + 1) as usize;
        match prng.below(4) {
            0 => bytes.insert(at, prng.below(64) as u8),
            1 => bytes.splice(at..at, bytes.clone()).for_each(drop),
            _ if at == bytes.len() => {}
            2 => bytes[at] = prng.below(256) as u8,
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}
