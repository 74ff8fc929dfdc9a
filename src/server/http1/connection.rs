//! One HTTP/1.1 connection: a request's head, its answer, and the next.
//!
//! Bounds: a head of [`HEAD_BYTES_MAX`], five minutes to send it, a body of [`BODY_BYTES_MAX`] that is read and
//! thrown away, and for all connections of a core what [`memory`](super::memory) allows. Whatever passes one, or is no
//! HTTP, gets an answer and the connection ends.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};

use super::Service;
use super::answer::{Answer, Form};
use super::head::{FIELDS_MAX, Head, parse, too_large};
use super::memory::Held;
use crate::server::io::clock;
use crate::server::io::idle::IdleClients;
use crate::server::io::stop::{Membership, Phase};
use crate::server::io::task;
use crate::server::io::wire::{ByteStream, linger};
use crate::stdx::time::Duration;

/// A quarter of what Go takes, so that a head is read within a turn of the core.
pub(super) const HEAD_BYTES_MAX: usize = 256 * 1024;
const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// What a client may take to send a request's head; as long as etcd's.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to receive an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 4 * 1024;
/// Reads of a body before other connections have their turn.
const TURN_READS: u32 = 16;

/// Serves requests until the client goes, misbehaves, asks to close, or the core stops. Other connections have their
/// turn behind each request, however many of them wait to be read.
pub async fn serve<S: ByteStream>(
    service: &impl Service,
    mut stream: S,
    first: Bytes,
    membership: &Membership,
    idle: &Rc<IdleClients>,
) {
    let mut input = BytesMut::from(&first[..]);
    // An error means that the client has gone.
    while let Ok(true) = serve_one(service, &mut stream, &mut input, membership, idle).await {
        task::give_way().await;
    }
    linger(&mut stream).await;
}

/// One request; false when the connection ends after it.
async fn serve_one<S: ByteStream>(
    service: &impl Service,
    stream: &mut S,
    input: &mut BytesMut,
    membership: &Membership,
    idle: &Rc<IdleClients>,
) -> io::Result<bool> {
    let read = {
        let reading = idle.wait(task::until(clock::now() + HEAD_TIMEOUT, read_head(stream, input)));
        let stopping = membership.reached(Phase::Draining);
        match futures::future::select(std::pin::pin!(reading), std::pin::pin!(stopping)).await {
            futures::future::Either::Left((Some(Some(read)), _)) => read?,
            _ => return Ok(false),
        }
    };
    let (head, held) = match read {
        Read::Head(head, held) => (head, held),
        Read::Gone => return Ok(false),
        Read::Refused(refusal) => {
            let form = Form { is_old: false, keeps_alive: false, is_head: false };
            write(stream, *refusal, form).await?;
            return Ok(false);
        }
    };
    input.advance(head.bytes);
    if head.bytes > READ_BYTES {
        // A long head gives its memory back.
        *input = BytesMut::from(&input[..]);
    }
    // Nobody here wants a body: a client that asks first is not told to send it.
    let reads_body = head.body_bytes == 0 || (head.body_bytes <= BODY_BYTES_MAX && !head.expects_continue);
    let form = Form { keeps_alive: head.form.keeps_alive && reads_body, ..head.form };
    if form.keeps_alive && head.body_bytes > 0 {
        let skipping = skip(stream, input, head.body_bytes);
        match task::until(clock::now() + HEAD_TIMEOUT, skipping).await {
            Some(skipped) => skipped?,
            None => return Ok(false),
        }
    }
    let reply = service.answer(&head).await;
    drop((head, held));
    let closes = write(stream, reply, form).await?;
    Ok(form.keeps_alive && !closes)
}

/// What reading a head comes to.
pub enum Read {
    /// A head, and the memory that it is counted for.
    Head(Box<Head>, Held),
    /// The client went.
    Gone,
    /// What came is no head that is answered.
    Refused(Box<Answer>),
}

