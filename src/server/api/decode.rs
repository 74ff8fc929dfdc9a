//! Decoding as Go decodes: a known field that comes with another wire type counts as an unknown one.
//!
//! prost refuses such a message. Newer clients may send one (a field changed its type between releases), so what
//! prost refuses is read once more after [`conform`] has made mistyped fields unknown ones. Only refused messages pay
//! for it.
#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::{Message, Name};

use super::wire_format::{Malformed, conform};
use crate::proto::fields::message_of;
use crate::server::grpc::{Code, Status};
use crate::stdx::pace::{AtOnce, at_once};

/// A request's message.
///
/// # Errors
/// What etcd answers to bytes that are no message.
pub fn decode<M: Message + Default + Name>(message: Bytes) -> Result<M, Status> {
    decode_kept(&message).map(|(request, _)| request)
}

/// A message of a stream.
///
/// # Errors
/// What etcd answers on a stream to bytes that are no message.
pub fn decode_streamed<M: Message + Default + Name>(message: Bytes) -> Result<M, Status> {
    read(&message).map(|(request, _)| request).map_err(|malformed| {
        let text = format!("grpc: failed to unmarshal the received message: {}", malformed.text());
        Status::new(Code::Internal, text)
    })
}

/// A request's message, and its bytes as whoever reads the log can read them without leniency.
///
/// # Errors
/// What etcd answers to bytes that are no message.
pub fn decode_kept<M: Message + Default + Name>(message: &Bytes) -> Result<(M, Bytes), Status> {
    read(message).map_err(undecodable)
}

/// What etcd answers to bytes that are no message.
pub fn undecodable(malformed: Malformed) -> Status {
    Status::new(Code::Internal, format!("grpc: error unmarshalling request: {}", malformed.text()))
}

fn read<M: Message + Default + Name>(message: &Bytes) -> Result<(M, Bytes), Malformed> {
    if let Ok(request) = M::decode(message.clone()) {
        return Ok((request, message.clone()));
    }
    let kept = at_once(conform(message, message_of(M::PACKAGE, M::NAME), |_, _| (), &AtOnce))?;
    let request = M::decode(kept.clone()).map_err(|_| Malformed::Data)?;
    Ok((request, kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{RangeRequest, WatchRequest};

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
        // The start revision of a watch as a string.
        assert!(decode::<WatchRequest>(Bytes::from_static(b"\x0a\x06\x0a\x01a\x1a\x01x")).is_ok());
        // A message without fields has no known ones.
        assert!(decode::<()>(Bytes::from_static(b"\x08\x07")).is_ok());
    }

    #[test]
    fn what_is_kept_is_read_without_leniency() {
        let sent = Bytes::from_static(b"\x0a\x01k\x1a\x01x\x18\x02");
        let (request, kept) = decode_kept::<RangeRequest>(&sent).unwrap();
        assert_eq!(RangeRequest::decode(kept).unwrap(), request);
        let whole = Bytes::from_static(b"\x0a\x01k");
        assert_eq!(decode_kept::<RangeRequest>(&whole).unwrap().1.as_ptr(), whole.as_ptr(), "not copied");
    }

    /// Two megabytes of fields that are mistyped, in a time that does not depend on how fast this machine is.
    #[test]
    fn mistyped_fields_are_read_once_and_not_each() {
        let message = Bytes::from([&b"\x0a\x01k"[..], &b"\x08\x07".repeat(1_000_000)].concat());
        let (request, kept) = decode_kept::<RangeRequest>(&message).unwrap();
        assert_eq!((&request.key[..], kept.len()), (&b"k"[..], message.len()));
    }

    #[test]
    fn what_is_broken_stays_broken() {
        assert_eq!(range(b"\x0a\x05k"), None, "ends inside the key");
        assert_eq!(range(b"\x08"), None, "ends inside a number");
    }
}
