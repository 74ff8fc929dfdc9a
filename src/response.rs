//! What comes back from applying a request, in pieces that are already encoded where values are large; [`encode`] adds
//! the header of the member that answers.
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::membershippb::Member;
use crate::stdx::time::Instant;
use crate::wire::{bytes_field_len, int_field_len, put_bytes_field, put_bytes_head, put_int_field};

/// Who answers: the part of a ResponseHeader that is the member's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that answers.
    pub member_id: u64,
    /// Its current term.
    pub raft_term: u64,
}

impl Header {
    fn message_len(&self, revision: i64) -> usize {
        int_field_len(self.cluster_id as i64)
            + int_field_len(self.member_id as i64)
            + int_field_len(revision)
            + int_field_len(self.raft_term as i64)
    }

    /// Length of field 1 of every response.
    pub fn field_len(&self, revision: i64) -> usize {
        bytes_field_len(self.message_len(revision))
    }

    /// Appends field 1 of every response.
    pub fn put_field(&self, revision: i64, out: &mut BytesMut) {
        put_bytes_head(out, 1, self.message_len(revision));
        put_int_field(out, 1, self.cluster_id as i64);
        put_int_field(out, 2, self.member_id as i64);
        put_int_field(out, 3, revision);
        put_int_field(out, 4, self.raft_term as i64);
    }
}

/// What applying a request found out. `revision` is the header's.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a Range in the log.
    Range {
        /// The store's revision.
        revision: i64,
        /// The encoded RangeResponse without its header.
        body: Bytes,
    },
    /// To a Put.
    Put {
        /// The put's own revision.
        revision: i64,
        /// The encoded KeyValue that was there before, if asked for.
        prev_kv: Option<Bytes>,
    },
    /// To a DeleteRange.
    DeleteRange {
        /// The deletion's revision, or the store's if nothing was there.
        revision: i64,
        /// Keys deleted.
        deleted: i64,
        /// Fields 3 of the DeleteRangeResponse, encoded, if asked for.
        prev_kvs: Bytes,
    },
    /// To a Txn.
    Txn {
        /// The transaction's revision, or the store's if it changed nothing.
        revision: i64,
        /// The encoded TxnResponse without its header.
        body: Bytes,
    },
    /// To a write that was applied and whose answer is longer than may be assembled, or than there is room for.
    Overlong {
        /// The revision of the write.
        revision: i64,
        /// Bytes that the answer would have had, or little more.
        len: usize,
    },
    /// To a Compaction. If it was to be physical, the reply waits until the store is swept up to `compacted`.
    Compact {
        /// The store's revision.
        revision: i64,
        /// The compaction's revision.
        compacted: i64,
        /// The client waits for the garbage to be gone.
        physical: bool,
    },
    /// To a LeaseGrant.
    LeaseGrant {
        /// The store's revision.
        revision: i64,
        /// The lease.
        id: i64,
        /// Its time to live in seconds, raised to the minimum.
        ttl: i64,
    },
    /// To a LeaseRevoke.
    LeaseRevoke {
        /// The revision of the deletions, or the store's if no key was attached.
        revision: i64,
    },
    /// To a LeaseCheckpoint.
    LeaseCheckpoint {
        /// The store's revision.
        revision: i64,
    },
    /// To an Alarm.
    Alarm {
        /// The store's revision.
        revision: i64,
        /// Those asked for, or the one that was raised or cleared.
        alarms: Vec<AlarmMember>,
    },
    /// To a LeaseKeepAlive.
    LeaseKeepAlive {
        /// The store's revision.
        revision: i64,
        /// The lease.
        id: i64,
        /// Seconds it has again; 0 for one that is gone.
        ttl: i64,
    },
    /// To a LeaseTimeToLive.
    LeaseTimeToLive {
        /// The store's revision.
        revision: i64,
        /// The lease.
        id: i64,
        /// Whole seconds left; -1 for one that is gone.
        ttl: i64,
        /// Seconds granted.
        granted_ttl: i64,
    },
    /// To a question when leases end.
    LeaseExpiries {
        /// The store's revision.
        revision: i64,
        /// When each ends, in the order in which they were named; the earliest instant for one that is gone.
        expiries: Vec<Instant>,
    },
    /// To a change of the members.
    Members {
        /// All members that there are now, by id.
        members: Vec<Member>,
    },
    /// To what no client waits for: facts about the cluster.
    Done,
}

