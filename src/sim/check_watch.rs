//! What every watch stream must show: a slice of history, complete, in order, whole revisions, once.
#![forbid(unsafe_code)]

use kevel::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kevel::proto::mvccpb::Event;
use prost::Message;

use super::judge::{Judge, judge};
use super::model::{Change, within};

/// What a client knows about one watch. It outlives streams: after a crash the client goes on from `next`.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What was asked for.
    pub request: WatchCreateRequest,
    /// Events below this revision were delivered, or are not asked for.
    pub next: i64,
    /// Events of fragments whose last part is to come.
    partial: Vec<Event>,
    /// The member said that `next` is compacted.
    pub compacted: bool,
}

impl Watched {
    /// A watch that the member created when its revision was `created_at`.
    pub fn new(request: WatchCreateRequest, created_at: i64) -> Self {
        let next = if request.start_revision == 0 { created_at + 1 } else { request.start_revision };
        Self { request, next, partial: vec![], compacted: false }
    }

    /// What to ask for after the stream is gone.
    pub fn resume(&self) -> WatchCreateRequest {
        WatchCreateRequest { start_revision: self.next, ..self.request.clone() }
    }

    fn wants(&self, change: &Change) -> bool {
        let key: &[u8] = if self.request.key.is_empty() { &[0] } else { &self.request.key };
        within(&change.key, key, &self.request.range_end)
            && !self.request.filters.contains(&i32::from(change.kv.is_none()))
    }

    /// Matching changes that were not delivered yet, through a revision.
    pub fn missing<'j>(&self, judge: &'j Judge, through: i64) -> Vec<&'j Change> {
        let changes = &judge.model.changes;
        let first = changes.partition_point(|change| change.revision < self.next);
        let rest = changes[first..].iter().take_while(|change| change.revision <= through);
        rest.filter(|change| self.wants(change)).collect()
    }

    /// Those of them that must still come.
    pub fn owed<'j>(&self, judge: &'j Judge, through: i64) -> Vec<&'j Change> {
        let mut missing = self.missing(judge, through);
        missing.retain(|change| !may_lack(judge, change));
        missing
    }

    /// The stream says something about this watch. Returns how many events it delivered.
    pub fn on_response(&mut self, judge: &Judge, response: &WatchResponse) -> usize {
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        let visible = judge.durable_revision();
        judge!(header <= visible, "a watch at revision {header}, durable is {visible}");
        judge!(!self.compacted || response.canceled, "a watch goes on after its revisions were compacted");
        if response.canceled {
            if response.compact_revision != 0 {
                judge!(
                    response.compact_revision <= judge.model.compacted
                        && self.next < response.compact_revision,
                    "a watch at {} ends for compaction {}",
                    self.next,
                    response.compact_revision
                );
                self.compacted = true;
            }
            return 0;
        }
        if response.events.is_empty() {
            let missing = self.owed(judge, header);
            judge!(missing.is_empty(), "progress to {header} was promised before {missing:?}");
            return 0;
        }
        self.partial.extend(response.events.iter().cloned());
        if response.fragment {
            judge!(self.request.fragment, "fragments that nobody asked for");
            return 0;
        }
        let events = std::mem::take(&mut self.partial);
        let last = events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        judge!(header >= last, "events of {last} under a header of {header}");
        let expected = self.shown(judge, &events, self.missing(judge, last));
        for (event, change) in events.iter().zip(expected) {
            self.check_event(judge, event, change);
        }
        self.next = last + 1;
        events.len()
    }

    /// The changes that `events` are: all that are expected, but for those that may be lacking.
    fn shown<'j>(&self, judge: &Judge, events: &[Event], expected: Vec<&'j Change>) -> Vec<&'j Change> {
        let mut shown = Vec::with_capacity(events.len());
        for change in &expected {
            let is_next = events.get(shown.len()).is_some_and(|event| is_of(event, change));
            if is_next || !may_lack(judge, change) {
                shown.push(*change);
            }
        }
        let is_all = shown.len() == events.len()
            && events.iter().zip(&shown).all(|(event, change)| is_of(event, change));
        judge!(is_all, "a watch from {} of {:?} shows {events:?}, not {expected:?}", self.next, self.request);
        shown
    }

    fn check_event(&self, judge: &Judge, event: &Event, change: &Change) {
        let kv = event.kv.as_ref().expect("an event has a pair");
        match &change.kv {
            Some(put) => judge!(event.r#type == 0 && kv == put, "an event shows {kv:?}, not {put:?}"),
            None => judge!(
                event.r#type == 1 && kv.encoded_len() == tombstone_len(change),
                "a deletion shows {kv:?}"
            ),
        }
        let before = judge.model.get(&change.key, change.revision - 1);
        // A key that was deleted and created again in one transaction shows as created.
        let created = change.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision);
        let before = before.filter(|_| self.request.prev_kv && !created);
        match (&event.prev_kv, before) {
            (None, Some(_)) => judge!(
                change.revision - 1 < judge.model.compacted,
                "the event of {:?} at {} lacks its previous value",
                change.key,
                change.revision
            ),
            (shown, before) => judge!(
                shown.as_ref() == before,
                "the previous value of {:?} at {} is {before:?}, not {shown:?}",
                change.key,
                change.revision
            ),
        }
    }
}

/// Whether watchers from a revision on that a compaction was to may lack this change of it: a put that a later change
/// of the same transaction has superseded.
fn may_lack(judge: &Judge, change: &Change) -> bool {
    let changes = &judge.model.changes;
    let first = changes.partition_point(|other| (other.revision, other.sub) <= (change.revision, change.sub));
    let mut later = changes[first..].iter().take_while(|later| later.revision == change.revision);
    change.kv.is_some()
        && judge.model.compactions.contains(&change.revision)
        && later.any(|later| later.key == change.key)
}

fn is_of(event: &Event, change: &Change) -> bool {
    let kv = event.kv.as_ref().expect("an event has a pair");
    let is_same =
        change.kv.as_ref().map_or(event.r#type == 1, |put| event.r#type == 0 && kv.version == put.version);
    is_same && (kv.mod_revision, &kv.key) == (change.revision, &change.key)
}

fn tombstone_len(change: &Change) -> usize {
    let kv = kevel::proto::mvccpb::KeyValue {
        key: change.key.clone(),
        mod_revision: change.revision,
        ..Default::default()
    };
    kv.encoded_len()
}
