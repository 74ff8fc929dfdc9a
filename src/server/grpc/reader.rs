//! The messages of one request body.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::calls::Shared;
use super::frame::Decoder;
use crate::server::call::status::{Code, Status};
use crate::server::http2::{Gone, Stream};

/// Takes what came on a stream and cuts messages.
pub(super) struct Reader {
    stream: Stream,
    decoder: Decoder,
    shared: Rc<Shared>,
    /// What this reader holds of an unfinished message, as counted in `shared` and its core.
    held_bytes: usize,
    ended: bool,
}

impl Reader {
    pub(super) fn new(stream: Stream, encoding: Option<Box<str>>, shared: Rc<Shared>) -> Self {
        let decoder = Decoder::new(shared.core.settings.message_bytes_max, encoding);
        Self { stream, decoder, shared, held_bytes: 0, ended: false }
    }

    /// The next message; `None` once the client has ended its side, whole.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.decoder.take() {
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
                        let text = "grpc: too many unfinished messages";
                        return self.fail(Status::new(Code::ResourceExhausted, text));
                    }
                }
                Some(Err(Gone)) => return self.fail(Status::canceled()),
                None => {
                    if let Err(status) = self.decoder.finish() {
                        return self.fail(status);
                    }
                    self.ended = true;
                }
            }
        }
    }

    /// Whether bytes of another message are here already.
    pub(super) fn has_more(&self) -> bool {
        self.decoder.held_bytes() > 0
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Bytes, Status>>> {
        self.ended = true;
        self.decoder = Decoder::new(0, None);
        self.hold();
        Poll::Ready(Some(Err(status)))
    }

    /// Counts what is held; false when it is too much.
    fn hold(&mut self) -> bool {
        let held_bytes = self.decoder.held_bytes();
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
        self.hold();
        self.stream.stop_reading();
    }
}