impl Response {
    /// The revision that the header will have.
    pub fn revision(&self) -> i64 {
        match *self {
            Response::Range { revision, .. }
            | Response::Put { revision, .. }
            | Response::DeleteRange { revision, .. }
            | Response::Txn { revision, .. }
            | Response::Overlong { revision, .. }
            | Response::Compact { revision, .. }
            | Response::LeaseGrant { revision, .. }
            | Response::LeaseRevoke { revision }
            | Response::LeaseCheckpoint { revision }
            | Response::LeaseKeepAlive { revision, .. }
            | Response::LeaseTimeToLive { revision, .. }
            | Response::LeaseExpiries { revision, .. }
            | Response::Alarm { revision, .. } => revision,
            Response::Members { .. } | Response::Done => 0,
        }
    }
}

impl Response {
    /// Bytes of the pairs that it was assembled from.
    pub fn pairs_len(&self) -> usize {
        match self {
            Self::Range { body, .. } | Self::Txn { body, .. } => body.len(),
            Self::Put { prev_kv, .. } => prev_kv.as_ref().map_or(0, Bytes::len),
            Self::DeleteRange { prev_kvs, .. } => prev_kvs.len(),
            _ => 0,
        }
    }
}

/// Appends a key of a lease to the answer to a LeaseTimeToLive.
pub fn put_lease_key(out: &mut BytesMut, key: &[u8]) {
    put_bytes_field(out, 5, key);
}

/// Appends a lease to the answer to a LeaseLeases.
pub fn put_lease(out: &mut BytesMut, id: i64) {
    put_bytes_head(out, 2, int_field_len(id));
    put_int_field(out, 1, id);
}

/// From this length on pairs are a piece of their own in the message that a client gets.
const PIECE_BYTES: usize = 16 << 10;

/// [`encode`] in two pieces. The second one has the pairs if they are long: they stay where they are, so that no answer
/// is in memory twice. Otherwise it is empty.
pub fn encode_pieces(response: &Response, header: &Header) -> [Bytes; 2] {
    let pairs = match response {
        Response::Range { body, .. } | Response::Txn { body, .. } => body,
        Response::Put { prev_kv: Some(kv), .. } => kv,
        Response::DeleteRange { prev_kvs, .. } => prev_kvs,
        _ => return [encode(response, header), Bytes::new()],
    };
    if pairs.len() < PIECE_BYTES {
        return [encode(response, header), Bytes::new()];
    }
    let mut head = BytesMut::new();
    header.put_field(response.revision(), &mut head);
    match response {
        Response::Put { .. } => put_bytes_head(&mut head, 2, pairs.len()),
        Response::DeleteRange { deleted, .. } => put_int_field(&mut head, 2, *deleted),
        _ => {}
    }
    [head.freeze(), pairs.clone()]
}

