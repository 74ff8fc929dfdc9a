//! Messages out of bytes that anybody may have sent: how long they may be, and what they may ask of memory.
//!
//! A field of two bytes can become an entry of a hundred in memory, so what a message has is counted in its bytes
//! before it is decoded.
#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::Message;

use super::frame::Broken;
use crate::limits::APPEND_BYTES_MAX;
use crate::wire::take_varint;

/// The longest requests that another member may take from its clients, whatever this one takes: more than etcd
/// recommends.
const OTHERS_REQUEST_BYTES_MAX: u64 = 16 << 20;

/// Entries of one message. etcd sends a mebibyte of them, or one that is longer, and the shortest take four bytes.
pub const ENTRIES_MAX: u64 = 1 << 18;

/// Bytes that name the members in a message about a snapshot: some six thousand of them.
const MEMBERS_BYTES_MAX: u64 = 64 << 10;

/// Fields by their numbers.
const ENTRIES: u64 = 7;
const SNAPSHOT: u64 = 9;
const METADATA_OF_SNAPSHOT: u64 = 2;

/// Bytes of one message to a member that takes requests of so many bytes. A message has as many entries as a member
/// appends at a time, or one that is longer, which is a request. Other members may take longer requests than this one,
/// by their flags or by what an entry has beside the request.
pub const fn bytes_max(request_bytes_max: u64) -> u64 {
    let longest = request_bytes_max.saturating_mul(2);
    let longest = if longest < OTHERS_REQUEST_BYTES_MAX { OTHERS_REQUEST_BYTES_MAX } else { longest };
    longest.saturating_add(APPEND_BYTES_MAX as u64)
}

/// Reads a message.
///
/// # Errors
/// When the bytes are none, or when it would take much more memory than bytes.
pub fn decode(bytes: Bytes) -> Result<Message, Broken> {
    let mut entries = 0;
    let mut members = 0;
    each_field(&bytes, |field, content| {
        match field {
            ENTRIES => entries += 1,
            SNAPSHOT => each_field(content, |field, content| {
                let is_metadata = field == METADATA_OF_SNAPSHOT;
                members += if is_metadata { content.len() as u64 } else { 0 };
                Ok(())
            })?,
            _ => {}
        }
        if entries > ENTRIES_MAX || members > MEMBERS_BYTES_MAX { Err(Broken::TooLong) } else { Ok(()) }
    })?;
    Message::decode(bytes).map_err(|_| Broken::Unreadable)
}

/// Shows `look` each field of a message with its bytes; numbers have none.
fn each_field(
    mut message: &[u8],
    mut look: impl FnMut(u64, &[u8]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    while !message.is_empty() {
        let key = take_varint(&mut message).ok_or(Broken::Unreadable)?;
        let length = match key & 7 {
            0 => take_varint(&mut message).map(|_| 0),
            1 => Some(size_of::<u64>() as u64),
            2 => take_varint(&mut message),
            5 => Some(size_of::<u32>() as u64),
            _ => None,
        };
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(Broken::Unreadable)?;
        let (content, rest) = message.split_at_checked(length).ok_or(Broken::Unreadable)?;
        message = rest;
        look(key >> 3, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{ConfState, Entry, MessageType, Snapshot, SnapshotMetadata};

    #[test]
    fn what_members_send_is_read() {
        let conf_state = ConfState { voters: vec![u64::MAX; 7], ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: 7, term: 3 };
        let snapshot = Snapshot { metadata: Some(metadata), data: vec![7; 100_000].into() };
        let entry = Entry { term: 4, index: 1, data: vec![7; 900].into(), ..Entry::default() };
        let message = Message {
            msg_type: MessageType::MsgSnapshot.into(),
            from: u64::MAX,
            term: 4,
            entries: vec![entry; 9],
            snapshot: Some(snapshot),
            context: vec![1, 2].into(),
            ..Message::default()
        };
        let bytes: Bytes = message.encode_to_vec().into();
        assert_eq!(decode(bytes.clone()), Ok(message));
        for length in 1..bytes.len().min(200) {
            let cut = decode(bytes.slice(..length));
            assert!(cut.is_err() || cut.is_ok_and(|cut| cut.snapshot.is_none()), "{length}");
        }
        assert_eq!(decode(Bytes::new()), Ok(Message::default()));
        for group in [&[0x0b][..], &[0x0c], &[0x0e, 0], &[0x0d, 0, 0], &[0x09, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(Bytes::copy_from_slice(group)), Err(Broken::Unreadable), "{group:x?}");
        }
    }

    #[test]
    fn no_message_takes_much_more_memory_than_bytes() {
        let entries = |count: u64| Bytes::from([0x3a, 0].repeat(count as usize));
        assert_eq!(decode(entries(ENTRIES_MAX)).map(|message| message.entries.len() as u64), Ok(ENTRIES_MAX));
        assert_eq!(decode(entries(ENTRIES_MAX + 1)), Err(Broken::TooLong));
        // Voters of one byte each, in one piece and in many.
        let conf_state =
            ConfState { voters: vec![1; 2 * MEMBERS_BYTES_MAX as usize], ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), ..SnapshotMetadata::default() };
        let snapshot = Snapshot { metadata: Some(metadata), ..Snapshot::default() };
        let message = Message { snapshot: Some(snapshot), ..Message::default() };
        assert_eq!(decode(message.encode_to_vec().into()), Err(Broken::TooLong));
        let piece = [&[0x4a, 0x7c, 0x12, 0x7a][..], &[0x0a, 0x78], &[0x0a; 120]].concat();
        assert!(decode(piece.clone().into()).is_ok());
        assert_eq!(decode(piece.repeat(1000).into()), Err(Broken::TooLong));
    }

    #[test]
    fn messages_may_be_as_long_as_requests_and_no_longer() {
        let (default, unlimited) = (1_572_864, u64::from(u32::MAX));
        assert_eq!(bytes_max(default), 24 << 20);
        assert_eq!(bytes_max(100 << 20), 208 << 20);
        assert!(bytes_max(unlimited) > 2 * unlimited && bytes_max(u64::MAX) == u64::MAX);
    }
}
