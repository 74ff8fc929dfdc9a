//! The end of a log that is to be written on.
//!
//! A start has to succeed on a full disk as well, because the room may depend on what the member does once it runs. So
//! the end of the log is mended in place: zeros go only to blocks that hold something, and what would be nice to have,
//! a copy of the torn record and blocks behind the end of a short file, is left out where there is no room for it.
#![forbid(unsafe_code)]

use std::io;

use super::folder::{Content, Folder, LogFile, is_full};
use super::prepare::Sizes;
use super::recover::Tail;
use super::segment::{BLOCK_BYTES, SECTOR_BYTES};

/// Makes the last segment ready to be written on from where its last whole record ends: everything behind it zero, at
/// full length, durable under its name. What was torn is kept in a copy, at its place in the segment.
///
/// A crash in between leaves a log that ends at the same place: a record without all of its sectors is torn, and once
/// the sector with its head is zero there is none.
///
/// Returns why the copy could not be kept, if so: the log does not need the copy.
///
/// # Errors
/// What the filesystem answers.
pub fn mend_tail(folder: &impl Folder, tail: &Tail, sizes: &Sizes) -> io::Result<Option<io::Error>> {
    let file = folder.open(LogFile::Segment(tail.segment), false)?;
    // The last write of a segment may have gone past its size.
    let length = file.length()?;
    let mut uncopied = None;
    if tail.torn {
        uncopied = keep_torn(folder, &file, tail, sizes);
        let sector_end = (tail.offset + 1).next_multiple_of(SECTOR_BYTES as u64).min(length);
        file.write_at(&vec![0; (sector_end - tail.offset) as usize], tail.offset)?;
        file.sync()?;
    }
    each_written_block(&file, tail.offset, sizes, |at, block| {
        file.write_at(&[0; BLOCK_BYTES][..block.len()], at)
    })?;
    if length < sizes.segment {
        match file.allocate(length, sizes.segment - length) {
            Err(error) if !is_full(&error) => return Err(error),
            // Without blocks there is a hole, and the log's writes wait for room when they get there.
            _ => file.set_len(sizes.segment)?,
        }
    }
    file.sync()?;
    // The process before may have been killed before the segment's name was durable.
    folder.sync()?;
    Ok(uncopied)
}

/// Copies what lies behind the end of the log into a file of its own. A disk that has no room for it only costs the
/// evidence.
fn keep_torn<F: Folder>(folder: &F, segment: &F::File, tail: &Tail, sizes: &Sizes) -> Option<io::Error> {
    let copy = LogFile::Torn(tail.segment);
    let kept = folder.open(copy, true).and_then(|file| {
        file.set_len(0)?;
        each_written_block(segment, tail.offset, sizes, |at, block| file.write_at(block, at))?;
        file.sync()
    });
    let error = kept.err()?;
    let _ = folder.remove(copy);
    Some(error)
}

/// Tells each block that holds anything but zeros from `from` on, the first and the last as far as they go. Only such a
/// block certainly has its place on the disk, so that writing to it needs no room.
fn each_written_block(
    file: &impl Content,
    from: u64,
    sizes: &Sizes,
    mut tell: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let end = file.length()?;
    let mut buffer = vec![0; sizes.chunk];
    let mut at = from;
    while at < end {
        let chunk_end = (at + 1).next_multiple_of(sizes.chunk as u64).min(end);
        let chunk = &mut buffer[..(chunk_end - at) as usize];
        file.read_at(chunk, at)?;
        let mut rest = &*chunk;
        while !rest.is_empty() {
            let block_end = (at + 1).next_multiple_of(BLOCK_BYTES as u64).min(chunk_end);
            let (block, behind) = rest.split_at((block_end - at) as usize);
            if block.iter().any(|&b| b != 0) {
                tell(at, block)?;
            }
            (rest, at) = (behind, block_end);
        }
    }
    Ok(())
}
