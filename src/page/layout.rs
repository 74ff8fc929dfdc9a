//! Bytes of a page that every kind shares: sizes, the header, references from one page to another.
#![forbid(unsafe_code)]

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Bytes of a page's header; what follows belongs to the kind.
pub const HEADER: usize = 32;

/// One page.
pub type Page = [u8; PAGE_SIZE];

/// The place of a page: its offset in the file is `id * PAGE_SIZE`. 0 and 1 are the meta slots, so 0 also says "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

impl PageId {
    /// No page.
    pub const NONE: PageId = PageId(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A reference to a node: where it is and the low bits of when it was born, so that a write which the disk
/// acknowledged and lost is found when the page is first read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRef {
    /// The node's page.
    pub id: PageId,
    /// Low 16 bits of the generation of birth.
    pub stamp: u16,
}

impl PageRef {
    /// Reference to nothing: the root of an empty tree.
    pub const NONE: PageRef = PageRef { id: PageId::NONE, stamp: 0 };

    /// True for a reference to nothing.
    #[inline]
    pub fn is_none(self) -> bool {
        self.id == PageId::NONE
    }

    pub(crate) fn encode(self) -> [u8; 6] {
        let (id, stamp) = (self.id.0.to_le_bytes(), self.stamp.to_le_bytes());
        [id[0], id[1], id[2], id[3], stamp[0], stamp[1]]
    }

    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self { id: PageId(u32_at(bytes, 0)), stamp: u16_at(bytes, 4) }
    }
}

/// A reference to a run of contiguous pages. It says everything about the run, so that freeing one does not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRef {
    /// The run's first page.
    pub id: PageId,
    /// Bytes of content, header not counted.
    pub bytes: u32,
    /// Generation of birth.
    pub born: u64,
}

impl RunRef {
    /// Bytes of an encoded reference.
    pub const SIZE: usize = 16;

    /// Pages the run takes.
    pub fn pages(self) -> u32 {
        run_pages(self.bytes as usize)
    }

    pub(crate) fn encode(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&self.id.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.born.to_le_bytes());
        out
    }

    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self { id: PageId(u32_at(bytes, 0)), bytes: u32_at(bytes, 4), born: u64_at(bytes, 8) }
    }
}

/// Pages that a run with `bytes` of content takes.
pub fn run_pages(bytes: usize) -> u32 {
    u32::try_from((HEADER + bytes).div_ceil(PAGE_SIZE)).expect("a run stays far below 16 TB")
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: a page given back within the turn that took it.
    Free = 0,
    /// Keys and values.
    Leaf = 1,
    /// Keys and children.
    Branch = 2,
    /// First page of a run.
    Run = 3,
    /// One of the two meta slots, or the state published in memory.
    Meta = 4,
}

const CRC: usize = 0;
const ID: usize = 4;
const BORN: usize = 8;
const KIND: usize = 16;
pub(super) const COUNT: usize = 18;
pub(super) const PREFIX: usize = 20;
pub(super) const HEAP: usize = 22;
pub(super) const LINK: usize = 24;
pub(super) const LINK_STAMP: usize = 28;
pub(super) const GARBAGE: usize = 30;
const RUN_BYTES: usize = LINK;

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes the header of an empty page; the rest is the kind's.
pub(crate) fn set_header(page: &mut [u8], id: PageId, born: u64, kind: Kind) {
    page[..HEADER].fill(0);
    set_u32(page, ID, id.0);
    set_u64(page, BORN, born);
    page[KIND] = kind as u8;
}

/// Where the page says it is.
pub(crate) fn id(page: &[u8]) -> PageId {
    PageId(u32_at(page, ID))
}

/// The generation in which the page was made.
pub(crate) fn born(page: &[u8]) -> u64 {
    u64_at(page, BORN)
}

/// Gives a copied page its own identity.
pub(crate) fn set_identity(page: &mut [u8], id: PageId, born: u64) {
    set_u32(page, ID, id.0);
    set_u64(page, BORN, born);
}

#[inline]
pub(crate) fn kind(page: &[u8]) -> Option<Kind> {
    Some(match page[KIND] {
        0 => Kind::Free,
        1 => Kind::Leaf,
        2 => Kind::Branch,
        3 => Kind::Run,
        4 => Kind::Meta,
        _ => return None,
    })
}

pub(crate) fn set_kind(page: &mut [u8], kind: Kind) {
    page[KIND] = kind as u8;
}

/// Bytes of content that a run's first page declares.
pub(crate) fn run_bytes(page: &[u8]) -> u32 {
    u32_at(page, RUN_BYTES)
}

pub(crate) fn set_run_bytes(page: &mut [u8], bytes: u32) {
    set_u32(page, RUN_BYTES, bytes);
}

/// Writes the content of a run, and zeros behind it.
pub(crate) fn set_run_content(run: &mut [u8], parts: &[&[u8]]) {
    let mut at = HEADER;
    for part in parts {
        run[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    run[at..].fill(0);
}

/// Pages that belong together with this first one.
pub(crate) fn page_span(page: &[u8]) -> u32 {
    if page[KIND] == Kind::Run as u8 { run_pages(run_bytes(page) as usize) } else { 1 }
}

/// The checksum of a whole page or run.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(&bytes[CRC + 4..])
}

/// The checksum that a page carries.
pub(crate) fn stored_checksum(bytes: &[u8]) -> u32 {
    u32_at(bytes, CRC)
}

/// Writes the checksum into a page or run that is complete.
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    set_u32(bytes, CRC, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_encoding() {
        let r = PageRef { id: PageId(0xDEAD_BEEF), stamp: 0x1234 };
        assert_eq!(PageRef::decode(&r.encode()), r);
        let r = RunRef { id: PageId(7), bytes: 4065, born: u64::MAX - 3 };
        assert_eq!(RunRef::decode(&r.encode()), r);
        assert_eq!(r.pages(), 2);
        assert_eq!(run_pages(4064), 1);
    }

    #[test]
    fn the_seal_covers_every_byte_but_itself() {
        let mut page = [0u8; PAGE_SIZE];
        set_header(&mut page, PageId(9), 77, Kind::Leaf);
        seal(&mut page);
        assert_eq!(stored_checksum(&page), checksum(&page));
        assert_eq!((id(&page), born(&page), kind(&page)), (PageId(9), 77, Some(Kind::Leaf)));
        for at in 4..PAGE_SIZE {
            page[at] ^= 1;
            assert_ne!(stored_checksum(&page), checksum(&page), "byte {at}");
            page[at] ^= 1;
        }
    }
}
