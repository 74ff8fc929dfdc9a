//! Answers too long to assemble: written slice by slice as the client takes them, with no more than a pinned revision
//! held between two slices.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::patience::{LOOK_INTERVAL, Patience};
use crate::btree::Snapshot;
use crate::error::Error;
use crate::mvcc::range::SLICE_SURPLUS;
use crate::mvcc::{RangeStream, Slices, View};
use crate::response::Header;
use crate::server::grpc::{Outgoing, Responder, Status};
use crate::server::io::{clock, task};
use crate::server::session::{Pin, Session};
use crate::stdx::time::{Duration, Instant};

/// How much of a long answer is copied at a time, before other tasks of the core run. Half of it costs a sixth more CPU
/// for the list; twice as much would hold up others.
pub(super) const SLICE_BYTES: usize = 128 * 1024;

/// How long a long answer waits at most between two slices while requests wait for the log.
const TURN_MAX: Duration = Duration::from_millis(1);

/// Index entries looked at before other tasks of the core run.
pub(super) const PLAN_SLICE: usize = 1024;

/// What a long answer reads at, and how much longer it may.
pub(super) struct Hold {
    pin: Pin,
    patience: Patience,
    /// What the client is told when a compaction cannot wait any longer.
    error: Error,
}

impl Hold {
    /// Of an answer that begins now. A client that has named a revision is told that it is compacted, as it would be if
    /// it asked again; another one asks again of itself when the request timed out, and gets the newest state.
    pub(super) fn new(pin: Pin, is_named: bool) -> Self {
        let error = if is_named { Error::Compacted } else { Error::Timeout };
        Self { pin, patience: Patience::new(clock::now()), error }
    }

    /// An error when what is read has gone.
    pub(super) fn ensure(&self) -> Result<(), Error> {
        if self.pin.is_lost() { Err(self.error) } else { Ok(()) }
    }

    /// An error when a compaction has waited too long for this answer.
    fn check(&mut self, view: &View<'_, Snapshot<'_>>, now: Instant) -> Result<(), Error> {
        self.ensure()?;
        let waits = view.compact_revision() > self.pin.revision();
        if self.patience.is_over(now, waits) { Err(self.error) } else { Ok(()) }
    }

