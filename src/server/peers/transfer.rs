//! A snapshot on its way to another member: a thread makes it of the newest state, and a task of the replica core sends
//! it on a connection of its own.
//!
//! The thread looks at a slice of the store at a time and rests as long as the slice took, so it takes half a CPU at
//! most. Between two slices it holds a revision and no page, but for the leases, which it copies first. What it has
//! made waits in a short lane, so memory does not depend on the store.
//!
//! A member that looks for it gets a digest behind the file. One that does not, as etcd's do, gets the file alone.
//!
//! A member that is slow, or that does not answer, holds up its own snapshot alone: each transfer has an end by the
//! clock ([`Patience`]), there is a place for a second one, and after one that has failed other members come first.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant as StdInstant;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{Message, Snapshot};

use super::client::{Ask, Connection};
use super::link::Link;
use super::switchboard::Switchboard;
use crate::btree::{Read as _, Readers};
use crate::mvcc::View;
use crate::mvcc::pin::PinSlot;
use crate::replica::port::Input;
use crate::server::io::threads::Start;
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::server::mesh::{self, Receiver, Sender};
use crate::snapshot::{Gathering, SnapshotFile};
use crate::stdx::time::{Duration, Instant};

/// Pieces that wait to be sent.
const PIECES_MAX: usize = 8;
/// Bytes of a piece, about.
const PIECE_BYTES: usize = 64 * 1024;
/// Small changes that are looked at in a slice: some tenths of a millisecond.
const SLICE: usize = 512;
/// Bytes of copied leases.
const LEASES_BYTES_MAX: usize = 64 << 20;
/// The shortest rest between two slices.
const REST_MIN: Duration = Duration::from_micros(50);
/// How long the member may be gone from its streams while it makes a store of what it was sent. A member that never had
/// streams has no longer for all of that.
const GONE: Duration = Duration::from_secs(10);
/// Time between two looks whether it is.
const LOOK: Duration = Duration::from_secs(1);
/// How long the rest of an answer may take once the member has refused to read on.
const REFUSAL: Duration = Duration::from_secs(1);

/// How long a member may take for a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// What a snapshot of any length may take to be sent, and again to be made a store of.
    pub base: Duration,
    /// Bytes that a member takes in a second at least, beyond that.
    pub sent_bytes: u64,
    /// Bytes of which a member makes a store in a second at least, beyond that.
    pub built_bytes: u64,
    /// How long a member gets no other snapshot after one that has failed. Each further one that was made for nothing
    /// doubles it.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(60),
            sent_bytes: 128 << 10,
            built_bytes: 1 << 20,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(16),
        }
    }
}

impl Patience {
    /// When so many bytes are to be done with that come at `rate` at least.
    fn end(&self, bytes: u64, rate: u64) -> Instant {
        clock::now() + self.base + Duration::from_secs(bytes / rate.max(1))
    }
}

/// The snapshots that are sent.
pub(super) struct Sending {
    /// Where further ones may pin their revisions.
    pins: RefCell<Vec<PinSlot>>,
    /// The members for whom one is under way.
    to: RefCell<BTreeSet<u64>>,
    /// Members whose last one has failed: until when they get no other, and how long the next pause is.
    paused: RefCell<BTreeMap<u64, (Instant, Duration)>>,
    patience: Patience,
}

impl Sending {
    /// None is under way.
    pub(super) fn new(pins: Vec<PinSlot>, patience: Patience) -> Self {
        Self { pins: RefCell::new(pins), to: RefCell::default(), paused: RefCell::default(), patience }
    }

    /// A place for a snapshot to a member. None if there is none for that member now.
    fn begin(&self, to: u64) -> Option<PinSlot> {
        let is_paused = self.paused.borrow().get(&to).is_some_and(|(until, _)| clock::now() < *until);
        if is_paused || self.to.borrow().contains(&to) {
            return None;
        }
        let slot = self.pins.borrow_mut().pop()?;
        self.to.borrow_mut().insert(to);
        Some(slot)
    }

    /// The snapshot to a member was sent, or not. One of which nothing `was_made` is soon tried again.
    fn on_sent(&self, to: u64, is_taken: bool, was_made: bool) {
        let Patience { pause: shortest, pause_max, .. } = self.patience;
        let before = self.paused.borrow_mut().remove(&to);
        let pause = before.map_or(shortest, |(_, pause)| pause);
        let paused = match (is_taken, was_made) {
            (true, _) => return,
            (false, true) => (clock::now() + pause, (pause * 2).min(pause_max)),
            (false, false) => (clock::now() + shortest, pause),
        };
        self.paused.borrow_mut().insert(to, paused);
    }

    /// The place is free again.
    fn end(&self, to: u64, slot: PinSlot) {
        self.to.borrow_mut().remove(&to);
        self.pins.borrow_mut().push(slot);
    }
}

