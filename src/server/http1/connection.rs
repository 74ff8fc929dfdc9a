//! One HTTP/1.1 connection: a request's head, its answer, and the next.
//!
//! Bounds: a head of [`HEAD_BYTES_MAX`], five minutes to send it, a body of [`BODY_BYTES_MAX`] that is read and
//! thrown away. Whatever passes one, or is no HTTP, gets an answer and the connection ends.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};

use crate::server::admin::Admin;
use crate::server::admin::route::{Answer, Head, answer};
use crate::server::io::clock;
use crate::server::io::lobby::Lobby;
use crate::server::io::stop::{Membership, Phase};
use crate::server::io::task;
use crate::server::io::wire::ByteStream;
use crate::stdx::time::Duration;

const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 128;
const BODY_BYTES_MAX: u64 = 1024 * 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to receive an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, a closed connection is read on.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 4 * 1024 * 1024;
const READ_BYTES: usize = 4 * 1024;

/// A parsed head and what follows from it for the connection.
struct Request {
    head_bytes: usize,
    body_bytes: u64,
    keep_alive: bool,
    expects_continue: bool,
    is_head: bool,
}

/// Serves requests until the client goes, misbehaves, asks to close, or the core stops.
pub async fn serve<S: ByteStream>(
    admin: &Admin,
    mut stream: S,
    first: Bytes,
    membership: &Membership,
    lobby: &Lobby,
) {
    let mut input = BytesMut::from(&first[..]);
    // An error means that the client has gone.
    while let Ok(true) = serve_one(admin, &mut stream, &mut input, membership, lobby).await {}
    if poll_fn(|cx| Pin::new(&mut stream).poll_close(cx)).await.is_ok() {
        // Closing a socket with unread bytes would throw away what the client has not read yet.
        let rest = skip(&mut stream, &mut input, LINGER_BYTES_MAX);
        let _ = task::until(clock::now() + LINGER, rest).await;
    }
}

/// One request; false when the connection ends after it.
async fn serve_one<S: ByteStream>(
    admin: &Admin,
    stream: &mut S,
    input: &mut BytesMut,
    membership: &Membership,
    lobby: &Lobby,
) -> io::Result<bool> {
    let request = {
        let reading = lobby.wait(task::until(clock::now() + HEAD_TIMEOUT, read_head(stream, input)));
        let stopping = membership.reached(Phase::Draining);
        match futures::future::select(std::pin::pin!(reading), std::pin::pin!(stopping)).await {
            futures::future::Either::Left((Some(Some(read)), _)) => read?,
            _ => return Ok(false),
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(None) => return Ok(false),
        Err(Some(refusal)) => {
            write(stream, &refusal, false, false).await?;
            return Ok(false);
        }
    };
    let bytes = input.split_to(request.head_bytes).freeze();
    let keep_alive = request.keep_alive && request.body_bytes <= BODY_BYTES_MAX;
    if keep_alive && request.body_bytes > 0 {
        if request.expects_continue {
            send(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let skipping = skip(stream, input, request.body_bytes);
        match task::until(clock::now() + HEAD_TIMEOUT, skipping).await {
            Some(skipped) => skipped?,
            None => return Ok(false),
        }
    }
    let reply = {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&bytes).expect("parsed once already");
        let header = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let host = header("host");
        let head = Head {
            method: parsed.method.expect("a whole head has a method"),
            target: parsed.path.expect("a whole head has a target"),
            host: host.unwrap_or_default(),
            origin: header("origin"),
            has_host: host.is_some(),
        };
        answer(admin, &head).await
    };
    write(stream, &reply, keep_alive, request.is_head).await?;
    Ok(keep_alive)
}

/// Reads until a head is whole. `Err(None)`: the client went. `Err(Some)`: what to answer instead.
async fn read_head<S: ByteStream>(
    stream: &mut S,
    input: &mut BytesMut,
) -> io::Result<Result<Request, Option<Answer>>> {
    // A head that comes byte by byte is parsed again only when it has a new line.
    let mut parsed_bytes = 0;
    loop {
        if input[parsed_bytes..].contains(&b'\n') {
            parsed_bytes = input.len();
            match parse(input) {
                Ok(Some(request)) => return Ok(Ok(request)),
                Ok(None) => {}
                Err(refusal) => return Ok(Err(Some(refusal))),
            }
        }
        if input.len() > HEAD_BYTES_MAX {
            return Ok(Err(Some(Answer::error(431, "431 Request Header Fields Too Large"))));
        }
        if !looks_like_http(input) {
            return Ok(Err(Some(Answer::error(400, "400 Bad Request"))));
        }
        if read_more(stream, input).await? == 0 {
            return Ok(Err(None));
        }
    }
}

/// Whether the bytes so far can be the beginning of a request line.
fn looks_like_http(input: &[u8]) -> bool {
    let line = input.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.iter().all(|&byte| byte == b'\r' || byte == b'\t' || byte >= b' ')
}

fn parse(input: &[u8]) -> Result<Option<Request>, Answer> {
    let bad_request = || Answer::error(400, "400 Bad Request");
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(input) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Answer::error(431, "431 Request Header Fields Too Large"));
        }
        Err(_) => return Err(bad_request()),
    };
    let minor = parsed.version.unwrap_or(1);
    let is_head = parsed.method == Some("HEAD");
    let mut request =
        Request { head_bytes, body_bytes: 0, keep_alive: minor == 1, expects_continue: false, is_head };
    let mut lengths = 0;
    for header in parsed.headers.iter() {
        let value = header.value;
        if header.name.eq_ignore_ascii_case("content-length") {
            lengths += 1;
            let length = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            request.body_bytes = length.ok_or_else(bad_request)?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // No endpoint takes a body, so a chunked one is not read: the connection ends after the answer.
            request.keep_alive = false;
        } else if header.name.eq_ignore_ascii_case("expect") {
            request.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
        } else if header.name.eq_ignore_ascii_case("connection") {
            let has = |word: &[u8]| {
                value.split(|&b| b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
            };
            if has(b"close") {
                request.keep_alive = false;
            } else if minor == 0 && has(b"keep-alive") {
                request.keep_alive = true;
            }
        }
    }
    if lengths > 1 { Err(bad_request()) } else { Ok(Some(request)) }
}

