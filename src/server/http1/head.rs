//! The head of a request: what it asks for, and what follows for the connection, as Go's server takes it.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::answer::{Answer, Form};
use super::reply::{Body, Chunk};

/// Fields that a head may have. Looking a field up goes through all of them.
pub const FIELDS_MAX: usize = 1024;

/// A whole head.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length.
    pub bytes: usize,
    pub method: String,
    pub target: String,
    /// Empty when a client of HTTP/1.0 names none.
    pub host: String,
    pub origin: Option<String>,
    /// `Accept-Encoding`
    pub accepts: Option<String>,
    pub body_bytes: u64,
    /// The body comes in chunks, and its length is not known.
    pub is_chunked: bool,
    /// The client waits to be told that its body is wanted.
    pub expects_continue: bool,
    /// Fields whose names begin with `X-`.
    pub extensions: Vec<(String, String)>,
    pub form: Form,
}

impl Head {
    /// The body as it will come.
    pub fn body(&self) -> Body {
        match (self.is_chunked, self.body_bytes) {
            (true, _) => Body::Chunks(Chunk::Head),
            (false, 0) => Body::Done,
            (false, bytes) => Body::Length(bytes),
        }
    }

    /// The value of the first field of this name, which begins with `X-`.
    pub fn extension(&self, name: &str) -> Option<&str> {
        let mut named = self.extensions.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| &**value)
    }
}

/// Parses a head that ends in an empty line.
///
/// # Errors
/// What to answer to a head that is wrong; a head without its empty line is.
pub fn parse(input: &[u8]) -> Result<Head, Box<Answer>> {
    let input = readable(input);
    let lines = input.iter().filter(|byte| **byte == b'\n').count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines.min(FIELDS_MAX)];
    let mut parsed = httparse::Request::new(&mut fields);
    let bytes = match parsed.parse(&input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Err(bad_request()),
        Err(error) => return Err(Box::new(unreadable(error))),
    };
    let is_old = parsed.version == Some(0);
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(bad_request()) };
    let fields = Fields(parsed.headers);
    let host = host(&fields, is_old)?;
    let body = body(&fields)?;
    let expected = fields.first("expect").unwrap_or_default();
    let expects_continue = expected.eq_ignore_ascii_case("100-continue");
    if !expected.is_empty() && !expects_continue {
        return Err(Box::new(Answer { closes: true, ..Answer::empty(417) }));
    }
    let keeps_alive =
        body.is_some() && if is_old { fields.says("keep-alive") } else { !fields.says("close") };
    Ok(Head {
        bytes,
        method: method.to_owned(),
        target: target.to_owned(),
        host: host.to_owned(),
        origin: fields.first("origin").map(str::to_owned),
        accepts: fields.first("accept-encoding").map(str::to_owned),
        body_bytes: body.unwrap_or_default(),
        is_chunked: body.is_none(),
        expects_continue,
        extensions: fields.extensions(),
        form: Form { is_old, keeps_alive, is_head: method == "HEAD" },
    })
}

/// The head in the form that the parser takes, of equal length: a field that goes on in a line which begins with a
/// space is in one line, and a later version of HTTP/1 is the one that is spoken here.
fn readable(input: &[u8]) -> Cow<'_, [u8]> {
    let begin = input.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(input.len());
    let request = input[begin..].iter().position(|byte| *byte == b'\n').map_or(input.len(), |at| begin + at);
    let mut whole = Cow::Borrowed(input);
    let version = input[begin..request].trim_ascii_end();
    if version.last().is_some_and(|digit| matches!(digit, b'2'..=b'9'))
        && version[..version.len() - 1].ends_with(b" HTTP/1.")
    {
        whole.to_mut()[begin + version.len() - 1] = b'1';
    }
    // What stands behind the request's line goes on from no field.
    let fields = input.get(request + 1..).unwrap_or_default();
    let first = fields.iter().position(|byte| *byte == b'\n').unwrap_or(fields.len());
    for at in (first..fields.len()).filter(|&at| fields[at] == b'\n') {
        if !matches!(fields.get(at + 1), Some(b' ' | b'\t')) {
            continue;
        }
        let at = request + 1 + at;
        let end = if input[at - 1] == b'\r' { at - 1 } else { at };
        whole.to_mut()[end..=at].fill(b' ');
    }
    whole
}

