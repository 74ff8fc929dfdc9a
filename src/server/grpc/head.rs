//! The head of a request, checked once, in one pass over its headers.
//!
//! What is wrong with a head is refused before any method is looked up, with the HTTP status and the text that
//! grpc-go uses.
#![forbid(unsafe_code)]

use http::request::Parts;
use http::{HeaderMap, Method as Verb, StatusCode};

use super::status::{Code, Status};
use crate::stdx::time::{Duration, Instant};

/// What the transport itself needs to know of a request.
pub struct Head {
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
    /// `grpc-encoding`, unless it is `identity`.
    pub encoding: Option<Box<str>>,
}

/// Why a head is refused.
#[derive(Debug)]
pub enum Refusal {
    /// An answer of this HTTP status that carries a gRPC status too.
    Answer(StatusCode, Status),
    /// A malformed request: its stream is reset.
    Reset,
}

/// Checks method and headers of a request that arrived `now`.
pub fn examine(parts: &Parts, now: Instant) -> Result<Head, Refusal> {
    let mut head = Head { deadline: None, encoding: None };
    let mut content_type = None;
    let mut malformed = None;
    for (name, value) in &parts.headers {
        match name.as_str() {
            "content-type" => content_type = Some(value.as_bytes()),
            "grpc-timeout" => match timeout(&String::from_utf8_lossy(value.as_bytes())) {
                Ok(delay) => head.deadline = Some(now + delay),
                Err(text) => malformed = Some(format!("malformed grpc-timeout: {text}")),
            },
            "grpc-encoding" if value != "identity" && !value.is_empty() => {
                head.encoding = Some(String::from_utf8_lossy(value.as_bytes()).into());
            }
            "connection" => return Err(Refusal::Reset),
            _ => {}
        }
    }
    let refuse = |http, code, text: String| Err(Refusal::Answer(http, Status::new(code, text)));
    if !content_type.is_some_and(is_grpc) {
        let shown = String::from_utf8_lossy(content_type.unwrap_or_default()).into_owned();
        let text = format!("invalid gRPC request content-type {shown:?}");
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, text);
    }
    if let Some(text) = malformed {
        return refuse(StatusCode::BAD_REQUEST, Code::Internal, text);
    }
    if parts.method != Verb::POST {
        let verb = parts.method.as_str();
        let text = format!("Received a HEADERS frame with :method {verb:?} which should be POST");
        return refuse(StatusCode::METHOD_NOT_ALLOWED, Code::Internal, text);
    }
    if head.deadline.is_some_and(|deadline| deadline <= now) {
        return Err(Refusal::Answer(StatusCode::OK, Status::deadline_exceeded()));
    }
    Ok(head)
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

/// The client's own headers, looked up when a handler asks.
#[derive(Clone, Debug, Default)]
pub struct Metadata(HeaderMap);

impl Metadata {
    /// Wraps a request's headers.
    pub fn new(headers: HeaderMap) -> Self {
        Self(headers)
    }

    /// The first value of a text header. `None` if absent or not printable text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
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
        match self.0.get("client-api-version") {
            None => Ok("unknown"),
            Some(value) => std::str::from_utf8(value.as_bytes())
                .map_err(|_| Status::new(Code::InvalidArgument, "etcdserver: invalid client api version")),
        }
    }

    /// Whether the call came through a JSON gateway, which disables identity by certificate.
    pub fn is_gateway(&self) -> bool {
        self.0.contains_key("grpcgateway-accept")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut builder = http::Request::post("http://h/etcdserverpb.KV/Range");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn refused(headers: &[(&'static str, &'static str)]) -> (u16, String) {
        match examine(&parts(headers), Instant::from_nanos(5)) {
            Err(Refusal::Answer(http, status)) => (http.as_u16(), status.message.into_owned()),
            Err(Refusal::Reset) => (0, String::new()),
            Ok(_) => (200, String::new()),
        }
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn content_types_are_checked_as_grpc_go_does() {
        for fine in ["application/grpc", "application/grpc+proto", "application/grpc;x"] {
            assert_eq!(refused(&[("content-type", fine)]).0, 200);
        }
        assert_eq!(
            refused(&[("content-type", "application/grpcx")]),
            (415, "invalid gRPC request content-type \"application/grpcx\"".into())
        );
        assert_eq!(refused(&[]).0, 415);
        assert_eq!(refused(&[GRPC, ("connection", "close")]).0, 0);
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
        assert_eq!(refused(&[GRPC, ("grpc-timeout", "5")]).0, 400);
        assert_eq!(refused(&[GRPC, ("grpc-timeout", "0n")]).1, "context deadline exceeded");
        let head = examine(&parts(&[GRPC, ("grpc-timeout", "5n")]), Instant::from_nanos(5)).unwrap();
        assert_eq!(head.deadline, Some(Instant::from_nanos(10)));
    }

    #[test]
    fn metadata_is_read_when_asked() {
        let metadata =
            Metadata::new(parts(&[("authorization", "Bearer x.1"), ("hasleader", "true")]).headers);
        assert_eq!(metadata.token(), Some("x.1"));
        assert!(metadata.requires_leader() && !metadata.is_gateway());
        assert_eq!(metadata.client_api_version(), Ok("unknown"));
    }
}
