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
    let (authorities, hosts) = (request.authorities, request.hosts);
    if hosts > 1 {
        let text = format!(
            "num values of :authority: {authorities}, num values of host: {hosts}, both must only have 1 value as \
             per HTTP/2 spec"
        );
        return refuse("400", Code::Internal, text);
    }
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
    if let Some((field, at)) = &request.malformed_binary {
        return refuse("400", Code::Internal, malformed(field, *at));
    }
    if authorities + hosts == 0 {
        return refuse("400", Code::Internal, "no host or :authority header present".to_owned());
    }
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

/// What is wrong with a field whose name says that its value is base64.
fn malformed(field: &Field, at: usize) -> String {
    let (name, value) = (String::from_utf8_lossy(field.name()), String::from_utf8_lossy(field.value()));
    format!("malformed binary metadata {value:?} in header {name:?}: illegal base64 data at input byte {at}")
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

/// The client's own fields, as far as anybody asks for them.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    client_api_version: Option<Field>,
    /// The client wants no answer of a member that knows no leader.
    pub requires_leader: bool,
}

impl Metadata {
    /// Takes them out of a request's head.
    pub fn of(head: &mut RequestHead) -> Self {
        let requires_leader = head.has_leader.as_ref().is_some_and(|field| field.value() == b"true");
        Self { client_api_version: head.client_api_version.take(), requires_leader }
    }

    /// Bytes of the fields, as RFC 7541 counts them.
    pub fn bytes(&self) -> usize {
        self.client_api_version.as_ref().map_or(0, Field::size)
    }

    /// `X.Y` of the client, for a metric's label. An error when it is not UTF-8, as etcd checks it.
    pub fn client_api_version(&self) -> Result<&str, Status> {
        match &self.client_api_version {
            None => Ok("unknown"),
            Some(field) => std::str::from_utf8(field.value())
                .map_err(|_| Status::new(Code::InvalidArgument, "etcdserver: invalid client api version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http2::Collector;

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        let mut collector = Collector::new(10_000);
        for (name, value) in [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "h")]
        {
            assert!(collector.add(&Field::new(name, value)).is_continue());
        }
        for (name, value) in fields {
            assert!(collector.add(&Field::new(name, value)).is_continue());
        }
        *collector.finish().unwrap()
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
    fn authorities_are_counted_as_grpc_go_does() {
        let counted = |authorities, hosts| {
            let head = RequestHead { authorities, hosts, ..request(&[GRPC]) };
            examine(&head, Instant::from_nanos(5)).map(drop).map_err(|(http, status)| (http, status.message))
        };
        assert_eq!((counted(1, 0), counted(0, 1), counted(1, 1)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(counted(0, 0), Err(("400", "no host or :authority header present".into())));
        let text = "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec";
        assert_eq!(counted(1, 2), Err(("400", text.into())));
    }

    /// As etcd 3.7.3 answers them.
    #[test]
    fn binary_values_have_to_be_base64() {
        for fine in ["", "YQ", "YQ==", "YR", "YWI", "YWI=", "YWJj"] {
            assert_eq!(refused(&[GRPC, ("x-bin", fine)]).0, HTTP_OK, "{fine}");
        }
        for (wrong, at) in
            [("!!!", 0), ("YQ=", 2), ("Y", 0), ("YQ,YQ", 2), ("YWJjY", 4), ("YQ==YQ==", 4), ("YQ=x", 2)]
        {
            let text = format!(
                "malformed binary metadata {wrong:?} in header \"x-bin\": illegal base64 data at input byte {at}"
            );
            assert_eq!(refused(&[GRPC, ("x-bin", wrong)]), ("400", text));
        }
    }

    #[test]
    fn metadata_is_read_when_asked() {
        let metadata = Metadata::of(&mut request(&[("client-api-version", "3.7"), ("other", "y")]));
        assert_eq!(metadata.client_api_version(), Ok("3.7"));
        assert_eq!(metadata.bytes(), "client-api-version".len() + "3.7".len() + 32);
        let none = Metadata::of(&mut request(&[("other", "y")]));
        assert_eq!((none.client_api_version(), none.bytes()), (Ok("unknown"), 0));
    }
}
