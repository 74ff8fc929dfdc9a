//! Stories of a log.

use raft::eraftpb::{Entry, HardState};

use super::fuzz::Files;
use super::record::{FRAME_BYTES, Frame, read_frame};
use super::segment::SECTOR_BYTES;
use super::*;

const METADATA: Metadata = Metadata { node_id: 7, cluster_id: 9 };

fn entry(index: u64, data: &str) -> Entry {
    Entry { term: 1, index, data: data.to_owned().into(), ..Entry::default() }
}

fn state(commit: u64) -> HardState {
    HardState { term: 1, vote: 7, commit }
}

/// A log of one-entry writes of `bytes` each.
fn log(entries: u64, bytes: usize) -> (Files, Appender) {
    let (mut files, mut appender) = (Files::default(), Appender::create(METADATA));
    for index in 1..=entries {
        let entry = Entry { data: vec![b'x'; bytes].into(), ..entry(index, "") };
        files.write(&appender.append(&[entry], Some(&state(index - 1)), None, Vec::new()));
    }
    (files, appender)
}

#[test]
fn a_log_reads_back_and_goes_on() {
    let (mut files, _) = log(3, 10);
    let read = files.recover(0).unwrap();
    assert_eq!(read.metadata, METADATA);
    assert_eq!(read.state, state(2));
    assert_eq!(read.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!read.tail.torn);

    let mut appender = Appender::resume(&read, files.names());
    let write = appender.append(&[entry(4, "four")], None, None, Vec::new());
    assert!(!write.create && write.sync);
    files.write(&write);
    assert_eq!(files.recover(2).unwrap().entries.iter().map(|e| e.index).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn writes_are_whole_blocks_and_carry_the_last_one_again() {
    let mut appender = Appender::create(METADATA);
    let first = appender.append(&[entry(1, "a")], None, None, Vec::new());
    assert!(first.create);
    assert_eq!((first.offset, first.bytes.len()), (0, BLOCK_BYTES));
    let big = Entry { data: vec![1; 2 * BLOCK_BYTES].into(), ..entry(2, "") };
    let second = appender.append(&[big], None, None, Vec::new());
    assert_eq!((second.offset, second.bytes.len()), (0, 3 * BLOCK_BYTES));
    let filled = first.bytes.iter().rposition(|&b| b != 0).unwrap();
    assert_eq!(first.bytes[..filled], second.bytes[..filled]);
    let third = appender.append(&[entry(3, "c")], None, None, Vec::new());
    assert_eq!(third.offset, 2 * BLOCK_BYTES as u64);
}

#[test]
fn a_full_segment_is_followed_by_one_that_reads_on_its_own() {
    let (mut files, mut appender) = log(3, 10);
    appender.set_segment_bytes(1);
    let write = appender.append(&[entry(4, "four")], Some(&state(3)), None, Vec::new());
    assert_eq!(write.segment, SegmentName { sequence: 1, index: 4 });
    assert!(write.create && write.offset == 0);
    files.write(&write);
    assert_eq!(files.recover(0).unwrap().entries.len(), 4);
    let late = files.recover(3).unwrap();
    assert_eq!((late.entries.len(), late.state), (1, state(3)));
    files.release(1);
    assert_eq!(files.recover(3).unwrap().entries.len(), 1);
    assert_eq!(files.recover(2).unwrap_err(), WalError::Missing { index: 3 });
}

#[test]
fn only_a_change_of_commit_need_not_be_durable() {
    let (_, mut appender) = log(2, 10);
    assert!(!appender.append(&[], Some(&state(2)), None, Vec::new()).sync);
    assert!(appender.append(&[], Some(&HardState { term: 2, ..state(2) }), None, Vec::new()).sync);
    let voted = HardState { term: 2, vote: 8, commit: 2 };
    assert!(
        appender.append(&[], Some(&voted), None, Vec::new()).sync,
        "a vote in a term that is known already"
    );
}

#[test]
fn the_write_that_fills_a_segment_is_durable_before_the_next_begins() {
    let (_, mut appender) = log(2, 10);
    appender.set_segment_bytes(appender.length() + 1);
    let last = appender.append(&[], Some(&state(2)), None, Vec::new());
    assert!(last.sync, "though it changes nothing but the commit index");
    assert!(appender.append(&[entry(3, "c")], None, None, Vec::new()).create);
}

#[test]
fn a_state_never_vouches_for_entries_of_its_own_write() {
    let (_, mut appender) = log(2, 10);
    appender.append(&[entry(3, "c"), entry(4, "d")], Some(&state(4)), None, Vec::new());
    assert_eq!(appender.state().commit, 2);
    appender.append(&[], Some(&state(4)), None, Vec::new());
    assert_eq!(appender.state().commit, 4);
}

#[test]
fn a_torn_last_record_is_dropped() {
    let (mut files, mut appender) = log(3, 10);
    let big = Entry { data: vec![b'y'; 3000].into(), ..entry(4, "") };
    let write = appender.append(&[big], Some(&state(3)), None, Vec::new());
    files.write_sectors(&write, |sector| sector != 3);
    let read = files.recover(0).unwrap();
    assert!(read.tail.torn);
    assert_eq!((read.entries.len(), read.last_index), (3, 3));
    assert!(!files.recover(0).unwrap().tail.torn, "the torn bytes are zeroed");
}

#[test]
fn a_flipped_bit_is_refused_with_advice() {
    let (mut files, _) = log(3, 100);
    let name = files.names()[0];
    let at = files.bytes_mut(name).iter().position(|&b| b == b'x').unwrap();
    files.bytes_mut(name)[at] ^= 1;
    let error = files.recover(0).unwrap_err();
    assert!(matches!(error, WalError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("put back a copy of the data directory"), "{error}");
    assert!(error.to_string().contains("in a cluster, have the others rebuild it"), "{error}");
}

#[test]
fn a_length_that_rotted_is_no_torn_write() {
    // The second frame begins anywhere in a sector, also at its very end.
    for bytes in (100..100 + SECTOR_BYTES).step_by(8) {
        let (mut files, _) = log(1, bytes);
        // The next entry is the last: nothing vouches for it yet.
        let frame = files.recover(0).unwrap().tail.offset as usize;
        let (mut longer, _) = log(2, bytes);
        let name = longer.names()[0];
        for bit in 0..56 {
            longer.bytes_mut(name)[frame + bit / 8] ^= 1 << (bit % 8);
            let error = longer.recover(0).unwrap_err();
            assert!(matches!(error, WalError::Damaged { .. }), "bit {bit} at {frame}: {error:?}");
            longer.bytes_mut(name)[frame + bit / 8] ^= 1 << (bit % 8);
        }
        longer.recover(0).unwrap();
    }
}

#[test]
fn no_record_is_taken_for_one_of_another_kind() {
    let (mut files, mut appender) = log(3, 10);
    files.write(&appender.append(&[entry(4, "")], Some(&state(3)), None, Vec::new()));
    let name = files.names()[0];
    let (mut at, mut refused) = (0, 0);
    let length = files.bytes_mut(name).len();
    while let Frame::Record(record) = read_frame(&files.bytes_mut(name).clone(), at) {
        for end in [record.end, length] {
            let mut cut = files.clone();
            cut.bytes_mut(name)[end..].fill(0);
            let whole = cut.clone().recover(0).ok().map(|read| (read.entries, read.state));
            for bit in 0..3 {
                let mut hurt = cut.clone();
                // A record begins with the tag of its kind, then the kind.
                hurt.bytes_mut(name)[at + FRAME_BYTES + 1] ^= 1 << bit;
                match hurt.recover(0) {
                    Ok(read) => assert_eq!(Some((read.entries, read.state)), whole, "bit {bit} at {at}"),
                    Err(_) => refused += 1,
                }
            }
        }
        at = record.end;
    }
    assert!(refused >= 2 * 3 * 8, "every bit of every entry and state: {refused}");
}

#[test]
fn a_zeroed_sector_of_a_committed_entry_is_damage_not_a_torn_write() {
    let (mut files, _) = log(4, 3000);
    let name = files.names()[0];
    files.bytes_mut(name)[4 * SECTOR_BYTES..5 * SECTOR_BYTES].fill(0);
    let error = files.recover(0).unwrap_err();
    assert!(matches!(error, WalError::Damaged { what, .. } if what.contains("committed")), "{error:?}");
}

#[test]
fn a_log_that_ends_before_its_commit_index_is_refused() {
    let (mut files, _) = log(4, 3000);
    let name = files.names()[0];
    files.bytes_mut(name)[4 * SECTOR_BYTES..].fill(0);
    assert_eq!(files.recover(0).unwrap().entries.len(), 0, "a tail that never was");
    assert_eq!(files.recover(2).unwrap_err(), WalError::CommitLost { commit: 2, last: 0 });
}

#[test]
fn missing_segments_and_entries_are_refused() {
    let (mut files, mut appender) = log(2, 10);
    appender.set_segment_bytes(1);
    for index in 3..=4 {
        files.write(&appender.append(&[entry(index, "")], None, None, Vec::new()));
    }
    let names = files.names();
    let mut gap = Files::default();
    for name in [names[0], names[2]] {
        gap.write(&Write {
            segment: name,
            create: true,
            offset: 0,
            bytes: files.bytes_mut(name).clone(),
            sync: true,
        });
    }
    assert!(matches!(gap.recover(0), Err(WalError::SegmentGap { .. })));

    files.write(&appender.append(&[entry(6, "")], None, None, Vec::new()));
    let error = files.recover(0).unwrap_err();
    assert!(matches!(error, WalError::EntryGap { expected: 5, found: 6, .. }), "{error:?}");
}

#[test]
fn a_later_entry_with_the_same_index_replaces_what_follows() {
    let (mut files, mut appender) = log(4, 10);
    files.write(&appender.append(&[Entry { term: 2, ..entry(3, "new") }], None, None, Vec::new()));
    let read = files.recover(0).unwrap();
    assert_eq!(read.entries.len(), 3);
    assert_eq!(&read.entries[2].data[..], b"new");
    let read = files.recover(3).unwrap();
    assert_eq!(
        (read.entries.len(), read.last_index),
        (0, 3),
        "also where nobody asks for the entry that replaces"
    );
}

#[test]
fn a_hundred_hurt_logs() {
    (0..100).for_each(fuzz::run);
}

#[test]
fn a_log_that_etcd_wrote_reads_here_and_goes_on() {
    let bytes: &[u8] = include_bytes!("testdata/etcd-3.7.3.wal");
    let name = SegmentName { sequence: 0, index: 0 };
    let read = recover(&[(name, bytes)], 0).unwrap();
    assert_eq!(read.metadata, Metadata { node_id: 0x5c76_a90a_e78b_cee7, cluster_id: 0x536f_0188_ef20_75ac });
    assert_eq!(read.state, HardState { term: 2, vote: 0x5c76_a90a_e78b_cee7, commit: 10 });
    assert_eq!(read.entries.iter().map(|e| e.index).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(read.entries[0].entry_type(), raft::eraftpb::EntryType::EntryConfChange);
    assert!(read.entries[1].data.is_empty(), "the new leader's own entry");
    assert!(!read.tail.torn);
    assert_eq!(read.tail.offset, bytes.len() as u64);

    let mut files = Files::default();
    files.write(&Write { segment: name, create: true, offset: 0, bytes: bytes.to_vec(), sync: true });
    let mut appender = Appender::resume(&read, vec![name]);
    let entry = Entry { term: 2, ..entry(11, "ours") };
    files.write(&appender.append(&[entry], None, None, Vec::new()));
    assert_eq!(files.recover(0).unwrap().entries.len(), 11);
}

/// etcd's own reader over a log of ours: several segments, then a torn tail. The tool is built by tests/compat.
#[test]
fn etcd_dump_logs_reads_a_log_of_ours() {
    let judges =
        std::env::var("KEVEL_JUDGES").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/target/judges").into());
    let tool = std::path::Path::new(&judges).join("etcd-dump-logs");
    if !tool.exists() {
        eprintln!("left out: {} is not built (tests/compat/build.sh tools)", tool.display());
        return;
    }
    let (mut files, mut appender) = log(3, 5000);
    appender.set_segment_bytes(1);
    for index in 4..=6 {
        files.write(&appender.append(&[entry(index, "")], Some(&state(index - 1)), None, Vec::new()));
    }
    let conf_state = raft::eraftpb::ConfState { voters: vec![7], ..Default::default() };
    let mark = SnapshotMark { index: 5, term: 1, conf_state: Some(conf_state) };
    appender.set_segment_bytes(SEGMENT_BYTES);
    files.write(&appender.append(&[], Some(&state(6)), Some(&mark), Vec::new()));
    let big = Entry { data: vec![b'y'; 3000].into(), ..entry(7, "") };
    files.write_sectors(&appender.append(&[big], None, None, Vec::new()), |sector| sector != 3);

    let data_dir = std::env::temp_dir().join(format!("kevel-dump-logs-{}", std::process::id()));
    let wal_dir = data_dir.join("member/wal");
    std::fs::create_dir_all(&wal_dir).unwrap();
    std::fs::create_dir_all(data_dir.join("member/snap")).unwrap();
    for name in files.names() {
        std::fs::write(wal_dir.join(name.to_string()), files.bytes_mut(name)).unwrap();
    }
    let output = std::process::Command::new(tool).arg(&data_dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("nodeID=7 clusterID=9"), "{text}");
    assert!(text.contains("WAL entries: 6"), "{text}");
    std::fs::remove_dir_all(&data_dir).unwrap();
}

/// A log of entries up to 6 in term 1, of which those up to 3 are known to be committed.
fn uncommitted() -> (Files, Appender) {
    let (mut files, mut appender) = (Files::default(), Appender::create(METADATA));
    for index in 1..=6u64 {
        files.write(&appender.append(&[entry(index, "")], Some(&state(3.min(index - 1))), None, Vec::new()));
    }
    (files, appender)
}

/// Such a log that begins anew behind a mark of term 2, with one entry of term 2 behind it.
fn begun_anew(mark: SnapshotMark) -> (Files, Appender) {
    let (mut files, mut appender) = uncommitted();
    let state = HardState { term: 2, vote: 0, commit: mark.index };
    files.write(&appender.restart(&mark, &state, Vec::new()));
    let next = Entry { term: 2, ..entry(mark.index + 1, "next") };
    files.write(&appender.append(&[next], Some(&state), None, Vec::new()));
    (files, appender)
}

#[test]
fn a_log_begins_anew_behind_a_snapshot() {
    for index in [4, 6, 9] {
        let mark = SnapshotMark { index, term: 2, conf_state: None };
        let (mut files, _) = begun_anew(mark.clone());
        for after in [0, 3, index] {
            let read = files.recover(after).unwrap();
            assert_eq!((read.after, read.term_before, read.lacks_mark), (index, Some(2), false));
            assert_eq!(read.entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(index + 1, 2)]);
            assert_eq!((read.mark.index, read.state.commit, read.last_index), (index, index, index + 1));
        }
        assert_eq!(files.recover(index + 1).unwrap().last_index, index + 1, "a store that has gone on");
    }
}

#[test]
fn a_mark_that_the_entries_lead_to_changes_nothing() {
    let (mut files, mut appender) = log(6, 10);
    let mark = SnapshotMark { index: 4, term: 1, conf_state: None };
    files.write(&appender.append(&[], Some(&state(6)), Some(&mark), Vec::new()));
    for (after, count) in [(0, 6), (4, 2), (5, 1)] {
        assert_eq!(files.recover(after).unwrap().entries.len(), count);
    }
}

#[test]
fn a_log_that_does_not_know_of_the_snapshot_in_the_store_is_to_begin_anew() {
    for snapshot in [(4, 2), (9, 2)] {
        let (mut files, _) = uncommitted();
        let read = files.recover_behind(snapshot).unwrap();
        assert!(read.lacks_mark && read.entries.is_empty());
        assert_eq!((read.after, read.last_index, read.state.commit), (snapshot.0, snapshot.0, 3));
        let mut appender = Appender::resume(&read, files.names());
        let mark = SnapshotMark { index: snapshot.0, term: snapshot.1, conf_state: None };
        let state = HardState { term: 2, vote: 0, commit: snapshot.0 };
        let write = appender.restart(&mark, &state, Vec::new());
        // Whatever part of the write lands, the next start has the same to do, or nothing.
        for landing in 0..=write.bytes.len() / SECTOR_BYTES {
            let mut torn = files.clone();
            torn.write_sectors(&write, |sector| sector < landing);
            let read = torn.recover_behind(snapshot).unwrap();
            assert_eq!((read.after, read.entries.len()), (snapshot.0, 0));
        }
        files.write(&write);
        let read = files.recover_behind(snapshot).unwrap();
        assert!(!read.lacks_mark && read.state == state);
    }
    let (mut files, _) = log(6, 10);
    let read = files.recover_behind((4, 1)).unwrap();
    assert_eq!((read.lacks_mark, read.entries.len()), (false, 2), "the log leads there");
    assert!(
        matches!(files.recover(9), Err(WalError::CommitLost { .. })),
        "a log that was cut off is no such log"
    );
}
