//! One watcher: what it asked for and how far it is. Kept small, since most of them idle.
#![forbid(unsafe_code)]

/// No watcher, no group, no node.
pub(super) const NIL: u32 = u32::MAX;

/// Where a watcher stands; see the picture in the folder's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Gets batches as they are published.
    Synced,
    /// Reads the store together with the other riders of this scan.
    Riding(u8),
    /// Waits for a scan to become free.
    Waiting,
    /// Waits for room in its stream; is on the stream's list of parked watchers.
    Parked,
    /// Gets one revision piece by piece, alone on its stream.
    Large,
    /// Was told that its revisions are compacted, and not yet cancelled by the client.
    Compacted,
}

/// What the client asked for, and marks of the progress interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// Wants no puts.
    pub(super) const NO_PUT: u16 = 1;
    /// Wants no deletions.
    pub(super) const NO_DELETE: u16 = 2;
    /// Wants previous values.
    pub(super) const PREV_KV: u16 = 4;
    /// Takes a long response in fragments.
    pub(super) const FRAGMENT: u16 = 8;
    /// Wants progress notifications.
    pub(super) const PROGRESS: u16 = 16;
    /// Nothing was sent since the last tick of the interval, so the next one is due a notification.
    pub(super) const QUIET: u16 = 32;
    /// Asked for a start revision that had not happened yet; `next` still is that revision.
    pub(super) const FUTURE: u16 = 64;
    /// Was synced before it was parked. etcd buffers for such a watcher, so it still gets a response per revision
    /// unless its stream has fallen behind by more than etcd buffers.
    pub(super) const LIVE: u16 = 128;

    /// Rides as one of those of its stream that were parked together.
    pub(super) const WAVE: u16 = 256;

    pub(super) fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u16, on: bool) {
        if on { self.0 |= flag } else { self.0 &= !flag }
    }
}

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    /// The id the client knows, unique within its stream.
    pub(super) id: i64,
    /// Events below this revision are not for this watcher, or were sent already.
    pub(super) next: i64,
    /// Slot of its stream.
    pub(super) stream: u32,
    /// Its range, shared with all watchers of the same range.
    pub(super) group: u32,
    /// Neighbours on the group's list of synced watchers or of riders; unused in other states.
    pub(super) before: u32,
    pub(super) after: u32,
    pub(super) state: State,
    pub(super) flags: Flags,
}

impl Watcher {
    /// The first revision at which progress can be promised to a synced watcher.
    pub(super) fn first(&self) -> i64 {
        self.next - i64::from(!self.flags.has(Flags::FUTURE))
    }

    /// True if the watcher's filters let this kind of event through.
    pub(super) fn wants(&self, delete: bool) -> bool {
        !self.flags.has(if delete { Flags::NO_DELETE } else { Flags::NO_PUT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_small() {
        assert!(size_of::<Watcher>() <= 40);
    }
}
