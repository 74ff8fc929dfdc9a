//! The `protobuf` crate's trait over prost's codec.
//!
//! `raft` calls three of its methods: `compute_size` (for limits), `merge_from_bytes` and `write_to_bytes` (for
//! conf changes). Reflection and unknown fields don't exist here and say so when asked.

use std::any::Any;
use std::io;
use std::sync::OnceLock;

use prost::Message as _;
use protobuf::reflect::MessageDescriptor;
use protobuf::{Clear, CodedInputStream, CodedOutputStream, ProtobufError, ProtobufResult, UnknownFields};

use crate::eraftpb::*;

fn malformed(error: prost::DecodeError) -> ProtobufError {
    ProtobufError::IoError(io::Error::new(io::ErrorKind::InvalidData, error))
}

macro_rules! codec {
    ($($message:ident),*) => { $(
        impl Clear for $message {
            fn clear(&mut self) {
                prost::Message::clear(self);
            }
        }

        impl protobuf::Message for $message {
            fn descriptor(&self) -> &'static MessageDescriptor {
                unimplemented!("raft's messages carry no descriptor");
            }

            fn is_initialized(&self) -> bool {
                true
            }

            fn merge_from(&mut self, input: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
                let mut rest = Vec::new();
                while !input.eof()? {
                    rest.push(input.read_raw_byte()?);
                }
                self.merge_from_bytes(&rest)
            }

            fn write_to_with_cached_sizes(&self, output: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
                output.write_raw_bytes(&self.encode_to_vec())
            }

            fn compute_size(&self) -> u32 {
                u32::try_from(self.encoded_len()).unwrap_or(u32::MAX)
            }

            fn get_cached_size(&self) -> u32 {
                self.compute_size()
            }

            fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
                prost::Message::merge(self, bytes).map_err(malformed)
            }

            fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
                Ok(self.encode_to_vec())
            }

            fn get_unknown_fields(&self) -> &UnknownFields {
                static NONE: OnceLock<UnknownFields> = OnceLock::new();
                NONE.get_or_init(UnknownFields::new)
            }

            fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
                unimplemented!("raft's messages keep no unknown fields");
            }

            fn as_any(&self) -> &dyn Any {
                self
            }

            fn new() -> Self {
                Self::default()
            }

            fn default_instance() -> &'static Self {
                static UNSET: OnceLock<$message> = OnceLock::new();
                UNSET.get_or_init(Self::default)
            }
        }
    )* };
}

codec!(
    Entry,
    SnapshotMetadata,
    Snapshot,
    Message,
    HardState,
    ConfState,
    ConfChange,
    ConfChangeSingle,
    ConfChangeV2
);

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use crate::eraftpb::*;

    #[test]
    fn numbers_are_those_of_etcd() {
        let entry = Entry { term: 3, index: 9, data: "x".into(), ..Entry::default() };
        assert_eq!(entry.write_to_bytes().unwrap(), [0x10, 3, 0x18, 9, 0x22, 1, b'x']);
        assert_eq!(entry.compute_size(), 7);
        let learner = ConfChange {
            id: 1,
            change_type: ConfChangeType::AddLearnerNode as i32,
            node_id: 2,
            ..ConfChange::default()
        };
        let bytes = learner.write_to_bytes().unwrap();
        assert_eq!(bytes, [8, 1, 0x10, 3, 0x18, 2]);
        assert_eq!(ConfChange::parse_from_bytes(&bytes).unwrap(), learner);
    }
}
