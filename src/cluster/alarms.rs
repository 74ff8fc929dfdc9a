//! The alarms raised anywhere in the cluster, and what they forbid.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use prost::Message;

use super::cost::txn_cost;
use super::stored;
use crate::btree::{Read, Tree, WriteTxn};
use crate::error::Error;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};
use crate::request::Request;

/// The alarms raised anywhere in the cluster. In tree `Alarm` a key is an encoded AlarmMember, as in etcd's bucket.
#[derive(Debug, Default)]
pub struct Alarms {
    /// By type, then member.
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// What the store says.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn restore(read: &impl Read) -> Result<Self, Error> {
        let alarms = stored::alarms(read)?;
        Ok(Self { raised: alarms.into_iter().map(|member| (member.alarm, member.member_id)).collect() })
    }

    /// True if any member has raised it.
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.of_type(alarm as i32).next().is_some()
    }

    /// True if this member has raised it.
    pub fn has(&self, member_id: u64, alarm: AlarmType) -> bool {
        self.raised.contains(&(alarm as i32, member_id))
    }

    /// The alarms of a type; of every type for `NONE`.
    pub fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let member = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        if alarm == AlarmType::None as i32 {
            return self.raised.iter().map(member).collect();
        }
        self.of_type(alarm).map(member).collect()
    }

    /// Those of a type, however many others there are.
    fn of_type(&self, alarm: i32) -> impl Iterator<Item = &(i32, u64)> {
        self.raised.range((alarm, 0)..=(alarm, u64::MAX))
    }

    /// The error of a request that a raised alarm forbids.
    pub fn refuse(&self, request: &Request) -> Option<Error> {
        if self.raised.is_empty() {
            return None;
        }
        let corrupt = matches!(
            request,
            Request::Range(_)
                | Request::Put(_)
                | Request::DeleteRange(_)
                | Request::Txn(_)
                | Request::Compaction(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_)
        );
        if corrupt && self.is_raised(AlarmType::Corrupt) {
            return Some(Error::Corrupt);
        }
        let grows = match request {
            Request::Put(_) | Request::LeaseGrant(_) => true,
            Request::Txn(request) => txn_cost(request) > 0,
            _ => false,
        };
        (grows && self.is_raised(AlarmType::Nospace)).then_some(Error::NoSpace)
    }

    /// Raises, clears or lists; returns what the client is told.
    pub fn apply(&mut self, txn: &mut WriteTxn<'_>, request: &AlarmRequest) -> Vec<AlarmMember> {
        let member = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                if self.raised.insert((request.alarm, request.member_id)) {
                    txn.put(Tree::Alarm, &member.encode_to_vec(), &[]);
                }
                vec![member]
            }
            Ok(AlarmAction::Deactivate) => {
                if !self.raised.remove(&(request.alarm, request.member_id)) {
                    return Vec::new();
                }
                txn.delete(Tree::Alarm, &member.encode_to_vec());
                vec![member]
            }
            // The client API refuses it before it is proposed.
            Err(_) => Vec::new(),
        }
    }
}
