//! Answers from trees without revisions: gathered from one state of the store in slices, then written as the client
//! takes them. [`Gathering`](crate::server::session::gathering) bounds what they hold.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::long::{PLAN_SLICE, give_way, wait_for_room};
use super::patience::Patience;
use crate::error::Error;
use crate::limits::MESSAGE_SENT_BYTES_MAX;
use crate::server::grpc::frame::unsendable;
use crate::server::grpc::{Responder, Status};
use crate::server::io::{clock, task};
use crate::server::session::Session;
use crate::server::session::gathering::{Full, GATHERED_BYTES_MAX, Held};

/// Bytes that are sent at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The message of an answer, in pieces.
#[derive(Default)]
pub(super) struct Gathered {
    pieces: VecDeque<Bytes>,
    last: BytesMut,
    len: usize,
}

impl Gathered {
    /// Appends what `write` writes.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.last.len();
        if before == 0 {
            self.last.reserve(PIECE_BYTES);
        }
        write(&mut self.last);
        self.len += self.last.len() - before;
        if self.last.len() >= PIECE_BYTES {
            self.pieces.push_back(self.last.split().freeze());
        }
    }

    /// Length of the message.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn into_pieces(mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.pieces.push_back(self.last.freeze());
        }
        self.pieces
    }
}

/// Why an answer was not gathered.
pub(super) enum Refused {
    /// Other answers hold too much; it may be tried again.
    Crowded,
    /// The call ends.
    Failed(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// Counts what an answer holds that is `len` bytes long so far.
pub(super) fn hold(held: &mut Held, bytes: usize, len: usize) -> Result<(), Refused> {
    held.set(bytes).map_err(|full| match full {
        Full::Crowded => Refused::Crowded,
        Full::TooLong => Refused::Failed(unsendable(len, GATHERED_BYTES_MAX, false)),
    })
}

/// Repeats `step` until it says that it is done, with other tasks of the core in between. False when the client has
/// gone.
pub(super) async fn in_slices(
    reply: &Responder,
    mut step: impl FnMut() -> Result<bool, Refused>,
) -> Result<bool, Refused> {
    while !step()? {
        task::take_turns().await;
        if !reply.is_wanted() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether one slice of gathering has come far enough.
pub(super) fn is_slice(count: usize, bytes: usize) -> bool {
    count >= PLAN_SLICE || bytes >= PIECE_BYTES
}

/// Answers with what `gather` gathers when it is its turn; nothing once the client has gone.
pub(super) async fn answer(
    session: Rc<Session>,
    reply: Responder,
    gather: impl AsyncFn(&Rc<Session>, &Responder, &mut Held) -> Result<Option<Gathered>, Refused>,
) {
    match gather_in_turn(&session, &reply, gather).await {
        Ok(Some((gathered, held))) => write(&session, reply, gathered, held).await,
        Ok(None) => {}
        Err(status) => reply.fail(&status),
    }
}

async fn gather_in_turn(
    session: &Rc<Session>,
    reply: &Responder,
    gather: impl AsyncFn(&Rc<Session>, &Responder, &mut Held) -> Result<Option<Gathered>, Refused>,
) -> Result<Option<(Gathered, Held)>, Status> {
    let mut turn = session.gathering.line_up();
    poll_fn(|cx| turn.poll(cx)).await;
    loop {
        if !reply.is_wanted() {
            return Ok(None);
        }
        let mut held = session.gathering.begin();
        match gather(session, reply, &mut held).await {
            Ok(gathered) => return Ok(gathered.map(|gathered| (gathered, held))),
            Err(Refused::Failed(status)) => return Err(status),
            Err(Refused::Crowded) => {
                drop(held);
                poll_fn(|cx| turn.poll_empty(cx)).await;
            }
        }
    }
}

/// Writes a gathered answer as fast as the client takes it. One that takes nothing while another answer waits for the
/// room is broken off.
async fn write(session: &Rc<Session>, reply: Responder, gathered: Gathered, held: Held) {
    let Some(mut answer) = reply.stream(gathered.len()) else { return };
    let mut patience = Patience::new(clock::now());
    for piece in gathered.into_pieces() {
        let look = || match patience.is_over(clock::now(), session.gathering.is_held_up()) {
            true => Err(Error::Timeout),
            false => Ok(()),
        };
        if let Err(status) = wait_for_room(|cx| answer.poll_room(cx), look).await {
            return answer.fail(&status);
        }
        let begun = clock::now();
        patience.on_progress(begun, piece.len());
        answer.write(piece);
        give_way(session, begun).await;
    }
    drop(held);
    answer.finish();
}

const _: () = assert!(GATHERED_BYTES_MAX < MESSAGE_SENT_BYTES_MAX, "what is gathered can be sent");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_message_in_its_order() {
        let mut gathered = Gathered::default();
        let mut whole = Vec::new();
        for n in 0..100_000u32 {
            let bytes = n.to_be_bytes();
            gathered.put(|out| out.extend_from_slice(&bytes[..(n % 5) as usize]));
            whole.extend_from_slice(&bytes[..(n % 5) as usize]);
        }
        assert_eq!(gathered.len(), whole.len());
        let pieces = gathered.into_pieces();
        assert!(pieces.len() == whole.len().div_ceil(PIECE_BYTES), "{} pieces", pieces.len());
        assert_eq!(pieces.iter().flatten().copied().collect::<Vec<u8>>(), whole);
    }
}
