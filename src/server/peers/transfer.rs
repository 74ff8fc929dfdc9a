//! A snapshot on its way to another member: a thread makes it of the newest state, and a task of the replica core sends
//! it on a connection of its own.
//!
//! The thread looks at a slice of the store at a time and rests as long as the slice took, so it takes half a CPU at
//! most. Between two slices it holds a revision and no page, but for the leases, which it copies first. What it has
//! made waits in a short lane, so memory does not depend on the store.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{Message, SnapshotMetadata};

use super::client::{Ask, Connection};
use super::link::Link;
use super::switchboard::Switchboard;
use crate::btree::{Read as _, Readers};
use crate::mvcc::View;
use crate::mvcc::pin::PinSlot;
use crate::replica::port::Input;
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::server::mesh::{self, Receiver, Sender};
use crate::snapshot::{Gathering, SnapshotFile};
use crate::stdx::time::Duration;

/// Pieces that wait to be sent.
const PIECES_MAX: usize = 8;
/// Bytes of a piece, about.
const PIECE_BYTES: usize = 64 * 1024;
/// Small changes that are looked at in a slice: some tenths of a millisecond.
const SLICE: usize = 512;
/// Bytes of copied leases.
const LEASES_BYTES_MAX: usize = 64 << 20;
/// The shortest rest between two slices.
const REST_MIN: StdDuration = StdDuration::from_micros(50);
/// How long the member may be gone from its streams while it makes a store of what it was sent.
const GONE: Duration = Duration::from_secs(10);
/// Time between two looks whether it is.
const LOOK: Duration = Duration::from_secs(1);
/// How long the rest of an answer may take once the member has refused to read on.
const REFUSAL: Duration = Duration::from_secs(1);

/// What the thread has made.
enum Made {
    /// What the message says, and how long the file is.
    Head(SnapshotMetadata, u64),
    Piece(Bytes),
    /// Why there is no more.
    Failed(String),
    /// The thread has ended.
    End(PinSlot),
}

/// Sends the newest state to a member. `message` is what raft wants to go with it.
pub fn begin(switchboard: &Rc<Switchboard>, to: u64, message: Box<Message>) {
    let slot = switchboard.snapshots.pins.borrow_mut().take();
    let (link, slot) = match (switchboard.link(to), slot) {
        (Some(link), Some(slot)) => (link, slot),
        (_, slot) => {
            // One at a time. Raft asks again.
            *switchboard.snapshots.pins.borrow_mut() = slot;
            return switchboard.inbox().push(Input::SnapshotSent { to, is_taken: false });
        }
    };
    let switchboard = switchboard.clone();
    task::spawn(async move {
        let (out, made) = mesh::lane(PIECES_MAX);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let readers = switchboard.snapshots.readers.borrow().clone();
        let (wanted, began) = (is_wanted.clone(), clock::now());
        let started = thread::Builder::new().name("snapshot-sender".into()).spawn(move || {
            let mut slot = slot;
            if let Err(why) = make(&readers, &mut slot, &out, &wanted) {
                _ = put(&out, Made::Failed(why), &AtomicBool::new(true));
            }
            _ = put(&out, Made::End(slot), &AtomicBool::new(true));
        });
        let result = match started {
            Ok(_) => {
                let mut made = Pieces { lane: made, taken: VecDeque::new() };
                let result = send(&switchboard, &link, message, &mut made).await;
                is_wanted.store(false, Ordering::Release);
                let slot = made.end().await;
                *switchboard.snapshots.pins.borrow_mut() = Some(slot);
                result
            }
            Err(error) => Err(error),
        };
        tell(&link, clock::now().since(began), &result);
        let is_taken = result.is_ok();
        switchboard.inbox().push(Input::SnapshotSent { to, is_taken });
    });
}

fn tell(link: &Link, took: Duration, result: &io::Result<(u64, u64)>) {
    let took = format!("{took:?}");
    match result {
        Ok((index, bytes)) => {
            link.on_success();
            Line::info("sent database snapshot")
                .value("snapshot-index", *index)
                .id("remote-peer-id", link.id)
                .value("bytes", *bytes)
                .text("took", took)
                .write();
        }
        Err(error) => {
            Line::warn("failed to send database snapshot")
                .id("remote-peer-id", link.id)
                .text("took", took)
                .text("error", error.to_string())
                .write();
        }
    }
}

/// What the thread has made, piece by piece.
struct Pieces {
    lane: Receiver<Made>,
    taken: VecDeque<Made>,
}

impl Pieces {
    async fn next(&mut self) -> Made {
        loop {
            if let Some(made) = self.taken.pop_front() {
                return made;
            }
            self.lane.ready().await;
            self.lane.take(PIECES_MAX, &mut self.taken);
        }
    }

    /// Waits for the end of the thread.
    async fn end(&mut self) -> PinSlot {
        loop {
            if let Made::End(slot) = self.next().await {
                return slot;
            }
        }
    }
}

