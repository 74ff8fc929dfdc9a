//! Decoding as Go decodes: a known field that comes with another wire type counts as an unknown one.
//!
//! prost refuses such a message. Newer clients may send one (a field changed its type between releases), so what
//! prost refuses is looked at once more, field by field: those that cannot be read because of their wire type are left
//! out, and whatever else is wrong stays wrong. Only refused messages pay for it.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, skip_field};

use crate::error::Error;
use crate::nested::{Unreadable, decode_txn};
use crate::proto::etcdserverpb::TxnRequest;
use crate::server::grpc::Status;

/// Field numbers below this are tried; no message has a field beyond it, so those are unknown and kept.
const NUMBERS: usize = 64;
/// Wire types have three bits.
const WIRE_TYPES: usize = 8;

/// A request's message.
///
/// # Errors
/// What etcd answers to bytes that are no message.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    decode_kept(&message).map(|(request, _)| request)
}

/// A request's message, and its bytes without what was left out: what goes into the log must be read by whoever reads
/// the log, without a second look.
///
/// # Errors
/// What etcd answers to bytes that are no message.
pub fn decode_kept<M: Message + Default>(message: &Bytes) -> Result<(M, Bytes), Status> {
    match M::decode(message.clone()) {
        Ok(request) => Ok((request, message.clone())),
        Err(_) => without_mistyped::<M>(message.clone()).map_err(|_| Status::undecodable()),
    }
}

/// A transaction, however deep others are nested in it, and its bytes as [`decode_kept`] returns them.
///
/// # Errors
/// What etcd answers to bytes that are no message, and to one that is too deep.
pub fn decode_txn_kept(message: &Bytes) -> Result<(TxnRequest, Bytes), Status> {
    match decode_txn(message.clone()) {
        Ok(request) => Ok((request, message.clone())),
        Err(Unreadable::TooDeep) => Err(Error::TooManyOps.into()),
        Err(Unreadable::Malformed(_)) => decode_kept(message),
    }
}

fn without_mistyped<M: Message + Default>(mut message: Bytes) -> Result<(M, Bytes), prost::DecodeError> {
    let mut kept = BytesMut::with_capacity(message.len());
    let mut fits = [[None; WIRE_TYPES]; NUMBERS];
    while message.has_remaining() {
        let mut rest = message.clone();
        let (number, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
        let field = message.split_to(message.len() - rest.len());
        // One field of a number and a wire type says it for all of them.
        let place = fits.get_mut(number as usize).map(|types| &mut types[wire_type as usize]);
        if place.is_none_or(|fits| *fits.get_or_insert_with(|| fits_message::<M>(number, wire_type, &field)))
        {
            kept.extend_from_slice(&field);
        }
    }
    let kept = kept.freeze();
    Ok((M::decode(kept.clone())?, kept))
}

/// Whether the message has no such field, or has it with this wire type.
fn fits_message<M: Message + Default>(number: u32, wire_type: WireType, field: &Bytes) -> bool {
    M::decode(field.clone()).is_ok() || (wire_type == WireType::LengthDelimited && takes_length::<M>(number))
}

/// Whether the field is one of those that come with a length: then what is wrong lies within.
fn takes_length<M: Message + Default>(number: u32) -> bool {
    let mut empty = BytesMut::new();
    encode_key(number, WireType::LengthDelimited, &mut empty);
    empty.extend_from_slice(&[0]);
    M::decode(empty).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{RangeRequest, TxnRequest};

    fn range(bytes: &'static [u8]) -> Option<RangeRequest> {
        decode::<RangeRequest>(Bytes::from_static(bytes)).ok()
    }

    #[test]
    fn a_mistyped_field_is_left_out_and_the_rest_is_read() {
        let expected = RangeRequest { key: "k".into(), limit: 2, ..RangeRequest::default() };
        // key "k", then the key as a number, then limit 2.
        assert_eq!(range(b"\x0a\x01k\x08\x07\x18\x02"), Some(expected.clone()));
        // limit as a string, then as it should be.
        assert_eq!(range(b"\x0a\x01k\x1a\x01x\x18\x02"), Some(expected));
    }

    #[test]
    fn what_is_kept_is_read_without_leniency() {
        let sent = Bytes::from_static(b"\x0a\x01k\x1a\x01x\x18\x02");
        let (request, kept) = decode_kept::<RangeRequest>(&sent).unwrap();
        assert_eq!(kept, &b"\x0a\x01k\x18\x02"[..]);
        assert_eq!(RangeRequest::decode(kept).unwrap(), request);
        let whole = Bytes::from_static(b"\x0a\x01k");
        assert_eq!(decode_kept::<RangeRequest>(&whole).unwrap().1.as_ptr(), whole.as_ptr(), "not copied");
    }

    /// Two megabytes of fields that are mistyped, in a time that does not depend on how fast this machine is.
    #[test]
    fn mistyped_fields_are_tried_once_and_not_each() {
        let whole = Bytes::from_static(b"\x0a\x01k");
        let mistyped = b"\x08\x07".repeat(1_000_000);
        let message = Bytes::from([&whole[..], &mistyped].concat());
        let (request, kept) = decode_kept::<RangeRequest>(&message).unwrap();
        assert_eq!((&request.key[..], kept), (&b"k"[..], whole));
    }

    #[test]
    fn a_transaction_that_is_nested_too_deep_has_too_many_operations() {
        let mut bytes = Vec::new();
        for _ in 0..2000 {
            let mut within = vec![0x22];
            prost::encoding::encode_varint(bytes.len() as u64, &mut within);
            within.extend_from_slice(&bytes);
            bytes = vec![0x12];
            prost::encoding::encode_varint(within.len() as u64, &mut bytes);
            bytes.extend_from_slice(&within);
        }
        let status = decode_txn_kept(&bytes.into()).unwrap_err();
        assert_eq!(status.message, "etcdserver: too many operations in txn request");
    }

    #[test]
    fn what_is_broken_stays_broken() {
        assert_eq!(range(b"\x0a\x05k"), None, "ends inside the key");
        assert_eq!(range(b"\x08"), None, "ends inside a number");
        // A comparison whose own bytes are no message.
        assert!(decode::<TxnRequest>(Bytes::from_static(b"\x0a\x02\x0a\x09")).is_err());
    }
}
