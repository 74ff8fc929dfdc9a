//! Reading a transaction and checking it at the same time.
//!
//! An operation without content takes two bytes on the wire and a hundred times as many once it is decoded, so what a
//! client may not ask for is not decoded first and refused then. What etcd says to a request that is wrong in several
//! ways depends on its order: bytes that are no message come first, then the quota, then what [`check`] finds, level
//! by level. So the wire format is looked at as a whole before anything else, and the operations are read one after
//! the other, up to the first that is refused. A transaction of 1.5 MB takes some 20 ms, so its steps are counted.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::wire_format::{Field, Fields, LENGTH, Malformed, conform};
use crate::cluster::cost::put_cost_of;
use crate::error::Error;
use crate::mvcc::check;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{Compare, RequestOp, TxnRequest};
use crate::proto::fields::message_of;
use crate::stdx::pace::Pace;

/// Transactions within one another that are read, as in [`nested`](crate::nested::decode).
const TXN_DEPTH_MAX: usize = 256;

/// A transaction of so few bytes is decoded first and looked at then: it takes no more than 2 MB and half a
/// millisecond, and nearly all of them are right.
const SHORT_BYTES: usize = 16 * 1024;

/// Why a transaction is not executed.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// The bytes are no message.
    Malformed(Malformed),
    /// Etcd's checks find it wrong.
    Checked {
        /// The first thing that is wrong.
        error: Error,
        /// What its puts would add to the store, those of both branches, so that a quota might refuse it before.
        cost: u64,
    },
}

