//! `Maintenance/Snapshot`: the store as the file that etcd would have of it, sent as a stream while writes go on.
//!
//! What has no revisions is copied first, from one state, as one of a core at a time; the copies of all snapshots of a
//! core are bounded together. Then the changes are counted, and then written as fast as the client takes them, with a
//! revision pinned and no page ([`snapshot`](crate::snapshot) says why). A client that takes nothing while a compaction
//! waits loses its pin, and with it the call.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{BufMut, Bytes, BytesMut};

use super::answer::kept_of;
use super::decode::decode_streamed;
use super::long::{Hold, PLAN_SLICE, SLICE_BYTES, give_way};
use crate::proto::etcdserverpb::SnapshotRequest;
use crate::server::grpc::{Code, Incoming, Outgoing, Status};
use crate::server::io::{clock, task};
use crate::server::log::lines;
use crate::server::session::gathering::{Full, Held};
use crate::server::session::{Pin, Session};
use crate::snapshot::buckets::STORAGE_VERSION;
use crate::snapshot::{Gathering, SnapshotFile};
use crate::wire::{bytes_field_len, put_bytes_head, put_varint, varint_len};

/// Bytes of the file in one message, as etcd sends them.
const BLOB_BYTES: u64 = 32 * 1024;
/// What a snapshot holds besides the copies: a slice, a message, and the pages that are open.
const STREAM_BYTES: usize = 192 * 1024;
/// Numbers of the fields of an answer.
const REMAINING_FIELD: u8 = 2;
const BLOB_FIELD: u8 = 3;
const VERSION_FIELD: u8 = 4;

/// Answers a call with the file of the newest state.
pub fn serve(session: &Rc<Session>, mut incoming: Incoming, mut outgoing: Outgoing) {
    let session = session.clone();
    task::spawn(async move {
        let result = match incoming.only().await {
            Ok(message) => send(&session, message, &mut outgoing).await,
            Err(status) => Err(status),
        };
        outgoing.finish(result);
    });
}

async fn send(session: &Rc<Session>, message: Bytes, outgoing: &mut Outgoing) -> Result<(), Status> {
    let began = clock::now();
    let _kept = outgoing.keep(message.len(), kept_of(message.len()) + STREAM_BYTES).await?;
    decode_streamed::<SnapshotRequest>(message)?;
    let (mut file, pin, _held) = gather(session, outgoing).await?;
    let hold = Hold::new(pin, false);
    let total = count(session, &mut file, &hold, outgoing).await?;
    lines::sending_snapshot(total, STORAGE_VERSION);
    let checksum = write(session, &mut file, hold, total, outgoing).await?;
    lines::sending_snapshot_checksum(total, checksum.len());
    outgoing.send(answer(0, &checksum))?;
    let took = clock::now().since(began);
    session.metrics.snapshot_sent(took);
    lines::sent_snapshot(total, took, STORAGE_VERSION);
    Ok(())
}

/// Waits for `ready`, or for the client to go.
async fn unless_gone<T>(outgoing: &mut Outgoing, ready: impl Future<Output = T>) -> Result<T, Status> {
    let mut ready = std::pin::pin!(ready);
    poll_fn(|cx| match outgoing.poll_gone(cx) {
        Poll::Ready(status) => Poll::Ready(Err(status)),
        Poll::Pending => ready.as_mut().poll(cx).map(Ok),
    })
    .await
}

/// Lets others go on. An error when the client has gone.
async fn pause(outgoing: &mut Outgoing) -> Result<(), Status> {
    task::yield_now().await;
    match poll_fn(|cx| Poll::Ready(outgoing.poll_gone(cx))).await {
        Poll::Ready(status) => Err(status),
        Poll::Pending => Ok(()),
    }
}

/// Copies what has no revisions when it is this call's turn, and when there is room for it.
async fn gather(session: &Rc<Session>, outgoing: &mut Outgoing) -> Result<(SnapshotFile, Pin, Held), Status> {
    let mut turn = session.copies.line_up();
    unless_gone(outgoing, poll_fn(|cx| turn.poll(cx))).await?;
    loop {
        let mut held = session.copies.begin();
        if let Some((file, pin)) = copy(session, outgoing, &mut held).await? {
            return Ok((file, pin, held));
        }
        drop(held);
        unless_gone(outgoing, poll_fn(|cx| turn.poll_empty(cx))).await?;
    }
}

/// Nothing when the copies of others leave no room.
async fn copy(
    session: &Rc<Session>,
    outgoing: &mut Outgoing,
    held: &mut Held,
) -> Result<Option<(SnapshotFile, Pin)>, Status> {
    let pin = pin_compacted(session);
    let mut reader = session.reader();
    let state = reader.snapshot();
    let mut gathering = Gathering::new(&state)?;
    loop {
        let is_done = gathering.step(PLAN_SLICE)?;
        match held.set(gathering.held_bytes()) {
            Err(Full::Crowded) => return Ok(None),
            Err(Full::TooLong) => return Err(too_many_leases()),
            Ok(()) if is_done => return Ok(Some((SnapshotFile::new(gathering.finish()), pin))),
            Ok(()) => pause(outgoing).await?,
        }
    }
}