/// Sends what is made, and waits until the member has made a store of it. The index of the snapshot and the length of
/// the file.
async fn send(
    switchboard: &Switchboard,
    link: &Link,
    mut message: Box<Message>,
    made: &mut Pieces,
) -> io::Result<(u64, u64)> {
    let failed = |why: String| io::Error::other(format!("cannot make the snapshot: {why}"));
    let (metadata, bytes) = match made.next().await {
        Made::Head(metadata, bytes) => (metadata, bytes),
        Made::Failed(why) => return Err(failed(why)),
        Made::Piece(_) | Made::End(_) => return Err(failed("it has no head".into())),
    };
    let index = metadata.index;
    Line::info("sending database snapshot")
        .value("snapshot-index", index)
        .id("remote-peer-id", link.id)
        .value("bytes", bytes)
        .write();
    message.snapshot.get_or_insert_default().metadata = Some(metadata);
    let head = message.encode_to_vec();
    let own = switchboard.own();
    let mut connection = Connection::dial(own, &link.url()?).await?;
    let ask = Ask { method: "POST", path: "/raft/snapshot", to: Some(link.id), content: None };
    let length = size_of::<u64>() as u64 + head.len() as u64 + bytes;
    connection.begin(own, &ask, "application/octet-stream", length).await?;
    let mut part = Bytes::from([&(head.len() as u64).to_be_bytes()[..], &head].concat());
    let mut left = bytes;
    loop {
        if let Err(error) = connection.write(&part).await {
            return Err(why_not(&mut connection, error).await);
        }
        if left == 0 {
            break;
        }
        part = match made.next().await {
            Made::Piece(piece) => piece,
            Made::Failed(why) => return Err(failed(why)),
            Made::Head(..) | Made::End(_) => return Err(failed("it ends too early".into())),
        };
        left = left.checked_sub(part.len() as u64).ok_or_else(|| failed("it is too long".into()))?;
        task::make_room().await;
    }
    accepted(link, &mut connection).await.map(|()| (index, bytes))
}

/// Whoever stops to read may have said why.
async fn why_not(connection: &mut Connection, error: io::Error) -> io::Error {
    let reply = task::until(clock::now() + REFUSAL, connection.reply()).await;
    let Some(Ok(reply)) = reply else { return error };
    let text = connection.read_whole(reply.body).await.unwrap_or_default();
    refused(reply.status, &text)
}

fn refused(status: u16, text: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    io::Error::other(format!("the member answers {status}: {text}"))
}

/// Waits for the answer for as long as the member lives.
async fn accepted(link: &Link, connection: &mut Connection) -> io::Result<()> {
    let mut seen = clock::now();
    let reply = loop {
        if let Some(reply) = task::until(clock::now() + LOOK, connection.reply()).await {
            break reply?;
        }
        if link.append.is_open() || link.message.is_open() {
            seen = clock::now();
        } else if clock::now().since(seen) > GONE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the member is gone"));
        }
    };
    if reply.status == 204 {
        return Ok(());
    }
    let text = connection.read_whole(reply.body).await.unwrap_or_default();
    Err(refused(reply.status, &text))
}

/// Waits until there is room for what was made. An error when nobody wants it any more.
fn put(out: &Sender<Made>, mut made: Made, is_wanted: &AtomicBool) -> Result<(), String> {
    while let Err(back) = out.send(made) {
        if !is_wanted.load(Ordering::Acquire) {
            return Err("nobody wants it".into());
        }
        made = back;
        thread::sleep(StdDuration::from_millis(1));
    }
    Ok(())
}

/// Makes the file of the newest state.
fn make(
    readers: &Readers,
    slot: &mut PinSlot,
    out: &Sender<Made>,
    is_wanted: &AtomicBool,
) -> Result<(), String> {
    let mut reader = readers.register();
    let mut compacted = reader.snapshot().applied().compact_revision;
    while !slot.pin(compacted, || reader.snapshot().applied().compact_revision) {
        compacted = reader.snapshot().applied().compact_revision;
    }
    let result = make_pinned(&mut reader, out, is_wanted);
    slot.unpin(compacted);
    result
}

fn make_pinned(
    reader: &mut crate::btree::Reader,
    out: &Sender<Made>,
    is_wanted: &AtomicBool,
) -> Result<(), String> {
    let unread = |_| "a record of the store cannot be read".to_owned();
    let mut file = {
        let state = reader.snapshot();
        let mut gathering = Gathering::new(&state).map_err(unread)?;
        loop {
            let began = StdInstant::now();
            if gathering.step(SLICE).map_err(unread)? {
                break SnapshotFile::new(gathering.finish());
            }
            if gathering.held_bytes() > LEASES_BYTES_MAX {
                return Err("there are more leases than a snapshot has room for".into());
            }
            rest(began);
        }
    };
    let layout = loop {
        let began = StdInstant::now();
        if let Some(layout) = file.count(&View::new(&reader.snapshot()), SLICE).map_err(unread)? {
            break layout;
        }
        if !is_wanted.load(Ordering::Acquire) {
            return Err("nobody wants it".into());
        }
        rest(began);
    };
    put(out, Made::Head(file.metadata().clone(), layout.bytes()), is_wanted)?;
    loop {
        let began = StdInstant::now();
        let (piece, is_last) =
            file.write(&View::new(&reader.snapshot()), PIECE_BYTES, SLICE).map_err(unread)?;
        if !piece.is_empty() {
            put(out, Made::Piece(piece), is_wanted)?;
        }
        if is_last {
            return Ok(());
        }
        rest(began);
    }
}

fn rest(began: StdInstant) {
    thread::sleep(began.elapsed().max(REST_MIN));
}
