//! A snapshot as its receiver takes it: the body of a request goes into a file beside the store, and a thread makes a
//! store of it. The replica hears of it when that store is whole and durable.
//!
//! ```text
//!   POST /raft/snapshot: length 8 │ message │ file of bbolt, to the end
//!                                              │
//!       member/snap/INDEX.snap.db ◀────────────┘        checked, and gone when it was taken in or refused
//!       member/kevel/store.next   ◀── taken in          renamed to store when raft has taken the snapshot
//! ```
//!
//! Whatever a crash leaves of either file is removed at the next start. One snapshot is received at a time.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use prost::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::client::in_time;
use super::service::refusal;
use super::switchboard::Switchboard;
use crate::btree::Readers;
use crate::mvcc::pin::PinSlot;
use crate::page::PageFile;
use crate::peer::frame::Frames;
use crate::peer::greeting;
use crate::replica::arrival::{Arrival, Recipient};
use crate::replica::install::Replaced;
use crate::replica::port::Input;
use crate::server::http1::answer::Answer;
use crate::server::http1::head::Head;
use crate::server::http1::reply::Body;
use crate::server::io::dir;
use crate::server::io::file_source::FileSource;
use crate::server::io::page_file::MappedFile;
use crate::server::io::task;
use crate::server::io::wire::ByteStream;
use crate::server::log::Line;
use crate::server::mesh;
use crate::stdx::time::Duration;

/// Longest message in front of a file, etcd's own figure.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// What etcd says of a longer one.
const TOO_LONG: &str = "rafthttp: error limit exceeded";
/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Pieces of the file that wait to be written.
const PIECES_MAX: usize = 8;
/// Time between two looks for room for a piece.
const LOOK: Duration = Duration::from_millis(1);
/// The longest rest between two transactions of the thread.
const REST_MAX: StdDuration = StdDuration::from_millis(20);
/// Time between two looks whether a store that was replaced is still read.
const LOOK_SHARED: StdDuration = StdDuration::from_millis(50);

/// Where snapshots are kept, and what is needed to make and to take them.
pub struct Settings {
    /// The way into the store.
    pub readers: Readers,
    /// Where a snapshot that is sent pins its revision.
    pub pins: PinSlot,
    /// What the store of a snapshot needs to know.
    pub recipient: Recipient,
    /// The store file.
    pub store: PathBuf,
    /// The folder of files that were sent.
    pub folder: PathBuf,
    /// Whether files are made durable.
    pub is_durable: bool,
}

/// The snapshots of a member: the one that it sends, and the one that it takes.
pub struct Snapshots {
    pub(super) readers: RefCell<Readers>,
    /// None while a snapshot is sent.
    pub(super) pins: RefCell<Option<PinSlot>>,
    files: Files,
    is_receiving: Cell<bool>,
    /// Who waits to hear what raft makes of the snapshot that was received.
    judged: RefCell<Option<oneshot::Sender<()>>>,
}

#[derive(Clone)]
struct Files {
    recipient: Recipient,
    store: PathBuf,
    folder: PathBuf,
    is_durable: bool,
}

impl Files {
    /// The store of a snapshot, until it is the member's.
    fn next(&self) -> PathBuf {
        next_store(&self.store)
    }
}

/// The file beside the store in which a snapshot is taken in.
pub fn next_store(store: &Path) -> PathBuf {
    store.with_extension("next")
}

impl Snapshots {
    /// None is under way.
    pub fn new(settings: Settings) -> Self {
        let Settings { readers, pins, recipient, store, folder, is_durable } = settings;
        Self {
            readers: RefCell::new(readers),
            pins: RefCell::new(Some(pins)),
            files: Files { recipient, store, folder, is_durable },
            is_receiving: Cell::new(false),
            judged: RefCell::default(),
        }
    }
}

impl Switchboard {
    /// Raft has taken the snapshot that was received: its file gets the store file's name.
    pub fn place_snapshot(self: &Rc<Self>) {
        self.on_judged();
        let (switchboard, files) = (self.clone(), self.snapshots.files.clone());
        task::spawn(async move {
            let placed = on_thread("snapshot-placer", move || {
                let parent = files.store.parent().unwrap_or(Path::new("."));
                fs::rename(files.next(), &files.store).and_then(|()| dir::sync(parent))
            });
            if let Err(error) = placed.await {
                panic!(
                    "cannot rename the store of a snapshot: {error}; the member stops because what the disk holds is \
                     unknown; check the disk, then start the member again"
                );
            }
            switchboard.inbox().push(Input::SnapshotPlaced);
        });
    }