/// What the thread has made.
enum Made {
    /// What the message says, and how long the file is.
    Head(Snapshot, u64),
    Piece(Bytes),
    /// Why there is no more.
    Failed(String),
    /// The thread has ended.
    End(PinSlot),
}

/// Sends the newest state to a member. `message` is what raft wants to go with it.
pub fn begin(switchboard: &Rc<Switchboard>, to: u64, message: Box<Message>) {
    let link = switchboard.link(to);
    let place = link.and_then(|link| Some((link, switchboard.snapshots.sending.begin(to)?)));
    let Some((link, slot)) = place else {
        // Raft asks again.
        return switchboard.inbox().push(Input::SnapshotSent { to, is_taken: false });
    };
    let switchboard = switchboard.clone();
    task::spawn(async move {
        let (snapshots, began) = (&switchboard.snapshots, clock::now());
        let counts = switchboard.contacts.snapshots.to(to);
        let _under_way = counts.begin();
        let with_digest = takes_digest(&link);
        let end = |result: io::Result<(u64, u64)>, was_made: bool| {
            let took = clock::now().since(began);
            tell(&link, took, &result);
            let is_taken = result.is_ok();
            if is_taken {
                counts.succeed(took)
            } else {
                counts.fail()
            }
            snapshots.sending.on_sent(to, is_taken, was_made);
            switchboard.inbox().push(Input::SnapshotSent { to, is_taken });
        };
        let started = match reach(&switchboard, &link).await {
            Ok(()) => {
                let readers = snapshots.readers.borrow().clone();
                Maker::start(snapshots.start, readers, slot, with_digest)
            }
            Err(error) => Err((error, slot)),
        };
        let slot = match started {
            Ok(mut maker) => {
                end(send(&switchboard, &link, message, &mut maker, with_digest).await, true);
                maker.end().await
            }
            Err((error, slot)) => {
                end(Err(error), false);
                slot
            }
        };
        snapshots.sending.end(to, slot);
    });
}

/// Finds out whether a member answers, for whom all of the store would be read else. What is sent goes on a connection
/// of its own: that is begun when the length of the file is known, and until then this one may have ended.
async fn reach(switchboard: &Switchboard, link: &Link) -> io::Result<()> {
    Connection::dial(switchboard.own(), &link.url()?).await.map(drop)
}

/// Whether a member looks for a digest, by the streams that it has dialled.
fn takes_digest(link: &Link) -> bool {
    link.takes_digest.get() && (link.append.is_open() || link.message.is_open())
}

fn tell(link: &Link, took: Duration, result: &io::Result<(u64, u64)>) {
    let took = format!("{took:?}");
    match result {
        Ok((index, bytes)) => {
            link.on_success();
            link.contact().sent_bytes.add(*bytes);
            Line::info("sent database snapshot")
                .value("snapshot-index", *index)
                .id("remote-peer-id", link.id)
                .value("bytes", *bytes)
                .text("took", took)
                .write();
        }
        Err(error) => {
            link.contact().send_failures.inc();
            Line::warn("failed to send database snapshot")
                .id("remote-peer-id", link.id)
                .text("took", took)
                .text("error", error.to_string())
                .write();
        }
    }
}

/// The thread that makes a snapshot, and what it has made, piece by piece.
struct Maker {
    lane: Receiver<Made>,
    taken: VecDeque<Made>,
    is_wanted: Arc<AtomicBool>,
}

impl Maker {
    /// Starts the thread. Where there is none, the slot comes back.
    fn start(
        start: Start,
        readers: Readers,
        slot: PinSlot,
        with_digest: bool,
    ) -> Result<Self, (io::Error, PinSlot)> {
        let (out, lane) = mesh::lane(PIECES_MAX);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let wanted = is_wanted.clone();
        let (hand_over, handed_over) = mpsc::channel();
        let work = move || {
            let Ok(mut slot) = handed_over.recv() else { return };
            let lane =
                Lane { out: &out, is_wanted: &wanted, digest: with_digest.then(|| Context::new(&SHA256)) };
            if let Err(why) = make(&readers, &mut slot, lane) {
                put_last(&out, Made::Failed(why));
            }
            put_last(&out, Made::End(slot));
        };
        if let Err(error) = start("snapshot-sender", Box::new(work)) {
            return Err((error, slot));
        }
        match hand_over.send(slot) {
            Ok(()) => Ok(Self { lane, taken: VecDeque::new(), is_wanted }),
            Err(mpsc::SendError(slot)) => Err((io::Error::other("the thread has ended"), slot)),
        }
    }

    async fn next(&mut self) -> Made {
        loop {
            if let Some(made) = self.taken.pop_front() {
                return made;
            }
            self.lane.ready().await;
            self.lane.take(PIECES_MAX, &mut self.taken);
        }
    }

