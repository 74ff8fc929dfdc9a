//! What a store file is about: the roots, what has been applied, which pages are free. One page, twice in the file.
//!
//! The same layout, unsealed, is how a turn's state is published in memory.
#![forbid(unsafe_code)]

use super::file::PageFile;
use super::layout::{self, Kind, PAGE_SIZE, Page, PageId, PageRef, RunRef, u32_at, u64_at};
use crate::error::RECOVERY;
use std::fmt;
use std::io;

/// How many trees a store has.
pub const TREES: usize = 9;

/// What the store contains, written in the same meta page as the roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Raft index of the last entry whose effects are in the trees.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Main revision of the last change; 1 when nothing was ever written.
    pub revision: i64,
    /// Last compaction's revision; -1 before the first.
    pub compact_revision: i64,
    /// All garbage superseded at or below this revision has been removed.
    pub swept_revision: i64,
}

/// A published state: what a reader needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Grows with each publication.
    pub(crate) generation: u64,
    pub(crate) roots: [PageRef; TREES],
    pub(crate) applied: Applied,
}

/// What a meta slot says beyond the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) state: State,
    /// Number of the checkpoint; it goes to slot `sequence % 2`.
    pub(crate) sequence: u64,
    /// Pages in use or free; what the file has beyond is nothing.
    pub(crate) page_count: u32,
    /// The bitmap of free pages.
    pub(crate) free: Option<RunRef>,
    /// Whose log the store follows; none until that log exists.
    pub(crate) owner: Option<Owner>,
}

/// Whose store it is: the ids that the head of the member's log carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Id of the member.
    pub member_id: u64,
    /// Id of the cluster.
    pub cluster_id: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {:x} of cluster {:x}", self.member_id, self.cluster_id)
    }
}

/// How far the generation jumps when a store is opened: further than a process can have counted between the checkpoint
/// that is found and its end, and by an odd number, so that the low 16 bits differ too. Then no page that a process
/// left behind unfinished has the birth of a page that a later process writes to the same place.
const GENERATION_JUMP: u64 = (1 << 32) + 0x9E37;

const MAGIC: &[u8; 8] = b"kevelkv\0";
const FORMAT: u32 = 1;

const GENERATION: usize = 32;
const APPLIED: usize = 40;
const ROOTS: usize = 80;
const MAGIC_AT: usize = ROOTS + 6 * TREES + 2;
const FORMAT_AT: usize = MAGIC_AT + 8;
const PAGE_SIZE_AT: usize = FORMAT_AT + 4;
const SEQUENCE: usize = PAGE_SIZE_AT + 4;
const PAGE_COUNT: usize = SEQUENCE + 8;
const FREE: usize = PAGE_COUNT + 4;
const OWNER: usize = FREE + RunRef::SIZE;
const END: usize = OWNER + 16;

/// A new file may be rounded up to this, and no further.
const NEW_FILE_PAGES_MAX: u32 = 1024;

/// What disks write whole.
const SECTOR: usize = 512;
const _: () = assert!(END <= SECTOR, "a meta page says everything in its first sector");

impl State {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let applied = &self.applied;
        layout::set_u64(page, GENERATION, self.generation);
        let numbers = [
            applied.index,
            applied.term,
            applied.revision as u64,
            applied.compact_revision as u64,
            applied.swept_revision as u64,
        ];
        for (number, i) in numbers.into_iter().zip(0..) {
            layout::set_u64(page, APPLIED + 8 * i, number);
        }
        for (root, i) in self.roots.iter().zip(0..) {
            page[ROOTS + 6 * i..ROOTS + 6 * i + 6].copy_from_slice(&root.encode());
        }
    }

    pub(crate) fn decode(page: &Page) -> Self {
        let number = |i: usize| u64_at(page, APPLIED + 8 * i);
        Self {
            generation: u64_at(page, GENERATION),
            roots: std::array::from_fn(|i| PageRef::decode(&page[ROOTS + 6 * i..ROOTS + 6 * i + 6])),
            applied: Applied {
                index: number(0),
                term: number(1),
                revision: number(2) as i64,
                compact_revision: number(3) as i64,
                swept_revision: number(4) as i64,
            },
        }
    }
}

