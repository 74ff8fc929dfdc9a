//! The messages of one request body.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::frame::{Decoder, HEAD_BYTES};
use super::packed;
use super::shared::Shared;
use crate::server::call::status::{Code, Status};
use crate::server::gzip::Unpacking;
use crate::server::http2::{Gone, Stream};
use crate::server::io::task::Room;

/// Takes what came on a stream and cuts messages.
pub(super) struct Reader {
    stream: Stream,
    decoder: Decoder,
    shared: Rc<Shared>,
    /// A packed message that came whole.
    unpacking: Option<Unpacking>,
    /// What unpacking waits for before each step.
    room: Room,
    /// Bytes of the call's head that are kept until its message is whole.
    head_bytes: usize,
    /// What this reader holds of an unfinished message, with those, as counted in `shared` and its core.
    held_bytes: usize,
    ended: bool,
    /// The code of a message that ends too early.
    cut_code: Code,
}

impl Reader {
    pub(super) fn new(
        stream: Stream,
        encoding: Option<Box<str>>,
        shared: Rc<Shared>,
        cut_code: Code,
    ) -> Self {
        let decoder = Decoder::new(shared.core.settings.message_bytes_max, encoding);
        Self {
            stream,
            decoder,
            shared,
            unpacking: None,
            room: Room::default(),
            head_bytes: 0,
            held_bytes: 0,
            ended: false,
            cut_code,
        }
    }

    /// The next message; `None` once the client has ended its side, whole. A packed one is to be awaited by one task.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            let length_max = self.shared.core.settings.message_bytes_max;
            if let Some(unpacking) = &mut self.unpacking {
                ready!(self.room.poll(cx));
                match packed::step(unpacking, length_max) {
                    Ok(Some(message)) => {
                        self.unpacking = None;
                        self.hold();
                        return Poll::Ready(Some(Ok(message)));
                    }
                    Ok(None) if !self.hold() => return self.fail(too_many()),
                    Ok(None) => continue,
                    Err(status) => return self.fail(status),
                }
            }
            match self.decoder.take() {
                Ok(Some(message)) if self.decoder.is_packed() => {
                    match packed::begin(message, length_max) {
                        Ok(unpacking) => self.unpacking = Some(unpacking),
                        Err(status) => return self.fail(status),
                    }
                    continue;
                }
                Ok(Some(message)) => {
                    self.hold();
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(status) => return self.fail(status),
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    self.decoder.push(chunk);
                    if !self.hold() {
                        return self.fail(too_many());
                    }
                }
                Some(Err(Gone)) => return self.fail(Status::canceled()),
                None => {
                    // A cut head counts as none, as grpc-go reads it.
                    if self.decoder.held_bytes() >= HEAD_BYTES
                        && let Err(status) = self.decoder.finish()
                    {
                        return self.fail(Status { code: self.cut_code, ..status });
                    }
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Counts what of the call's head is kept until its message is whole.
    ///
    /// # Errors
    /// When that is too much.
    pub(super) fn hold_head(&mut self, bytes: usize) -> Result<(), Status> {
        self.head_bytes = bytes;
        if self.hold() { Ok(()) } else { Err(too_many()) }
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Bytes, Status>>> {
        self.ended = true;
        self.decoder = Decoder::new(0, None);
        self.unpacking = None;
        self.hold();
        Poll::Ready(Some(Err(status)))
    }

    /// Counts what is held; false when it is too much.
    fn hold(&mut self) -> bool {
        let unpacking = self.unpacking.as_ref().map_or(0, Unpacking::held_bytes);
        let held_bytes = self.head_bytes + self.decoder.held_bytes() + unpacking;
        if held_bytes == self.held_bytes {
            return true;
        }
        let before = std::mem::replace(&mut self.held_bytes, held_bytes);
        self.shared.count_partial(before, held_bytes)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.decoder = Decoder::new(0, None);
        self.unpacking = None;
        self.head_bytes = 0;
        self.hold();
        self.stream.stop_reading();
    }
}

/// The refusal of a call whose connection, or core, holds too much of what is not whole.
fn too_many() -> Status {
    Status::new(Code::ResourceExhausted, "grpc: too many unfinished messages")
}
