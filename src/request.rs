//! The command that is proposed, logged and applied.
//!
//! A log entry is an encoded `etcdserverpb.InternalRaftRequest` (etcd's proto message: its tools read our log). It
//! is read here field by field instead of by generated code: of its forty optional messages an entry has one.
//! What comes back from applying it is a [`Response`](crate::response::Response).
#![forbid(unsafe_code)]

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::nested;
use crate::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestHeader, TxnRequest,
};
use crate::proto::membershippb::{
    ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use crate::wire::{put_varint, varint_len};

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident($message:ty) = $field:literal;)*) => {
        /// A command.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Request {
            $($(#[$doc])* $name($message),)*
            /// An entry that some test of etcd's writes to move the log's version; means nothing.
            DowngradeVersionTest,
        }

        /// Which message of an entry is set: its field number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        #[repr(u32)]
        pub enum Kind { $($name = $field,)* DowngradeVersionTest = 9900 }

        impl Request {
            /// Which message it is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Request::$name(_) => Kind::$name,)*
                    Request::DowngradeVersionTest => Kind::DowngradeVersionTest,
                }
            }

            /// The message's own encoding.
            fn encode_message(&self) -> Vec<u8> {
                match self {
                    $(Request::$name(message) => message.encode_to_vec(),)*
                    Request::DowngradeVersionTest => Vec::new(),
                }
            }

            fn decode_message(field: u32, message: Bytes) -> Result<Self, EntryError> {
                match field {
                    // One in which others are nested is read by hand.
                    field if field == Kind::Txn as u32 => Ok(Request::Txn(nested::decode(message)?)),
                    $($field => Ok(Request::$name(<$message>::decode(message)?)),)*
                    9900 => Ok(Request::DowngradeVersionTest),
                    _ => Err(EntryError::UnknownKind(field)),
                }
            }
        }
    };
}

requests! {
    /// Never proposed, but entries of it are legal.
    Range(RangeRequest) = 3;
    Put(PutRequest) = 4;
    DeleteRange(DeleteRangeRequest) = 5;
    Txn(TxnRequest) = 6;
    Compaction(CompactionRequest) = 7;
    LeaseGrant(LeaseGrantRequest) = 8;
    LeaseRevoke(LeaseRevokeRequest) = 9;
    Alarm(AlarmRequest) = 10;
    LeaseCheckpoint(LeaseCheckpointRequest) = 11;
    ClusterVersionSet(ClusterVersionSetRequest) = 1300;
    ClusterMemberAttrSet(ClusterMemberAttrSetRequest) = 1301;
    DowngradeInfoSet(DowngradeInfoSetRequest) = 1302;
}

/// A log entry's command with who asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Chosen by the proposer; its reply waits under it.
    pub id: u64,
    /// The authenticated user; empty for none.
    pub username: String,
    /// The auth revision that the user was checked against.
    pub auth_revision: u64,
    /// The command.
    pub request: Request,
}

/// Why the bytes of a log entry are no command that this version can apply.
#[derive(Debug)]
pub enum EntryError {
    /// Not the encoding of an InternalRaftRequest.
    Malformed(prost::DecodeError),
    /// A transaction in which more others are nested than can be read.
    TooDeep,
    /// It ends inside a field.
    Truncated,
    /// A message whose meaning is not built: skipping it would make this member differ from its peers.
    UnknownKind(u32),
    /// No message at all.
    Empty,
    /// More than one message.
    Ambiguous,
}

impl From<nested::Unreadable> for EntryError {
    fn from(unreadable: nested::Unreadable) -> Self {
        match unreadable {
            nested::Unreadable::Malformed(error) => Self::Malformed(error),
            nested::Unreadable::TooDeep => Self::TooDeep,
        }
    }
}

impl From<prost::DecodeError> for EntryError {
    fn from(error: prost::DecodeError) -> Self {
        EntryError::Malformed(error)
    }
}

impl core::fmt::Display for EntryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            EntryError::Malformed(error) => write!(f, "not an InternalRaftRequest: {error}"),
            EntryError::TooDeep => f.write_str("a transaction that is nested too deep"),
            EntryError::Truncated => f.write_str("an InternalRaftRequest that ends inside a field"),
            EntryError::UnknownKind(field) => {
                write!(f, "field {field} of InternalRaftRequest is of a kind that this version cannot apply")
            }
            EntryError::Empty => f.write_str("an InternalRaftRequest without a request"),
            EntryError::Ambiguous => f.write_str("an InternalRaftRequest with more than one request"),
        }
    }
}

