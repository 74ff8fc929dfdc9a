//! A snapshot as its receiver takes it: the body of a request goes to a thread, which makes a store of it
//! ([`intake`](super::intake)). The replica hears of it when that store is whole and durable.
//!
//! ```text
//!   POST /raft/snapshot: length 8 │ message │ file of bbolt │ digest, where the head says so
//!                                              │
//!                                              └──▶ thread ──▶ Input::Snapshot ──▶ raft takes it: placed, published
//!                                                                             └──▶ or does not: removed
//! ```
//!
//! Whoever has sent the snapshot is answered when its store has the store file's name, or is removed. One snapshot is
//! received at a time, and the next one when the one before is published or removed. Whatever a crash leaves is removed
//! at the next start.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::mpsc;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use futures::future::{Either, select};
use raft::eraftpb::{Message, MessageType};

use super::client::in_time;
use super::intake::{self, Built, Coming, Files, Intake, IntakeThread, Order, Piece, UNFINISHED};
use super::service::{meet, refusal};
use super::switchboard::Switchboard;
use super::transfer::Sending;
use crate::btree::Readers;
use crate::mvcc::pin::PinSlot;
use crate::peer::frame::Frames;
use crate::peer::greeting::{self, parse_id};
use crate::peer::message;
use crate::replica::arrival::{Arrival, Recipient};
use crate::replica::install::Replaced;
use crate::replica::port::Input;
use crate::server::http1::answer::Answer;
use crate::server::http1::head::Head;
use crate::server::http1::reply::Body;
use crate::server::io::threads::{self, Start};
use crate::server::io::wire::ByteStream;
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::stdx::time::Duration;

pub use super::transfer::Patience;

/// Longest message in front of a file, etcd's own figure.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// What etcd says of a longer one.
const TOO_LONG: &str = "rafthttp: error limit exceeded";
/// A message that is longer than this is decoded by a thread: it would hold the executor up for milliseconds.
const MESSAGE_BYTES_AT_ONCE: usize = 64 << 10;
/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Time between two looks for room for a piece.
const LOOK: Duration = Duration::from_millis(1);

/// Where snapshots are kept, and what is needed to make and to take them.
pub struct Settings {
    /// The way into the store.
    pub readers: Readers,
    /// Where snapshots that are sent pin their revisions, one for each that may be sent at the same time.
    pub pins: Vec<PinSlot>,
    /// What the store of a snapshot needs to know.
    pub recipient: Recipient,
    /// The store file.
    pub store: PathBuf,
    /// The folder of files that were sent.
    pub folder: PathBuf,
    /// Whether files are made durable.
    pub is_durable: bool,
    /// How long other members may take.
    pub patience: Patience,
    /// Starts the threads.
    pub start: Start,
}

/// The snapshots of a member: those that it sends, and the one that it takes.
pub struct Snapshots {
    pub(super) readers: RefCell<Readers>,
    pub(super) sending: Sending,
    pub(super) start: Start,
    files: Files,
    is_receiving: Rc<Cell<bool>>,
    /// The one that the replica knows of.
    offered: RefCell<Option<Offered>>,
}

/// A snapshot that the replica has heard of: until it is published, or removed.
struct Offered {
    thread: IntakeThread,
    /// The answer to the request that has brought it waits for this.
    settled: Option<oneshot::Sender<()>>,
    _receiving: Receiving,
}

impl Snapshots {
    /// None is under way.
    pub fn new(settings: Settings) -> Self {
        let Settings { readers, pins, recipient, store, folder, is_durable, patience, start } = settings;
        Self {
            readers: RefCell::new(readers),
            sending: Sending::new(pins, patience),
            start,
            files: Files { recipient, store, folder, is_durable },
            is_receiving: Rc::default(),
            offered: RefCell::default(),
        }
    }

    /// Has the thread of the snapshot place or remove it, and says then to whoever has sent it that this is done.
    async fn have(&self, order: Order) -> io::Result<()> {
        let (obeyed, settled) = match self.offered.borrow_mut().as_mut() {
            Some(offered) => (offered.thread.order(order), offered.settled.take()),
            None => (None, None),
        };
        let Some(obeyed) = obeyed else { return Err(io::Error::other("no snapshot is being taken in")) };
        let ended = |_| Err(io::Error::other("the thread that takes it in has ended"));
        obeyed.await.unwrap_or_else(ended)?;
        if let Some(settled) = settled {
            // Whoever has sent the snapshot may have gone.
            let _ = settled.send(());
        }
        Ok(())
    }
}

/// Removes what a crash has left of snapshots that were not installed.
///
/// # Errors
/// What the filesystem answers.
pub fn clean(store: &Path, folder: &Path) -> io::Result<()> {
    intake::clean(store, folder)
}

impl Switchboard {
    /// Raft has taken the snapshot that was received: its file gets the store file's name.
    pub fn place_snapshot(self: &Rc<Self>) {
        let switchboard = self.clone();
        task::spawn(async move {
            if let Err(error) = switchboard.snapshots.have(Order::Place).await {
                panic!(
                    "cannot rename the store of a snapshot: {error}; the member stops because what the disk holds is \
                     unknown; check the disk, then start the member again"
                );
            }
            switchboard.inbox().push(Input::SnapshotPlaced);
        });
    }

