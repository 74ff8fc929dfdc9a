//! The alarm that a store beyond its quota raises.
//!
//! The API refuses what would pass the quota before it is proposed; what many clients send at once still gets
//! through together. Then the entries are applied, all the same on every member, and answered with success, and
//! the member whose store is full proposes the alarm NOSPACE. From its entry on every member refuses what grows the
//! store. (etcd answers the entries that passed the quota with "no space" though it has applied them.)
#![forbid(unsafe_code)]

use super::replica::Replica;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::request::Request;

impl Replica {
    /// To be called when something was applied that grows the store, and that was not in the log at the start.
    pub(super) fn raise_alarm_if_full(&mut self) {
        let term = self.node.raft.term;
        let Some(quota) = self.settings.quota_bytes else { return };
        // An alarm that a change of leaders lost is proposed again in the next term.
        if self.leadership.has_alarmed(term) || self.store.stats().used_bytes < quota {
            return;
        }
        let member_id = self.settings.member_id;
        let alarm = AlarmType::Nospace as i32;
        if self.state.alarms.has(member_id, AlarmType::Nospace) {
            return;
        }
        self.leadership.on_alarm_proposed(term);
        let action = AlarmAction::Activate as i32;
        self.proposals.queue_own(Request::Alarm(AlarmRequest { action, member_id, alarm }));
    }
}