    /// Waits until `poll` is ready with room for the client's next bytes.
    pub(super) async fn room(
        &mut self,
        session: &Session,
        poll: impl FnMut(&mut Context<'_>) -> Poll<Result<usize, Status>>,
    ) -> Result<usize, Status> {
        wait_for_room(poll, || session.view(|view| self.check(view, clock::now()))).await
    }

    /// The next slice, of `bytes` bytes or little more, and whether it is the last.
    fn slice(
        &mut self,
        session: &Session,
        bytes: usize,
        emit: impl FnOnce(&View<'_, Snapshot<'_>>, &mut BytesMut) -> Result<bool, Error>,
    ) -> Result<(BytesMut, bool), Error> {
        let mut slice = BytesMut::with_capacity(bytes + SLICE_SURPLUS.min(bytes));
        self.piece(session, |view| {
            let complete = emit(view, &mut slice)?;
            Ok((slice, complete))
        })
    }

    /// What `emit` makes next, and whether it is the last.
    pub(super) fn piece<T: AsRef<[u8]>>(
        &mut self,
        session: &Session,
        emit: impl FnOnce(&View<'_, Snapshot<'_>>) -> Result<(T, bool), Error>,
    ) -> Result<(T, bool), Error> {
        let now = clock::now();
        let (piece, is_last) = session.view(|view| {
            self.check(view, now)?;
            emit(view)
        })?;
        self.patience.on_progress(now, piece.as_ref().len());
        Ok((piece, is_last))
    }
}

/// Waits until `poll` is ready with room for the client's next bytes. Now and then `look` says whether to go on.
pub(super) async fn wait_for_room(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<usize, Status>>,
    mut look: impl FnMut() -> Result<(), Error>,
) -> Result<usize, Status> {
    // A timer is only worth its while where the client is slow.
    if let Poll::Ready(room) = poll_fn(|cx| Poll::Ready(poll(cx))).await {
        return room;
    }
    loop {
        let until = clock::now() + LOOK_INTERVAL;
        if let Some(room) = task::until(until, poll_fn(&mut poll)).await {
            return room;
        }
        look()?;
    }
}

/// Pins what `plan` reads, as `pin_of` says. If a compaction has come between plan and pin, the plan is made `again`.
pub(super) fn pinned<P, H>(
    mut plan: P,
    pin_of: impl Fn(&P) -> i64,
    mut pin: impl FnMut(i64) -> Option<H>,
    mut again: impl FnMut() -> Result<P, Error>,
) -> Result<(P, H), Error> {
    loop {
        if let Some(held) = pin(pin_of(&plan)) {
            return Ok((plan, held));
        }
        plan = again()?;
    }
}

/// Writes a unary answer as fast as the client takes it.
pub(super) async fn write(
    session: Rc<Session>,
    header: Header,
    mut hold: Hold,
    mut slices: impl Slices,
    reply: Responder,
) {
    let Some(mut answer) = reply.stream(slices.encoded_len(&header)) else { return };
    loop {
        let room = match hold.room(&session, |cx| answer.poll_room(cx)).await {
            Ok(room) => room,
            Err(status) => return answer.fail(&status),
        };
        let begun = clock::now();
        let bytes = room.min(SLICE_BYTES).min(answer.left());
        match hold.slice(&session, bytes, |view, out| slices.emit(view, &header, out, bytes)) {
            Err(error) => return answer.fail(&error.into()),
            Ok((slice, complete)) => {
                if !slice.is_empty() {
                    answer.write(slice.freeze());
                }
                if complete {
                    return answer.finish();
                }
            }
        }
        give_way(&session, begun).await;
    }
}

/// Writes the messages of a stream as fast as the client takes them.
///
/// # Errors
/// What the stream is to end with.
pub(super) async fn write_stream(
    session: &Rc<Session>,
    header: &Header,
    mut hold: Hold,
    mut stream: RangeStream,
    outgoing: &mut Outgoing,
) -> Result<(), Status> {
    loop {
        while !hold.ensure().and_then(|()| session.view(|view| stream.plan(view, PLAN_SLICE)))? {
            if let Poll::Ready(status) = poll_fn(|cx| Poll::Ready(outgoing.poll_gone(cx))).await {
                return Err(status);
            }
            task::take_turns().await;
        }
        let Some(total) = stream.message_len(header) else { return Ok(()) };
        let (mut begins, mut complete) = (Some(total), false);
        while !complete {
            let room = hold.room(session, |cx| outgoing.poll_room(cx)).await?;
            let begun = clock::now();
            let bytes = room.min(SLICE_BYTES);
            let slice;
            (slice, complete) =
                hold.slice(session, bytes, |view, out| stream.emit(view, header, out, bytes))?;
            outgoing.send_slice(begins.take(), slice.freeze())?;
            give_way(session, begun).await;
        }
    }
}

/// Lets others go on between two slices of a long answer, this one having been begun at `begun`. While requests wait
/// for the log, it takes turns with them: the core, and the client's, would else be busy whenever a write is durable.
pub(super) async fn give_way(session: &Session, begun: Instant) {
    task::yield_now().await;
    if session.waiting() > 0 {
        task::sleep(clock::now().since(begun).min(TURN_MAX)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_a_compaction_overtook_is_made_again() {
        let compacted = 5;
        let pin = |revision: i64| (revision >= compacted).then_some(revision);
        let mut newest = 3;
        let again = || {
            newest += 1;
            Ok(newest)
        };
        assert_eq!(pinned(3, |&plan| plan, pin, again), Ok((5, 5)));
        let again = || Err(Error::Compacted);
        assert_eq!(pinned(3, |&plan: &i64| plan, pin, again), Err(Error::Compacted));
    }
}
