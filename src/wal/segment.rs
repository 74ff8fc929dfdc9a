//! Names and sizes of segments.
#![forbid(unsafe_code)]

use std::fmt;

/// What a segment is preallocated to; the write that passes this size is the segment's last.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// Writes start and end at multiples of this: enough for direct I/O on any disk in use.
pub const BLOCK_BYTES: usize = 4096;

/// The unit that a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

const _: () =
    assert!(SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES as u64), "a preallocated segment ends with a block");
const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES), "a block is made of sectors");

/// A segment's place in the log, which is also its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Counts segments from zero, without gaps.
    pub sequence: u64,
    /// The index of the first entry that was expected in it when it was begun.
    pub index: u64,
}

impl SegmentName {
    /// Reads a file name; none for anything that isn't a segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let number = |digits: &str| {
            let well_formed = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if well_formed { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        Some(Self { sequence: number(sequence)?, index: number(index)? })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.index)
    }
}

/// How many of the first of `names` can go when no entry at or below `index` is needed and at least `keep` segments
/// stay. A segment is done with when the next one begins at or below the entry after `index`; the last never is, and
/// neither is `writing`, to which a write is on its way, with all behind it.
pub fn releasable(names: &[SegmentName], index: u64, keep: usize, writing: Option<SegmentName>) -> usize {
    let done = names
        .windows(2)
        .take_while(|pair| pair[1].index <= index + 1 && writing.is_none_or(|writing| pair[0] < writing))
        .count();
    done.min(names.len().saturating_sub(keep.max(1)))
}

/// Which of `names` to begin reading with for the entries after `index`: the last that begins at or below them.
pub fn first_needed(names: &[SegmentName], index: u64) -> Option<usize> {
    names.iter().rposition(|name| name.index <= index + 1)
}

/// The entry behind which a log is read, for a store that has applied the entries up to `applied`, so that up to
/// `entries` of those are read too, for members that lag. They are from two segments at most.
pub fn reach_back(names: &[SegmentName], applied: u64, entries: u64) -> u64 {
    let Some(segment) = first_needed(names, applied) else { return applied };
    let begin = names[segment.saturating_sub(1)].index.saturating_sub(1);
    applied.saturating_sub(entries).max(begin).min(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_strangers_are_refused() {
        let name = SegmentName { sequence: 10, index: 0x2f3a };
        assert_eq!(name.to_string(), "000000000000000a-0000000000002f3a.wal");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        for stranger in [
            "0.tmp",
            "a-b.wal",
            "000000000000000a-0000000000002f3a.wal.broken",
            ".wal",
            "+00000000000000a-0000000000002f3a.wal",
        ] {
            assert_eq!(SegmentName::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn release_keeps_what_is_needed_and_the_number_asked_for() {
        let names: Vec<_> = [0, 10, 20, 30]
            .iter()
            .zip(0..)
            .map(|(&index, sequence)| SegmentName { sequence, index })
            .collect();
        assert_eq!(releasable(&names, 8, 1, None), 0);
        assert_eq!(releasable(&names, 9, 1, None), 1);
        assert_eq!(releasable(&names, 25, 1, None), 2);
        assert_eq!(releasable(&names, 99, 1, None), 3);
        assert_eq!(releasable(&names, 99, 3, None), 1);
        assert_eq!(releasable(&names, 99, 1, Some(names[1])), 1, "a write is on its way to the second");
        assert_eq!(releasable(&names, 99, 1, Some(names[3])), 3);
        assert_eq!(first_needed(&names, 0), Some(0));
        assert_eq!(first_needed(&names, 9), Some(1));
        assert_eq!(first_needed(&names[1..], 8), None);
    }

    #[test]
    fn entries_of_the_past_are_read_from_two_segments_at_most() {
        let name = |sequence, index| SegmentName { sequence, index };
        let names = [name(3, 10), name(4, 20), name(5, 30)];
        for (applied, entries, after) in
            [(35, 3, 32), (35, 9, 26), (35, 100, 19), (15, 100, 9), (8, 5, 8), (29, 2, 27)]
        {
            assert_eq!(reach_back(&names, applied, entries), after, "{applied} {entries}");
        }
        assert_eq!(reach_back(&[name(0, 0)], 7, 100), 0);
    }
}
