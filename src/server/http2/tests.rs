//! A connection from outside, without a socket.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::account::Account;
use super::frame::{HEAD_BYTES, Head, flag, kind, number};
use super::hpack::{Decoder, Encoder};
use super::*;
use crate::stdx::waker::Wakes;

const HEAD: Fields = Fields::Constant(&[(":status", "200"), ("content-type", "application/grpc")]);
const END: Fields = Fields::Constant(&[("grpc-status", "0")]);

/// A client that has said hello.
struct Client {
    http2: Rc<Http2>,
    encoder: Encoder,
    decoder: Decoder,
    account: Rc<Account>,
}

/// A frame of ours: kind, flags, stream, payload.
type Seen = (u8, u8, u32, Vec<u8>);

impl Client {
    fn new() -> Self {
        Self::with_settings(&[])
    }

    fn with_settings(settings: &[(u16, u32)]) -> Self {
        let http2 = Http2::new(Limits { streams_max: 100 }, Memory::new());
        let mut client = Self {
            http2,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            account: Account::new(Memory::new()),
        };
        client.http2.begin_turn(Waker::noop());
        client.http2.receive(PREFACE).unwrap();
        client.set(settings).unwrap();
        let seen = client.see();
        assert_eq!(seen.iter().map(|frame| (frame.0, frame.1)).collect::<Vec<_>>(), [(4, 0), (8, 0), (4, 1)]);
        client
    }

    fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Over> {
        let head = Head { length: payload.len(), kind, flags, stream }.bytes();
        self.http2.receive(&[&head[..], payload].concat())
    }

