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
    /// `host`
    Host,
    /// `connection`, which is about the hop: HTTP/2 has no use for it. Its like, such as `upgrade`, grpc-go takes for
    /// metadata.
    Connection,
    /// Fields that every client sends and nobody here asks for.
    Unused,
    /// `client-api-version`
    ClientApiVersion,
    /// `token`
    Token,
    /// `authorization`
    Authorization,
    /// `hasleader`
    HasLeader,
    /// Metadata that nobody here asks for.
    Metadata,
    /// Metadata whose name says that the value is base64.
    Binary,
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
            b"host" => Name::Host,
            b"grpc-timeout" => Name::GrpcTimeout,
            b"grpc-encoding" => Name::GrpcEncoding,
            b"client-api-version" => Name::ClientApiVersion,
            b"token" => Name::Token,
            b"authorization" => Name::Authorization,
            b"hasleader" => Name::HasLeader,
            b"te"
            | b"user-agent"
            | b"grpc-accept-encoding"
            | b"accept-encoding"
            | b"accept"
            | b"content-length"
            | b"traceparent"
            | b"tracestate" => Name::Unused,
            b"connection" => Name::Connection,
            _ if name.is_empty() || !name.iter().all(|&byte| is_of_names(byte)) => Name::Invalid,
            _ if name.ends_with(b"-bin") => Name::Binary,
            _ => Name::Metadata,
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

/// A field's name, understood once and shared by all fields that refer to it.
#[derive(Clone, Debug)]
pub(super) struct FieldName {
    meaning: Name,
    text: NameText,
}

#[derive(Clone, Debug)]
enum NameText {
    Known(&'static str),
    Sent(Rc<[u8]>),
}

impl FieldName {
    /// The name of the field with this number in the static table.
    pub fn known(number: usize) -> Option<Self> {
        let (name, _) = table::STATIC.get(number.checked_sub(1)?)?;
        Some(Self { meaning: table::meaning(number), text: NameText::Known(name) })
    }

    /// A name that a client spelled out.
    pub fn sent(name: &[u8]) -> Self {
        Self { meaning: Name::of(name), text: NameText::Sent(name.into()) }
    }

    fn bytes(&self) -> &[u8] {
        match &self.text {
            NameText::Known(name) => name.as_bytes(),
            NameText::Sent(name) => name,
        }
    }
}

/// A name and a value, shared by all requests that refer to it.
#[derive(Clone, Debug)]
pub struct Field {
    name: FieldName,
    value: Value,
    /// The value holds nothing that must not be in one.
    is_valid: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Known(&'static str),
    Sent(Rc<[u8]>),
}

impl Field {
    /// The field with this number in the static table.
    pub(super) fn known(number: usize) -> Option<Self> {
        let (_, value) = table::STATIC.get(number.checked_sub(1)?)?;
        Some(Self { name: FieldName::known(number)?, value: Value::Known(value), is_valid: true })
    }

    /// A field whose value a client spelled out.
    pub(super) fn sent(name: FieldName, value: &[u8]) -> Self {
        let is_valid = value.iter().all(|&byte| is_of_values(byte));
        Self { name, value: Value::Sent(value.into()), is_valid }
    }

    /// A field made by ourselves.
    #[cfg(test)]
    pub fn new(name: &str, value: &str) -> Self {
        Self::sent(FieldName::sent(name.as_bytes()), value.as_bytes())
    }

    /// What the field means: what its name does, unless its value is invalid.
    pub fn meaning(&self) -> Name {
        if self.is_valid { self.name.meaning } else { Name::Invalid }
    }

    /// The name, for another field that refers to it.
    pub(super) fn shared_name(&self) -> FieldName {
        self.name.clone()
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        self.name.bytes()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        match &self.value {
            Value::Known(value) => value.as_bytes(),
            Value::Sent(value) => value,
        }
    }

    /// Its size as RFC 7541, 4.1 counts it.
    pub fn size(&self) -> usize {
        self.name().len() + self.value().len() + FIELD_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_checked() {
        assert_eq!((Name::of(b"token"), Name::of(b"tokens")), (Name::Token, Name::Metadata));
        for wrong in [&b"Token"[..], b"", b"a b", b"a:b", b":status", b"a\0"] {
            assert_eq!(Name::of(wrong), Name::Invalid, "{wrong:?}");
        }
        let field = Field::new("token", "abc");
        assert_eq!((field.name(), field.value(), field.size()), (&b"token"[..], &b"abc"[..], 40));
        let broken = Field::new("token", "\n");
        assert_eq!(broken.meaning(), Name::Invalid);
        let mended = Field::sent(broken.shared_name(), b"x");
        assert_eq!(mended.meaning(), Name::Token, "a bad value does not spoil the name");
    }
}