/// What reading a part may end with.
enum Stop {
    Malformed(Malformed),
    Error(Error),
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<prost::DecodeError> for Stop {
    fn from(_: prost::DecodeError) -> Self {
        Self::Malformed(Malformed::Data)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A transaction that passes all of [`check::txn`] but the search for keys that are written twice, and its bytes as
/// whoever reads the log can read them without leniency. A field is a step.
///
/// # Errors
/// What is wrong with it, in etcd's order.
pub async fn decode_txn(
    message: &Bytes,
    max_ops: usize,
    pace: &impl Pace,
) -> Result<(TxnRequest, Bytes), Refused> {
    if is_short(message)
        && let Ok(request) = TxnRequest::decode(message.clone())
        && check::txn_fields(&request, max_ops).is_ok()
    {
        return Ok((request, message.clone()));
    }
    let operation = message_of("etcdserverpb", "RequestOp");
    let mut cost = 0;
    let txn_message = message_of("etcdserverpb", "TxnRequest");
    let kept = conform(
        message,
        txn_message,
        |message, field| {
            // Tags and lengths within a put count too: that is a few bytes.
            let puts = field.number == 2 && std::ptr::eq(message, operation);
            cost += if puts { put_cost_of(field.value.len()) } else { 0 };
        },
        pace,
    );
    let kept = kept.await.map_err(Refused::Malformed)?;
    match txn(&kept, max_ops, TXN_DEPTH_MAX, pace).await {
        Ok(request) => Ok((request, kept)),
        Err(Stop::Malformed(malformed)) => Err(Refused::Malformed(malformed)),
        Err(Stop::Error(error)) => Err(Refused::Checked { error, cost }),
    }
}

/// Whether a transaction takes so little time that it is decoded and checked without a pause.
pub fn is_short(message: &Bytes) -> bool {
    message.len() <= SHORT_BYTES
}

/// Frees the memory of a transaction. An operation is a step.
pub async fn free(request: TxnRequest, pace: &impl Pace) {
    let mut lists = vec![request.success.into_iter(), request.failure.into_iter()];
    while let Some(list) = lists.last_mut() {
        pace.step().await;
        match list.next() {
            None => drop(lists.pop()),
            Some(RequestOp { request: Some(Op::RequestTxn(nested)) }) => {
                lists.extend([nested.success.into_iter(), nested.failure.into_iter()]);
            }
            Some(_) => {}
        }
    }
}

/// Field numbers of a TxnRequest.
const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;

type Decoding<'a> = Pin<Box<dyn Future<Output = Result<TxnRequest, Stop>> + 'a>>;

fn txn<'a>(bytes: &'a Bytes, max_ops: usize, depth_left: usize, pace: &'a impl Pace) -> Decoding<'a> {
    Box::pin(async move {
        let depth_left = depth_left.checked_sub(1).ok_or(Error::TooManyOps)?;
        let mut counts = [0; 4];
        let mut fields = FieldsWithLength::of(bytes);
        while let Some(field) = fields.next(pace).await? {
            pace.step().await;
            if let Some(count) = counts.get_mut(field.number as usize) {
                *count += 1;
            }
        }
        let [_, compare, success, failure] = counts;
        let ops = compare.max(success).max(failure);
        let ops_left = max_ops.checked_sub(ops).ok_or(Error::TooManyOps)?;
        let mut request = TxnRequest {
            compare: Vec::with_capacity(compare),
            success: Vec::with_capacity(success),
            failure: Vec::with_capacity(failure),
        };
        let mut fields = FieldsWithLength::of(bytes);
        while let Some(field) = fields.next(pace).await? {
            pace.step().await;
            if field.number == COMPARE {
                let compare = Compare::decode(last_fields(bytes.slice(field.value), pace).await?)?;
                check::compare(&compare)?;
                request.compare.push(compare);
            }
        }
        for (number, branch) in [(SUCCESS, &mut request.success), (FAILURE, &mut request.failure)] {
            let mut fields = FieldsWithLength::of(bytes);
            while let Some(field) = fields.next(pace).await? {
                pace.step().await;
                if field.number == number {
                    branch.push(operation(&bytes.slice(field.value), ops_left, depth_left, pace).await?);
                }
            }
        }
        Ok(request)
    })
}

/// The fields of a message that have a length.
struct FieldsWithLength<'b>(Fields<'b>);

impl<'b> FieldsWithLength<'b> {
    fn of(message: &'b [u8]) -> Self {
        Self(Fields::new(message))
    }

    async fn next(&mut self, pace: &impl Pace) -> Result<Option<Field>, Malformed> {
        loop {
            match self.0.next()? {
                Some(field) if field.wire_type != LENGTH => pace.step().await,
                field => return Ok(field),
            }
        }
    }
}

async fn operation(
    bytes: &Bytes,
    ops_left: usize,
    depth_left: usize,
    pace: &impl Pace,
) -> Result<RequestOp, Stop> {
    let (number, message) = variant(bytes, pace).await?;
    let request = match number {
        1 => Op::RequestRange(Message::decode(last_fields(message, pace).await?)?),
        2 => Op::RequestPut(Message::decode(last_fields(message, pace).await?)?),
        3 => Op::RequestDeleteRange(Message::decode(last_fields(message, pace).await?)?),
        4 => Op::RequestTxn(txn(&message, ops_left, depth_left, pace).await?),
        _ => return Err(Error::KeyNotFound.into()),
    };
    check::operation(&request)?;
    Ok(RequestOp { request: Some(request) })
}

/// Fields that an operation or a condition may have so that it is decoded as it is, within one step.
const FIELDS_DECODED: usize = 64;
/// The greatest number of a field in an operation or a condition.
const FIELD_NUMBER_MAX: u32 = 64;

/// A message without messages in it, in which each field comes once: of a field that comes again, the last one counts,
/// and fields of numbers that no such message has say nothing.
async fn last_fields(message: Bytes, pace: &impl Pace) -> Result<Bytes, Malformed> {
    // A field takes two bytes at least.
    if message.len() <= 2 * FIELDS_DECODED {
        return Ok(message);
    }
    let (mut last, mut count) = (BTreeMap::new(), 0);
    let mut fields = Fields::new(&message);
    while let Some(field) = fields.next()? {
        pace.step().await;
        count += 1;
        if field.number <= FIELD_NUMBER_MAX {
            last.insert(field.number, field.tag.start..field.value.end);
        }
    }
    if count <= FIELDS_DECODED {
        return Ok(message);
    }
    // One value of several that exclude each other may be among them: the last one counts there too.
    let mut last: Vec<_> = last.into_values().collect();
    last.sort_by_key(|field| field.start);
    let parts: Vec<&[u8]> = last.into_iter().map(|field| &message[field]).collect();
    Ok(parts.concat().into())
}

/// Which of its fields an operation has, by number, and the message in it; 0 if it has none. The last one counts; a
/// message that comes several times in a row is one that goes on.
async fn variant(bytes: &Bytes, pace: &impl Pace) -> Result<(u32, Bytes), Malformed> {
    let (mut number, mut parts, mut begin, mut last) = (0, 0, 0, 0..0);
    let mut fields = FieldsWithLength::of(bytes);
    while let Some(field) = fields.next(pace).await? {
        pace.step().await;
        if (1..=4).contains(&field.number) {
            if field.number != number {
                (number, parts, begin) = (field.number, 0, field.tag.start);
            }
            parts += 1;
            last = field.value;
        }
    }
    if parts <= 1 {
        return Ok((number, bytes.slice(last)));
    }
    let rest = bytes.slice(begin..);
    let mut whole = BytesMut::with_capacity(rest.len());
    let mut fields = FieldsWithLength::of(&rest);
    while let Some(field) = fields.next(pace).await? {
        pace.step().await;
        if field.number == number {
            whole.extend_from_slice(&rest[field.value]);
        }
    }
    Ok((number, whole.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nested;
    use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
    use crate::stdx::pace::testing::EachStep;
    use crate::stdx::pace::{AtOnce, at_once};
    use crate::stdx::prng::Prng;

    fn decoded(bytes: &[u8], max_ops: usize) -> Result<TxnRequest, Refused> {
        let bytes = Bytes::copy_from_slice(bytes);
        at_once(decode_txn(&bytes, max_ops, &EachStep::default())).map(|(request, _)| request)
    }

    fn refused<T>(error: Error, cost: u64) -> Result<T, Refused> {
        Err(Refused::Checked { error, cost })
    }

    fn of(request: Option<Op>) -> RequestOp {
        RequestOp { request }
    }

    fn put(key: &str) -> RequestOp {
        of(Some(Op::RequestPut(PutRequest { key: key.to_owned().into(), ..PutRequest::default() })))
    }

    fn success(success: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { success, ..TxnRequest::default() }
    }

    fn key(prng: &mut Prng) -> Bytes {
        Bytes::from_static(if prng.chance(1, 40) { b"" } else { b"k" })
    }

    fn any_op(prng: &mut Prng, depth: u64) -> RequestOp {
        let request = match prng.below(40) {
            0 => None,
            1..10 => Some(Op::RequestRange(RangeRequest { key: key(prng), ..RangeRequest::default() })),
            10..20 => Some(Op::RequestPut(PutRequest { key: key(prng), lease: 7, ..PutRequest::default() })),
            20..30 if depth < 4 => Some(Op::RequestTxn(any_txn(prng, depth + 1))),
            _ => Some(Op::RequestDeleteRange(DeleteRangeRequest { key: key(prng), ..Default::default() })),
        };
        of(request)
    }

    fn any_txn(prng: &mut Prng, depth: u64) -> TxnRequest {
        let compare = (0..prng.below(3)).map(|_| Compare { key: key(prng), ..Compare::default() }).collect();
        let [success, failure] =
            [3, 4].map(|most| (0..prng.below(most)).map(|_| any_op(prng, depth)).collect());
        TxnRequest { compare, success, failure }
    }

    #[test]
    fn what_passes_is_what_prost_reads_and_what_does_not_is_refused_as_the_check_refuses_it() {
        let mut prng = Prng::new(11);
        let (mut passed, mut failed) = (0, 0);
        for _ in 0..2_000 {
            let request = any_txn(&mut prng, 0);
            let max_ops = [0, 2, 4, 128][prng.below(4) as usize];
            match (decoded(&request.encode_to_vec(), max_ops), check::txn_fields(&request, max_ops)) {
                (Ok(read), Ok(())) => {
                    passed += 1;
                    assert_eq!(read, request);
                }
                (Err(Refused::Checked { error, .. }), Err(expected)) => {
                    failed += 1;
                    assert_eq!(error, expected, "{request:?}");
                }
                (read, checked) => panic!("{read:?}, and the check says {checked:?}"),
            }
        }
        assert!(passed > 300 && failed > 300, "{passed} passed and {failed} failed");
    }

    #[test]
    fn many_operations_are_counted_before_they_are_decoded() {
        let many = [0x12, 0].repeat(700_000);
        assert_eq!(decoded(&many, 128), refused(Error::TooManyOps, 0));
        // As many in pieces that are not too many each: the first one is refused, and none is decoded behind it.
        assert_eq!(decoded(&many, 1_000_000), refused(Error::KeyNotFound, 0));
        let compares = [0x0a, 0].repeat(129);
        assert_eq!(decoded(&compares, 128), refused(Error::TooManyOps, 0));
        assert_eq!(decoded(&compares, 129), refused(Error::EmptyKey, 0));
    }

    #[test]
    fn bytes_that_are_no_message_come_before_all_else() {
        let cut = [&[0x12, 0].repeat(200)[..], &[0x12, 3, 0x0a, 9, 1]].concat();
        assert_eq!(decoded(&cut, 128), Err(Refused::Malformed(Malformed::Data)));
        assert_eq!(
            decoded(&[&[0x12, 0].repeat(200)[..], &[0x08]].concat(), 128),
            Err(Refused::Malformed(Malformed::Data))
        );
        // A comparison whose own bytes are no message.
        assert_eq!(decoded(b"\x0a\x02\x0a\x09", 128), Err(Refused::Malformed(Malformed::Data)));
    }

    #[test]
    fn what_its_puts_cost_is_known_whatever_is_wrong() {
        assert_eq!(
            decoded(&success(vec![put("")]).encode_to_vec(), 128),
            refused(Error::EmptyKey, put_cost_of(0))
        );
        let nested = success(vec![of(None), of(Some(Op::RequestTxn(success(vec![put("k")]))))]);
        assert_eq!(decoded(&nested.encode_to_vec(), 128), refused(Error::KeyNotFound, put_cost_of(3)));
        // A long comparison puts nothing.
        let compare = vec![Compare { key: vec![b'k'; 100_000].into(), ..Compare::default() }];
        let request = TxnRequest { compare, ..success(vec![put("k"), put("k"), of(None)]) };
        assert_eq!(decoded(&request.encode_to_vec(), 128), refused(Error::KeyNotFound, 2 * put_cost_of(3)));
    }

    #[test]
    fn an_operation_that_comes_in_parts_is_read_as_prost_reads_it() {
        let range = RangeRequest { key: "a".into(), ..RangeRequest::default() };
        let parts = [
            of(Some(Op::RequestRange(range))),
            put("b"),
            of(Some(Op::RequestTxn(success(vec![put("c")])))),
            of(Some(Op::RequestTxn(success(vec![put("d")])))),
        ];
        for count in 1..=parts.len() {
            let bytes: Vec<u8> = parts[..count].iter().flat_map(Message::encode_to_vec).collect();
            let whole = success(vec![RequestOp::decode(&bytes[..]).unwrap()]).encode_to_vec();
            assert_eq!(decoded(&whole, 128).unwrap(), TxnRequest::decode(&whole[..]).unwrap());
        }
    }

    #[test]
    fn what_is_kept_of_a_transaction_is_read_from_the_log() {
        for bytes in [
            // success { request_range { key "a", limit as a string } }
            &b"\x12\x08\x0a\x06\x0a\x01a\x1a\x01x"[..],
            // compare { key as a number, key "k" }
            b"\x0a\x05\x18\x07\x1a\x01k",
        ] {
            assert!(TxnRequest::decode(bytes).is_err(), "prost is not lenient");
            let bytes = Bytes::copy_from_slice(bytes);
            let (request, kept) = at_once(decode_txn(&bytes, 128, &AtOnce)).unwrap();
            assert_eq!(nested::decode(kept), Ok(request));
        }
    }

    #[test]
    fn an_operation_of_many_fields_is_read_in_as_many_steps() {
        let (field, unknown) = ([0x18, 7], [0x78, 1]);
        let mut prng = Prng::new(3);
        for count in [FIELDS_DECODED / 2, FIELDS_DECODED, 40_000] {
            // limit 7, and nothing that is known, in any order; then the key once, and once more.
            let mut range: Vec<u8> =
                (0..count).flat_map(|_| if prng.chance(1, 2) { field } else { unknown }).collect();
            range.extend_from_slice(b"\x0a\x01a\x0a\x01b\x18\x09");
            let mut operation = vec![0x0a];
            prost::encoding::encode_varint(range.len() as u64, &mut operation);
            operation.extend_from_slice(&range);
            let mut bytes = vec![0x12];
            prost::encoding::encode_varint(operation.len() as u64, &mut bytes);
            bytes.extend_from_slice(&operation);
            let (bytes, steps) = (Bytes::from(bytes), EachStep::default());
            let request = at_once(txn(&bytes, 128, TXN_DEPTH_MAX, &steps));
            assert_eq!(request.ok(), TxnRequest::decode(bytes).ok(), "{count} fields");
            let steps = steps.0.get();
            assert!(count <= FIELDS_DECODED || steps > count, "{steps} steps for {count} fields");
        }
        // Such fields say nothing in a transaction itself, and in an operation that asks for nothing.
        for outer in [&b""[..], b"\x12\xc0\xb8\x02"] {
            let (bytes, steps) = ([outer, &unknown.repeat(20_000)[..]].concat().into(), EachStep::default());
            _ = at_once(txn(&bytes, 128, TXN_DEPTH_MAX, &steps));
            assert!(steps.0.get() >= 20_000, "{} steps", steps.0.get());
        }
        // Values of a condition exclude each other, whatever their numbers are.
        let (created, version) = (&b"\x28\x06"[..], &b"\x20\x05"[..]);
        for (earlier, later) in [(version, created), (created, version)] {
            let compare = [&b"\x1a\x01k"[..], earlier, later, &unknown.repeat(100)[..]].concat();
            let kept = at_once(last_fields(Bytes::from(compare.clone()), &AtOnce)).expect("fields");
            assert!(kept.len() < 16, "{} bytes", kept.len());
            assert_eq!(Compare::decode(kept), Compare::decode(&compare[..]));
        }
    }

    /// So many transactions within one.
    fn nested_txns(count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            for tag in [0x22, 0x12] {
                let mut around = vec![tag];
                prost::encoding::encode_varint(bytes.len() as u64, &mut around);
                around.extend_from_slice(&bytes);
                bytes = around;
            }
        }
        bytes
    }

    #[test]
    fn a_transaction_that_is_nested_too_deep_has_too_many_operations() {
        let bytes = nested_txns(2000);
        assert_eq!(decoded(&bytes, 128), refused(Error::TooManyOps, 0));
        assert_eq!(decoded(&bytes, 10_000), refused(Error::TooManyOps, 0));
        assert_eq!(decoded(&nested_txns(5001), 128), Err(Refused::Malformed(Malformed::TooDeep)));
    }
}