    /// Ends the thread, and waits for that.
    async fn end(&mut self) -> PinSlot {
        self.is_wanted.store(false, Ordering::Release);
        loop {
            if let Made::End(slot) = self.next().await {
                return slot;
            }
        }
    }
}

/// Sends what is made, and waits until the member has made a store of it. The index of the snapshot and the length of
/// message and file.
async fn send(
    switchboard: &Switchboard,
    link: &Link,
    mut message: Box<Message>,
    maker: &mut Maker,
    has_digest: bool,
) -> io::Result<(u64, u64)> {
    let (snapshot, bytes) = match maker.next().await {
        Made::Head(snapshot, bytes) => (snapshot, bytes),
        Made::Failed(why) => return Err(failed(why)),
        Made::Piece(_) | Made::End(_) => return Err(failed("it has no head".into())),
    };
    let index = snapshot.get_metadata().index;
    message.snapshot = Some(snapshot);
    let head = message.encode_to_vec();
    let total = head.len() as u64 + bytes;
    Line::info("sending database snapshot")
        .value("snapshot-index", index)
        .id("remote-peer-id", link.id)
        .value("bytes", total)
        .write();
    let own = switchboard.own();
    let mut connection = Connection::dial(own, &link.url()?).await?;
    let ask = Ask { method: "POST", path: "/raft/snapshot", to: Some(link.id), content: None };
    let digest_bytes = if has_digest { SHA256_OUTPUT_LEN as u64 } else { 0 };
    let length = size_of::<u64>() as u64 + total + digest_bytes;
    connection.begin(own, &ask, "application/octet-stream", length, has_digest).await?;
    let begin = Bytes::from([&(head.len() as u64).to_be_bytes()[..], &head].concat());
    let patience = switchboard.snapshots.sending.patience;
    let sending = send_file(&mut connection, begin, bytes + digest_bytes, maker);
    let sent = task::until(patience.end(bytes, patience.sent_bytes), sending).await;
    sent.unwrap_or_else(|| Err(timed_out("the member takes it too slowly")))?;
    accepted(link, &mut connection, patience.end(bytes, patience.built_bytes)).await?;
    Ok((index, total))
}

fn failed(why: String) -> io::Error {
    io::Error::other(format!("cannot make the snapshot: {why}"))
}