    /// Raft has no use for the snapshot that was received.
    pub fn refuse_snapshot(&self, arrival: Box<Arrival>) {
        Line::info("ignored a snapshot that has nothing new")
            .value("snapshot-index", arrival.index())
            .write();
        self.on_judged();
        let next = self.snapshots.files.next();
        task::spawn(on_thread("snapshot-dropper", move || {
            drop(arrival);
            // The next start removes what is left.
            let _ = fs::remove_file(next);
        }));
    }

    /// A snapshot is published.
    pub fn on_installed(&self, readers: Readers, revision: i64, replaced: Box<Replaced>) {
        *self.snapshots.readers.borrow_mut() = readers;
        Line::info("applied snapshot").value("revision", revision).write();
        // The file ends with its last reader, and to delete a long one takes long.
        task::spawn(on_thread("store-dropper", move || {
            while replaced.store.is_shared() {
                thread::sleep(LOOK_SHARED);
            }
            drop(replaced);
        }));
    }

    fn on_judged(&self) {
        let asker = self.snapshots.judged.borrow_mut().take();
        if let Some(asker) = asker {
            // Whoever has sent the snapshot may have gone.
            let _ = asker.send(());
        }
    }
}

/// Does something on a thread of its own, and waits for it.
async fn on_thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, lane) = mesh::lane(1);
    let spawned = thread::Builder::new().name(name.into()).spawn(move || {
        // The lane has room for the only result.
        let _ = done.send(work());
    });
    assert!(spawned.is_ok(), "the system has no thread for {name}");
    let mut result = VecDeque::new();
    loop {
        lane.ready().await;
        lane.take(1, &mut result);
        if let Some(result) = result.pop_front() {
            return result;
        }
    }
}

/// A snapshot is being received, until dropped.
struct Receiving<'a>(&'a Snapshots);

impl<'a> Receiving<'a> {
    fn begin(snapshots: &'a Snapshots) -> Option<Self> {
        (!snapshots.is_receiving.replace(true)).then_some(Self(snapshots))
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.is_receiving.set(false);
    }
}

