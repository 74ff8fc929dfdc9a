//! The quota of the store: `--quota-backend-bytes`.
//!
//! A request that would pass it is refused and raises the alarm NOSPACE, which then refuses every request that
//! grows the store, in the log and so on all members, until an operator disarms it. What is measured is the part of
//! the store file that holds data: free pages are used again before the file grows, so they are no burden, and
//! deleting and compacting makes room without any defragmentation.
#![forbid(unsafe_code)]

use std::rc::Rc;

use prost::Message;

use crate::error::Error;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::request::Kind;
use crate::server::health::alarms;
use crate::server::session::Session;

/// Whether a request that may add `cost` bytes is let through.
///
/// # Errors
/// [`Error::NoSpace`].
pub fn admit(session: &Rc<Session>, cost: u64) -> Result<(), Error> {
    let Some(quota) = quota(session.member.quota_bytes) else { return Ok(()) };
    let (_, used) = session.member.store_bytes();
    if cost == 0 || used.max(0) as u64 + cost < quota {
        return Ok(());
    }
    let member_id = session.member.member_id;
    let alarm = AlarmType::Nospace as i32;
    if !alarms(session).iter().any(|raised| raised.member_id == member_id && raised.alarm == alarm) {
        tracing::warn!(used, quota, "the store has reached its quota; raising the alarm NOSPACE");
        let request = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm };
        // Nobody waits: if it is lost, the next refused request raises it.
        session.propose_then(Kind::Alarm, &request.encode_to_vec(), |_, _| {});
    }
    Err(Error::NoSpace)
}

/// The flag's value as a bound: 0 is the default, negative is none.
fn quota(flag: i64) -> Option<u64> {
    match flag {
        0 => Some(crate::config::DEFAULT_QUOTA_BYTES as u64),
        bytes => u64::try_from(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::quota;

    #[test]
    fn zero_is_the_default_and_negative_is_none() {
        assert_eq!((quota(0), quota(7), quota(-1)), (Some(2 << 30), Some(7), None));
    }
}