fn too_many_leases() -> Status {
    Status::new(Code::ResourceExhausted, "etcdserver: more leases than a snapshot has room for")
}

/// Keeps all that the last compaction has not condemned.
fn pin_compacted(session: &Rc<Session>) -> Pin {
    loop {
        let compacted = session.view(|view| view.compact_revision());
        if let Some(pin) = session.pin(compacted) {
            return pin;
        }
    }
}

/// Length of the file.
async fn count(
    session: &Rc<Session>,
    file: &mut SnapshotFile,
    hold: &Hold,
    outgoing: &mut Outgoing,
) -> Result<u64, Status> {
    loop {
        hold.ensure()?;
        if let Some(layout) = session.view(|view| file.count(view, PLAN_SLICE))? {
            return Ok(layout.bytes());
        }
        pause(outgoing).await?;
    }
}

/// Sends the file as fast as the client takes it, and returns its checksum.
async fn write(
    session: &Rc<Session>,
    file: &mut SnapshotFile,
    mut hold: Hold,
    total: u64,
    outgoing: &mut Outgoing,
) -> Result<Vec<u8>, Status> {
    let (mut blobs, mut checksum) = (Blobs::new(total), Context::new(&SHA256));
    loop {
        let room = hold.room(session, |cx| outgoing.poll_room(cx)).await?;
        let begun = clock::now();
        let bytes = room.min(SLICE_BYTES);
        let (piece, is_last) = hold.piece(session, |view| file.write(view, bytes, PLAN_SLICE))?;
        checksum.update(&piece);
        blobs.cut(&piece, |message| outgoing.send(message))?;
        if is_last {
            return Ok(checksum.finish().as_ref().to_vec());
        }
        give_way(session, begun).await;
    }
}

/// Cuts the file into messages.
struct Blobs {
    /// Bytes of the file that are in no message yet.
    left: u64,
    /// The message that is being put together, and how many bytes its blob lacks.
    message: BytesMut,
    missing: usize,
}

impl Blobs {
    fn new(total: u64) -> Self {
        Self { left: total, message: BytesMut::new(), missing: 0 }
    }

    /// Takes the next piece of the file, and sends the messages that it completes.
    fn cut(
        &mut self,
        mut piece: &[u8],
        mut send: impl FnMut(Bytes) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !piece.is_empty() {
            if self.missing == 0 {
                let blob = self.left.min(BLOB_BYTES);
                (self.left, self.missing) = (self.left - blob, blob as usize);
                self.message = head(self.left, self.missing);
            }
            let (part, rest) = piece.split_at(piece.len().min(self.missing.max(1)));
            self.message.put_slice(part);
            (self.missing, piece) = (self.missing.saturating_sub(part.len()), rest);
            if self.missing == 0 {
                put_version(&mut self.message);
                send(self.message.split().freeze())?;
            }
        }
        Ok(())
    }
}

/// A whole answer.
fn answer(remaining: u64, blob: &[u8]) -> Bytes {
    let mut message = head(remaining, blob.len());
    message.put_slice(blob);
    put_version(&mut message);
    message.freeze()
}

/// An answer up to its blob.
fn head(remaining: u64, blob: usize) -> BytesMut {
    let around = 1 + varint_len(remaining) + bytes_field_len(STORAGE_VERSION.len());
    let mut message = BytesMut::with_capacity(around + bytes_field_len(blob));
    if remaining > 0 {
        message.put_u8(REMAINING_FIELD << 3);
        put_varint(&mut message, remaining);
    }
    put_bytes_head(&mut message, BLOB_FIELD, blob);
    message
}

fn put_version(message: &mut BytesMut) {
    put_bytes_head(message, VERSION_FIELD, STORAGE_VERSION.len());
    message.put_slice(STORAGE_VERSION.as_bytes());
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb::SnapshotResponse;

    #[test]
    fn the_file_is_cut_into_messages_as_etcd_cuts_it() {
        for (total, sizes) in [(65_536, vec![32_768, 32_768]), (40_960, vec![32_768, 8_192]), (5, vec![5])] {
            for piece_len in [1, 1000, 32_768, 100_000] {
                let file: Vec<u8> = (0..total).map(|n| (n / 7) as u8).collect();
                let (mut blobs, mut messages) = (Blobs::new(total), Vec::new());
                for piece in file.chunks(piece_len) {
                    let keep = |message| {
                        messages.push(SnapshotResponse::decode(message).unwrap());
                        Ok(())
                    };
                    blobs.cut(piece, keep).unwrap();
                }
                assert_eq!(messages.iter().map(|message| message.blob.len()).collect::<Vec<_>>(), sizes);
                assert_eq!(
                    messages.iter().flat_map(|message| message.blob.clone()).collect::<Vec<_>>(),
                    file
                );
                let mut left = total;
                for message in messages {
                    left -= message.blob.len() as u64;
                    assert_eq!((message.remaining_bytes, &message.version[..]), (left, "3.7.0"));
                }
            }
        }
    }

    #[test]
    fn the_last_answer_has_the_checksum() {
        let last = SnapshotResponse::decode(answer(0, &[7; 32])).unwrap();
        assert_eq!((last.remaining_bytes, &last.blob[..], &last.version[..]), (0, &[7; 32][..], "3.7.0"));
    }
}