    /// Raft has no use for the snapshot that was received.
    pub fn refuse_snapshot(self: &Rc<Self>, arrival: Box<Arrival>) {
        Line::info("ignored a snapshot that has nothing new")
            .value("snapshot-index", arrival.index())
            .write();
        let switchboard = self.clone();
        task::spawn(async move {
            // What is left of it, the next start removes.
            let _ = switchboard.snapshots.have(Order::Refuse(arrival)).await;
            let refused = switchboard.snapshots.offered.borrow_mut().take();
            drop(refused);
        });
    }

    /// A snapshot is published.
    pub fn on_installed(&self, readers: Readers, revision: i64, replaced: Box<Replaced>) {
        *self.snapshots.readers.borrow_mut() = readers;
        Line::info("applied snapshot").value("revision", revision).write();
        let offered = self.snapshots.offered.borrow_mut().take();
        if let Some(mut offered) = offered {
            let _ = offered.thread.order(Order::Bury(replaced));
        }
    }
}

/// A snapshot is being received, until dropped.
struct Receiving(Rc<Cell<bool>>);

impl Receiving {
    fn begin(snapshots: &Snapshots) -> Option<Self> {
        let is_receiving = &snapshots.is_receiving;
        (!is_receiving.replace(true)).then(|| Self(is_receiving.clone()))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Takes the snapshot in the body of a request, and says what came of it. The connection ends behind the answer.
pub async fn receive<S: ByteStream>(
    switchboard: &Rc<Switchboard>,
    head: &Head,
    stream: &mut S,
    input: &mut BytesMut,
) -> Answer {
    let transfers = &switchboard.contacts.snapshots;
    let mut answer = match refusal(switchboard, head) {
        Some(answer) => {
            transfers.from(None).fail();
            answer
        }
        None => {
            // A member that has to catch up may not know yet who leads it.
            meet(switchboard, head);
            match Receiving::begin(&switchboard.snapshots) {
                Some(receiving) => {
                    let buffer = vec![0; READ_BYTES].into();
                    let body = Incoming { stream, input, body: head.body(), buffer, taken: 0 };
                    let has_digest = head.extension(greeting::DIGEST) == Some(greeting::SHA256);
                    take(switchboard, body, has_digest, receiving).await.unwrap_or_else(|answer| answer)
                }
                None => {
                    let from = head.extension(greeting::SERVER_FROM);
                    transfers.from(from.and_then(parse_id)).fail();
                    unsaved(from, "another snapshot is being received")
                }
            }
        }
    };
    let cluster_id = format!("{:x}", switchboard.own().cluster_id);
    answer.headers.push((greeting::CLUSTER_ID, cluster_id.into()));
    Answer { closes: true, ..answer }
}

fn unsaved(from: Option<&str>, why: &str) -> Answer {
    Line::warn("failed to save incoming database snapshot")
        .text("remote-snapshot-sender-id", from.unwrap_or_default())
        .text("error", why)
        .write();
    Answer::error(500, &format!("failed to save KV snapshot ({why})"))
}

fn undecoded(why: &str) -> Answer {
    Line::warn("failed to decode Raft message").text("error", why).write();
    Answer::error(400, &format!("failed to decode raft message ({why})"))
}

/// Reads message and file. What cannot be used is an error.
async fn take<S: ByteStream>(
    switchboard: &Rc<Switchboard>,
    mut body: Incoming<'_, S>,
    has_digest: bool,
    receiving: Receiving,
) -> Result<Answer, Answer> {
    let (began, transfers) = (clock::now(), &switchboard.contacts.snapshots);
    let read = read_message(&mut body, switchboard.snapshots.start).await;
    // Nobody knows whose message it is that cannot be read: etcd counts it as that of member 0.
    let (message, rest) = read.inspect_err(|_| transfers.from(Some(0)).fail())?;
    let counts = transfers.from(Some(message.from));
    if message.msg_type() != MessageType::MsgSnapshot {
        counts.fail();
        Line::warn("unexpected Raft message type").debug("message-type", &message.msg_type()).write();
        return Err(Answer::error(400, "wrong raft message type"));
    }
    if let Err(why) = switchboard.admit(&message) {
        return Err(Answer::json(403, serde_json::json!({ "message": why }).to_string()));
    }
    let _under_way = counts.begin();
    let link = switchboard.member(message.from);
    let (from, index) = (format!("{:x}", message.from), message.get_snapshot().get_metadata().index);
    Line::info("receiving database snapshot")
        .text("remote-snapshot-sender-id", &from)
        .value("incoming-snapshot-index", index)
        .write();
    let snapshots = &switchboard.snapshots;
    let bytes = body.left().map(|left| left.saturating_add(rest.len() as u64));
    let coming = Coming { bytes, has_digest };
    let begun = intake::begin(snapshots.start, snapshots.files.clone(), Box::new(message), coming);
    let failed = |why: &str| {
        counts.fail();
        unsaved(Some(&from), why)
    };
    let Intake { pieces, built, thread } =
        begun.map_err(|error| failed(&format!("cannot start a thread: {error}")))?;
    let built = hand_over(&mut body, rest, pieces, built).await;
    let (arrival, took) = built.map_err(|why| failed(&why))?;
    switchboard.counts.snapshot_file_saved(took);
    if let Some(link) = link {
        let beside = size_of::<u64>() + if has_digest { SHA256_OUTPUT_LEN } else { 0 };
        link.contact().received_bytes.add(body.taken.saturating_sub(beside as u64));
    }
    Line::info("received and saved database snapshot")
        .text("remote-snapshot-sender-id", &from)
        .value("incoming-snapshot-index", index)
        .write();
    let (tell_settled, settled) = oneshot::channel();
    let offered = Offered { thread, settled: Some(tell_settled), _receiving: receiving };
    *snapshots.offered.borrow_mut() = Some(offered);
    switchboard.inbox().push(Input::Snapshot(arrival));
    // Whether raft has taken it or not is no business of whoever has sent it.
    let _ = settled.await;
    counts.succeed(clock::now().since(began));
    Ok(Answer::empty(204))
}

async fn read_message<S: ByteStream>(
    body: &mut Incoming<'_, S>,
    start: Start,
) -> Result<(Message, Bytes), Answer> {
    let (mut frames, mut has_begun) = (Frames::default(), false);
    loop {
        if let Some(bytes) = frames.take(MESSAGE_BYTES_MAX).map_err(|_| undecoded(TOO_LONG))? {
            return Ok((decode(bytes, start).await?, frames.into_rest()));
        }
        match body.next().await {
            Ok(Some(bytes)) => {
                has_begun = true;
                frames.push(&bytes);
            }
            Ok(None) => return Err(undecoded(if has_begun { "unexpected EOF" } else { "EOF" })),
            Err(error) => return Err(undecoded(&error.to_string())),
        }
    }
}

async fn decode(bytes: Bytes, start: Start) -> Result<Message, Answer> {
    let decoded = if bytes.len() <= MESSAGE_BYTES_AT_ONCE {
        message::decode(bytes)
    } else {
        let decoding = threads::run(start, "snapshot-decoder", move || message::decode(bytes)).await;
        decoding.map_err(|error| unsaved(None, &format!("cannot start a thread: {error}")))?
    };
    decoded.map_err(|error| undecoded(&error.to_string()))
}

/// Hands the rest of the body to the thread, and waits for what it makes of it. A thread that gives up is not waited
/// for until the body has come.
async fn hand_over<S: ByteStream>(
    body: &mut Incoming<'_, S>,
    rest: Bytes,
    pieces: mpsc::SyncSender<Piece>,
    mut built: oneshot::Receiver<Built>,
) -> Built {
    let ended = |_| Err("the thread that takes it in has ended".to_owned());
    let pumped = match select(pin!(pump(body, rest, pieces)), &mut built).await {
        Either::Left((pumped, _)) => pumped,
        Either::Right((built, _)) => return built.unwrap_or_else(ended),
    };
    match (built.await.unwrap_or_else(ended), pumped) {
        (Err(why), Err(error)) if why == UNFINISHED => Err(error.to_string()),
        (built, _) => built,
    }
}

async fn pump<S: ByteStream>(
    body: &mut Incoming<'_, S>,
    rest: Bytes,
    pieces: mpsc::SyncSender<Piece>,
) -> io::Result<()> {
    push(&pieces, Piece::Bytes(rest)).await?;
    while let Some(bytes) = body.next().await? {
        push(&pieces, Piece::Bytes(bytes)).await?;
        task::make_room().await;
    }
    push(&pieces, Piece::End).await
}

async fn push(pieces: &mpsc::SyncSender<Piece>, mut piece: Piece) -> io::Result<()> {
    loop {
        match pieces.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(mpsc::TrySendError::Full(back)) => piece = back,
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        task::sleep(LOOK).await;
    }
}

/// The body of a request.
struct Incoming<'a, S> {
    stream: &'a mut S,
    input: &'a mut BytesMut,
    body: Body,
    /// Where the connection is read into.
    buffer: Box<[u8]>,
    /// Bytes of the body so far.
    taken: u64,
}

impl<S: ByteStream> Incoming<'_, S> {
    /// How many bytes have not been taken yet, if that is known.
    fn left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) => Some(left),
            Body::Done => Some(0),
            Body::UntilEnd | Body::Chunks(_) => None,
        }
    }

    /// The next bytes; none at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut taken = BytesMut::new();
            self.body.read(self.input, |bytes| taken.extend_from_slice(bytes))?;
            if !taken.is_empty() {
                self.taken += taken.len() as u64;
                return Ok(Some(taken.freeze()));
            }
            if self.body == Body::Done {
                return Ok(None);
            }
            let (stream, buffer) = (&mut *self.stream, &mut *self.buffer);
            let read = in_time(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, buffer))).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF"));
            }
            self.input.extend_from_slice(&self.buffer[..read]);
        }
    }
}
