//! The hub together with the way to its streams.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::mvcc::EventBatch;
use crate::watch::{Budget, History, Hub, HubConfig, Output, StreamId};

/// The way to the clients of a core's watch streams.
pub trait Transport {
    /// Takes a response to one stream, behind all earlier ones.
    fn send(&mut self, output: Output);

    /// The stream is over: a response on it would be so many bytes long, which is more than can be sent.
    fn end_too_long(&mut self, stream: StreamId, bytes: usize);

    /// Sends what was taken for a stream, and returns how many more bytes the stream has room for.
    fn flush(&mut self, stream: StreamId) -> usize;
}

/// The watches of one session core.
#[derive(Debug)]
pub struct Watches {
    hub: Hub,
    /// What one piece of work may cost.
    budget: Budget,
    /// Streams written to since they were flushed last.
    touched: Vec<StreamId>,
}

impl Watches {
    /// No streams; every batch after `revision` will be published.
    pub fn new(config: HubConfig, revision: i64, budget: Budget) -> Self {
        Self { hub: Hub::new(config, revision), budget, touched: Vec::new() }
    }

    /// The hub, to hand it what clients ask. [`Watches::pump`] sends what the hub then says.
    pub fn hub(&mut self) -> &mut Hub {
        &mut self.hub
    }

    /// The events of one revision, in the order of revisions.
    pub fn publish(&mut self, batch: Arc<EventBatch>, history: &dyn History) {
        self.hub.on_publish(&batch, history);
    }

    /// Asks for the room of streams that have little, which may have more since the last turn.
    pub fn ask_room(&mut self, _transport: &mut dyn Transport) {}

    /// One piece of work: hands out what was published and what watchers missed. True if there is more to do.
    pub fn work(&mut self, history: &dyn History, transport: &mut dyn Transport) -> bool {
        if self.hub.needs_catch_up() {
            self.hub.catch_up(history, self.budget);
        }
        self.pump(transport)
    }

    /// Sends what the hub has to say, and tells it how much room is left. True if there is work, perhaps only since
    /// now, for this very room: the core must have a turn.
    #[must_use = "nobody else sees to the watchers that are behind"]
    pub fn pump(&mut self, transport: &mut dyn Transport) -> bool {
        loop {
            while let Some(output) = self.hub.poll_output() {
                if self.touched.last() != Some(&output.stream) {
                    self.touched.push(output.stream);
                }
                transport.send(output);
            }
            while let Some((stream, bytes)) = self.hub.poll_too_long() {
                transport.end_too_long(stream, bytes);
            }
            if self.touched.is_empty() {
                return self.hub.needs_catch_up();
            }
            self.touched.sort_unstable();
            self.touched.dedup();
            for stream in self.touched.drain(..) {
                self.hub.on_window(stream, transport.flush(stream));
            }
        }
    }
}
