//! The head of a request: what its fields say, checked as RFC 9113, 8.3 asks.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use super::hpack::{Field, Name};

/// The fields of a request that somebody asks for. Whatever else a client sends is checked and not kept: a field that
/// it repeats by number costs a client one byte, and would cost us fifty.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// `:method`
    pub verb: Option<Field>,
    /// `:path`
    pub path: Option<Field>,
    /// `content-type`
    pub content_type: Option<Field>,
    /// `grpc-timeout`
    pub grpc_timeout: Option<Field>,
    /// `grpc-encoding`
    pub grpc_encoding: Option<Field>,
    /// How often `:authority` and `host` are there.
    pub authorities: u32,
    pub hosts: u32,
    /// The first field whose name ends in `-bin` although its value is not base64, and the place where that shows.
    pub malformed_binary: Option<(Field, usize)>,
    /// The first `client-api-version`.
    pub client_api_version: Option<Field>,
    /// The first `hasleader`.
    pub has_leader: Option<Field>,
}

/// Fields are missing, twice, out of order, or not of HTTP/2.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRequest;

/// Collects a head field by field. The head lies on the heap: it has half a kilobyte and changes hands often.
pub struct Collector {
    head: Box<RequestHead>,
    size: usize,
    size_max: usize,
    scheme: bool,
    regular: bool,
    malformed: bool,
}

impl Collector {
    /// Takes fields of `size_max` bytes, as RFC 7541 counts them.
    pub fn new(size_max: usize) -> Self {
        Self { head: Box::default(), size: 0, size_max, scheme: false, regular: false, malformed: false }
    }

    /// Takes the next field, and no more once all of them are too large.
    pub fn add(&mut self, field: &Field) -> ControlFlow<()> {
        self.size += field.size();
        if self.size > self.size_max {
            return ControlFlow::Break(());
        }
        let name = field.meaning();
        if name.is_pseudo() {
            self.malformed |= self.regular;
        } else {
            self.regular = true;
        }
        let head = &mut self.head;
        let again = match name {
            Name::Method => head.verb.replace(field.clone()).is_some(),
            Name::Path => head.path.replace(field.clone()).is_some() || field.value().is_empty(),
            Name::Scheme => std::mem::replace(&mut self.scheme, true),
            Name::Authority => {
                head.authorities += 1;
                head.authorities > 1
            }
            Name::Host => {
                head.hosts += 1;
                false
            }
            Name::ContentType => {
                head.content_type = Some(field.clone());
                false
            }
            Name::GrpcTimeout => {
                head.grpc_timeout = Some(field.clone());
                false
            }
            Name::GrpcEncoding => {
                head.grpc_encoding = Some(field.clone());
                false
            }
            Name::Binary => {
                if head.malformed_binary.is_none() {
                    head.malformed_binary = not_base64(field.value()).map(|at| (field.clone(), at));
                }
                false
            }
            Name::HasLeader => keep_first(&mut head.has_leader, field),
            Name::ClientApiVersion => keep_first(&mut head.client_api_version, field),
            Name::Token | Name::Authorization | Name::Metadata | Name::Unused => false,
            Name::Connection | Name::Invalid => true,
        };
        self.malformed |= again;
        ControlFlow::Continue(())
    }

    /// Bytes of the fields so far, as RFC 7541 counts them.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The whole head.
    ///
    /// # Errors
    /// When the fields are no request.
    pub fn finish(self) -> Result<Box<RequestHead>, NoRequest> {
        let complete = self.head.verb.is_some() && self.head.path.is_some() && self.scheme;
        if self.malformed || !complete { Err(NoRequest) } else { Ok(self.head) }
    }
}

/// Keeps the first field of a name. False, because others of the name are no fault.
fn keep_first(place: &mut Option<Field>, field: &Field) -> bool {
    place.get_or_insert_with(|| field.clone());
    false
}

/// The place that Go names in a text which is not base64: padded if its length is a multiple of four, not padded
/// otherwise.
fn not_base64(text: &[u8]) -> Option<usize> {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = text.iter().take_while(|byte| digit(byte)).count();
    let is_padded = text.len().is_multiple_of(4);
    match (digits % 4, &text[digits..]) {
        (0, []) => None,
        (2 | 3, []) if !is_padded => None,
        // One digit is no byte.
        (alone, []) => Some(digits - alone),
        (2, [b'=', b'=']) | (3, [b'=']) if is_padded => None,
        (2, [b'=', b'=', ..]) if is_padded => Some(digits + 2),
        (3, [b'=', ..]) if is_padded => Some(digits + 1),
        _ => Some(digits),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Decoder, Encoder, Fields};
    use super::*;

    fn collect(fields: &[(&'static str, &'static str)]) -> Result<Box<RequestHead>, NoRequest> {
        let mut block = Vec::new();
        let fields = fields.iter().map(|&(name, value)| (name, value.into())).collect();
        Encoder::default().encode(&Fields::Own(fields), &mut block);
        let mut collector = Collector::new(1000);
        Decoder::default().decode(&block, |field| collector.add(field)).unwrap();
        collector.finish()
    }

    const POST: (&str, &str) = (":method", "POST");
    const HTTP: (&str, &str) = (":scheme", "http");
    const PATH: (&str, &str) = (":path", "/a");

    #[test]
    fn a_request_is_collected() {
        let authority = (":authority", "h");
        let fields = [
            POST,
            HTTP,
            PATH,
            authority,
            ("te", "trailers"),
            ("content-type", "x"),
            ("client-api-version", "3.5"),
            ("client-api-version", "3.6"),
            ("token", "t"),
            ("x-bin", "YQ"),
            ("x-bin", "YQ="),
            ("y-bin", "!"),
            ("anything", "else"),
        ];
        let head = collect(&fields).unwrap();
        assert_eq!(head.path.unwrap().value(), b"/a");
        assert_eq!(head.content_type.unwrap().value(), b"x");
        assert_eq!(head.client_api_version.unwrap().value(), b"3.5", "the first of the name");
        let (field, at) = head.malformed_binary.unwrap();
        assert_eq!(
            (field.name(), field.value(), at),
            (&b"x-bin"[..], &b"YQ="[..], 2),
            "the first that is wrong"
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for wrong in [
            &[POST, HTTP][..],
            &[POST, PATH],
            &[HTTP, PATH],
            &[POST, POST, HTTP, PATH],
            &[POST, HTTP, PATH, PATH],
            &[POST, HTTP, (":path", "")],
            &[POST, HTTP, ("a", "b"), PATH],
            &[POST, HTTP, PATH, ("connection", "close")],
            &[POST, HTTP, PATH, ("Token", "x")],
            &[POST, HTTP, PATH, (":status", "200")],
            &[POST, HTTP, PATH, ("a", "b\nc")],
        ] {
            assert_eq!(collect(wrong).unwrap_err(), NoRequest, "{wrong:?}");
        }
    }

    #[test]
    fn no_more_is_taken_than_the_size_allows() {
        let mut collector = Collector::new(1000);
        assert!(collector.add(&Field::new("token", &"x".repeat(963))).is_continue());
        assert_eq!(collector.size(), 1000);
        assert!(collector.add(&Field::new("a", "")).is_break());
    }
}
