//! The way that a message takes to another member.
#![forbid(unsafe_code)]

use raft::eraftpb::MessageType;

/// A way to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The stream of appends.
    Append,
    /// The stream of messages of any kind.
    Message,
    /// A request for the message alone.
    Pipeline,
}

/// The way of a message of this kind, where the other member has dialled these streams. Appends have a stream of their
/// own, so that no heartbeat waits behind them. A snapshot would hold up a stream for long.
pub fn choose(kind: MessageType, has_append: bool, has_message: bool) -> Channel {
    match kind {
        MessageType::MsgSnapshot => Channel::Pipeline,
        MessageType::MsgAppend if has_append => Channel::Append,
        _ if has_message => Channel::Message,
        _ => Channel::Pipeline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_have_a_stream_of_their_own_and_snapshots_have_none() {
        use MessageType::{MsgAppend, MsgHeartbeat, MsgSnapshot};
        assert_eq!(choose(MsgAppend, true, true), Channel::Append);
        assert_eq!(choose(MsgAppend, false, true), Channel::Message);
        assert_eq!(choose(MsgHeartbeat, true, true), Channel::Message);
        assert_eq!(choose(MsgHeartbeat, true, false), Channel::Pipeline);
        assert_eq!(choose(MsgAppend, false, false), Channel::Pipeline);
        assert_eq!(choose(MsgSnapshot, true, true), Channel::Pipeline);
    }
}