/// Reads until a head is whole. Each byte is looked at once, and the head is parsed once. What has come beyond it, or
/// has not come yet, changes nothing.
///
/// # Errors
/// What the stream answers.
pub async fn read_head<S: ByteStream>(stream: &mut S, input: &mut BytesMut) -> io::Result<Read> {
    let (mut lines, mut held) = (Lines::default(), Held::default());
    loop {
        match lines.look(input) {
            Look::Whole => match parse(&input[..lines.seen]) {
                Ok(head) if held.set(head.bytes) => return Ok(Read::Head(Box::new(head), held)),
                Ok(_) => return Ok(Read::Refused(Box::new(unavailable()))),
                Err(refusal) => return Ok(Read::Refused(refusal)),
            },
            Look::NoText => return Ok(Read::Refused(Box::new(Answer::refusal(400, "Bad Request")))),
            Look::TooLarge => return Ok(Read::Refused(Box::new(too_large()))),
            Look::More => {}
        }
        if !held.set(input.len()) {
            return Ok(Read::Refused(Box::new(unavailable())));
        }
        if read_more(stream, input).await? == 0 {
            return Ok(Read::Gone);
        }
    }
}

/// The lines of a head, as far as they have come.
#[derive(Default)]
struct Lines {
    /// Bytes looked at.
    seen: usize,
    /// Where the line under way begins.
    begin: usize,
    /// The request's line has ended.
    has_request: bool,
    /// Lines behind it, those aside with which a field goes on.
    fields: usize,
}

/// What the lines of a head have come to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// More has to come.
    More,
    /// The empty line behind the fields.
    Whole,
    /// A request's line that is no text.
    NoText,
    /// Longer, or with more fields, than a head may be.
    TooLarge,
}

impl Lines {
    /// Looks at what has come since.
    fn look(&mut self, input: &[u8]) -> Look {
        while let Some(&byte) = input.get(self.seen) {
            let is_text = byte == b'\n' || byte == b'\r' || byte == b'\t' || byte >= b' ';
            if !self.has_request && !is_text {
                return Look::NoText;
            }
            self.seen += 1;
            if self.seen > HEAD_BYTES_MAX {
                return Look::TooLarge;
            }
            if byte != b'\n' {
                continue;
            }
            let line = &input[self.begin..self.seen];
            self.begin = self.seen;
            // A line of blanks does not end a head: the field before it goes on.
            let is_empty = matches!(line, b"\n" | b"\r\n");
            match (self.has_request, is_empty) {
                (true, true) => return Look::Whole,
                (true, false) => self.fields += usize::from(!matches!(line[0], b' ' | b'\t')),
                (false, _) => self.has_request = !is_empty,
            }
            if self.fields > FIELDS_MAX {
                return Look::TooLarge;
            }
        }
        Look::More
    }
}

async fn read_more<S: ByteStream>(stream: &mut S, input: &mut BytesMut) -> io::Result<usize> {
    let mut buffer = [0; READ_BYTES];
    let n = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await?;
    input.extend_from_slice(&buffer[..n]);
    Ok(n)
}

