//! Packed messages: gzip, the only compressor that etcd links in.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::frame;
use crate::server::call::status::{Code, Status};
use crate::server::gzip::{Fault, Unpacking, pack};

/// Answers up to this are packed: more would take a core longer than others should wait. grpc-go packs them all, but a
/// client takes plain messages whatever it has sent.
pub const PACKED_BYTES_MAX: usize = 64 * 1024;

/// Begins to unpack a message that may become `length_max` bytes long.
///
/// # Errors
/// When it is no packed message.
pub fn begin(packed: Bytes, length_max: usize) -> Result<Unpacking, Status> {
    Unpacking::begin(packed, length_max).map_err(|fault| refusal(fault, "decompress the message", length_max))
}

/// Unpacks as much as a core may do before it lets others run; the message once it is whole.
///
/// # Errors
/// When it is broken, or longer than `length_max`.
pub fn step(unpacking: &mut Unpacking, length_max: usize) -> Result<Option<Bytes>, Status> {
    unpacking.step().map_err(|fault| refusal(fault, "read decompressed data", length_max))
}

/// What grpc-go says.
fn refusal(fault: Fault, failed_to: &str, length_max: usize) -> Status {
    match fault {
        Fault::Broken(text) => Status::new(Code::Internal, format!("grpc: failed to {failed_to}: {text}")),
        Fault::TooLong => {
            let text = format!("grpc: received message after decompression larger than max {length_max}");
            Status::new(Code::ResourceExhausted, text)
        }
    }
}

/// The head and the body of a message whose plain bytes are those of `pieces`. An empty message is not worth packing,
/// and one that cannot be packed is sent as it is, which a client takes at any time.
pub fn framed(pieces: &[Bytes]) -> ([u8; frame::HEAD_BYTES], Bytes) {
    if pieces.iter().all(Bytes::is_empty) {
        return ([0; frame::HEAD_BYTES], Bytes::new());
    }
    head_and_body(pieces, pack(pieces.iter().map(|piece| &piece[..])))
}

fn head_and_body(pieces: &[Bytes], packed: Option<Bytes>) -> ([u8; frame::HEAD_BYTES], Bytes) {
    let flag = u8::from(packed.is_some());
    let body = packed.unwrap_or_else(|| pieces.concat().into());
    let length = body.len() as u32; // of at most a little more than PACKED_BYTES_MAX
    let mut head = [flag; frame::HEAD_BYTES];
    head[1..].copy_from_slice(&length.to_be_bytes());
    (head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(packed: &[u8], length_max: usize) -> Result<Bytes, (Code, String)> {
        let result = begin(Bytes::copy_from_slice(packed), length_max).and_then(|mut unpacking| {
            loop {
                if let Some(plain) = step(&mut unpacking, length_max)? {
                    return Ok(plain);
                }
            }
        });
        result.map_err(|status| (status.code, status.message.into_owned()))
    }

    #[test]
    fn what_cannot_be_packed_is_sent_plain() {
        let pieces = [Bytes::from("ab"), Bytes::from("c")];
        assert_eq!(head_and_body(&pieces, None), ([0, 0, 0, 0, 3], "abc".into()));
        let (head, body) = framed(&pieces);
        assert_eq!((head[0], unpacked(&body, 3).unwrap()), (1, "abc".into()));
    }

    #[test]
    fn broken_messages_get_the_errors_of_grpc_go() {
        let packed = pack([&b"abcdefghijklmnopqrstuvwxyz"[..]]).unwrap();
        let cases: [(&[u8], usize, Code, &str); 4] = [
            (b"", 100, Code::Internal, "failed to decompress the message: EOF"),
            (b"more nonsense", 100, Code::Internal, "failed to decompress the message: gzip: invalid header"),
            (&packed[..12], 100, Code::Internal, "failed to read decompressed data: unexpected EOF"),
            (&packed, 25, Code::ResourceExhausted, "received message after decompression larger than max 25"),
        ];
        for (bytes, length_max, code, text) in cases {
            assert_eq!(unpacked(bytes, length_max), Err((code, format!("grpc: {text}"))), "{bytes:x?}");
        }
    }
}
