//! The drill of an operator whose store is full: clear the alarms, compact, and see the space come back, while somebody
//! still writes a little.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::judge::judge;
use super::workload::Ask;
use super::world::{Event, World};
use kevel::btree::Applied;
use kevel::page::PAGE_SIZE;
use kevel::proto::etcdserverpb::alarm_request::AlarmAction;
use kevel::proto::etcdserverpb::*;
use kevel::stdx::time::{Duration, Instant};
use prost::Message as _;

/// Time between two writes of the one who still writes: less than what counts as idle.
const TRICKLE: Duration = Duration::from_millis(130);

/// How long somebody still writes a little.
const WRITES: Duration = Duration::from_secs(3);

/// How soon after the last change the space is free: a checkpoint that costs much waits for a minute of idleness.
const SOON: Duration = Duration::from_secs(80);

/// How long a store that may be full is written to before anything is compacted.
const REFILLS: Duration = Duration::from_millis(600);

/// Pages of a store without content, and of what the last writes hold.
const PAGES_BASE: u64 = 60;

/// Where the drill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Closing {
    /// Clients still have something to ask.
    #[default]
    Before,
    /// Alarms are being cleared.
    Clearing,
    /// Everything old is compacted, or will be soon. The store changed last at an instant, to this state.
    Shrinking { since: Instant, revision: i64, changed: Instant, state: Applied },
    /// The store is as small as what lives in it.
    Done,
}

impl World {
    /// The next step.
    pub fn close_down(&mut self) {
        self.trace.step(self.now, &[24], format_args!("closing: {:?}", self.closing));
        let is_busy = self.clients[0].waiting > 0;
        self.closing = match self.closing {
            Closing::Before => Closing::Clearing,
            Closing::Clearing if is_busy => Closing::Clearing,
            Closing::Clearing if !self.judge.model.alarms.is_empty() => {
                self.clear_alarm();
                Closing::Clearing
            }
            Closing::Clearing => Closing::Shrinking {
                since: self.now,
                revision: self.judge.durable_revision(),
                changed: self.now,
                state: self.member().replica.applied(),
            },
            Closing::Shrinking { since, revision, changed, state } => match self.is_small(revision) {
                Ok(()) => Closing::Done,
                Err(why) => {
                    let shown = self.member().replica.applied();
                    let changed = if shown == state { changed } else { self.now };
                    judge!(self.now.since(changed) < SOON || self.rotten, "space does not come back: {why}");
                    let refilled = self.quota.is_none() || self.now.since(since) > REFILLS;
                    if !is_busy && refilled && self.judge.model.compacted < revision {
                        // Also where it was refused, or timed out, before.
                        let compaction = Some(CompactionRequest { revision, physical: true });
                        self.write(InternalRaftRequest { compaction, ..Default::default() });
                    } else if !is_busy && (self.now.since(since) < WRITES || self.has_missed()) {
                        self.write_a_little();
                    }
                    Closing::Shrinking { since, revision, changed, state: shown }
                }
            },
            Closing::Done => return,
        };
        self.schedule(TRICKLE, Event::Close);
    }

    fn write(&mut self, entry: InternalRaftRequest) {
        self.ask(0, Ask::Write(Box::new(entry)));
    }

    fn clear_alarm(&mut self) {
        let raised = self.judge.model.alarms.first().copied();
        let alarm = raised.map(|(alarm, member_id)| {
            let action = AlarmAction::Deactivate as i32;
            AlarmRequest { action, member_id, alarm }
        });
        self.write(InternalRaftRequest { alarm, ..Default::default() });
    }

    /// A hub whose last batch was lost misses it when another comes.
    fn has_missed(&mut self) -> bool {
        let revision = self.judge.durable_revision();
        self.member().cores.iter_mut().any(|core| core.watches.hub().revision() != revision)
    }

    fn write_a_little(&mut self) {
        let put = PutRequest { key: Bytes::from_static(b"z"), ..PutRequest::default() };
        self.write(InternalRaftRequest { put: Some(put), ..Default::default() });
    }

    /// Whether the store is about as small as what lives in it.
    fn is_small(&mut self, revision: i64) -> Result<(), String> {
        if self.has_missed() || self.judge.model.compacted < revision {
            return Err("not all is published, or compacted".into());
        }
        if self.fullness.is_alarm_due() {
            return Err("the store was full, and no alarm is raised".into());
        }
        let model = &self.judge.model;
        let pairs = model.pairs(&[0], &[0], model.revision);
        // What is in no leaf has pages of its own. Leaves are half empty at worst, and a key is in two trees.
        let page = PAGE_SIZE as u64;
        let weigh = |len: u64| if len > page / 8 { len.div_ceil(page) * page + page / 4 } else { 4 * len };
        let lives: u64 = pairs.iter().map(|kv| weigh(kv.encoded_len() as u64 + kv.key.len() as u64)).sum();
        let most = lives + PAGES_BASE * page;
        let stats = self.member.as_ref().expect("a member that runs").replica.store_stats();
        let shown = format!("{stats:?}, {} pairs live, {most} bytes are enough", pairs.len());
        // What was freed and is not free yet counts: somebody holds it.
        if stats.used_bytes + stats.leaving_bytes <= most { Ok(()) } else { Err(shown) }
    }
}