/// The message that a client gets: the response under the answering member's header.
pub fn encode(response: &Response, header: &Header) -> Bytes {
    let revision = response.revision();
    let body_len = match response {
        Response::Range { body, .. } | Response::Txn { body, .. } => body.len(),
        Response::Put { prev_kv, .. } => prev_kv.as_ref().map_or(0, |kv| bytes_field_len(kv.len())),
        Response::DeleteRange { deleted, prev_kvs, .. } => int_field_len(*deleted) + prev_kvs.len(),
        Response::LeaseGrant { id, ttl, .. } => int_field_len(*id) + int_field_len(*ttl),
        Response::Alarm { alarms, .. } => alarms.iter().map(|a| bytes_field_len(a.encoded_len())).sum(),
        Response::LeaseKeepAlive { id, ttl, .. } => int_field_len(*id) + int_field_len(*ttl),
        Response::LeaseTimeToLive { id, ttl, granted_ttl, .. } => {
            int_field_len(*id) + int_field_len(*ttl) + int_field_len(*granted_ttl)
        }
        Response::Overlong { .. }
        | Response::Compact { .. }
        | Response::LeaseRevoke { .. }
        | Response::LeaseCheckpoint { .. }
        | Response::LeaseExpiries { .. }
        | Response::Members { .. }
        | Response::Done => 0,
    };
    let mut out = BytesMut::with_capacity(header.field_len(revision) + body_len);
    header.put_field(revision, &mut out);
    match response {
        Response::Range { body, .. } | Response::Txn { body, .. } => out.put_slice(body),
        Response::Put { prev_kv, .. } => {
            if let Some(kv) = prev_kv {
                put_bytes_field(&mut out, 2, kv);
            }
        }
        Response::DeleteRange { deleted, prev_kvs, .. } => {
            put_int_field(&mut out, 2, *deleted);
            out.put_slice(prev_kvs);
        }
        Response::LeaseGrant { id, ttl, .. } | Response::LeaseKeepAlive { id, ttl, .. } => {
            put_int_field(&mut out, 2, *id);
            put_int_field(&mut out, 3, *ttl);
        }
        Response::Alarm { alarms, .. } => {
            for alarm in alarms {
                put_bytes_field(&mut out, 2, &alarm.encode_to_vec());
            }
        }
        Response::LeaseTimeToLive { id, ttl, granted_ttl, .. } => {
            put_int_field(&mut out, 2, *id);
            put_int_field(&mut out, 3, *ttl);
            put_int_field(&mut out, 4, *granted_ttl);
        }
        Response::Overlong { .. }
        | Response::Compact { .. }
        | Response::LeaseRevoke { .. }
        | Response::LeaseCheckpoint { .. }
        | Response::LeaseExpiries { .. }
        | Response::Members { .. }
        | Response::Done => {}
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{
        AlarmResponse, DeleteRangeResponse, LeaseGrantResponse, PutResponse, ResponseHeader,
    };
    use crate::proto::mvccpb::KeyValue;

    #[test]
    fn responses_are_what_the_generated_code_writes() {
        let header = Header { cluster_id: u64::MAX, member_id: 3, raft_term: 4 };
        let theirs =
            |revision| Some(ResponseHeader { cluster_id: u64::MAX, member_id: 3, revision, raft_term: 4 });
        let kv = KeyValue { key: "k".into(), create_revision: 1, ..KeyValue::default() };
        let stored = Bytes::from(kv.encode_to_vec());

        let put = Response::Put { revision: 5, prev_kv: Some(stored.clone()) };
        let expected = PutResponse { header: theirs(5), prev_kv: Some(kv.clone()) };
        assert_eq!(encode(&put, &header), expected.encode_to_vec());

        let mut prev_kvs = BytesMut::new();
        put_bytes_field(&mut prev_kvs, 3, &stored);
        let delete = Response::DeleteRange { revision: 6, deleted: 1, prev_kvs: prev_kvs.freeze() };
        let expected = DeleteRangeResponse { header: theirs(6), deleted: 1, prev_kvs: vec![kv] };
        assert_eq!(encode(&delete, &header), expected.encode_to_vec());

        let grant = Response::LeaseGrant { revision: 1, id: -5, ttl: 60 };
        let expected = LeaseGrantResponse { header: theirs(1), id: -5, ttl: 60, error: String::new() };
        assert_eq!(encode(&grant, &header), expected.encode_to_vec());

        let alarms = vec![AlarmMember { member_id: 3, alarm: 1 }];
        let expected = AlarmResponse { header: theirs(2), alarms: alarms.clone() };
        assert_eq!(encode(&Response::Alarm { revision: 2, alarms }, &header), expected.encode_to_vec());
    }

    #[test]
    fn long_pairs_are_a_piece_that_is_not_copied() {
        let header = Header { cluster_id: 1, member_id: 2, raft_term: 3 };
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1] {
            let body = Bytes::from(vec![7; length]);
            let responses = [
                Response::Range { revision: 5, body: body.clone() },
                Response::Txn { revision: 6, body: body.clone() },
                Response::Put { revision: 7, prev_kv: Some(body.clone()) },
                Response::DeleteRange { revision: 8, deleted: 9, prev_kvs: body.clone() },
                Response::LeaseRevoke { revision: 10 },
            ];
            for response in responses {
                let [head, pairs] = encode_pieces(&response, &header);
                assert_eq!([&head[..], &pairs].concat(), encode(&response, &header), "{length}");
                let is_long = length >= PIECE_BYTES && response.pairs_len() > 0;
                assert_eq!(pairs.len(), if is_long { length } else { 0 });
                assert!(!is_long || pairs.as_ptr() == body.as_ptr(), "it was copied");
            }
        }
    }
}
