//! The head of a request, checked once, in one pass over its headers.
//!
//! What is wrong with a head is refused before any method is looked up, with the HTTP status and the text that
//! grpc-go uses.
#![forbid(unsafe_code)]

use super::answer::HTTP_OK;
use crate::server::call::status::{Code, Status};
use crate::server::http2::{Field, RequestHead};
use crate::stdx::time::{Duration, Instant};

/// What the transport itself needs to know of a request.
pub struct Head {
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
    /// `grpc-encoding`, unless it is `identity`.
    pub encoding: Option<Box<str>>,
}

/// The HTTP status of an answer, and the gRPC status that it carries too.
pub type Refusal = (&'static str, Status);

/// Checks the head of a request that arrived `now`.
///
/// # Errors
/// Why it is refused.
pub fn examine(request: &RequestHead, now: Instant) -> Result<Head, Refusal> {
    fn value(field: &Option<Field>) -> Option<&[u8]> {
        field.as_ref().map(Field::value)
    }
    let refuse = |http, code, text: String| Err((http, Status::new(code, text)));
    let content_type = value(&request.content_type);
    if !content_type.is_some_and(is_grpc) {
        let shown = String::from_utf8_lossy(content_type.unwrap_or_default()).into_owned();
        let text = format!("invalid gRPC request content-type {shown:?}");
        return refuse("415", Code::InvalidArgument, text);
    }
    let deadline = match value(&request.grpc_timeout) {
        None => None,
        Some(text) => match timeout(&String::from_utf8_lossy(text)) {
            Ok(delay) => Some(now + delay),
            Err(text) => return refuse("400", Code::Internal, format!("malformed grpc-timeout: {text}")),
        },
    };
    let verb = value(&request.verb).unwrap_or_default();
    if verb != b"POST" {
        let verb = String::from_utf8_lossy(verb);
        let text = format!("Received a HEADERS frame with :method {verb:?} which should be POST");
        return refuse("405", Code::Internal, text);
    }
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Err((HTTP_OK, Status::deadline_exceeded()));
    }
    let encoding = value(&request.grpc_encoding).filter(|&name| !name.is_empty() && name != b"identity");
    Ok(Head { deadline, encoding: encoding.map(|name| String::from_utf8_lossy(name).into()) })
}

/// `application/grpc`, alone or with a subtype behind `+` or `;`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Parses `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Result<Duration, String> {
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let Some((digits, unit)) = text.split_at_checked(text.len() - 1) else {
        return Err(format!("transport: timeout unit is not recognized: {text:?}"));
    };
    let nanos_per_unit: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
    }
    let count: u64 = digits.parse().expect("at most eight digits");
    Ok(Duration::from_nanos(count.saturating_mul(nanos_per_unit)))
}

/// The client's own fields, looked up when a handler asks.
#[derive(Clone, Debug, Default)]
pub struct Metadata(Vec<Field>);

impl Metadata {
    /// Wraps a request's fields.
    pub fn new(fields: Vec<Field>) -> Self {
        Self(fields)
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|field| field.name() == name.as_bytes()).map(Field::value)
    }

    /// The first value of a text field. `None` if absent or not printable text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let printable =
            |value: &&[u8]| value.iter().all(|&byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        self.find(name).filter(printable).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The auth token: `token`, or `authorization` as the gateway passes it (with or without `Bearer`).
    pub fn token(&self) -> Option<&str> {
        let bearer = |value: &'_ str| -> usize { if value.starts_with("Bearer ") { 7 } else { 0 } };
        self.get("token").or_else(|| self.get("authorization").map(|value| &value[bearer(value)..]))
    }

    /// Whether the client wants an error instead of waiting when there is no leader.
    pub fn requires_leader(&self) -> bool {
        self.get("hasleader") == Some("true")
    }

    /// `X.Y` of the client, for a metric's label. An error when it is not UTF-8, as etcd checks it.
    pub fn client_api_version(&self) -> Result<&str, Status> {
        match self.find("client-api-version") {
            None => Ok("unknown"),
            Some(value) => std::str::from_utf8(value)
                .map_err(|_| Status::new(Code::InvalidArgument, "etcdserver: invalid client api version")),
        }
    }

    /// Whether the call came through a JSON gateway, which disables identity by certificate.
    pub fn is_gateway(&self) -> bool {
        self.find("grpcgateway-accept").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        let field = |name: &str| {
            fields.iter().find(|(other, _)| *other == name).map(|(name, value)| Field::new(name, value))
        };
        let mut head = RequestHead {
            verb: Some(Field::new(":method", "POST")),
            content_type: field("content-type"),
            grpc_timeout: field("grpc-timeout"),
            ..RequestHead::default()
        };
        head.metadata = fields.iter().map(|(name, value)| Field::new(name, value)).collect();
        head
    }

    fn refused(fields: &[(&str, &str)]) -> (&'static str, String) {
        match examine(&request(fields), Instant::from_nanos(5)) {
            Err((http, status)) => (http, status.message.into_owned()),
            Ok(_) => (HTTP_OK, String::new()),
        }
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn content_types_are_checked_as_grpc_go_does() {
        for fine in ["application/grpc", "application/grpc+proto", "application/grpc;x"] {
            assert_eq!(refused(&[("content-type", fine)]).0, HTTP_OK);
        }
        assert_eq!(
            refused(&[("content-type", "application/grpcx")]),
            ("415", "invalid gRPC request content-type \"application/grpcx\"".into())
        );
        assert_eq!(refused(&[]).0, "415");
    }

    #[test]
    fn timeouts_are_parsed_and_refused_with_their_reason() {
        for (text, nanos) in
            [("1S", 1_000_000_000), ("20m", 20_000_000), ("7n", 7), ("1H", 3_600_000_000_000)]
        {
            assert_eq!(timeout(text), Ok(Duration::from_nanos(nanos)));
        }
        assert!(timeout("99999999H").is_ok());
        for wrong in ["", "1", "1x", "123456789S", "-1S", "+1S", "1\u{e9}", "\u{e9}\u{e9}"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(refused(&[GRPC, ("grpc-timeout", "5")]).0, "400");
        assert_eq!(refused(&[GRPC, ("grpc-timeout", "0n")]).1, "context deadline exceeded");
        let head = examine(&request(&[GRPC, ("grpc-timeout", "5n")]), Instant::from_nanos(5)).unwrap();
        assert_eq!(head.deadline, Some(Instant::from_nanos(10)));
    }

    #[test]
    fn metadata_is_read_when_asked() {
        let metadata =
            Metadata::new(request(&[("authorization", "Bearer x.1"), ("hasleader", "true")]).metadata);
        assert_eq!(metadata.token(), Some("x.1"));
        assert!(metadata.requires_leader() && !metadata.is_gateway());
        assert_eq!(metadata.client_api_version(), Ok("unknown"));
    }
}
