//! An answer as a client reads it: its head, and its body in pieces of any size.
#![forbid(unsafe_code)]

use bytes::{Buf, BytesMut};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields that the head of an answer may have.
const FIELDS_MAX: usize = 128;
/// Longest line that tells the length of a chunk, or that follows the last one.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// The value of `X-Etcd-Cluster-ID`.
    pub cluster_id: String,
    pub body: Body,
    /// Another request may follow on the connection.
    pub keeps_alive: bool,
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Whatever comes until the connection ends.
    UntilEnd,
    /// Chunks.
    Chunks(Chunk),
    /// Nothing.
    Done,
}

/// What comes next of a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The line with the length.
    Head,
    /// So many bytes.
    Data(u64),
    /// The end of the line behind the bytes.
    End,
    /// Lines up to an empty one.
    Trailer,
}

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(Malformed: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "malformed HTTP response")
    }
}

/// Takes the head of an answer off the front of `input`; none before it has come as a whole.
///
/// # Errors
/// When it is no head.
pub fn take_head(input: &mut BytesMut) -> Result<Option<Reply>, Malformed> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let bytes = match parsed.parse(input) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
            _ => return Err(Malformed),
        };
        let status = parsed.code.ok_or(Malformed)?;
        let is_old = parsed.version == Some(0);
        let head = head(status, is_old, parsed.headers);
        input.advance(bytes);
        // What goes ahead of an answer is not asked for, and means nothing.
        if !(100..200).contains(&status) {
            return head.map(Some);
        }
    }
}

fn head(status: u16, is_old: bool, fields: &[httparse::Header<'_>]) -> Result<Reply, Malformed> {
    let value = |name: &str| {
        let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        values.next().map(|field| std::str::from_utf8(field.value).unwrap_or_default().trim())
    };
    let body = match (value("transfer-encoding"), value("content-length")) {
        _ if matches!(status, 204 | 304) => Body::Done,
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Body::Chunks(Chunk::Head),
        (Some(_), _) => return Err(Malformed),
        (None, Some(length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Body::Length(length.parse().map_err(|_| Malformed)?).or_done()
        }
        (None, Some(_)) => return Err(Malformed),
        (None, None) => Body::UntilEnd,
    };
    let says = |word| value("connection").is_some_and(|said| said.eq_ignore_ascii_case(word));
    let keeps_alive = body != Body::UntilEnd && !says("close") && (!is_old || says("keep-alive"));
    let cluster_id = value("x-etcd-cluster-id").unwrap_or_default().to_owned();
    Ok(Reply { status, cluster_id, body, keeps_alive })
}

impl Body {
    fn or_done(self) -> Self {
        if self == Body::Length(0) { Body::Done } else { self }
    }

    /// Hands what has come of the body to `take`, in one or more pieces.
    ///
    /// # Errors
    /// When what has come is no body.
    pub fn read(&mut self, input: &mut BytesMut, mut take: impl FnMut(&[u8])) -> Result<(), Malformed> {
        while !input.is_empty() && *self != Body::Done {
            let before = input.len();
            match *self {
                Body::Length(left) | Body::Chunks(Chunk::Data(left)) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    take(&input[..length]);
                    input.advance(length);
                    let left = left - length as u64;
                    *self = match *self {
                        Body::Length(_) => Body::Length(left).or_done(),
                        _ if left == 0 => Body::Chunks(Chunk::End),
                        _ => Body::Chunks(Chunk::Data(left)),
                    };
                }
                Body::UntilEnd => {
                    take(input);
                    input.clear();
                }
                Body::Chunks(chunk) => *self = Self::line(chunk, input)?,
                Body::Done => {}
            }
            if input.len() == before {
                return Ok(()); // half a line
            }
        }
        Ok(())
    }

    /// Takes a line between chunks, if it has come as a whole.
    fn line(chunk: Chunk, input: &mut BytesMut) -> Result<Self, Malformed> {
        let Some(end) = input.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            return if input.len() < LINE_BYTES_MAX { Ok(Body::Chunks(chunk)) } else { Err(Malformed) };
        };
        let line = input.split_to(end + 1);
        let line = std::str::from_utf8(&line).map_err(|_| Malformed)?.trim();
        match chunk {
            Chunk::End if line.is_empty() => Ok(Body::Chunks(Chunk::Head)),
            Chunk::Trailer if line.is_empty() => Ok(Body::Done),
            Chunk::Trailer => Ok(Body::Chunks(Chunk::Trailer)),
            Chunk::Head => {
                let digits = line.split(';').next().unwrap_or_default().trim();
                if digits.starts_with('+') {
                    return Err(Malformed);
                }
                match u64::from_str_radix(digits, 16).map_err(|_| Malformed)? {
                    0 => Ok(Body::Chunks(Chunk::Trailer)),
                    length => Ok(Body::Chunks(Chunk::Data(length))),
                }
            }
            Chunk::End | Chunk::Data(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client makes of an answer that comes in pieces of this size.
    fn read(answer: &str, size: usize) -> Result<(Option<Reply>, String, usize), Malformed> {
        let (mut input, mut reply, mut body) = (BytesMut::new(), None, Vec::new());
        for piece in answer.as_bytes().chunks(size) {
            input.extend_from_slice(piece);
            if reply.is_none() {
                reply = take_head(&mut input)?;
            }
            if let Some(Reply { body: left, .. }) = &mut reply {
                left.read(&mut input, |bytes| body.extend_from_slice(bytes))?;
            }
        }
        Ok((reply, String::from_utf8(body).unwrap(), input.len()))
    }

    #[test]
    fn a_body_is_the_same_in_pieces_of_any_size() {
        let chunks = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: abc\r\n\
                      Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nA: b\r\n\r\nHTTP/1.1";
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nX-Etcd-Cluster-ID: abc\r\n\r\nhello!HTTP/1.1";
        for answer in [chunks, length] {
            for size in 1..=answer.len() {
                let (reply, body, rest) = read(answer, size).unwrap();
                let reply = reply.unwrap();
                assert_eq!((reply.status, reply.body, reply.keeps_alive), (200, Body::Done, true), "{size}");
                assert_eq!((&*reply.cluster_id, &*body, rest), ("abc", "hello!", 8), "{size}");
            }
        }
    }

    #[test]
    fn a_body_without_a_length_ends_with_its_connection() {
        let (reply, body, _) = read("HTTP/1.1 200 OK\r\n\r\nhello", 3).unwrap();
        let reply = reply.unwrap();
        assert_eq!((reply.body, reply.keeps_alive, &*body), (Body::UntilEnd, false, "hello"));
        let empty = read("HTTP/1.1 204 No Content\r\n\r\n", 99).unwrap().0.unwrap();
        assert_eq!((empty.body, empty.keeps_alive), (Body::Done, true));
        let closing = read("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 99);
        assert!(!closing.unwrap().0.unwrap().keeps_alive);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for answer in [
            "HTTP/1.1 x".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            format!("{chunked}x\r\n"),
            format!("{chunked}+1\r\n"),
            format!("{chunked}1\r\nabc\r\n"),
            format!("{chunked}{}", "1".repeat(LINE_BYTES_MAX)),
            format!("{chunked}11111111111111111\r\n"),
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n", "b".repeat(HEAD_BYTES_MAX)),
        ] {
            assert_eq!(read(&answer, answer.len()), Err(Malformed), "{answer:.60}");
        }
    }
}