impl std::error::Error for EntryError {}

const HEADER_FIELD: u32 = 100;
const LEGACY_ID_FIELD: u32 = 1;

impl Entry {
    /// A command of nobody in particular.
    pub fn new(id: u64, request: Request) -> Self {
        Self { id, username: String::new(), auth_revision: 0, request }
    }

    /// The encoded InternalRaftRequest.
    pub fn encode(&self) -> Bytes {
        let message = self.request.encode_message();
        let header =
            RequestHeader { id: self.id, username: self.username.clone(), auth_revision: self.auth_revision };
        wrap_with(&header, self.request.kind(), &message)
    }

    /// Reads an encoded InternalRaftRequest; keys and values stay in `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EntryError> {
        use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
        let mut header = RequestHeader::default();
        let mut request = None;
        while !bytes.is_empty() {
            let (field, wire_type) = decode_key(&mut bytes)?;
            match (field, wire_type) {
                (LEGACY_ID_FIELD, WireType::Varint) => {
                    let id = decode_varint(&mut bytes)?;
                    header.id = if header.id == 0 { id } else { header.id };
                }
                (_, WireType::LengthDelimited) => {
                    let len = decode_varint(&mut bytes)? as usize;
                    if len > bytes.len() {
                        return Err(EntryError::Truncated);
                    }
                    let message = bytes.split_to(len);
                    if field == HEADER_FIELD {
                        header.merge(message)?;
                    } else if request.replace(Request::decode_message(field, message)?).is_some() {
                        return Err(EntryError::Ambiguous);
                    }
                }
                _ => skip_field(wire_type, field, &mut bytes, DecodeContext::default())?,
            }
        }
        let RequestHeader { id, username, auth_revision } = header;
        Ok(Self { id, username, auth_revision, request: request.ok_or(EntryError::Empty)? })
    }

    /// The id of an encoded InternalRaftRequest, of which nothing else is read; none if it cannot be read.
    pub fn id_of(bytes: Bytes) -> Option<u64> {
        Headed::decode(bytes).ok()?.header.map(|header| header.id)
    }

    /// The lease that an encoded InternalRaftRequest revokes; none if the request is another one. Other messages are
    /// skipped without being read.
    pub fn revoked_lease(bytes: Bytes) -> Option<i64> {
        let revocation = Revocation::decode(bytes).ok()?;
        revocation.lease_revoke.map(|request| request.id)
    }
}

/// An InternalRaftRequest of which only its header is read.
#[derive(Clone, PartialEq, Message)]
struct Headed {
    #[prost(message, tag = "100")]
    header: Option<RequestHeader>,
}

/// An InternalRaftRequest of which only one field is read.
#[derive(Clone, PartialEq, Message)]
struct Revocation {
    #[prost(message, tag = "9")]
    lease_revoke: Option<LeaseRevokeRequest>,
}

/// The entry of a request whose message is at hand as the client encoded it, and the message as a part of that entry:
/// whoever keeps it holds no second copy.
pub fn wrap(id: u64, kind: Kind, message: &[u8]) -> (Bytes, Bytes) {
    let entry = wrap_with(&RequestHeader { id, ..RequestHeader::default() }, kind, message);
    let begin = match (kind as u32) < HEADER_FIELD {
        true => varint_len(tag(kind as u32)) + varint_len(message.len() as u64),
        false => entry.len() - message.len(),
    };
    let within = entry.slice(begin..begin + message.len());
    (entry, within)
}

/// The key of a field that has a length.
fn tag(field: u32) -> u64 {
    u64::from(field << 3 | 2)
}