impl Meta {
    /// The meta of an empty store, in both slots of a new file.
    pub(crate) fn empty() -> Self {
        Self { state: State::default(), sequence: 0, page_count: 2, free: None, owner: None }
    }

    /// The slot it is written to.
    pub(crate) fn slot(&self) -> PageId {
        PageId((self.sequence % 2) as u32)
    }

    /// The sealed page for `slot`.
    pub(crate) fn encode(&self, slot: PageId) -> Box<Page> {
        let mut page = Box::new([0; PAGE_SIZE]);
        layout::set_header(&mut page[..], slot, self.state.generation, Kind::Meta);
        self.state.encode(&mut page[..]);
        page[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        layout::set_u32(&mut page[..], FORMAT_AT, FORMAT);
        layout::set_u32(&mut page[..], PAGE_SIZE_AT, PAGE_SIZE as u32);
        layout::set_u64(&mut page[..], SEQUENCE, self.sequence);
        layout::set_u32(&mut page[..], PAGE_COUNT, self.page_count);
        let free = self.free.unwrap_or(RunRef { id: PageId::NONE, bytes: 0, born: 0 });
        page[FREE..OWNER].copy_from_slice(&free.encode());
        if let Some(owner) = self.owner {
            layout::set_u64(&mut page[..], OWNER, owner.member_id);
            layout::set_u64(&mut page[..], OWNER + 8, owner.cluster_id);
        }
        layout::seal(&mut page[..]);
        page
    }

    fn decode(page: &Page, slot: PageId) -> Result<Self, SlotError> {
        if &page[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return Err(SlotError::NotMeta);
        }
        if layout::stored_checksum(page) != layout::checksum(page) {
            return Err(SlotError::Checksum);
        }
        if layout::id(page) != slot || layout::kind(page) != Some(Kind::Meta) {
            return Err(SlotError::Misplaced);
        }
        let (format, page_size) = (u32_at(page, FORMAT_AT), u32_at(page, PAGE_SIZE_AT));
        if (format, page_size as usize) != (FORMAT, PAGE_SIZE) {
            return Err(SlotError::Format { format, page_size });
        }
        let free = RunRef::decode(&page[FREE..OWNER]);
        let [member_id, cluster_id] = [0, 8].map(|at| u64_at(page, OWNER + at));
        Ok(Self {
            state: State::decode(page),
            sequence: u64_at(page, SEQUENCE),
            page_count: u32_at(page, PAGE_COUNT),
            free: (free.id != PageId::NONE).then_some(free),
            owner: ((member_id, cluster_id) != (0, 0)).then_some(Owner { member_id, cluster_id }),
        })
    }
}

/// Why a slot is not the one to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotError {
    NotMeta,
    Checksum,
    Misplaced,
    Format { format: u32, page_size: u32 },
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMeta => write!(f, "no meta page"),
            Self::Checksum => write!(f, "fails its checksum"),
            Self::Misplaced => write!(f, "belongs elsewhere"),
            Self::Format { format, page_size } => {
                write!(
                    f,
                    "format {format} with pages of {page_size} bytes, this program knows {FORMAT} with {PAGE_SIZE}"
                )
            }
        }
    }
}

