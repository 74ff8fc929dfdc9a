//! The head of a request: what its fields say, checked as RFC 9113, 8.3 asks.
#![forbid(unsafe_code)]

use super::hpack::{Field, Name};

/// The fields of a request that somebody may ask for.
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
    /// The rest, without what every client sends and nobody here asks for.
    pub metadata: Vec<Field>,
}

/// Why a head is no request.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    /// Fields missing, twice, out of order, or not of HTTP/2.
    Malformed,
    /// Larger than we said we would take.
    TooLarge,
}

/// Collects a head field by field.
pub struct Collector {
    head: RequestHead,
    size_left: usize,
    too_large: bool,
    scheme: bool,
    authority: bool,
    regular: bool,
    malformed: bool,
}

impl Collector {
    /// Takes fields of `size_max` bytes, as RFC 7541 counts them.
    pub fn new(size_max: usize) -> Self {
        Self {
            head: RequestHead::default(),
            size_left: size_max,
            too_large: false,
            scheme: false,
            authority: false,
            regular: false,
            malformed: false,
        }
    }

    /// The next field.
    pub fn add(&mut self, field: &Field) {
        match self.size_left.checked_sub(field.size()) {
            Some(left) => self.size_left = left,
            None => self.too_large = true,
        }
        if self.too_large {
            return;
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
            Name::Authority => std::mem::replace(&mut self.authority, true),
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
            Name::Metadata => {
                head.metadata.push(field.clone());
                false
            }
            Name::Unused => false,
            Name::Hop | Name::Invalid => true,
        };
        self.malformed |= again;
    }

    /// The whole head.
    pub fn finish(self) -> Result<RequestHead, Bad> {
        if self.too_large {
            return Err(Bad::TooLarge);
        }
        let complete = self.head.verb.is_some() && self.head.path.is_some() && self.scheme;
        if self.malformed || !complete { Err(Bad::Malformed) } else { Ok(self.head) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Decoder, Encoder, Fields};
    use super::*;

    fn collect(fields: &[(&'static str, &'static str)]) -> Result<RequestHead, Bad> {
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
            ("token", "t"),
            ("token", "u"),
        ];
        let head = collect(&fields).unwrap();
        assert_eq!(head.path.unwrap().value(), b"/a");
        assert_eq!(head.content_type.unwrap().value(), b"x");
        let metadata: Vec<_> = head.metadata.iter().map(|field| (field.name(), field.value())).collect();
        assert_eq!(metadata, [(&b"token"[..], &b"t"[..]), (b"token", b"u")]);
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
            assert_eq!(collect(wrong).unwrap_err(), Bad::Malformed, "{wrong:?}");
        }
        let long = "x".repeat(1000).leak();
        assert_eq!(collect(&[POST, HTTP, PATH, ("token", long)]).unwrap_err(), Bad::TooLarge);
    }
}