async fn read_more<S: ByteStream>(stream: &mut S, input: &mut BytesMut) -> io::Result<usize> {
    let mut buffer = [0; READ_BYTES];
    let n = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await?;
    input.extend_from_slice(&buffer[..n]);
    Ok(n)
}

/// Throws away a body.
async fn skip<S: ByteStream>(stream: &mut S, input: &mut BytesMut, mut bytes: u64) -> io::Result<()> {
    loop {
        let step = bytes.min(input.len() as u64);
        input.advance(usize::try_from(step).expect("no more than is there"));
        bytes -= step;
        if bytes == 0 {
            return Ok(());
        }
        if read_more(stream, input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn write<S: ByteStream>(
    stream: &mut S,
    answer: &Answer,
    keep_alive: bool,
    is_head: bool,
) -> io::Result<()> {
    let mut text = String::with_capacity(256 + answer.body.len());
    let reason = http::StatusCode::from_u16(answer.status).ok().and_then(|code| code.canonical_reason());
    let _ = write!(text, "HTTP/1.1 {} {}\r\n", answer.status, reason.unwrap_or("Unknown"));
    for (name, value) in &answer.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(text, "Date: {}\r\n", http_date(clock::wall_nanos()));
    let _ = write!(text, "Content-Length: {}\r\n", answer.body.len());
    text.push_str(if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    if !is_head {
        text.push_str(&answer.body);
    }
    match task::until(clock::now() + WRITE_TIMEOUT, send(stream, text.as_bytes())).await {
        Some(sent) => sent,
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// RFC 9110's preferred date.
fn http_date(wall_nanos: u64) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let now = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall_nanos));
    now.ok().and_then(|now| now.format(FORMAT).ok()).unwrap_or_default()
}

async fn send<S: ByteStream>(stream: &mut S, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_with_their_consequences() {
        let parsed = |text: &str| parse(text.as_bytes()).ok().flatten();
        let simple = parsed("GET /health HTTP/1.1\r\nHost: x\r\n\r\nrest").unwrap();
        assert!(simple.keep_alive && simple.body_bytes == 0);
        assert!(!parsed("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(!parsed("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n").unwrap().keep_alive);
        assert_eq!(parsed("POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n").unwrap().body_bytes, 7);
        for wrong in [
            "nonsense\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(!looks_like_http(b"\x16\x03\x01"));
    }
}
