//! One header field of a request.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::{FIELD_OVERHEAD, table};

/// A name as far as we act on it. Found out once, when the field enters the table: a client that repeats its fields
/// pays for the comparison once per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:path`
    Path,
    /// `:authority`
    Authority,
    /// `content-type`
    ContentType,
    /// `grpc-timeout`
    GrpcTimeout,
    /// `grpc-encoding`
    GrpcEncoding,
    /// A field about the hop, which HTTP/2 has no use for: `connection` and its like.
    Hop,
    /// Fields that every client sends and nobody here asks for.
    Unused,
    /// Metadata, for whoever asks.
    Metadata,
    /// No name of a request's field, or characters that may not be in one.
    Invalid,
}

impl Name {
    /// What `name` means to us.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Name::Method,
            b":scheme" => Name::Scheme,
            b":path" => Name::Path,
            b":authority" => Name::Authority,
            b"content-type" => Name::ContentType,
            b"grpc-timeout" => Name::GrpcTimeout,
            b"grpc-encoding" => Name::GrpcEncoding,
            b"te"
            | b"user-agent"
            | b"grpc-accept-encoding"
            | b"accept-encoding"
            | b"accept"
            | b"host"
            | b"content-length"
            | b"grpc-trace-bin"
            | b"traceparent"
            | b"tracestate" => Name::Unused,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Name::Hop
            }
            _ if !name.is_empty() && name.iter().all(|&byte| is_of_names(byte)) => Name::Metadata,
            _ => Name::Invalid,
        }
    }

    /// Whether it is one of those that come first.
    pub fn is_pseudo(self) -> bool {
        matches!(self, Name::Method | Name::Scheme | Name::Path | Name::Authority)
    }
}

/// The characters of a field name (RFC 9110, 5.6.2), without capitals (RFC 9113, 8.2.1).
fn is_of_names(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What must not be in a value: it would end the field where text is all there is.
fn is_of_values(byte: u8) -> bool {
    !matches!(byte, 0 | b'\r' | b'\n')
}

/// A name and a value, shared by all requests that refer to it.
#[derive(Clone, Debug)]
pub struct Field {
    meaning: Name,
    text: Text,
}

#[derive(Clone, Debug)]
enum Text {
    Known(&'static str, &'static str),
    /// Name and value, one behind the other.
    Sent {
        name_len: usize,
        both: Rc<[u8]>,
    },
}

impl Field {
    /// The field with this number, if it is one of those that everybody knows.
    pub(super) fn known(number: usize) -> Option<Self> {
        let (name, value) = table::STATIC.get(number.checked_sub(1)?)?;
        Some(Self { meaning: table::meaning(number), text: Text::Known(name, value) })
    }

    /// A field whose `name_len` bytes of name and whose value stand in `both`.
    pub(super) fn sent(both: &[u8], name_len: usize, meaning: Name) -> Self {
        let valid = both[name_len..].iter().all(|&byte| is_of_values(byte));
        let meaning = if valid { meaning } else { Name::Invalid };
        Self { meaning, text: Text::Sent { name_len, both: both.into() } }
    }

    /// A field made by ourselves.
    #[cfg(test)]
    pub fn new(name: &str, value: &str) -> Self {
        Self::sent([name, value].concat().as_bytes(), name.len(), Name::of(name.as_bytes()))
    }

    /// What the name means.
    pub fn meaning(&self) -> Name {
        self.meaning
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        match &self.text {
            Text::Known(name, _) => name.as_bytes(),
            Text::Sent { name_len, both } => &both[..*name_len],
        }
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        match &self.text {
            Text::Known(_, value) => value.as_bytes(),
            Text::Sent { name_len, both } => &both[*name_len..],
        }
    }

    /// Its size as RFC 7541, 4.1 counts it.
    pub fn size(&self) -> usize {
        let text = match &self.text {
            Text::Known(name, value) => name.len() + value.len(),
            Text::Sent { both, .. } => both.len(),
        };
        text + FIELD_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_checked() {
        assert_eq!(Name::of(b"token"), Name::Metadata);
        for wrong in [&b"Token"[..], b"", b"a b", b"a:b", b":status", b"a\0"] {
            assert_eq!(Name::of(wrong), Name::Invalid, "{wrong:?}");
        }
        let field = Field::sent(b"tokenabc", 5, Name::Metadata);
        assert_eq!((field.name(), field.value(), field.size()), (&b"token"[..], &b"abc"[..], 40));
        assert_eq!(Field::sent(b"token\n", 5, Name::Metadata).meaning(), Name::Invalid);
    }
}
