//! The bytes of pages, elements and metas.
#![forbid(unsafe_code)]

use bytes::BufMut;

/// Bytes of a page that is written. Read are pages of any size that bbolt makes.
pub const PAGE_BYTES: usize = 4096;
/// Bytes in front of the elements of a page.
pub const HEADER_BYTES: usize = 16;
/// Bytes of an element.
pub const ELEMENT_BYTES: usize = 16;
/// Bytes of a bucket's head, which is the value of a pair in its parent.
pub const BUCKET_BYTES: usize = 16;
/// Bytes of a meta behind the header of its page.
pub const META_BYTES: usize = 64;
/// The longest key that bbolt takes.
pub const KEY_BYTES_MAX: usize = 32_768;
/// The longest value that bbolt takes.
pub const VALUE_BYTES_MAX: usize = (1 << 31) - 2;
/// A bucket up to this size lies inside its parent.
pub const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// The first page that is no meta.
pub const FIRST_PAGE: u64 = 2;

/// Flags of a leaf element whose value is a bucket.
pub const BUCKET_FLAG: u32 = 1;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// What a meta says that names no free list.
const NO_FREE_LIST: u64 = u64::MAX;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It leads to other pages.
    Branch,
    /// It has pairs.
    Leaf,
    /// It lists free pages.
    FreeList,
}

impl Kind {
    /// Of the flags of a page; none if they are of no such page.
    pub fn from_flags(flags: u16) -> Option<Self> {
        [Self::Branch, Self::Leaf, Self::FreeList].into_iter().find(|kind| kind.flags() == flags)
    }

    /// The flags of such a page.
    pub const fn flags(self) -> u16 {
        match self {
            Self::Branch => 1,
            Self::Leaf => 2,
            Self::FreeList => 16,
        }
    }
}

const META_FLAGS: u16 = 4;

/// The head of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number; 0 for a bucket inside its parent.
    pub page: u64,
    /// What it is.
    pub flags: u16,
    /// Its elements.
    pub count: u16,
    /// The pages behind it that belong to it.
    pub overflow: u32,
}

impl Header {
    /// Appends its bytes.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.page);
        out.put_u16_le(self.flags);
        out.put_u16_le(self.count);
        out.put_u32_le(self.overflow);
    }

    /// From its bytes.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [page, rest] = halves(bytes);
        Self { page, flags: rest as u16, count: (rest >> 16) as u16, overflow: (rest >> 32) as u32 }
    }
}

/// The two numbers of sixteen bytes.
pub fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

/// Where the parts of a file lie: what its first page says, and what nobody knows before everything was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The page of the root.
    pub root: u64,
    /// Pages of the whole file.
    pub pages: u64,
}

impl Layout {
    /// Length of the file.
    pub const fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The page of the root.
    pub root: u64,
    /// The page of the free list, if there is one.
    pub free_list: Option<u64>,
    /// Pages of the whole file.
    pub pages: u64,
    /// Of two metas, the one with the higher number counts.
    pub transaction: u64,
}

/// Why bytes are no meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMeta {
    /// They are something else.
    Magic,
    /// It is another version of the format.
    Version(u32),
    /// It is damaged.
    Checksum,
}

impl Meta {
    /// The first two pages of a file: the meta twice, so that either can be lost.
    pub fn pages_of(layout: &Layout) -> [[u8; PAGE_BYTES]; 2] {
        [0, 1].map(|page| {
            let meta = Self {
                page_bytes: PAGE_BYTES as u32,
                root: layout.root,
                free_list: None,
                pages: layout.pages,
                // A transaction with an even number is the one whose meta is written to page 0.
                transaction: 2 - page,
            };
            let mut bytes = [0; PAGE_BYTES];
            let mut out = &mut bytes[..];
            Header { page, flags: META_FLAGS, count: 0, overflow: 0 }.put(&mut out);
            out.put_slice(&meta.encode());
            bytes
        })
    }

    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        let mut out = &mut bytes[..];
        [MAGIC, VERSION, self.page_bytes, 0].into_iter().for_each(|number| out.put_u32_le(number));
        let free_list = self.free_list.unwrap_or(NO_FREE_LIST);
        let numbers = [self.root, 0, free_list, self.pages, self.transaction];
        numbers.into_iter().for_each(|number| out.put_u64_le(number));
        let checksum = fnv1a(&bytes[..META_BYTES - 8]);
        bytes[META_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// From the bytes behind the header of its page.
    ///
    /// # Errors
    /// When they are no meta.
    pub fn read(bytes: &[u8; META_BYTES]) -> Result<Self, NoMeta> {
        let (parts, _) = bytes.as_chunks::<16>();
        let [[first, second], [root, _], [free_list, pages], [transaction, checksum]] =
            [0, 1, 2, 3].map(|at| halves(&parts[at]));
        if first as u32 != MAGIC {
            return Err(NoMeta::Magic);
        }
        if checksum != fnv1a(&bytes[..META_BYTES - 8]) {
            return Err(NoMeta::Checksum);
        }
        let version = (first >> 32) as u32;
        if version != VERSION {
            return Err(NoMeta::Version(version));
        }
        let free_list = (free_list != NO_FREE_LIST).then_some(free_list);
        Ok(Self { page_bytes: second as u32, root, free_list, pages, transaction })
    }
}

/// The hash of Fowler, Noll and Vo, 64 bits, in its variant 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_known_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_is_read_as_it_was_written_and_not_once_it_is_damaged() {
        let layout = Layout { root: 77, pages: 78 };
        for (bytes, transaction) in Meta::pages_of(&layout).into_iter().zip([2, 1]) {
            let (_, rest) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
            let meta = *rest.first_chunk::<META_BYTES>().unwrap();
            let read = Meta::read(&meta).unwrap();
            assert_eq!(read, Meta { page_bytes: 4096, root: 77, free_list: None, pages: 78, transaction });
            for at in 0..META_BYTES {
                let mut damaged = meta;
                damaged[at] ^= 0x10;
                let expected = if at < 4 { NoMeta::Magic } else { NoMeta::Checksum };
                assert_eq!(Meta::read(&damaged), Err(expected), "byte {at}");
            }
        }
    }
}
