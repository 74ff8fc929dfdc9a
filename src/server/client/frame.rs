//! What stands around the messages of a call: a prefix in front of each, and a status at the end.
#![forbid(unsafe_code)]

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;

/// Longest message that is read.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// What stands in front of a message: whether it is packed, and its length.
const PREFIX_BYTES: usize = 5;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code of gRPC; none where the server did not answer the call.
    pub code: Option<u32>,
    /// What the server says, or what has happened.
    pub text: String,
}

impl Failure {
    /// There is no answer, for this reason.
    pub fn lost(why: impl ToString) -> Self {
        Self { code: None, text: why.to_string() }
    }
}

/// A message with its prefix.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// Takes the next message off what has come, if all of it has.
///
/// # Errors
/// When it is packed, or too long.
pub(super) fn take(come: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(mut prefix) = come.get(..PREFIX_BYTES) else { return Ok(None) };
    let (packed, length) = (prefix.get_u8(), prefix.get_u32() as usize);
    if packed != 0 {
        return Err(Failure::lost("the answer cannot be read"));
    }
    if length > MESSAGE_BYTES_MAX {
        return Err(Failure::lost("the answer is too long"));
    }
    if come.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    come.advance(PREFIX_BYTES);
    Ok(Some(come.split_to(length).freeze()))
}

/// What headers or trailers say of the end of a call.
pub(super) fn check(said: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| said.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let text = unescaped(text("grpc-message").unwrap_or_default());
            Err(Failure { code: code.parse().ok(), text })
        }
    }
}

/// A message as it was before gRPC escaped bytes in it: `%` and two hexadecimal digits stand for one.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped =
            digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_off_one_by_one_and_when_they_are_whole() {
        let mut come = BytesMut::new();
        for piece in [&framed(b"abc")[..], &framed(b""), &framed(b"defg")[..7]] {
            come.extend_from_slice(piece);
        }
        assert_eq!(take(&mut come), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(take(&mut come), Ok(Some(Bytes::new())));
        assert_eq!(take(&mut come), Ok(None));
        come.extend_from_slice(b"fg");
        assert_eq!(take(&mut come), Ok(Some(Bytes::from_static(b"defg"))));
        assert_eq!((take(&mut come), come.len()), (Ok(None), 0));
        for wrong in [&[1, 0, 0, 0, 0][..], &[0, 0xff, 0, 0, 0]] {
            assert!(take(&mut BytesMut::from(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_server_refuses_is_told_with_its_code() {
        let mut said = HeaderMap::new();
        assert_eq!(check(&said), Ok(()));
        said.insert("grpc-status", "14".parse().unwrap());
        said.insert("grpc-message", "etcdserver: unhealthy cluster".parse().unwrap());
        let failure = Failure { code: Some(14), text: "etcdserver: unhealthy cluster".into() };
        assert_eq!(check(&said), Err(failure));
        said.insert("grpc-message", "50%25 of %22k%c3%bc%22, 5%, %2".parse().unwrap());
        assert_eq!(check(&said).unwrap_err().text, "50% of \"k\u{fc}\", 5%, %2");
        said.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(check(&said), Ok(()));
    }
}
