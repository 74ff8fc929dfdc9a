//! The thread that takes a snapshot in: it writes the file that comes, makes a store of it, and then does with the
//! store what raft makes of the snapshot.
//!
//! ```text
//!   pieces ──▶ member/snap/INDEX.snap.db ──▶ member/kevel/store.next ──▶ built
//!   (digest)
//!                                                │
//!                                                ├── Place:  renamed to store; Bury: what it has replaced is let go of
//!                                                └── Refuse: removed
//! ```
//!
//! The thread is started before anything is read, so that a system without threads refuses the snapshot and not what
//! raft has already taken.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use bytes::Bytes;
use futures::channel::oneshot;
use raft::eraftpb::Message;

use crate::page::PageFile;
use crate::replica::arrival::{Arrival, Recipient};
use crate::replica::install::Replaced;
use crate::server::io::dir;
use crate::server::io::file_source::FileSource;
use crate::server::io::page_file::{MappedFile, preallocate};
use crate::server::io::threads::Start;

/// Pieces of the file that wait to be written.
const PIECES_MAX: usize = 8;
/// The longest rest between two transactions.
const REST_MAX: Duration = Duration::from_millis(20);
/// Time between two looks whether a store that was replaced is still read.
const LOOK_SHARED: Duration = Duration::from_millis(50);
/// What the names of files that were sent end with.
const SAVED: &str = ".snap.db";

/// Where a snapshot is kept, and what its store has to know.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) recipient: Recipient,
    /// The store file.
    pub(super) store: PathBuf,
    /// The folder of files that were sent.
    pub(super) folder: PathBuf,
    /// Whether files are made durable.
    pub(super) is_durable: bool,
}

/// A part of the file.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The file has ended where it should.
    End,
}

/// The store that was made of a snapshot, with the time that it took to save the file; or why there is none.
pub(super) type Built = Result<(Box<Arrival>, Duration), String>;

/// Why there is none where the file did not come to its end.
pub(super) const UNFINISHED: &str = "unexpected EOF";

/// Why there is none where the digest is that of another file.
const ALTERED: &str = "the bytes that have come are not those that were sent: their digest is another one";

/// What becomes of a store that was built.
pub(super) enum Order {
    /// Its file gets the store file's name.
    Place,
    /// Raft has no use for it.
    Refuse(Box<Arrival>),
    /// It was placed and published, and this is what it has taken the place of.
    Bury(Box<Replaced>),
}

/// A snapshot that is being taken in.
pub(super) struct Intake {
    /// Where its file goes. To drop this without [`Piece::End`] ends the thread.
    pub(super) pieces: mpsc::SyncSender<Piece>,
    /// What has come of it. The thread has ended where there is no store.
    pub(super) built: oneshot::Receiver<Built>,
    /// The thread, for what is to be done once there is a store.
    pub(super) thread: IntakeThread,
}

/// The thread behind a store that was built. It ends when this is dropped.
pub(super) struct IntakeThread {
    orders: mpsc::Sender<Order>,
    /// That the first order was obeyed.
    obeyed: Option<oneshot::Receiver<io::Result<()>>>,
}

impl IntakeThread {
    /// Gives an order. The answer to the first one comes when it was obeyed; of a second one nothing is heard.
    pub(super) fn order(&mut self, order: Order) -> Option<oneshot::Receiver<io::Result<()>>> {
        // A thread that has panicked has taken the process with it.
        let _ = self.orders.send(order);
        self.obeyed.take()
    }
}

/// What comes of a snapshot.
#[derive(Clone, Copy)]
pub(super) struct Coming {
    /// How many bytes, if that is known.
    pub(super) bytes: Option<u64>,
    /// The last of them are a digest of the file.
    pub(super) has_digest: bool,
}

/// Begins to take in the snapshot that `message` is about.
///
/// # Errors
/// When the system has no thread left.
pub(super) fn begin(start: Start, files: Files, message: Box<Message>, coming: Coming) -> io::Result<Intake> {
    let (pieces, to_write) = mpsc::sync_channel(PIECES_MAX);
    let (orders, to_obey) = mpsc::channel();
    let (tell_built, built) = oneshot::channel();
    let (tell_obeyed, obeyed) = oneshot::channel();
    let work = move || {
        let (file, arrival, took) = match build(&files, message, &to_write, coming) {
            Ok(built) => built,
            // Whoever has sent the snapshot may have gone.
            Err(why) => return drop(tell_built.send(Err(why))),
        };
        if tell_built.send(Ok((arrival, took))).is_err() {
            return remove(&files.next());
        }
        obey(&files, &to_obey, file, tell_obeyed);
    };
    start("snapshot-taker", Box::new(work))?;
    Ok(Intake { pieces, built, thread: IntakeThread { orders, obeyed: Some(obeyed) } })
}

/// Does with the store what is wanted. Without an order the member stops, and its next start cleans up.
fn obey(
    files: &Files,
    orders: &mpsc::Receiver<Order>,
    file: Arc<MappedFile>,
    tell: oneshot::Sender<io::Result<()>>,
) {
    match orders.recv() {
        Ok(Order::Place) => {
            let placed = file.rename(&files.store);
            drop(file);
            let _ = tell.send(placed);
            if let Ok(Order::Bury(replaced)) = orders.recv() {
                bury(*replaced);
            }
        }
        Ok(Order::Refuse(arrival)) => {
            drop((arrival, file));
            remove(&files.next());
            let _ = tell.send(Ok(()));
        }
        Ok(Order::Bury(_)) | Err(mpsc::RecvError) => {}
    }
}

