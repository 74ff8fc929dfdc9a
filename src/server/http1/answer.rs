//! An answer to an HTTP/1.1 request, as Go's server writes it.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

const PLAIN: &str = "text/plain; charset=utf-8";

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The text behind the status, where it is not the usual one.
    pub reason: Option<&'static str>,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Bytes,
    /// The connection ends behind this answer.
    pub closes: bool,
    /// The head says no more than `headers`: what Go writes about a request that it could not read.
    pub is_bare: bool,
}

/// What a request says about the form of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The client stays with HTTP/1.0.
    pub is_old: bool,
    /// The connection goes on behind the answer.
    pub keeps_alive: bool,
    /// The request was HEAD: the body is left out.
    pub is_head: bool,
}

impl Answer {
    /// An answer without a content type.
    pub fn empty(status: u16) -> Self {
        Self { status, reason: None, headers: Vec::new(), body: Bytes::new(), closes: false, is_bare: false }
    }

    /// An answer of any content.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type", Cow::Borrowed(content_type))];
        Self { headers, body: body.into(), ..Self::empty(status) }
    }

    /// JSON.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "application/json", body.into())
    }

    /// Text whose content type a client is not to guess.
    pub fn plain(status: u16, body: String) -> Self {
        let mut answer = Self::text(status, body);
        answer.headers.push(("X-Content-Type-Options", "nosniff".into()));
        answer
    }

    /// Text.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, PLAIN, body)
    }

    /// Plain text and a newline, as Go's `http.Error` writes it.
    pub fn error(status: u16, text: &str) -> Self {
        Self::plain(status, format!("{text}\n"))
    }

    /// The refusal of a request that cannot be read, with the words of Go's server.
    pub fn refusal(status: u16, reason: &'static str) -> Self {
        let body = format!("{status} {reason}");
        Self { reason: Some(reason), closes: true, is_bare: true, ..Self::text(status, body) }
    }

    /// The bytes of the answer, given on this date.
    pub fn encode(&self, form: Form, date: &str) -> Vec<u8> {
        let mut head = String::with_capacity(256 + self.body.len());
        let version = if form.is_old { "1.0" } else { "1.1" };
        let usual = http::StatusCode::from_u16(self.status).ok().and_then(|code| code.canonical_reason());
        let reason = self.reason.or(usual).unwrap_or("Unknown");
        let _ = write!(head, "HTTP/{version} {} {reason}\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !self.is_bare {
            let _ = write!(head, "Date: {date}\r\nContent-Length: {}\r\n", self.body.len());
        }
        // What a version does anyway is not said.
        let keeps_alive = form.keeps_alive && !self.closes;
        match (form.is_old, keeps_alive) {
            (true, true) => head.push_str("Connection: keep-alive\r\n"),
            (false, false) => head.push_str("Connection: close\r\n"),
            _ => {}
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !form.is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(answer: &Answer, is_old: bool, keeps_alive: bool, is_head: bool) -> String {
        String::from_utf8(answer.encode(Form { is_old, keeps_alive, is_head }, "D")).unwrap()
    }

    #[test]
    fn an_answer_says_what_becomes_of_the_connection_where_its_version_does_not() {
        let answer = Answer::text(200, "ok");
        let rest = "Content-Type: text/plain; charset=utf-8\r\nDate: D\r\nContent-Length: 2\r\n";
        assert_eq!(encoded(&answer, false, true, false), format!("HTTP/1.1 200 OK\r\n{rest}\r\nok"));
        let ends = format!("HTTP/1.1 200 OK\r\n{rest}Connection: close\r\n\r\n");
        assert_eq!(encoded(&answer, false, false, true), ends);
        let goes_on = format!("HTTP/1.0 200 OK\r\n{rest}Connection: keep-alive\r\n\r\nok");
        assert_eq!(encoded(&answer, true, true, false), goes_on);
        assert_eq!(encoded(&answer, true, false, false), format!("HTTP/1.0 200 OK\r\n{rest}\r\nok"));
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_in_few_words() {
        let refusal = Answer::refusal(400, "Bad Request: malformed Host header");
        let expected = "HTTP/1.1 400 Bad Request: malformed Host header\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Connection: close\r\n\r\n400 Bad Request: malformed Host header";
        assert_eq!(encoded(&refusal, false, true, false), expected);
    }
}