fn bad_request() -> Box<Answer> {
    Box::new(Answer::refusal(400, "Bad Request"))
}

/// The refusal of a head that has too many fields, or is too long.
pub fn too_large() -> Answer {
    Answer::refusal(431, "Request Header Fields Too Large")
}

fn unreadable(error: httparse::Error) -> Answer {
    match error {
        httparse::Error::TooManyHeaders => too_large(),
        httparse::Error::HeaderName => Answer::refusal(400, "Bad Request: invalid header name"),
        _ => *bad_request(),
    }
}

/// The fields of a head.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn all(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    fn first(&self, name: &'a str) -> Option<&'a str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    fn extensions(&self) -> Vec<(String, String)> {
        let is_extension = |name: &str| name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
        let extensions = self.0.iter().filter(|field| is_extension(field.name));
        extensions
            .filter_map(|field| {
                Some((field.name.to_owned(), std::str::from_utf8(field.value).ok()?.to_owned()))
            })
            .collect()
    }

    /// Whether a word stands in `Connection`.
    fn says(&self, word: &str) -> bool {
        let is_word = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
        self.all("connection").any(|value| value.split(|&byte| byte == b',').any(is_word))
    }
}

fn host<'a>(fields: &Fields<'a>, is_old: bool) -> Result<&'a str, Box<Answer>> {
    let mut hosts = fields.all("host");
    let refusal = |reason| Err(Box::new(Answer::refusal(400, reason)));
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if is_old => b"",
        (None, _) => return refusal("Bad Request: missing required Host header"),
        (Some(host), None) => host,
        _ => return refusal("Bad Request"),
    };
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte);
    match std::str::from_utf8(host) {
        Ok(text) if host.iter().all(is_valid) => Ok(text),
        _ => refusal("Bad Request: malformed Host header"),
    }
}