/// The file of a store that was replaced ends with its last reader, and to delete a long one takes long.
fn bury(replaced: Replaced) {
    while replaced.store.is_shared() {
        thread::sleep(LOOK_SHARED);
    }
}

/// Writes the file, makes a store of it, and removes what is not needed any more.
fn build(
    files: &Files,
    message: Box<Message>,
    pieces: &mpsc::Receiver<Piece>,
    coming: Coming,
) -> Result<(Arc<MappedFile>, Box<Arrival>, Duration), String> {
    let (index, began) = (message.get_snapshot().get_metadata().index, Instant::now());
    let saved = files.folder.join(format!("{index:016x}{SAVED}"));
    let result = save(files, &saved, pieces, coming).and_then(|()| {
        let took = began.elapsed();
        take_in(files, &saved, message).map(|(file, arrival)| (file, arrival, took))
    });
    remove(&saved);
    if result.is_err() {
        remove(&files.next());
    }
    result
}

/// Removes a file. The next start removes what is left.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

fn save(files: &Files, path: &Path, pieces: &mpsc::Receiver<Piece>, coming: Coming) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    dir::create(&files.folder).map_err(failed)?;
    let mut file = File::create(path).map_err(failed)?;
    if let Some(bytes) = coming.bytes.filter(|&bytes| bytes > 0) {
        // A file for which there is no room would take, on its way, the room that the log needs.
        let reserved = preallocate(&file, 0, bytes);
        reserved.map_err(|error| format!("cannot reserve {bytes} bytes for {}: {error}", path.display()))?;
    }
    let mut written = 0;
    let mut trailer = coming.has_digest.then(Trailer::new);
    loop {
        match pieces.recv() {
            Ok(Piece::Bytes(bytes)) => {
                let bytes = match &mut trailer {
                    Some(trailer) => trailer.behind(&bytes),
                    None => &bytes[..],
                };
                file.write_all(bytes).map_err(failed)?;
                written += bytes.len() as u64;
            }
            Ok(Piece::End) => {
                let is_sound = trailer.is_none_or(Trailer::fits);
                return if is_sound { file.set_len(written).map_err(failed) } else { Err(ALTERED.into()) };
            }
            Err(mpsc::RecvError) => return Err(UNFINISHED.into()),
        }
    }
}

/// The digest behind a file, which is known for it when nothing else has come.
struct Trailer {
    /// Of the file, as far as it is known to be the file.
    digest: Context,
    /// What has come last: of the file up to `file_bytes`, and then what may be the digest.
    last: Vec<u8>,
    file_bytes: usize,
}

impl Trailer {
    fn new() -> Self {
        Self { digest: Context::new(&SHA256), last: Vec::new(), file_bytes: 0 }
    }

    /// More has come. What of the file is known by that.
    fn behind(&mut self, bytes: &[u8]) -> &[u8] {
        self.last.drain(..self.file_bytes);
        self.last.extend_from_slice(bytes);
        self.file_bytes = self.last.len().saturating_sub(SHA256_OUTPUT_LEN);
        let file = &self.last[..self.file_bytes];
        self.digest.update(file);
        file
    }

    /// Nothing more comes. Whether the digest is that of the file.
    fn fits(self) -> bool {
        self.digest.finish().as_ref() == &self.last[self.file_bytes..]
    }
}

fn take_in(
    files: &Files,
    saved: &Path,
    message: Box<Message>,
) -> Result<(Arc<MappedFile>, Box<Arrival>), String> {
    let source =
        FileSource::open(saved).map_err(|error| format!("cannot read {}: {error}", saved.display()))?;
    let next = files.next();
    let failed = |error: io::Error| format!("cannot make {}: {error}", next.display());
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = MappedFile::open(&next).map_err(failed)?;
    let file = Arc::new(if files.is_durable { file } else { file.without_sync() });
    let mut began = Instant::now();
    let rest = || {
        thread::sleep(began.elapsed().min(REST_MAX));
        began = Instant::now();
    };
    let into: Arc<dyn PageFile> = file.clone();
    Arrival::build(message, &source, into, &files.recipient, rest).map(|arrival| (file, Box::new(arrival)))
}

impl Files {
    /// The store of a snapshot, until it is the member's. There is one such file at most: the next snapshot is taken in
    /// when this one was published or its file is gone.
    fn next(&self) -> PathBuf {
        next_store(&self.store)
    }
}

/// The file beside the store in which a snapshot is taken in.
fn next_store(store: &Path) -> PathBuf {
    store.with_extension("next")
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
        if path.to_string_lossy().ends_with(SAVED) {
            remove(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::digest;

    #[test]
    fn a_digest_is_told_from_the_file_in_front_of_it() {
        for length in [0, 1, 31, 32, 33, 1000] {
            let file = vec![7; length];
            let sent = [&file[..], digest(&SHA256, &file).as_ref()].concat();
            for size in [1, 5, 31, 32, 33, 500, 2000] {
                let (mut trailer, mut known) = (Trailer::new(), Vec::new());
                sent.chunks(size).for_each(|piece| known.extend_from_slice(trailer.behind(piece)));
                assert!(known == file && trailer.fits(), "{length} bytes in pieces of {size}");
            }
            for at in 0..sent.len() {
                let mut altered = sent.clone();
                altered[at] ^= 1;
                let mut trailer = Trailer::new();
                trailer.behind(&altered);
                assert!(!trailer.fits(), "byte {at} of {length}");
            }
        }
        let mut short = Trailer::new();
        assert!(short.behind(&[7; 31]).is_empty() && !short.fits());
    }
}
