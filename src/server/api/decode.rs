//! Decoding as Go decodes: a known field that comes with another wire type counts as an unknown one.
//!
//! prost refuses such a message. Newer clients may send one (a field changed its type between releases), so what
//! prost refuses is looked at once more, field by field: those that cannot be read because of their wire type are left
//! out, and whatever else is wrong stays wrong. Only refused messages pay for it.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, skip_field};

use crate::server::grpc::Status;

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

fn without_mistyped<M: Message + Default>(mut message: Bytes) -> Result<(M, Bytes), prost::DecodeError> {
    let mut kept = BytesMut::with_capacity(message.len());
    while message.has_remaining() {
        let mut rest = message.clone();
        let (number, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
        let field = message.split_to(message.len() - rest.len());
        let readable = M::decode(field.clone()).is_ok();
        if readable || (wire_type == WireType::LengthDelimited && takes_length::<M>(number)) {
            kept.extend_from_slice(&field);
        }
    }
    let kept = kept.freeze();
    Ok((M::decode(kept.clone())?, kept))
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

    #[test]
    fn what_is_broken_stays_broken() {
        assert_eq!(range(b"\x0a\x05k"), None, "ends inside the key");
        assert_eq!(range(b"\x08"), None, "ends inside a number");
        // A comparison whose own bytes are no message.
        assert!(decode::<TxnRequest>(Bytes::from_static(b"\x0a\x02\x0a\x09")).is_err());
    }
}