/// Takes the snapshot in the body of a request, and says what came of it. The connection ends behind the answer.
pub async fn receive<S: ByteStream>(
    switchboard: &Rc<Switchboard>,
    head: &Head,
    stream: &mut S,
    input: &mut BytesMut,
) -> Answer {
    let mut answer = match refusal(switchboard, head) {
        Some(answer) => answer,
        None => match Receiving::begin(&switchboard.snapshots) {
            Some(_receiving) => {
                let body = Incoming { stream, input, body: head.body() };
                take(switchboard, body).await.unwrap_or_else(|answer| answer)
            }
            None => unsaved(head.extension(greeting::SERVER_FROM), "another snapshot is being received"),
        },
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
) -> Result<Answer, Answer> {
    let (message, rest) = read_message(&mut body).await?;
    if message.msg_type() != MessageType::MsgSnapshot {
        Line::warn("unexpected Raft message type").debug("message-type", &message.msg_type()).write();
        return Err(Answer::error(400, "wrong raft message type"));
    }
    if let Err(why) = switchboard.admit(&message) {
        return Err(Answer::json(403, serde_json::json!({ "message": why }).to_string()));
    }
    let (from, index) = (format!("{:x}", message.from), message.get_snapshot().get_metadata().index);
    Line::info("receiving database snapshot")
        .text("remote-snapshot-sender-id", &from)
        .value("incoming-snapshot-index", index)
        .write();
    let (pieces, to_thread) = mpsc::sync_channel(PIECES_MAX);
    let files = switchboard.snapshots.files.clone();
    let (done, mut built) = oneshot::channel();
    task::spawn(async move {
        let result = on_thread("snapshot-receiver", move || build(&files, Box::new(message), &to_thread));
        // The other side waits for it.
        let _ = done.send(result.await);
    });
    let pumped = pump(&mut body, rest, &pieces).await;
    if pumped.is_ok() {
        // A thread that has ended has said why.
        let _ = push(&pieces, Piece::End).await;
    }
    drop(pieces);
    let built = poll_fn(|cx| Pin::new(&mut built).poll(cx)).await;
    let why = match (built, pumped) {
        (Ok(Ok(arrival)), _) => {
            Line::info("received and saved database snapshot")
                .text("remote-snapshot-sender-id", &from)
                .value("incoming-snapshot-index", index)
                .write();
            let (asker, judged) = oneshot::channel();
            *switchboard.snapshots.judged.borrow_mut() = Some(asker);
            switchboard.inbox().push(Input::Snapshot(arrival));
            // What raft makes of it is no business of whoever has sent it.
            let _ = judged.await;
            return Ok(Answer::empty(204));
        }
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => error.to_string(),
        (Ok(Err(why)), _) => why,
        (Err(_), _) => "the thread that takes it in has ended".to_owned(),
    };
    Err(unsaved(Some(&from), &why))
}

async fn read_message<S: ByteStream>(body: &mut Incoming<'_, S>) -> Result<(Message, Bytes), Answer> {
    let (mut frames, mut has_begun) = (Frames::default(), false);
    loop {
        if let Some(bytes) = frames.take(MESSAGE_BYTES_MAX).map_err(|_| undecoded(TOO_LONG))? {
            let message = Message::decode(bytes).map_err(|error| undecoded(&error.to_string()))?;
            return Ok((message, frames.into_rest()));
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

/// What goes to the thread.
enum Piece {
    Bytes(Bytes),
    /// The body has ended where it should.
    End,
}

/// Hands the rest of the body to the thread.
async fn pump<S: ByteStream>(
    body: &mut Incoming<'_, S>,
    rest: Bytes,
    pieces: &mpsc::SyncSender<Piece>,
) -> io::Result<()> {
    push(pieces, Piece::Bytes(rest)).await?;
    while let Some(bytes) = body.next().await? {
        push(pieces, Piece::Bytes(bytes)).await?;
        task::make_room().await;
    }
    Ok(())
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
}

impl<S: ByteStream> Incoming<'_, S> {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut taken = BytesMut::new();
            self.body.read(self.input, |bytes| taken.extend_from_slice(bytes))?;
            if !taken.is_empty() {
                return Ok(Some(taken.freeze()));
            }
            if self.body == Body::Done {
                return Ok(None);
            }
            let mut buffer = vec![0; READ_BYTES];
            let stream = &mut *self.stream;
            let read = in_time(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer))).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF"));
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
    }
}

/// Writes the file, makes a store of it, and removes what is not needed any more.
fn build(
    files: &Files,
    message: Box<Message>,
    pieces: &mpsc::Receiver<Piece>,
) -> Result<Box<Arrival>, String> {
    let index = message.get_snapshot().get_metadata().index;
    let saved = files.folder.join(format!("{index:016x}.snap.db"));
    let result = save(files, &saved, pieces).and_then(|()| take_in(files, &saved, message));
    // The next start removes what is left.
    let _ = fs::remove_file(&saved);
    if result.is_err() {
        let _ = fs::remove_file(files.next());
    }
    result
}

fn save(files: &Files, path: &Path, pieces: &mpsc::Receiver<Piece>) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    dir::create(&files.folder).map_err(failed)?;
    let mut file = File::create(path).map_err(failed)?;
    loop {
        match pieces.recv() {
            Ok(Piece::Bytes(bytes)) => file.write_all(&bytes).map_err(failed)?,
            Ok(Piece::End) => return Ok(()),
            Err(mpsc::RecvError) => return Err("unexpected EOF".into()),
        }
    }
}

fn take_in(files: &Files, saved: &Path, message: Box<Message>) -> Result<Box<Arrival>, String> {
    let source =
        FileSource::open(saved).map_err(|error| format!("cannot read {}: {error}", saved.display()))?;
    let next = files.next();
    let failed = |error: io::Error| format!("cannot make {}: {error}", next.display());
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = MappedFile::open(&next).map_err(failed)?;
    let into: Arc<dyn PageFile> = Arc::new(if files.is_durable { file } else { file.without_sync() });
    let mut began = StdInstant::now();
    let rest = || {
        thread::sleep(began.elapsed().min(REST_MAX));
        began = StdInstant::now();
    };
    Arrival::build(message, &source, into, &files.recipient, rest).map(Box::new)
}

/// Removes what a crash has left of snapshots that were not installed.
///
/// # Errors
/// What the filesystem answers.
pub fn clean(store: &Path, folder: &Path) -> io::Result<()> {
    let remove = |path: PathBuf| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    remove(next_store(store))?;
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".snap.db") {
            remove(path)?;
        }
    }
    Ok(())
}