/// Throws away a body.
async fn skip<S: ByteStream>(stream: &mut S, input: &mut BytesMut, mut bytes: u64) -> io::Result<()> {
    let mut reads = 0;
    loop {
        let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(input.len());
        input.advance(step);
        bytes -= step as u64;
        if bytes == 0 {
            return Ok(());
        }
        if read_more(stream, input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reads += 1;
        if reads % TURN_READS == 0 {
            task::give_way().await;
        }
    }
}

/// Reads a body of so many bytes. The caller bounds them.
///
/// # Errors
/// When the client goes before it has sent them.
pub async fn read_body<S: ByteStream>(
    stream: &mut S,
    input: &mut BytesMut,
    bytes: usize,
) -> io::Result<Bytes> {
    while input.len() < bytes {
        if read_more(stream, input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        task::make_room().await;
    }
    Ok(input.split_to(bytes).freeze())
}

/// Writes an answer, or another one where too many are not taken. Says whether the connection ends behind it.
///
/// # Errors
/// When the client has gone, or takes nothing for a minute.
pub async fn write<S: ByteStream>(stream: &mut S, mut answer: Answer, form: Form) -> io::Result<bool> {
    let date = http_date(clock::wall_nanos());
    let (mut bytes, mut held) = (answer.encode(form, &date), Held::default());
    if !held.set(bytes.len()) {
        answer = unavailable();
        bytes = answer.encode(form, &date);
        held.set(bytes.len());
    }
    let closes = answer.closes;
    drop(answer);
    match task::until(clock::now() + WRITE_TIMEOUT, send(stream, &bytes)).await {
        Some(sent) => sent.map(|()| closes),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a client is told for whom the core has no memory.
fn unavailable() -> Answer {
    Answer::refusal(503, "Service Unavailable")
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
    use super::super::memory::HELD_MAX;
    use super::*;

    #[test]
    fn a_head_is_counted_until_it_is_answered() {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(10_000));
        let read = || {
            let (mut stream, mut input) =
                (futures::io::Cursor::new(Vec::new()), BytesMut::from(head.as_bytes()));
            let reading = read_head(&mut stream, &mut input);
            futures::executor::block_on(reading).expect("a stream without errors")
        };
        let whole = read();
        assert!(matches!(whole, Read::Head(..)));
        let mut others = Held::default();
        assert!(!others.set(HELD_MAX), "the head takes some of it");
        assert!(matches!(read(), Read::Refused(answer) if answer.status == 503));
        drop(whole);
        assert!(others.set(HELD_MAX));
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_head_is_whole_behind_its_first_empty_line() {
        let head = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nGET";
        for length in 0..head.len() {
            let expected = if length >= head.len() - 3 { Look::Whole } else { Look::More };
            assert_eq!(Lines::default().look(&head[..length]), expected, "{length} bytes");
        }
        assert_eq!(Lines::default().look(b"\x16\x03\x01"), Look::NoText);
    }

    #[test]
    fn a_head_may_have_so_many_fields_however_it_comes() {
        for (fields, expected) in [(FIELDS_MAX, Look::Whole), (FIELDS_MAX + 1, Look::TooLarge)] {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(fields));
            assert_eq!(Lines::default().look(head.as_bytes()), expected, "at once");
            let mut lines = Lines::default();
            let ends = (0..=head.len()).map(|length| lines.look(&head.as_bytes()[..length]));
            assert_eq!(ends.into_iter().find(|look| *look != Look::More), Some(expected), "byte by byte");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(Lines::default().look(long.as_bytes()), Look::TooLarge);
    }

    /// A head that looks whole at each of its lines would be parsed as often as it has lines.
    #[test]
    fn lines_of_blanks_end_no_head_however_many_they_are() {
        for blank in [" \n", "\t\n", " \r\n", "\r\r\n", "\x0b\n"] {
            let mut head = format!("GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\n{}", blank.repeat(1_000));
            assert_eq!(Lines::default().look(head.as_bytes()), Look::More, "{blank:?}");
            head.push_str("\r\n");
            assert_eq!(Lines::default().look(head.as_bytes()), Look::Whole, "{blank:?}");
        }
        let blanks = |count| format!("GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\n{}\r\n", " \n".repeat(count));
        let longest = (HEAD_BYTES_MAX - blanks(0).len()) / 2;
        for (count, expected) in [(longest, Look::Whole), (longest + 1, Look::TooLarge)] {
            let (mut lines, head) = (Lines::default(), blanks(count));
            let ends = (0..=head.len()).map(|length| lines.look(&head.as_bytes()[..length]));
            assert_eq!(ends.into_iter().find(|look| *look != Look::More), Some(expected), "{count} lines");
        }
        let head = parse(blanks(longest).as_bytes()).expect("a field that goes on");
        assert_eq!(head.origin.as_deref(), Some("a"));
    }
}
