//! When the alarm NOSPACE must, and may, be raised.
#![forbid(unsafe_code)]

use super::judge::judge;
use super::model::grows;
use super::world::World;
use kevel::proto::etcdserverpb::alarm_request::AlarmAction;
use kevel::proto::etcdserverpb::{AlarmRequest, AlarmType};
use kevel::stdx::time::{Duration, Instant};

/// How soon the alarm is in the log.
const SOON: Duration = Duration::from_millis(2_500);

/// What is known of the space that the running process has.
#[derive(Debug, Default)]
pub struct Fullness {
    member_id: u64,
    /// Entries up to here were looked at, or come from an earlier process.
    looked: u64,
    /// The store has been full in this process.
    was_full: bool,
    /// Slices of sweeps up to the last turn.
    sweeps: u64,
    /// Something new has made the store grow in this process.
    has_grown: bool,
    /// The store was full when it grew, and nobody has said so since.
    since: Option<Instant>,
}

impl Fullness {
    /// A process begins with a log that ends at `last`.
    pub fn on_boot(&mut self, member_id: u64, last: u64) {
        *self = Self { member_id, looked: last, ..Self::default() };
    }

    /// The store was full when it grew, and nobody has said so.
    pub fn is_alarm_due(&self) -> bool {
        self.since.is_some()
    }

    /// The log has stood still for so long.
    pub fn on_stall(&mut self, time: Duration) {
        self.since = self.since.map(|since| since + time);
    }
}

impl World {
    /// The end of a turn: the store that grew beyond its quota says so soon.
    pub fn check_quota(&mut self) {
        let Some(quota) = self.quota else { return };
        let member = self.member.as_ref().expect("a member that runs");
        let (applied, stats) = (member.replica.applied().index, member.replica.store_stats());
        let used = stats.used_bytes;
        // The pages of an entry that takes several turns count already, and nothing is full before they are published.
        let is_full = used >= quota && !member.replica.is_suspended();
        let fullness = &mut self.fullness;
        // What a sweep, or a later entry of the turn, has removed was in use when the alarm was thought of.
        let sweeps = member.replica.tally().sweeps;
        let swept = std::mem::replace(&mut fullness.sweeps, sweeps) != sweeps;
        // Another entry may have begun in the turn.
        let entries = applied.saturating_sub(fullness.looked) + u64::from(member.replica.is_suspended());
        let several = swept || entries > 1;
        fullness.was_full |= is_full || several && used + stats.leaving_bytes >= quota;
        let (mut grown, mut raised) = (None, None);
        for at in fullness.looked.min(applied) as usize..applied as usize {
            let request = self.judge.history[at].request.as_ref().filter(|_| self.judge.answer(at).is_ok());
            if request.is_some_and(grows) {
                grown = Some(at);
            }
            let is_ours = |alarm: &AlarmRequest| {
                (alarm.action, alarm.alarm, alarm.member_id)
                    == (AlarmAction::Activate as i32, AlarmType::Nospace as i32, fullness.member_id)
            };
            if request.and_then(|request| request.alarm.as_ref()).is_some_and(is_ours) {
                raised = Some(at);
            }
        }
        fullness.looked = fullness.looked.max(applied);
        fullness.has_grown |= grown.is_some();
        // A client may clear the alarm in the turn in which it is raised.
        fullness.since = fullness.since.filter(|_| raised.is_none());
        if grown > raised && is_full {
            fullness.since.get_or_insert(self.now);
        }
        if self.judge.model.alarms.contains(&(AlarmType::Nospace as i32, fullness.member_id)) {
            fullness.since = None;
        }
        let late = fullness.since.map_or(Duration::ZERO, |since| self.now.since(since + SOON));
        judge!(late.is_zero(), "{used} bytes are in use, of {quota}, and no alarm is raised");
    }

    /// The member's own entry is on its way to the disk.
    pub fn check_own_alarm(&self, at: usize) {
        let request = self.judge.history[at].request.as_ref().and_then(|request| request.alarm.as_ref());
        if let Some(alarm) = request.filter(|alarm| alarm.action == AlarmAction::Activate as i32) {
            let may = self.fullness.was_full && self.fullness.has_grown;
            judge!(may, "{alarm:?} of the member itself, whose store is not full, or has not grown");
        }
    }
}
