//! The hub together with the way to its streams.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::mvcc::EventBatch;
use crate::watch::{Budget, History, Hub, HubConfig, Output, StreamId};

/// The way to the clients of a core's watch streams.
pub trait Transport {
    /// Takes a response to one stream, or a part of one, or the stream's end, behind all that came earlier.
    fn send(&mut self, output: Output);

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
    /// Streams that had no room when they were flushed.
    full: Vec<StreamId>,
}

impl Watches {
    /// No streams; every batch after `revision` will be published.
    pub fn new(config: HubConfig, revision: i64, budget: Budget) -> Self {
        Self { hub: Hub::new(config, revision), budget, touched: Vec::new(), full: Vec::new() }
    }

    /// The hub, to hand it what clients ask. [`Watches::pump`] sends what the hub then says.
    pub fn hub(&mut self) -> &mut Hub {
        &mut self.hub
    }

    /// The events of one revision, in the order of revisions.
    pub fn publish(&mut self, batch: Arc<EventBatch>) {
        self.hub.on_publish(batch);
    }

    /// Tells the hub what room the streams have by now that had none after the last turn.
    pub fn ask_room(&mut self, transport: &mut dyn Transport) {
        self.full.sort_unstable();
        self.full.dedup();
        for stream in self.full.drain(..) {
            self.hub.on_window(stream, transport.flush(stream));
        }
        self.hub.resume();
    }

    /// One piece of work: hands out what was published and what watchers missed. True if there is more to do.
    pub fn work(&mut self, history: &dyn History, transport: &mut dyn Transport) -> bool {
        self.hub.work(history, self.budget);
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
            if self.touched.is_empty() {
                return self.hub.needs_work();
            }
            self.touched.sort_unstable();
            self.touched.dedup();
            for stream in self.touched.drain(..) {
                let room = transport.flush(stream);
                self.hub.on_window(stream, room);
                if room == 0 {
                    self.full.push(stream);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Event;
    use crate::proto::etcdserverpb::WatchCreateRequest;
    use crate::stdx::time::{Duration, Instant};
    use crate::watch::PastEvent;
    use std::ops::ControlFlow;

    /// A store whose revisions nobody needs to read back.
    struct Newest(i64);

    impl History for Newest {
        fn revision(&self) -> i64 {
            self.0
        }

        fn compact_revision(&self) -> i64 {
            -1
        }

        fn events(&self, _: (i64, i64), _: i64, _: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>) {
            panic!("the store is read although the stream had room");
        }

        fn value_at(&self, _: &[u8], _: i64) -> Option<&[u8]> {
            None
        }

        fn value_of(&self, _: i64, _: i64) -> Option<&[u8]> {
            None
        }
    }

    /// A stream whose client takes everything between two turns.
    struct Fast {
        unsent: usize,
        events: u32,
    }

    impl Transport for Fast {
        fn send(&mut self, output: Output) {
            self.unsent += output.len();
            self.events += output.events;
        }

        fn flush(&mut self, _: StreamId) -> usize {
            1000usize.saturating_sub(self.unsent)
        }
    }

    #[test]
    fn many_batches_in_one_turn_do_not_park_a_stream_that_takes_them() {
        let mut watches = Watches::new(HubConfig::default(), 1, Budget::default());
        let mut stream = Fast { unsent: 0, events: 0 };
        let id = watches.hub().open(Instant::default(), Duration::from_secs(600), 1000);
        let request = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
        watches.hub().create(Instant::default(), id, &request, &Newest(1));
        let newest = Newest(1025);
        for revision in 2..=1025 {
            let (key, kv) = ("k".into(), vec![0; 100].into());
            let event = Event { sub: 0, delete: false, create: true, key, kv, prev: None };
            watches.publish(Arc::new(EventBatch { revision, compact_revision: -1, events: vec![event] }));
        }
        while watches.work(&newest, &mut stream) {
            stream.unsent = 0;
            watches.ask_room(&mut stream);
            assert_eq!(watches.hub().stats().slow_watchers, 0);
        }
        assert_eq!(stream.events, 1024);
    }
}