fn wrap_with(header: &RequestHeader, kind: Kind, message: &[u8]) -> Bytes {
    let header_len = header.encoded_len();
    let total = varint_len(tag(kind as u32))
        + varint_len(message.len() as u64)
        + message.len()
        + varint_len(tag(HEADER_FIELD))
        + varint_len(header_len as u64)
        + header_len;
    let mut out = BytesMut::with_capacity(total);
    let put_message = |out: &mut BytesMut| {
        put_varint(out, tag(kind as u32));
        put_varint(out, message.len() as u64);
        out.put_slice(message);
    };
    // Fields in number order, as every protobuf encoder writes them.
    if (kind as u32) < HEADER_FIELD {
        put_message(&mut out);
    }
    put_varint(&mut out, tag(HEADER_FIELD));
    put_varint(&mut out, header_len as u64);
    header.encode_raw(&mut out);
    if (kind as u32) > HEADER_FIELD {
        put_message(&mut out);
    }
    debug_assert_eq!(out.len(), total);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::InternalRaftRequest;

    fn put_request() -> PutRequest {
        let (key, value) = ("key".into(), "value".into());
        PutRequest { key, value, lease: -7, prev_kv: true, ..PutRequest::default() }
    }

    #[test]
    fn an_entry_is_what_the_generated_code_writes_and_reads_back() {
        let put = put_request();
        let header = RequestHeader { id: 7, username: "root".into(), auth_revision: 3 };
        let theirs = InternalRaftRequest {
            header: Some(header),
            put: Some(put.clone()),
            ..InternalRaftRequest::default()
        };
        let ours =
            Entry { id: 7, username: "root".into(), auth_revision: 3, request: Request::Put(put.clone()) };
        assert_eq!(ours.encode(), theirs.encode_to_vec());
        assert_eq!(Entry::decode(ours.encode()).unwrap(), ours);
        let (wrapped, _) = wrap(9, Kind::Put, &put.encode_to_vec());
        assert_eq!(Entry::id_of(wrapped.clone()), Some(9));
        assert_eq!(Entry::decode(wrapped).unwrap(), Entry::new(9, Request::Put(put)));

        let set = ClusterVersionSetRequest { ver: "3.7.0".into() };
        let theirs = InternalRaftRequest {
            header: Some(RequestHeader { id: 1, ..RequestHeader::default() }),
            cluster_version_set: Some(set.clone()),
            ..InternalRaftRequest::default()
        };
        assert_eq!(Entry::new(1, Request::ClusterVersionSet(set)).encode(), theirs.encode_to_vec());
    }

    #[test]
    fn the_message_within_an_entry_is_the_clients_and_no_copy() {
        for kind in [Kind::Put, Kind::LeaseGrant, Kind::Alarm, Kind::Compaction] {
            for message in [Vec::new(), vec![7; 300]] {
                let (entry, within) = wrap(u64::MAX, kind, &message);
                assert_eq!(within, message, "{kind:?}");
                let entry = entry.as_ptr_range();
                assert!(message.is_empty() || entry.contains(&within.as_ptr()), "a part of the entry");
            }
        }
    }

    #[test]
    fn a_revocation_is_seen_among_other_commands() {
        let revocation = Entry::new(1, Request::LeaseRevoke(LeaseRevokeRequest { id: -7 }));
        assert_eq!(Entry::revoked_lease(revocation.encode()), Some(-7));
        let grant = Entry::new(2, Request::LeaseGrant(LeaseGrantRequest { id: -7, ttl: 1 }));
        for other in [grant, Entry::new(3, Request::Put(put_request()))] {
            assert_eq!(Entry::revoked_lease(other.encode()), None);
        }
        assert_eq!(Entry::revoked_lease(Bytes::new()), None);
        assert_eq!(Entry::revoked_lease(Bytes::from_static(&[0xff; 3])), None);
    }

    #[test]
    fn bytes_that_are_no_command_are_told_apart() {
        let (entry, _) = wrap(1, Kind::Put, &put_request().encode_to_vec());
        for len in 1..entry.len() {
            let cut = Entry::decode(entry.slice(..len));
            assert!(cut.is_err() || cut.unwrap().id == 0, "{len} bytes of {}", entry.len());
        }
        assert!(matches!(Entry::decode(Bytes::new()), Err(EntryError::Empty)));
        let twice = [entry.clone(), entry].concat();
        assert!(matches!(Entry::decode(twice.into()), Err(EntryError::Ambiguous)));
        let auth_enable = Bytes::from_static(&[0xc2, 0x3e, 0x00]);
        assert!(matches!(Entry::decode(auth_enable), Err(EntryError::UnknownKind(1000))));
    }
}