/// The length of the body; `None` for one in chunks. No endpoint but that of snapshots takes one in chunks, so those
/// are not read: the connection ends behind the answer.
fn body(fields: &Fields<'_>) -> Result<Option<u64>, Box<Answer>> {
    if let Some(coding) = fields.all("transfer-encoding").next() {
        if coding.eq_ignore_ascii_case(b"chunked") {
            return Ok(None);
        }
        let text = "Unsupported transfer encoding";
        return Err(Box::new(Answer { closes: true, is_bare: true, ..Answer::text(501, text) }));
    }
    let mut lengths = fields.all("content-length").map(<[u8]>::trim_ascii);
    let Some(length) = lengths.next() else { return Ok(Some(0)) };
    if lengths.any(|other| other != length) {
        return Err(bad_request());
    }
    // No sign, which Rust's parser would take.
    let digits = Some(length).filter(|length| length.iter().all(u8::is_ascii_digit));
    let length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<i64>().ok());
    length.map(|length| Some(length.unsigned_abs())).ok_or_else(bad_request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Head {
        parse(text.as_bytes()).expect("a head that is right")
    }

    fn refused(fields: &str) -> (u16, String) {
        let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        let answer = parse(head.as_bytes()).expect_err(fields);
        assert!(answer.closes);
        (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[test]
    fn a_head_says_what_becomes_of_the_connection() {
        let simple = parsed("GET /health HTTP/1.1\r\nHost: x\r\n\r\nrest");
        assert_eq!((simple.bytes, simple.host.as_str(), simple.body_bytes), (33, "x", 0));
        let keeps_alive = |version: &str, fields: &str| {
            parsed(&format!("GET / HTTP/{version}\r\nHost: x\r\n{fields}\r\n")).form.keeps_alive
        };
        assert!(keeps_alive("1.1", "") && !keeps_alive("1.0", ""));
        assert!(!keeps_alive("1.1", "Connection: x, Close\r\n"));
        assert!(keeps_alive("1.0", "Connection: keep-alive\r\n"));
        assert!(!keeps_alive("1.1", "Transfer-Encoding: chunked\r\n"));
    }

    #[test]
    fn fields_that_no_standard_names_are_kept() {
        let head =
            parsed("GET / HTTP/1.1\r\nHost: x\r\nx-raft-to: ab\r\nX: y\r\nX-Raft-To: cd\r\nX-N: \r\n\r\n");
        assert_eq!((head.extension("X-Raft-To"), head.extension("X-N")), (Some("ab"), Some("")));
        assert_eq!((head.extension("X-Server-From"), head.extensions.len()), (None, 3));
    }

    /// As etcd 3.7.3 answers each of them.
    #[test]
    fn old_and_later_forms_are_read() {
        let folded = parsed("GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\n b\n\tc\r\n\r\n");
        assert_eq!(folded.origin.as_deref(), Some("a   b \tc"));
        assert_eq!(folded.bytes, 45);
        let blank = parsed("GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\n \r\n\t\n b\r\n\r\n");
        assert_eq!(blank.origin.as_deref(), Some("a     \t  b"));
        assert_eq!(refused("Host: x\r\nA: b\r\n\r").0, 400);
        assert_eq!(refused("Host: x\r\nA: b\r\n \r").0, 400);
        assert_eq!(refused("Host: x\r\n y"), (400, "400 Bad Request: malformed Host header".to_owned()));
        assert_eq!(refused(" Host: x").0, 400);
        let later = parsed("\r\nGET / HTTP/1.2\r\nHost: x\r\n\r\n");
        assert!(!later.form.is_old && later.form.keeps_alive);
        assert!(parse(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n").is_err());
        let many = parsed(&format!("GET / HTTP/1.1\r\n{}Host: x\r\n\r\n", "A: b\r\n".repeat(FIELDS_MAX - 1)));
        assert_eq!(many.host, "x");
    }

    /// As etcd 3.7.3 answers each of them.
    #[test]
    fn hosts_are_checked() {
        let bad = |text: &str| (400, text.to_owned());
        assert_eq!(refused("X: y"), bad("400 Bad Request: missing required Host header"));
        assert_eq!(refused("Host: a\r\nHost: b"), bad("400 Bad Request"));
        assert_eq!(refused("Host: a b"), bad("400 Bad Request: malformed Host header"));
        assert_eq!(refused("Host: a@b"), bad("400 Bad Request: malformed Host header"));
        assert_eq!(refused("Host: a\"b"), bad("400 Bad Request: malformed Host header"));
        assert_eq!(parsed("GET / HTTP/1.1\r\nHost:\r\n\r\n").host, "");
        assert_eq!(parsed("GET / HTTP/1.0\r\n\r\n").host, "");
    }

    /// As etcd 3.7.3 answers each of them.
    #[test]
    fn bodies_and_expectations_are_checked() {
        let length = |text: &str| {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {text}\r\n\r\n");
            parse(head.as_bytes()).map(|head| head.body_bytes).map_err(|answer| answer.status)
        };
        assert_eq!((length("7"), length("  5 ")), (Ok(7), Ok(5)));
        assert_eq!(length("5\r\nContent-Length: 5"), Ok(5));
        for wrong in ["+5", "-1", "", "1 2", "0x1", "99999999999999999999", "1\r\nContent-Length: 2"] {
            assert_eq!(length(wrong), Err(400), "{wrong}");
        }
        assert_eq!(
            refused("Host: x\r\nTransfer-Encoding: x"),
            (501, "Unsupported transfer encoding".to_owned())
        );
        assert_eq!(refused("Host: x\r\nExpect: x"), (417, String::new()));
        assert_eq!(refused("Host: x\r\na b: c"), (400, "400 Bad Request: invalid header name".to_owned()));
        assert!(parsed("GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\n\r\n").expects_continue);
        assert!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n").is_err_and(|answer| answer.status == 400));
    }
}