fn timed_out(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Sends the `begin` of a body, and the file of so many `bytes`, with what stands behind it.
async fn send_file(
    connection: &mut Connection,
    begin: Bytes,
    bytes: u64,
    maker: &mut Maker,
) -> io::Result<()> {
    let (mut part, mut left) = (begin, bytes);
    loop {
        if let Err(error) = connection.write(&part).await {
            return Err(why_not(connection, error).await);
        }
        if left == 0 {
            return Ok(());
        }
        part = match maker.next().await {
            Made::Piece(piece) => piece,
            Made::Failed(why) => return Err(failed(why)),
            Made::Head(..) | Made::End(_) => return Err(failed("it ends too early".into())),
        };
        left = left.checked_sub(part.len() as u64).ok_or_else(|| failed("it is too long".into()))?;
        task::make_room().await;
    }
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

/// Waits for the answer for as long as the member lives, and no longer than until `end`.
async fn accepted(link: &Link, connection: &mut Connection, end: Instant) -> io::Result<()> {
    let mut seen = clock::now();
    let reply = loop {
        let look = end.min(clock::now() + LOOK);
        if let Some(reply) = task::until(look, connection.reply()).await {
            break reply?;
        }
        let now = clock::now();
        if now >= end {
            return Err(timed_out("the member has it, and does not say in time that it has taken it in"));
        }
        if link.append.is_open() || link.message.is_open() {
            seen = now;
        } else if now.since(seen) > GONE {
            return Err(timed_out("the member is gone"));
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
        wanted(is_wanted)?;
        made = back;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until there is room for the thread's last words, which somebody always waits for.
fn put_last(out: &Sender<Made>, made: Made) {
    // Nothing but a loss of interest is an error.
    let _ = put(out, made, &AtomicBool::new(true));
}

fn wanted(is_wanted: &AtomicBool) -> Result<(), String> {
    if is_wanted.load(Ordering::Acquire) { Ok(()) } else { Err("nobody wants it".into()) }
}

/// Where a thread puts what it makes.
struct Lane<'a> {
    out: &'a Sender<Made>,
    /// Somebody waits for it.
    is_wanted: &'a AtomicBool,
    /// Of the pieces so far, if it is to stand behind the last one.
    digest: Option<Context>,
}

impl Lane<'_> {
    fn wanted(&self) -> Result<(), String> {
        wanted(self.is_wanted)
    }

    fn put(&self, made: Made) -> Result<(), String> {
        put(self.out, made, self.is_wanted)
    }

    fn put_piece(&mut self, piece: Bytes) -> Result<(), String> {
        if let Some(digest) = &mut self.digest {
            digest.update(&piece);
        }
        self.put(Made::Piece(piece))
    }

    /// The last piece was put.
    fn finish(mut self) -> Result<(), String> {
        match self.digest.take() {
            Some(digest) => self.put(Made::Piece(Bytes::copy_from_slice(digest.finish().as_ref()))),
            None => Ok(()),
        }
    }
}

/// Makes the file of the newest state.
fn make(readers: &Readers, slot: &mut PinSlot, lane: Lane<'_>) -> Result<(), String> {
    let mut reader = readers.register();
    let mut compacted = reader.snapshot().applied().compact_revision;
    while !slot.pin(compacted, || reader.snapshot().applied().compact_revision) {
        compacted = reader.snapshot().applied().compact_revision;
    }
    let result = make_pinned(&mut reader, lane);
    slot.unpin(compacted);
    result
}

fn make_pinned(reader: &mut crate::btree::Reader, mut lane: Lane<'_>) -> Result<(), String> {
    let unread = |_| "a record of the store cannot be read".to_owned();
    let mut file = {
        let state = reader.snapshot();
        let mut gathering = Gathering::new(&state).map_err(unread)?;
        loop {
            lane.wanted()?;
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
        lane.wanted()?;
        let began = StdInstant::now();
        if let Some(layout) = file.count(&View::new(&reader.snapshot()), SLICE).map_err(unread)? {
            break layout;
        }
        rest(began);
    };
    lane.put(Made::Head(file.message().clone(), layout.bytes()))?;
    loop {
        // The lane has room all the time once nobody sends what is in it.
        lane.wanted()?;
        let began = StdInstant::now();
        let (piece, is_last) =
            file.write(&View::new(&reader.snapshot()), PIECE_BYTES, SLICE).map_err(unread)?;
        if !piece.is_empty() {
            lane.put_piece(piece)?;
        }
        if is_last {
            return lane.finish();
        }
        rest(began);
    }
}

fn rest(began: StdInstant) {
    thread::sleep(began.elapsed().max(REST_MIN));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::pin::Pins;
    use crate::mvcc::write::{Writer, initialize};
    use crate::proto::etcdserverpb::PutRequest;
    use crate::server::io::threads;

    /// A store of so many values of 60 KB.
    fn store(values: u64) -> Store {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        txn.commit();
        for number in 0..values {
            let (key, value) = (number.to_be_bytes().to_vec().into(), vec![7; 60_000].into());
            let mut txn = store.write();
            let mut writer = Writer::begin(&mut txn);
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
            writer.finish();
            txn.commit();
        }
        store
    }

    #[test]
    fn a_transfer_that_has_ended_makes_no_more_of_its_file() {
        let store = store(300);
        let slot = Pins::new(1).slot(0);
        futures::executor::block_on(async {
            let mut maker = Maker::start(threads::start, store.readers(), slot, false).ok().unwrap();
            assert!(matches!(maker.next().await, Made::Head(..)));
            assert!(matches!(maker.next().await, Made::Piece(_)));
            maker.is_wanted.store(false, Ordering::Release);
            let mut pieces = 0;
            loop {
                match maker.next().await {
                    Made::Piece(_) => pieces += 1,
                    Made::End(_) => break,
                    Made::Head(..) | Made::Failed(_) => {}
                }
            }
            assert!(pieces < 4 * PIECES_MAX, "{pieces} pieces were made for nobody");
        });
    }

    #[test]
    fn a_member_whose_snapshot_has_failed_lets_others_go_first() {
        let pins = Pins::new(1);
        let hour = Duration::from_secs(3600);
        let patience = Patience { pause: hour, pause_max: 3 * hour, ..Patience::default() };
        let sending = Sending::new(vec![pins.slot(0)], patience);
        let slot = sending.begin(7).unwrap();
        assert!(sending.begin(7).is_none() && sending.begin(8).is_none(), "there is one place");
        sending.on_sent(7, false, true);
        sending.end(7, slot);
        assert!(sending.begin(7).is_none(), "it is the turn of somebody else");
        let next = |id| sending.paused.borrow().get(&id).map(|(_, next)| *next);
        sending.on_sent(7, false, false);
        assert_eq!(next(7), Some(2 * hour), "it was not reached, and nothing was made");
        sending.on_sent(7, false, true);
        assert_eq!(next(7), Some(3 * hour));
        let slot = sending.begin(8).unwrap();
        sending.on_sent(8, true, true);
        sending.end(8, slot);
        sending.on_sent(7, true, true);
        assert!(sending.begin(7).is_some());
    }
}
