//! The quota of the store: `--quota-backend-bytes`.
//!
//! A request that would pass it is refused and raises the alarm NOSPACE, which then refuses every request that
//! grows the store, in the log and so on all members, until an operator disarms it. What is measured is the part of
//! the store file that holds data: free pages are used again before the file grows, so they are no burden, and
//! deleting and compacting makes room without any defragmentation.
//!
//! This is the first of two looks; the second is `replica::quota`, when entries are applied.
#![forbid(unsafe_code)]

use std::rc::Rc;

use prost::Message;

use super::answer::{Answer, Outcome};
use crate::error::Error;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::request::Kind;
use crate::server::log::lines;
use crate::server::session::Session;
use crate::server::session::member_health::alarms;

/// What a request is answered with that may not add `cost` bytes; nothing if it may. A client that is refused sees the
/// alarm in the list of alarms, so the answer waits until the alarm is raised.
pub fn refusal(session: &Rc<Session>, cost: u64) -> Option<Outcome> {
    let quota = session.member.quota?;
    let (_, used) = session.member.store_bytes();
    if fits(u64::try_from(used).unwrap_or(0), cost, quota) {
        return None;
    }
    let member_id = session.member.member_id;
    let alarm = AlarmType::Nospace as i32;
    if alarms(session).iter().any(|raised| raised.member_id == member_id && raised.alarm == alarm) {
        return Some(Err(Error::NoSpace.into()));
    }
    lines::quota_exceeded(quota, &Error::NoSpace);
    let request = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm };
    Some(Ok(Answer::later(move |session, reply| {
        // If the alarm is lost, the next refused request raises it.
        session
            .propose_then(Kind::Alarm, &request.encode_to_vec(), |_, _| reply.fail(&Error::NoSpace.into()));
    })))
}

/// Whether `cost` more bytes stay below the quota. What costs nothing always does.
fn fits(used: u64, cost: u64, quota: u64) -> bool {
    cost == 0 || used + cost < quota
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn what_reaches_the_quota_is_refused_and_what_costs_nothing_is_not() {
        for (used, cost, quota, fit) in
            [(0, 9, 10, true), (0, 10, 10, false), (4, 5, 10, true), (5, 5, 10, false), (50, 0, 10, true)]
        {
            assert_eq!(fits(used, cost, quota), fit, "{used} + {cost} of {quota}");
        }
    }
}