/// Why a store file cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The file system's fault.
    Io(io::Error),
    /// The file is not a store, or not whole; the message says what to do.
    Refused(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "reading the store file: {error}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the newest valid meta of a file; none if the file is empty, or was given up while it was being made.
///
/// One invalid slot is what a crash leaves behind that interrupts the write of a meta page: the other one is the
/// state of the checkpoint before. Two invalid ones are no crash of ours.
pub(crate) fn read(file: &dyn PageFile) -> Result<Option<Meta>, OpenError> {
    if file.pages() == 0 {
        return Ok(None);
    }
    let mut slots = [[0; PAGE_SIZE]; 2];
    for (slot, at) in slots.iter_mut().zip(0..file.pages().min(2)) {
        file.read(at, slot)?;
    }
    let [zero, one] = [0, 1].map(|at| Meta::decode(&slots[at], PageId(at as u32)));
    let newest = match (zero, one) {
        (Ok(a), Ok(b)) => Ok(if a.sequence > b.sequence { a } else { b }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(a), Err(b)) => Err((a, b)),
    };
    match newest {
        Ok(meta) => Ok(Some(meta)),
        Err(_) if half_made(&slots) && blank_behind_meta(file)? => Ok(None),
        Err((a, b)) => Err(OpenError::Refused(format!(
            "{}: neither meta page can be used (page 0: {a}; page 1: {b}). This is not what a crash leaves behind: the \
             file was overwritten, is of another kind, or the disk lost it; {RECOVERY}",
            file.name()
        ))),
    }
}

/// True when each sector is one that making a new file writes, or blank: then nothing was ever stored in it.
fn half_made(slots: &[Page; 2]) -> bool {
    slots.iter().zip(0..).all(|(slot, at)| {
        let made = Meta::empty().encode(PageId(at));
        let mut sectors = slot.chunks(SECTOR).zip(made.chunks(SECTOR));
        sectors.all(|(got, made)| got == made || got.iter().all(|&b| b == 0))
    })
}

/// True when the file is as short as a new one and has nothing but zeros behind the meta slots.
fn blank_behind_meta(file: &dyn PageFile) -> io::Result<bool> {
    let mut page = [0; PAGE_SIZE];
    for at in 2..file.pages() {
        if at >= NEW_FILE_PAGES_MAX {
            return Ok(false);
        }
        file.read(at, &mut page)?;
        if page.iter().any(|&b| b != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes an empty file a store without content.
pub(crate) fn create(file: &dyn PageFile) -> io::Result<Meta> {
    let meta = Meta::empty();
    file.resize(meta.page_count)?;
    for slot in [PageId(0), PageId(1)] {
        file.write(slot.0, &meta.encode(slot)[..])?;
    }
    file.sync()?;
    Ok(meta)
}

/// Begins a process's life on the store that `found` describes. The new meta page differs from the one found in its
/// number and its generation alone, so it does not matter which of the two a crash leaves.
pub(crate) fn begin_life(file: &dyn PageFile, found: Meta) -> io::Result<Meta> {
    // The process before may have been killed between the write of this meta page and its sync. From here on its pages
    // count as the last checkpoint's, and those of the one before are written over.
    file.sync()?;
    let state = State { generation: found.state.generation + GENERATION_JUMP, ..found.state };
    let meta = Meta { state, sequence: found.sequence + 1, ..found };
    let slot = meta.slot();
    file.write(slot.0, &meta.encode(slot)[..])?;
    file.sync()?;
    Ok(meta)
}

/// Writes into a store whose it is, for the time after the log was begun and before anything in it is acknowledged: a
/// store that has an owner is never opened without that owner's log. Both slots get the owner, one after the other, and
/// nothing else changes. No checkpoint may be under way.
///
/// # Errors
/// What the file answers, and when it is no store.
pub fn claim(file: &dyn PageFile, owner: Owner) -> Result<(), OpenError> {
    let Some(found) = read(file)? else {
        return Err(OpenError::Refused(format!("{}: an empty file has no owner", file.name())));
    };
    let meta = Meta { owner: Some(owner), ..found };
    for slot in [PageId(1 - meta.slot().0), meta.slot()] {
        file.write(slot.0, &meta.encode(slot)[..])?;
        file.sync()?;
    }
    Ok(())
}

/// Whose the store is; none if nobody's.
///
/// # Errors
/// What the file answers, and when it is no store.
pub fn owner(file: &dyn PageFile) -> Result<Option<Owner>, OpenError> {
    Ok(read(file)?.and_then(|meta| meta.owner))
}

/// Whether a member has begun to live in the store: it has an owner, or something was applied to it.
///
/// # Errors
/// What the file answers, and when it is no store.
pub fn is_claimed(file: &dyn PageFile) -> Result<bool, OpenError> {
    Ok(read(file)?.is_some_and(|meta| meta.owner.is_some() || meta.state.applied.index > 0))
}

#[cfg(test)]
mod tests {
    use super::super::file::MemoryFile;
    use super::*;

    fn meta(sequence: u64) -> Meta {
        let mut state = State { generation: 10 + sequence, ..State::default() };
        state.applied =
            Applied { index: 1, term: 2, revision: -3, compact_revision: 4, swept_revision: i64::MAX };
        state.roots[3] = PageRef { id: PageId(99), stamp: 7 };
        Meta {
            state,
            sequence,
            page_count: 123,
            free: Some(RunRef { id: PageId(5), bytes: 6, born: 7 }),
            owner: Some(Owner { member_id: 8, cluster_id: 9 }),
        }
    }

    #[test]
    fn the_newest_valid_slot_wins_and_two_bad_ones_are_refused() {
        let file = MemoryFile::default();
        assert_eq!(read(&file).unwrap(), None);
        create(&file).unwrap();
        assert_eq!(read(&file).unwrap(), Some(Meta::empty()));
        for sequence in 1..5 {
            let m = meta(sequence);
            file.write(m.slot().0, &m.encode(m.slot())[..]).unwrap();
            assert_eq!(read(&file).unwrap(), Some(m));
        }
        file.bytes()[100] ^= 1;
        assert_eq!(read(&file).unwrap(), Some(meta(3)), "slot 0 held 4");
        file.bytes()[PAGE_SIZE + 100] ^= 1;
        let refused = read(&file).unwrap_err().to_string();
        assert!(
            refused.contains("neither meta page") && refused.contains("copy of the data directory"),
            "{refused}"
        );
    }

    #[test]
    fn a_file_given_up_while_made_is_new_and_anything_else_is_not() {
        let file = MemoryFile::default();
        create(&file).unwrap();
        file.bytes()[..SECTOR].fill(0);
        file.bytes()[PAGE_SIZE..PAGE_SIZE + SECTOR].fill(0);
        assert_eq!(read(&file).unwrap(), None);
        file.bytes().truncate(PAGE_SIZE);
        assert_eq!(read(&file).unwrap(), None);
        file.bytes()[9] = 1;
        assert!(matches!(read(&file), Err(OpenError::Refused(_))));
    }

    #[test]
    fn an_owner_is_written_into_both_slots_and_nothing_else_changes() {
        let file = MemoryFile::default();
        let owner = Owner { member_id: 1, cluster_id: 2 };
        assert!(claim(&file, owner).unwrap_err().to_string().contains("no owner"));
        assert!(!is_claimed(&file).unwrap(), "an empty file");
        create(&file).unwrap();
        assert!(!is_claimed(&file).unwrap(), "a store without content");
        let m = Meta { owner: None, ..meta(3) };
        file.write(1, &m.encode(PageId(1))[..]).unwrap();
        assert!(is_claimed(&file).unwrap(), "something was applied to it");
        claim(&file, owner).unwrap();
        assert!(is_claimed(&file).unwrap());
        for slot in [0, 1] {
            let mut torn = file.bytes().clone();
            torn[slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE].fill(0);
            assert_eq!(read(&MemoryFile::new(torn)).unwrap(), Some(Meta { owner: Some(owner), ..m }));
        }
    }

    #[test]
    fn each_life_counts_from_where_none_before_it_has_been() {
        let file = MemoryFile::default();
        let mut meta = create(&file).unwrap();
        let mut stamps = std::collections::BTreeSet::new();
        for life in 1..=1_000 {
            let next = begin_life(&file, meta).unwrap();
            assert!(next.state.generation - meta.state.generation > u64::from(u32::MAX));
            assert!(stamps.insert(next.state.generation as u16), "the low bits come again in life {life}");
            assert_eq!(read(&file).unwrap(), Some(next));
            meta = next;
        }
    }

    #[test]
    fn another_format_is_named() {
        let file = MemoryFile::default();
        create(&file).unwrap();
        for at in [0, PAGE_SIZE] {
            let mut page = file.bytes()[at..at + PAGE_SIZE].to_vec();
            layout::set_u32(&mut page, FORMAT_AT, 9);
            layout::seal(&mut page);
            file.bytes()[at..at + PAGE_SIZE].copy_from_slice(&page);
        }
        assert!(read(&file).unwrap_err().to_string().contains("format 9"));
    }
}
