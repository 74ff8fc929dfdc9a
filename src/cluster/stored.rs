//! Members and alarms as the store has them, decoded in one way for whoever reads them.
//!
//! A record that cannot be read is damage, and never skipped: a member that forgot an alarm, or another member, would
//! decide otherwise than the others.
#![forbid(unsafe_code)]

use prost::Message;

use crate::btree::{Read, Tree};
use crate::error::Error;
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::membershippb::Member;

/// Every id that is or was a member's, with the member; none for one that was removed.
///
/// # Errors
/// When a record cannot be read.
pub fn members(read: &impl Read) -> Result<Vec<(u64, Option<Member>)>, Error> {
    let mut cursor = read.cursor(Tree::Member);
    cursor.seek(&[]);
    let mut members = Vec::new();
    while cursor.valid() {
        let id = cursor.key().try_into().map_err(|_| Error::Corrupt)?;
        members.push((u64::from_be_bytes(id), decode(cursor.value())?));
        cursor.next();
    }
    Ok(members)
}

/// The member of that id; none if there is no such member, or not any more.
///
/// # Errors
/// When the record cannot be read.
pub fn member(read: &impl Read, id: u64) -> Result<Option<Member>, Error> {
    read.get(Tree::Member, &id.to_be_bytes()).map_or(Ok(None), decode)
}

fn decode(stored: &[u8]) -> Result<Option<Member>, Error> {
    if stored.is_empty() {
        return Ok(None);
    }
    Member::decode(stored).map(Some).map_err(|_| Error::Corrupt)
}

/// The alarms that are raised.
///
/// # Errors
/// When a record cannot be read.
pub fn alarms(read: &impl Read) -> Result<Vec<AlarmMember>, Error> {
    let mut cursor = read.cursor(Tree::Alarm);
    cursor.seek(&[]);
    let mut alarms = Vec::new();
    while cursor.valid() {
        alarms.push(AlarmMember::decode(cursor.key()).map_err(|_| Error::Corrupt)?);
        cursor.next();
    }
    Ok(alarms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;

    #[test]
    fn what_cannot_be_read_is_damage_and_a_removed_member_is_none() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        let stored = Member { id: 7, ..Member::default() };
        txn.put(Tree::Member, &7u64.to_be_bytes(), &stored.encode_to_vec());
        txn.put(Tree::Member, &8u64.to_be_bytes(), b"");
        assert_eq!(members(&txn), Ok(vec![(7, Some(stored.clone())), (8, None)]));
        let found = [7, 8, 9].map(|id| member(&txn, id));
        assert_eq!(found, [Ok(Some(stored)), Ok(None), Ok(None)]);
        txn.put(Tree::Member, &9u64.to_be_bytes(), b"\xff");
        assert_eq!((members(&txn), member(&txn, 9)), (Err(Error::Corrupt), Err(Error::Corrupt)));
        txn.delete(Tree::Member, &9u64.to_be_bytes());
        txn.put(Tree::Member, b"short", b"");
        assert_eq!(members(&txn), Err(Error::Corrupt));
        assert_eq!(alarms(&txn), Ok(Vec::new()));
        txn.put(Tree::Alarm, b"\xff", b"");
        assert_eq!(alarms(&txn), Err(Error::Corrupt));
    }
}