    fn set(&mut self, settings: &[(u16, u32)]) -> Result<(), Over> {
        let bytes = |&(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.say(kind::SETTINGS, 0, 0, &settings.iter().flat_map(bytes).collect::<Vec<_>>())
    }

    fn ask(&mut self, stream: u32, flags: u8) -> Result<(), Over> {
        let mut block = Vec::new();
        let fields = Fields::Constant(&[(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C")]);
        self.encoder.encode(&fields, &mut block);
        self.say(kind::HEADERS, flags | flag::END_HEADERS, stream, &block)
    }

    fn asked(&mut self, stream: u32, flags: u8) -> Stream {
        self.ask(stream, flags).unwrap();
        self.http2.next_request().expect("a request").1
    }

    fn see(&mut self) -> Vec<Seen> {
        let (mut bytes, mut seen) = (Vec::new(), Vec::new());
        let sent = self.http2.poll_send(|slices| {
            let before = bytes.len();
            slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
            Poll::Ready(Ok(bytes.len() - before))
        });
        assert!(matches!(sent, Poll::Ready(Ok(()))));
        let mut rest = &bytes[..];
        while let Some(head) = rest.first_chunk() {
            let head = Head::parse(*head);
            let (payload, after) = rest[HEAD_BYTES..].split_at(head.length);
            seen.push((head.kind, head.flags, head.stream, payload.to_vec()));
            rest = after;
        }
        seen
    }

    /// The last GOAWAY's reason.
    fn dismissal(&mut self) -> Option<u32> {
        let seen = self.see();
        seen.iter().rev().find(|frame| frame.0 == kind::GOAWAY).map(|frame| number(&frame.3[4..8]).unwrap())
    }

    fn fields(&mut self, block: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let each = |field: &Field| {
            fields.push(format!("{}={}", text(field.name()), text(field.value())));
            ControlFlow::Continue(())
        };
        self.decoder.decode(block, each).unwrap();
        fields
    }
}

fn read(stream: &Stream) -> Poll<Option<Result<Bytes, Gone>>> {
    stream.poll_data(&Context::from_waker(Waker::noop()))
}

#[test]
fn a_request_is_answered() {
    let mut client = Client::new();
    for id in [1, 3] {
        let stream = client.asked(id, 0);
        assert!(read(&stream).is_pending());
        client.say(kind::DATA, flag::PADDED | flag::END_STREAM, id, b"\x02hello\0\0").unwrap();
        assert_eq!(read(&stream), Poll::Ready(Some(Ok(Bytes::from_static(b"hello")))));
        assert_eq!(read(&stream), Poll::Ready(None));
        stream.send_head(&HEAD).unwrap();
        stream.send_data(b"12345", Bytes::from_static(b"678"), &client.account).unwrap();
        stream.end(END).unwrap();
        assert_eq!((stream.end(END), read(&stream)), (Err(Gone), Poll::Ready(Some(Err(Gone)))));
        let seen = client.see();
        let shape: Vec<_> = seen.iter().map(|frame| (frame.0, frame.1, frame.2)).collect();
        assert_eq!(shape, [(1, 4, id), (0, 0, id), (1, 5, id)]);
        assert_eq!(client.fields(&seen[0].3), [":status=200", "content-type=application/grpc"]);
        assert_eq!(seen[1].3, b"12345678");
        assert_eq!(client.fields(&seen[2].3), ["grpc-status=0"]);
    }
    assert!(!client.http2.has_streams() && client.account.take_wrote());
}

#[test]
fn an_answer_before_the_end_of_the_question_takes_the_rest_back() {
    let mut client = Client::new();
    client.asked(1, 0).refuse(&END).unwrap();
    let shape: Vec<_> = client.see().iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(shape, [(kind::HEADERS, 5), (kind::RST_STREAM, 0)]);
    // What was on its way is no error, and the connection's window is given back for it.
    for _ in 0..1100 {
        client.say(kind::DATA, 0, 1, &[0; 16_000]).unwrap();
    }
    assert!(client.see().iter().any(|frame| frame.0 == kind::WINDOW_UPDATE && frame.2 == 0));
    client.say(kind::RST_STREAM, 0, 1, &[0; 4]).unwrap();
    client.say(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).unwrap();
    client.ask(1, flag::END_STREAM).unwrap();
    assert_eq!(client.see(), []);
}

#[test]
fn data_keeps_to_the_clients_windows() {
    let mut client = Client::with_settings(&[(4, 100)]);
    let (first, second) = (client.asked(1, flag::END_STREAM), client.asked(3, flag::END_STREAM));
    for stream in [&first, &second] {
        stream.send_head(&HEAD).unwrap();
        stream.send_data(&[0; 5], vec![1; 40_000].into(), &client.account).unwrap();
        stream.end(END).unwrap();
    }
    let data = |seen: Vec<Seen>| -> Vec<_> {
        seen.into_iter().filter(|frame| frame.0 == kind::DATA).map(|frame| (frame.2, frame.3.len())).collect()
    };
    assert_eq!(data(client.see()), [(1, 100), (3, 100)]);
    assert_eq!(client.account.unsent(), 2 * 40_005 - 200);
    client.say(kind::WINDOW_UPDATE, 0, 3, &50u32.to_be_bytes()).unwrap();
    assert_eq!(data(client.see()), [(3, 50)]);
    // Narrower than what was sent already: nothing, until it is made up for.
    client.set(&[(4, 0)]).unwrap();
    client.say(kind::WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes()).unwrap();
    assert_eq!(data(client.see()), []);
    client.set(&[(4, 100_000)]).unwrap();
    let turns = data(client.see());
    assert_eq!(turns[..3], [(1, 16_384), (3, 16_384), (1, 16_384)], "each in turn");
    assert_eq!(turns.iter().map(|turn| turn.1).sum::<usize>(), 65_535 - 250, "the connection's window");
    client.say(kind::WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes()).unwrap();
    let seen = client.see();
    assert_eq!(seen.iter().filter(|frame| frame.1 == 5).count(), 2, "both end");
    assert_eq!((client.account.unsent(), client.http2.has_streams()), (0, false));
}

#[test]
fn a_client_that_sends_more_than_it_may_is_sent_away() {
    let mut client = Client::new();
    let stream = client.asked(1, 0);
    for _ in 0..64 {
        client.say(kind::DATA, 0, 1, &[0; 16_384]).unwrap();
    }
    assert_eq!(client.see(), []);
    client.say(kind::DATA, 0, 1, &[0]).unwrap();
    assert_eq!(client.see(), [(kind::RST_STREAM, 0, 1, 3u32.to_be_bytes().to_vec())]);
    assert_eq!(read(&stream), Poll::Ready(Some(Err(Gone))));
    // 16 MB of all streams together.
    let mut client = Client::new();
    let streams: Vec<_> = (0..16).map(|n| client.asked(3 + 2 * n, 0)).collect();
    let mut over = false;
    for n in 0..16 {
        over |= (0..64).any(|_| client.say(kind::DATA, 0, 3 + 2 * n, &[0; 16_384]).is_err());
    }
    assert!(!over && client.dismissal().is_none());
    client.asked(99, 0);
    assert!(client.say(kind::DATA, 0, 99, &[0]).is_err());
    assert_eq!(client.dismissal(), Some(3));
    drop(streams);
}

#[test]
fn windows_open_again_as_data_is_read() {
    let mut client = Client::new();
    let stream = client.asked(1, 0);
    let mut widened = 0;
    for _ in 0..1000 {
        client.say(kind::DATA, 0, 1, &[0; 16_000]).unwrap();
        assert!(matches!(read(&stream), Poll::Ready(Some(Ok(data))) if data.len() == 16_000));
        widened += client.see().iter().filter(|frame| frame.2 == 1).count();
    }
    assert!((29..32).contains(&widened), "{widened} times half a megabyte");
    stream.stop_reading();
    for _ in 0..1000 {
        client.say(kind::DATA, 0, 1, &[0; 16_000]).unwrap();
    }
}

#[test]
fn broken_rules_end_the_connection_with_their_reason() {
    let block = [0x82];
    type Said<'a> = (u8, u8, u32, &'a [u8]);
    let wrong: [(&[Said<'_>], u32); 16] = [
        (&[(kind::DATA, 0, 0, b"")], 1),
        (&[(kind::DATA, 0, 1, b"")], 1),
        (&[(kind::HEADERS, 4, 2, &block)], 1),
        (&[(kind::HEADERS, 4, 0, &block)], 1),
        (&[(kind::HEADERS, 4, 1, &[0x80])], 9),
        (&[(kind::HEADERS, 0, 1, &block), (kind::PING, 0, 0, &[0; 8])], 1),
        (&[(kind::HEADERS, 0, 1, &block), (kind::CONTINUATION, 4, 3, &block)], 1),
        (&[(kind::CONTINUATION, 4, 1, &block)], 1),
        (&[(kind::RST_STREAM, 0, 1, &[0; 4])], 1),
        (&[(kind::SETTINGS, 0, 1, b"")], 1),
        (&[(kind::SETTINGS, 0, 0, &[0; 5])], 6),
        (&[(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])], 3),
        (&[(kind::PUSH_PROMISE, 4, 1, &[0; 4])], 1),
        (&[(kind::PING, 0, 0, &[0; 7])], 6),
        (&[(kind::WINDOW_UPDATE, 0, 0, &[0; 4])], 1),
        (&[(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])], 3),
    ];
    for (frames, reason) in wrong {
        let mut client = Client::new();
        let last = frames
            .iter()
            .map(|&(kind, flags, stream, payload)| client.say(kind, flags, stream, payload))
            .last();
        assert_eq!((last, client.dismissal()), (Some(Err(Over)), Some(reason)), "{frames:?}");
    }
    let mut client = Client::new();
    let long = Head { length: 16_385, kind: kind::DATA, flags: 0, stream: 1 }.bytes();
    assert_eq!((client.http2.receive(&long), client.dismissal()), (Err(Over), Some(6)));
    let hasty = Http2::new(Limits { streams_max: 1 }, Memory::new());
    let ping = Head { length: 8, kind: kind::PING, flags: 0, stream: 0 }.bytes();
    assert_eq!(hasty.receive(&[&PREFACE[..], &ping, &[0; 8]].concat()), Err(Over), "SETTINGS come first");
}

#[test]
fn attacks_end_the_connection() {
    // Streams begun and taken back before anybody looks.
    let mut client = Client::new();
    let attack = |client: &mut Client, n: u32| {
        client.ask(1 + 2 * n, 0).and_then(|()| client.say(kind::RST_STREAM, 0, 1 + 2 * n, &[0, 0, 0, 8]))
    };
    assert_eq!((0..400).try_for_each(|n| attack(&mut client, n)), Ok(()));
    assert_eq!((attack(&mut client, 400), client.dismissal()), (Err(Over), Some(11)));
    // The same while somebody looks costs nothing: it is what deadlines do.
    let mut client = Client::new();
    for n in 0..5000 {
        attack(&mut client, n).unwrap();
        assert!(client.http2.next_request().is_none(), "nobody waits for it");
    }
    // Header blocks without an end, small frames or large.
    for length in [0, 16_000] {
        let mut client = Client::new();
        client.say(kind::HEADERS, 0, 1, &[0x82]).unwrap();
        let over = (0..100).any(|_| client.say(kind::CONTINUATION, 0, 1, &vec![0x82; length]).is_err());
        assert!(over && client.dismissal() == Some(11));
    }
    // SETTINGS by the read.
    let client = Client::new();
    let settings = Head { length: 0, kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes();
    assert_eq!(client.http2.receive(&settings.repeat(33)), Err(Over));
    // Broken streams.
    let mut client = Client::new();
    let broken = (0..2000).position(|n| {
        client.ask(1 + 2 * n, flag::END_STREAM).unwrap();
        client.http2.next_request();
        client.say(kind::DATA, 0, 1 + 2 * n, b"x").is_err()
    });
    assert_eq!((broken, client.dismissal()), (Some(1024), Some(11)));
}

#[test]
fn a_stop_lets_what_was_begun_finish() {
    let mut client = Client::new();
    let (first, _) = (client.asked(1, flag::END_STREAM), client.http2.shut_down());
    let seen = client.see();
    assert_eq!(
        (seen[0].0, &seen[0].3[..4], seen[1].0),
        (kind::GOAWAY, &[0x7f, 0xff, 0xff, 0xff][..], kind::PING)
    );
    // Begun before the client heard of it.
    let second = client.asked(3, flag::END_STREAM);
    let pong = seen[1].3.clone();
    client.say(kind::PING, flag::ACK, 0, &pong).unwrap();
    let seen = client.see();
    assert_eq!((seen[0].0, &seen[0].3[..4]), (kind::GOAWAY, &[0, 0, 0, 3][..]));
    // And after: not served, and not an error.
    client.ask(5, 0).unwrap();
    client.say(kind::DATA, flag::END_STREAM, 5, b"x").unwrap();
    assert!(client.http2.next_request().is_none() && !client.http2.is_done());
    for stream in [first, second] {
        stream.refuse(&END).unwrap();
    }
    assert!(client.http2.is_done());
}

#[test]
fn whoever_waits_is_woken() {
    let mut client = Client::new();
    let (task, task_wakes) = Wakes::new();
    client.http2.begin_turn(&task);
    let (reader, reader_wakes) = Wakes::new();
    let (watcher, watcher_wakes) = Wakes::new();
    let stream = client.asked(1, 0);
    assert!(stream.poll_data(&Context::from_waker(&reader)).is_pending());
    assert!(stream.poll_gone(&Context::from_waker(&watcher)).is_pending());
    client.say(kind::DATA, 0, 1, b"x").unwrap();
    assert_eq!((reader_wakes.count(), watcher_wakes.count()), (1, 0));
    stream.send_head(&HEAD).unwrap();
    assert_eq!(task_wakes.count(), 0, "in its own turn");
    client.http2.end_turn();
    stream.send_data(&[], Bytes::from_static(b"y"), &client.account).unwrap();
    assert_eq!(task_wakes.count(), 1);
    assert!(read(&stream).is_ready());
    assert!(stream.poll_data(&Context::from_waker(&reader)).is_pending());
    client.say(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]).unwrap();
    assert_eq!((reader_wakes.count(), watcher_wakes.count()), (2, 1));
}

/// A literal field whose name is the first of the client's table, and whose value is empty.
const NAMED_BY_TABLE: [u8; 3] = [0x0f, 47, 0];

#[test]
fn fields_that_a_few_bytes_make_long_end_the_connection() {
    let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'n'; 4000], &[0]].concat();
    // A request, trailers, and a request beyond the streams that may be open.
    for (open, id) in [(0, 1), (1, 1), (100, 201)] {
        let mut client = Client::new();
        for n in 0..open {
            client.ask(1 + 2 * n, 0).unwrap();
        }
        client.say(kind::HEADERS, 0, id, &name).unwrap();
        let begun = std::time::Instant::now();
        let flood = NAMED_BY_TABLE.repeat(5000);
        client.say(kind::CONTINUATION, 0, id, &flood).unwrap();
        assert_eq!(client.say(kind::CONTINUATION, flag::END_HEADERS, id, &flood), Err(Over));
        assert_eq!(
            client.dismissal(),
            Some(Reason::EnhanceYourCalm as u32),
            "stream {id}, {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn streams_beyond_those_allowed_are_refused_and_too_many_end_the_connection() {
    let mut client = Client::new();
    (0..100).for_each(|n| client.ask(1 + 2 * n, 0).unwrap());
    client.see();
    client.ask(201, 0).unwrap();
    assert_eq!(client.see(), [(kind::RST_STREAM, 0, 201, 7u32.to_be_bytes().to_vec())]);
    let ended = (1..2000).position(|n| client.ask(201 + 2 * n, 0).is_err());
    assert_eq!((ended, client.dismissal()), (Some(1023), Some(Reason::EnhanceYourCalm as u32)));
}

#[test]
fn a_client_may_take_back_all_its_calls_at_once() {
    let mut client = Client::new();
    for round in 0..3 {
        let ids = (0..100).map(|n| 1 + 2 * (100 * round + n));
        ids.clone().for_each(|id| client.ask(id, 0).unwrap());
        ids.for_each(|id| client.say(kind::RST_STREAM, 0, id, &8u32.to_be_bytes()).unwrap());
    }
    assert!(client.http2.next_request().is_none() && client.dismissal().is_none());
}

#[test]
fn requests_that_nobody_looks_at_hold_little_memory() {
    let memory = Memory::new();
    let http2 = Http2::new(Limits { streams_max: 25_000 }, memory.clone());
    let mut client = Client { http2, ..Client::new() };
    client.http2.receive(PREFACE).unwrap();
    client.set(&[]).unwrap();
    let token = [&[0, 1, b't', 0x7f, 0xf1, 0x77][..], &[b'x'; 15_472]].concat();
    let block = [&[0x83, 0x86, 0x84][..], &token].concat();
    let mut refused = 0;
    for n in 0..1000 {
        client.say(kind::HEADERS, flag::END_HEADERS, 1 + 2 * n, &block).unwrap();
        refused += client.see().iter().filter(|frame| frame.0 == kind::RST_STREAM).count();
    }
    assert!(refused > 700 && memory.held() <= 4 << 20, "{refused} refused, {} held", memory.held());
    for n in 0..1000 {
        client.say(kind::RST_STREAM, 0, 1 + 2 * n, &8u32.to_be_bytes()).unwrap();
    }
    assert!(memory.held() < 2 << 20, "{} held for calls that were taken back", memory.held());
}

#[test]
fn half_header_blocks_and_unread_data_are_bounded_over_all_connections() {
    let memory = Memory::new();
    let connect = || {
        let http2 = Http2::new(Limits { streams_max: 100 }, memory.clone());
        let mut client = Client { http2, ..Client::new() };
        client.http2.receive(PREFACE).unwrap();
        client.set(&[]).unwrap();
        client
    };
    let mut halves = Vec::new();
    for _ in 0..2000 {
        let mut client = connect();
        let _ = client.say(kind::HEADERS, 0, 1, &[0; 16_000]);
        let over = (0..6).any(|_| client.say(kind::CONTINUATION, 0, 1, &[0; 16_000]).is_err());
        if over {
            client.http2.close();
        }
        halves.push(client);
    }
    assert!(memory.held() <= (128 << 20) + 2000 * (64 << 10), "{}", memory.held());
    let mut client = connect();
    client.asked(1, 0);
    let said = (0..10).map(|_| client.say(kind::DATA, 0, 1, &[0; 16_000]));
    assert!(said.collect::<Result<Vec<_>, _>>().is_ok());
    let reset = (kind::RST_STREAM, 0, 1, (Reason::EnhanceYourCalm as u32).to_be_bytes().to_vec());
    assert!(client.see().contains(&reset), "the stream has to end, its connection has not");
    drop((halves, client));
    assert_eq!(memory.held(), 0);
}

#[test]
fn something_unfinished_is_told_from_something_else_unfinished() {
    let mut client = Client::new();
    assert_eq!(client.http2.unfinished(), None);
    let ping = [&Head { length: 8, kind: kind::PING, flags: 0, stream: 0 }.bytes()[..], &[0; 8]].concat();
    client.http2.receive(&ping[..3]).unwrap();
    let first = client.http2.unfinished();
    client.http2.receive(&ping[3..5]).unwrap();
    assert!(first.is_some() && client.http2.unfinished() == first, "the same frame");
    client.http2.receive(&[&ping[5..], &ping[..4]].concat()).unwrap();
    let second = client.http2.unfinished();
    assert!(second.is_some() && second != first);
    client.http2.receive(&ping[4..]).unwrap();
    client.say(kind::HEADERS, 0, 1, &[0x82]).unwrap();
    let block = client.http2.unfinished();
    client.say(kind::CONTINUATION, 0, 1, &[0x82]).unwrap();
    assert!(block.is_some() && client.http2.unfinished() == block, "the same header block");
}
