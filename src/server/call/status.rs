//! How a call ends: a code and, unless it is OK, a text.
#![forbid(unsafe_code)]

use std::borrow::Cow;

pub use crate::error::Code;
use crate::error::Error;

impl Code {
    /// All codes, by number.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The number as it stands in the `grpc-status` header.
    pub const fn digits(self) -> &'static str {
        const DIGITS: [&str; 17] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        DIGITS[self as usize]
    }

    /// The value of the metrics' `grpc_code` label.
    pub const fn label(self) -> &'static str {
        const LABELS: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        LABELS[self as usize]
    }
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Never [`Code::Ok`].
    pub code: Code,
    /// The text, unescaped.
    pub message: Cow<'static, str>,
}

impl Status {
    /// An error of `code` with `message`.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        assert!(code != Code::Ok, "success is not an error");
        Self { code, message: message.into() }
    }

    /// A message too large for us.
    pub fn too_large(length: usize, length_max: usize) -> Self {
        let message = format!("grpc: received message larger than max ({length} vs. {length_max})");
        Self::new(Code::ResourceExhausted, message)
    }

    /// A message that is no protobuf of the expected type.
    pub fn undecodable() -> Self {
        let message = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
        Self::new(Code::Internal, message)
    }

    /// A method that is known and not built.
    pub fn unimplemented(method: super::method::Method) -> Self {
        let (name, service) = (method.name(), method.service());
        Self::new(Code::Unimplemented, format!("unknown method {name} for service {service}"))
    }

    /// The client went away or took its call back.
    pub fn canceled() -> Self {
        Self::new(Code::Canceled, "context canceled")
    }

    /// The client's deadline passed.
    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// The member stops.
    pub fn stopped() -> Self {
        Self::new(Code::Unavailable, "etcdserver: server stopped")
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.message())
    }
}

/// Longest `grpc-message` sent, after escaping: a header block stays within one frame.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Percent-encodes a message for the `grpc-message` header: everything but printable ASCII, and `%`.
pub fn escape(message: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    if message.len() <= MESSAGE_BYTES_MAX && message.bytes().all(plain) {
        return Cow::Borrowed(message);
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if escaped.len() + 3 > MESSAGE_BYTES_MAX {
            break;
        }
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push(char::from(HEX[usize::from(byte >> 4)]));
            escaped.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(escape("etcdserver: no leader"), "etcdserver: no leader");
        assert_eq!(escape("100%\n\u{e9}"), "100%25%0A%C3%A9");
        assert!(escape(&"\u{0}".repeat(100_000)).len() <= MESSAGE_BYTES_MAX);
        assert!(escape(&"x".repeat(100_000)).len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn codes_and_numbers_agree() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!((code as usize, code.digits()), (number, number.to_string().as_str()));
        }
        assert_eq!(Code::Unauthenticated.label(), "Unauthenticated");
    }
}
